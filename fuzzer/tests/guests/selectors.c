// Returns the segment selectors it is entered with, and leaves the stack's selector in all of them.
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    (void)data;
    uint16_t ds, es, fs, gs, ss;
    __asm__ volatile("mov %%ds, %0; mov %%es, %1; mov %%fs, %2; mov %%gs, %3; mov %%ss, %4"
                     : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs), "=r"(ss));
    int seen = (ds ^ es << 4 ^ fs << 8 ^ gs << 12) & 0xfffffff;
    if (size > 0) {
        uint64_t base;
        __asm__ volatile("rdfsbase %0" : "=r"(base));
        __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" ::"r"((uint32_t)ss));
        __asm__ volatile("wrfsbase %0" ::"r"(base));
    }
    return seen;
}
