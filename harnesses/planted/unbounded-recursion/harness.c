/*
 * Planted bug: recursion without an end.
 *
 * Trigger:  the input begins with "RE".
 * Expected: stack overflow: page fault, write to the guard page below the stack. On Linux: SIGSEGV.
 */
#include <stddef.h>
#include <stdint.h>

/* Never reached; the compiler cannot know. */
static volatile uint64_t deepest = UINT64_MAX;

/* The frame is used after the call, so that the call is not made a jump. */
__attribute__((noinline)) static uint64_t descend(uint64_t depth)
{
    volatile uint64_t frame[8];
    frame[depth % 8] = depth;
    if (depth == deepest)
        return depth;
    return descend(depth + 1) + frame[depth % 8];
}

static volatile uint64_t sum;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'R' && data[1] == 'E')
        sum = descend(0);
    return 0;
}
