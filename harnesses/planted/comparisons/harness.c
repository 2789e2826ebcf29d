/*
 * Planted bug: a null write behind comparisons that random mutation does not pass.
 *
 * Trigger:  a record of these fields, each checked only when those before it are right:
 *             8 bytes   two magic numbers in one: 0x7d6e5f4a3b2c1d0e, little-endian
 *             the end   behind all other fields, up to ";", a word that strcmp finds to be "open-sesame"
 *             4 bytes   the length of all that, big-endian
 *             4 x 2     four numbers compared in nested ifs: 0x1234, 0x5678, 0x1a3c, 0x5e70
 *             8 bytes   "SESSION:" compared by memcmp
 *             4 bytes   a sum over all that is before it, little-endian, seven bits of each byte
 * Expected: page fault, write to address 8. On Linux: SIGSEGV.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint64_t *volatile nowhere = (uint64_t *)8;

static uint64_t little(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static uint32_t big(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t sum(const uint8_t *at, size_t bytes)
{
    uint32_t value = 0x811c9dc5;
    for (size_t i = 0; i < bytes; i++)
        value = (value ^ at[i]) * 0x01000193;
    return value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { HEAD = 8 + 4 + 8 + 8 + 4 };
    char word[32] = "";

    if (size < HEAD)
        return 0;
    if (little(data, 8) != 0x7d6e5f4a3b2c1d0e)
        return 0;
    size_t length = 0;
    for (; length < sizeof word - 1 && HEAD + length < size && data[HEAD + length] != ';'; length++)
        word[length] = (char)data[HEAD + length];
    if (strcmp(word, "open-sesame") != 0)
        return 0;
    if (big(data + 8) != HEAD + length)
        return 0;
    if (little(data + 12, 2) == 0x1234)
        if (little(data + 14, 2) == 0x5678)
            if (little(data + 16, 2) == 0x1a3c)
                if (little(data + 18, 2) == 0x5e70) {
                    if (memcmp(data + 20, "SESSION:", 8) != 0)
                        return 0;
                    if (little(data + 28, 4) == (sum(data, 28) & 0x7f7f7f7f))
                        *nowhere = 1;
                }
    return 0;
}
