/*
 * Planted bug: a null write behind brackets that nest deeply and are all closed again.
 *
 * Trigger:  words in brackets of three kinds, 40 of them below each other, each closed by its own kind, and
 *           nothing behind the last. What does not follow is rejected, so that it teaches nothing.
 * Expected: page fault, write to address 8. On Linux: SIGSEGV.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DEEP 40
#define DEPTH_MAX 200

static volatile int *volatile nowhere = (int *)8;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char opening[] = "([{", closing[] = ")]}";
    char open[DEPTH_MAX];
    size_t depth = 0, deepest = 0;
    for (size_t i = 0; i < size; i++) {
        const char *kind = data[i] != '\0' ? strchr(opening, data[i]) : NULL;
        if (kind != NULL) {
            if (depth == DEPTH_MAX || (i > 0 && depth == 0))
                return -1;
            open[depth++] = closing[kind - opening];
            deepest = depth > deepest ? depth : deepest;
        } else if (depth == 0) {
            return -1;
        } else if (data[i] == (uint8_t)open[depth - 1]) {
            depth--;
        } else if (data[i] < 'a' || data[i] > 'z') {
            return -1;
        }
    }
    if (depth != 0)
        return -1;
    if (deepest >= DEEP)
        *nowhere = 1;
    return 0;
}
