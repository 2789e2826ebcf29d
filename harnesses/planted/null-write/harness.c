/*
 * Planted bug: a write through a null pointer.
 *
 * Trigger:  the input begins with "NU".
 * Expected: page fault, write to address 0. On Linux: SIGSEGV.
 */
#include <stddef.h>
#include <stdint.h>

static int *volatile nowhere;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'N' && data[1] == 'U')
        *nowhere = 1;
    return 0;
}
