// Crashes that the input steers: the first two bytes say which.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static volatile uint8_t sink;
static volatile uint64_t rounds;

__attribute__((noinline)) static void spin(void) {
    for (;;)
        rounds++;
}

__attribute__((noinline)) static void null_twice(int second) {
    if (second)
        *(volatile int *)8 = 1;
    else
        *(volatile int *)8 = 2;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t value;

    if (size < 12)
        return 0;
    memcpy(&value, data + 4, sizeof value);
    if (!memcmp(data, "RD", 2))
        sink = *(const volatile uint8_t *)(value + 16);
    if (!memcmp(data, "JP", 2))
        ((void (*)(void))value)();
    if (!memcmp(data, "NW", 2))
        null_twice(data[2] == '1');
    if (!memcmp(data, "LP", 2)) {
        if (data[2] == '1')
            rounds += 7;
        spin();
    }
    return 0;
}
