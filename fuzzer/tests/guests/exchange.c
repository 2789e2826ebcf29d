/*
 * A word that is found letter by letter, so that each fuzzer has something to tell the others; and, for
 * one that goes on, a null write.
 */
#include <stddef.h>
#include <stdint.h>

static volatile int found;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char word[] = "exchange";
    size_t right = 0;
    if (size > 0 && data[0] == word[0]) { found = 1; right = 1; }
    if (right == 1 && size > 1 && data[1] == word[1]) { found = 2; right = 2; }
    if (right == 2 && size > 2 && data[2] == word[2]) { found = 3; right = 3; }
    if (right == 3 && size > 3 && data[3] == word[3]) { found = 4; right = 4; }
    if (right == 4 && size > 4 && data[4] == '!')
        *(volatile int *)8 = 1;
    return 0;
}
