// Takes about as many milliseconds as its input says, by the time-stamp counter. Above 250: writes over
// the records of the runs behind it.
#include <stddef.h>
#include <stdint.h>
#include <x86intrin.h>

static uint64_t per_ms;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    per_ms = 2000000; // 2 GHz: the test allows for any other
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    if (data[0] > 250) {
        // RECORDS_VA: input_offset, input_len, ...: 32 bytes each.
        for (int i = 1; i < 8; i++)
            ((volatile uint64_t *)0x2000010000)[i * 4 + 1] = 0;
        return 0;
    }
    uint64_t end = __rdtsc() + data[0] * per_ms;
    while (__rdtsc() < end)
        ;
    return 0;
}
