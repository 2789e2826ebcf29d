/*
 * Planted bug: an integer division by zero.
 *
 * Trigger:  the input begins with "DIV": the divisor is the third byte less 'V'.
 * Expected: divide error. On Linux: SIGFPE.
 */
#include <stddef.h>
#include <stdint.h>

static volatile int quotient;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 3 && data[0] == 'D' && data[1] == 'I') {
        volatile int divisor = data[2] - 'V';
        quotient = 1000 / divisor;
    }
    return 0;
}
