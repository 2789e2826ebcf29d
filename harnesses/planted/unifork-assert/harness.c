/*
 * Planted bug: a UNIFORK_ASSERT that does not hold.
 *
 * Trigger:  the input begins with "OWN".
 * Expected: assertion, with its text, file and line. On Linux: nothing, the macro is silent there.
 */
#include <stddef.h>
#include <stdint.h>

#include <unifork.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 3 && data[0] == 'O' && data[1] == 'W')
        UNIFORK_ASSERT(data[2] != 'N');
    return 0;
}
