/*
 * Planted bug: a loop that never ends, in user code alone.
 *
 * Trigger:  the input begins with "INF".
 * Expected: timeout. On Linux: hangs.
 */
#include <stddef.h>
#include <stdint.h>

static volatile uint64_t rounds;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 3 && data[0] == 'I' && data[1] == 'N' && data[2] == 'F') {
        for (;;)
            rounds++;
    }
    return 0;
}
