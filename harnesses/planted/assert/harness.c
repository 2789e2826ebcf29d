/*
 * Planted bug: an assert() that does not hold.
 *
 * Trigger:  the input begins with "AS".
 * Expected: assertion, with its text, file and line. On Linux: SIGABRT.
 */
#undef NDEBUG
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'A')
        assert(data[1] != 'S');
    return 0;
}
