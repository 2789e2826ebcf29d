/*
 * Planted bug: a write through a null pointer.
 *
 * Trigger:  the input begins with "NUL".
 * Expected: page fault, write to address 0. On Linux: SIGSEGV.
 */
#include <stddef.h>
#include <stdint.h>

static int *volatile nowhere;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 3 && data[0] == 'N' && data[1] == 'U' && data[2] == 'L')
        *nowhere = 1;
    return 0;
}
