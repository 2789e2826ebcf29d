/* What is compiled with coverage, and knows the agent only if it is linked. */
#include <unifork.h>

int parse(const unsigned char *data, __SIZE_TYPE__ size);

int parse(const unsigned char *data, __SIZE_TYPE__ size)
{
    if (size < 8)
        return -1;
    unsigned magic = data[0] | data[1] << 8 | data[2] << 16 | (unsigned)data[3] << 24;
    if (magic != 0x12345678)
        return 1;
    UNIFORK_ASSERT(data[4] != '!');
    int sum = 0;
    for (__SIZE_TYPE__ i = 8; i < size; i++)
        sum += data[i];
    return sum;
}
