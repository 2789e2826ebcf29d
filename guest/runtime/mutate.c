/*
 * LLVMFuzzerMutate(), which custom mutators of libFuzzer harnesses call, so that they link as they
 * are. unifork mutates by itself and calls no custom mutator; `unifork build` says so.
 */
#include <stddef.h>
#include <stdint.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    static uint32_t state = 0x9e3779b9u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    if (size == 0) {
        if (max_size == 0)
            return 0;
        data[0] = (uint8_t)state;
        return 1;
    }
    data[state % size] ^= (uint8_t)(1u << (state >> 29));
    return size;
}
