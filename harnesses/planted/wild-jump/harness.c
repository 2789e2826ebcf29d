/*
 * Planted bug: a call through a pointer that holds garbage.
 *
 * Trigger:  the input begins with "JM".
 * Expected: page fault, instruction fetch at 0x4141414140. On Linux: SIGSEGV.
 */
#include <stddef.h>
#include <stdint.h>

typedef void function(void);

/* A canonical address in no image, arena, stack or window. */
static function *volatile handler = (function *)0x4141414140;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'J' && data[1] == 'M')
        handler();
    return 0;
}
