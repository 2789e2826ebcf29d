/*
 * Not a bug, but the one thing that does not repeat from run to run: the time-stamp counter is the
 * host's (docs/determinism.md). How often the loop runs depends on it; nothing else does.
 */
#include <stddef.h>
#include <stdint.h>

static volatile unsigned turns;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    for (unsigned left = (unsigned)__builtin_ia32_rdtsc() >> 4 & 63; left > 0; left--)
        turns++; /* unstable */
    if (size > 3 && data[0] == 'S' && data[1] == 'T')
        turns = 0;
    return 0;
}
