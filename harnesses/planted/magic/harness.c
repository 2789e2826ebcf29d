/*
 * Planted bug: a null write behind four bytes that are compared one by one, each behind the last.
 *
 * Trigger:  the input begins with "fork".
 * Expected: page fault, write to address 8. On Linux: SIGSEGV. Guessing all four at once would
 *           take 2^32 tries; coverage turns it into four guesses of one byte.
 */
#include <stddef.h>
#include <stdint.h>

static uint64_t *volatile nowhere = (uint64_t *)8;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    if (data[0] != 'f')
        return 0;
    if (data[1] != 'o')
        return 0;
    if (data[2] != 'r')
        return 0;
    if (data[3] != 'k')
        return 0;
    *nowhere = 1;
    return 0;
}
