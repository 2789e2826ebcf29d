// Returns a number of the FS and GS base that it is entered with, and leaves others, by its input. In a
// fork that is put back exactly, the number is the same every time.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Room for copies of what is around the thread pointer.
static uint8_t blocks[4][2048] __attribute__((aligned(64)));

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t fs, gs;
    __asm__ volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
    int entered = (int)((fs ^ gs * 31) & 0x3fffffff);
    uint8_t which = size > 0 ? data[0] : 0;
    uint8_t *thread = blocks[which & 3] + 1024;
    memcpy(thread - 256, (const uint8_t *)fs - 256, 1024);
    uint64_t self = (uint64_t)thread;
    memcpy(thread, &self, sizeof self);
    if (which & 4) __asm__ volatile("wrfsbase %0" ::"r"(self));
    if (which & 8) __asm__ volatile("wrgsbase %0" ::"r"(self));
    return entered;
}
