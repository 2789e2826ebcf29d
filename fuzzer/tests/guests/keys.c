// Rooms behind doors that no mutation opens, each with a key of its own; behind the last one is a crash.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

volatile int room;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size != 16)
        return 0;
    if (memcmp(data, "aQ7!hz0Rk2#wLp9e", 16) == 0)
        room = 1;
    if (memcmp(data, "b3Xv&8mTn5^cYd1g", 16) == 0)
        room = 20;
    if (memcmp(data, "cU6@jf4Ks9*oBi7q", 16) == 0)
        room = 300;
    if (memcmp(data, "dE2%rx1Wa8(uMh5t", 16) == 0)
        room = 4000;
    if (memcmp(data, "eP5&jw8Qz1+vTb4x", 16) == 0)
        room = 50000;
    if (memcmp(data, "XG9$lz3Pv7)yNc6s", 16) == 0)
        *(volatile int *)0 = 1;
    return 0;
}
