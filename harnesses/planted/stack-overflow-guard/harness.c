/*
 * Planted bug: a local array larger than the stack, its size taken on trust.
 *
 * Trigger:  the input begins with "ST".
 * Expected: stack overflow: page fault, write to the guard page below the stack. The array is
 *           filled from its high end, so the guard page is the first unmapped one that is met. On
 *           Linux: SIGSEGV.
 */
#include <stddef.h>
#include <stdint.h>

#define CLAIMED_BYTES (1024ul * 1024 * 1024)

__attribute__((noinline)) static uint8_t fill(size_t bytes)
{
    volatile uint8_t scratch[bytes];
    for (size_t i = bytes; i > 0; i--)
        scratch[i - 1] = (uint8_t)i;
    return scratch[bytes / 2];
}

static volatile uint8_t result;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'S' && data[1] == 'T')
        result = fill(CLAIMED_BYTES);
    return 0;
}
