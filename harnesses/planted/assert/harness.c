/*
 * Planted bug: an assert() that does not hold.
 *
 * Trigger:  the input begins with "ASS".
 * Expected: abort, with the C library's "Assertion failed" on the console. On Linux: SIGABRT.
 */
#undef NDEBUG
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 3 && data[0] == 'A' && data[1] == 'S')
        assert(data[2] != 'S');
    return 0;
}
