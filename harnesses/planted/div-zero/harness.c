/*
 * Planted bug: an integer division by zero.
 *
 * Trigger:  the input begins with "DI".
 * Expected: divide error. On Linux: SIGFPE.
 */
#include <stddef.h>
#include <stdint.h>

/* The compiler cannot know. */
static volatile int divisor;
static volatile int quotient;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'D' && data[1] == 'I')
        quotient = 1000 / divisor;
    return 0;
}
