/*
 * What is fuzzed. The bug: a jump in the journal is taken for good if its key is right, and is then as far as
 * the input says.
 */
#include "records.h"

enum { NAME = 1, NUMBERS = 2, JOURNAL = 3 };

#define KEY 0x6c6f6721u

/* Somebody reads them: they are kept. */
static volatile unsigned journal[64];
static volatile char name[32];
static volatile unsigned long sum;

static unsigned word(const unsigned char *at)
{
    return at[0] | at[1] << 8 | at[2] << 16 | (unsigned)at[3] << 24;
}

static int parse_name(const unsigned char *data, size_t size)
{
    if (size >= sizeof name)
        return -1;
    for (size_t i = 0; i < size; i++) {
        if (data[i] < ' ' || data[i] > '~')
            return -1;
        name[i] = (char)data[i];
    }
    name[size] = 0;
    return 0;
}

static int parse_numbers(const unsigned char *data, size_t size)
{
    if (size % 4 != 0)
        return -1;
    for (size_t i = 0; i < size; i += 4)
        sum += word(data + i);
    return 0;
}

static int parse_journal(const unsigned char *data, size_t size)
{
    unsigned at = 0;
    for (size_t i = 0; i + 4 < size; i += 5) {
        unsigned value = word(data + i + 1);
        switch (data[i]) {
        case 's': /* set, and go on */
            journal[at++ % 64] = value;
            break;
        case 'k': /* the key of a jump */
            if (value == KEY && i + 9 < size && data[i + 5] == 'j') {
                at = word(data + i + 6);
                journal[at] += value; /* the bug: nothing bounds `at` */
                i += 5;
            }
            break;
        default:
            return -1;
        }
    }
    return 0;
}

int parse_records(const unsigned char *data, size_t size)
{
    int records = 0;
    if (size < 4 || data[0] != 'R' || data[1] != 'E' || data[2] != 'C' || data[3] != 'S')
        return -1;
    data += 4, size -= 4;
    while (size >= 2) {
        unsigned char type = data[0], length = data[1];
        data += 2, size -= 2;
        if (length > size)
            return -1;
        int bad = type == NAME      ? parse_name(data, length)
                  : type == NUMBERS ? parse_numbers(data, length)
                  : type == JOURNAL ? parse_journal(data, length)
                                    : -1;
        if (bad)
            return -1;
        data += length, size -= length;
        records++;
    }
    return records;
}
