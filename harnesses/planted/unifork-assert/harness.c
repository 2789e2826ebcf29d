/*
 * Planted bug: a UNIFORK_ASSERT that does not hold.
 *
 * Trigger:  the input begins with "OW".
 * Expected: assertion, with its text, file and line. On Linux: nothing, the macro is silent there.
 */
#include <stddef.h>
#include <stdint.h>

#include <unifork.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'O')
        UNIFORK_ASSERT(data[1] != 'W');
    return 0;
}
