/*
 * Planted bug: a call of abort(), as from a failed internal check.
 *
 * Trigger:  the input begins with "AB".
 * Expected: abort, with the line written to stderr on the console. On Linux: SIGABRT.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'A' && data[1] == 'B') {
        fprintf(stderr, "planted: internal state is broken\n");
        abort();
    }
    return 0;
}
