/*
 * Planted bug: a loop that never ends, in user code alone.
 *
 * Trigger:  the input begins with "IN".
 * Expected: timeout. On Linux: hangs.
 */
#include <stddef.h>
#include <stdint.h>

static volatile uint64_t rounds;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'I' && data[1] == 'N') {
        for (;;)
            rounds++;
    }
    return 0;
}
