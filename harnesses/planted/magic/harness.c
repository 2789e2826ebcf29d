/*
 * Planted bug: a null write behind eight bytes that are compared one by one, each behind the last.
 *
 * Trigger:  the input begins with "unifork!".
 * Expected: page fault, write to address 8. On Linux: SIGSEGV. Guessing all eight at once would
 *           take 2^64 tries; coverage turns it into eight guesses of one byte.
 */
#include <stddef.h>
#include <stdint.h>

static uint64_t *volatile nowhere = (uint64_t *)8;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 8)
        return 0;
    if (data[0] != 'u')
        return 0;
    if (data[1] != 'n')
        return 0;
    if (data[2] != 'i')
        return 0;
    if (data[3] != 'f')
        return 0;
    if (data[4] != 'o')
        return 0;
    if (data[5] != 'r')
        return 0;
    if (data[6] != 'k')
        return 0;
    if (data[7] != '!')
        return 0;
    *nowhere = 1;
    return 0;
}
