// Returns a hash of the x87, SSE and AVX state it is entered with, and leaves all of it changed by its
// input. In a fork that is put back exactly, the hash is the same every time.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct state {
    uint8_t fx[512] __attribute__((aligned(16)));
    uint8_t ymm[16][32];
    uint64_t flags;
};

static inline __attribute__((always_inline)) void capture(struct state *s) {
    __asm__ volatile("fxsave64 %0" : "=m"(s->fx));
#define YMM(n) __asm__ volatile("vmovdqu %%ymm" #n ", %0" : "=m"(s->ymm[n]));
    YMM(0) YMM(1) YMM(2) YMM(3) YMM(4) YMM(5) YMM(6) YMM(7)
    YMM(8) YMM(9) YMM(10) YMM(11) YMM(12) YMM(13) YMM(14) YMM(15)
    __asm__ volatile("pushfq; popq %0" : "=r"(s->flags)::"memory");
}

static int hash(const struct state *s) {
    uint64_t h = 0xcbf29ce484222325u;
    const uint8_t *bytes = (const uint8_t *)s->fx;
    for (size_t i = 0; i < 416; i++) h = (h ^ bytes[i]) * 0x100000001b3u; // behind that, nothing is saved
    for (size_t i = 0; i < sizeof s->ymm; i++) h = (h ^ ((const uint8_t *)s->ymm)[i]) * 0x100000001b3u;
    h = (h ^ (s->flags & 0x40400)) * 0x100000001b3u; // AC and DF
    return (int)(h >> 33);
}

__attribute__((target("avx"))) int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct state s;
    capture(&s);
    int entered = hash(&s);
    uint8_t noise[32] = {0};
    memcpy(noise, data, size < sizeof noise ? size : sizeof noise);
    uint32_t mxcsr = 0x1f80 | (noise[0] & 3u) << 13;
    uint16_t control = 0x37f ^ (uint16_t)((noise[1] & 3u) << 10);
    double number = noise[2];
    __asm__ volatile("ldmxcsr %0; fldcw %1; fldl %2" ::"m"(mxcsr), "m"(control), "m"(number));
#define SET(n) __asm__ volatile("vmovdqu %0, %%ymm" #n ::"m"(noise) : "xmm" #n);
    SET(0) SET(1) SET(2) SET(3) SET(4) SET(5) SET(6) SET(7)
    SET(8) SET(9) SET(10) SET(11) SET(12) SET(13) SET(14) SET(15)
    if (size > 0 && data[0] == 'e') { // what it leaves, to show that it is not what it found
        capture(&s);
        return hash(&s);
    }
    // Alignment checks on, as a program that forgot to turn them off would leave them.
    __asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq" ::: "memory", "cc");
    return entered;
}
