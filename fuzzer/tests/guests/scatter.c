// Each input dirties another of many pages, as a large hash table would.
#include <stddef.h>
#include <stdint.h>

static volatile uint8_t table[4096][4096];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t hash = 0x811c9dc5;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ data[i]) * 0x01000193;
    table[hash % 4096][0]++;
    return size > 3 && data[0] == 'x' && data[1] == 'y' ? 1 : 0;
}
