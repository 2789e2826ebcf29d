/* A program with the agent, run on a host's own kernel: nothing may happen but what it does itself. */
#include <stdio.h>
#include <string.h>

#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

int parse(const unsigned char *data, __SIZE_TYPE__ size);

int main(void)
{
    static unsigned char input[64] = "\x78\x56\x34\x12!ordinary input";
    if (UNIFORK_ACTIVE() || unifork_input_window(input, sizeof input) != 0 || unifork_snapshot() != 0)
        return 1;
    unifork_compared("one", 3, "two", 3);
    UNIFORK_REPORT("nobody hears this");
    if (parse(input, 9) != input[8]) /* an assertion does not hold in it */
        return 2;
    unifork_done(3);
    printf("went on with \"%s\"\n", (const char *)input + 5);
    return 0;
}
