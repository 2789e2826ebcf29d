/*
 * A kernel that does its worst to the batch that it runs in: its input is a list of writes to anywhere, above all to what
 * the host has put beside it, of jumps into the host's code, and of calls that make no sense. The rest of its input, behind a
 * zero, is summed up as an ordinary kernel would.
 */
#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

typedef __UINT64_TYPE__ u64;
typedef __UINT8_TYPE__ u8;

enum { END, WORD, FILL, COPY, JUMP, CALL, OUT, STATE, SPIN };
struct step {
    u64 what, at, value, bytes;
};

void kernel_main(void);

__attribute__((used)) static u8 stack[16384] __attribute__((aligned(16)));
static u8 input[65536];
static u8 counters[256];
static u8 area[8192];

__asm__(".globl _start\n"
        "_start: lea stack + 16384(%rip), %rsp\n"
        "call kernel_main\n"
        "1: hlt\n"
        "jmp 1b\n");

/* The places that a step can name, and behind them any address. */
static u64 place(u64 at)
{
    u64 loop = (u64)unifork_again & ~0xffful;
    u64 offset = at & 0xffffffffffful;
    switch (at >> 60) {
    case 1: return loop + offset;               /* code, plan, lists; 2 MiB on: control words, records, inputs, counters */
    case 2: return loop - (31ul << 30) + offset; /* memory once more */
    case 3: return loop - (16ul << 30) + offset; /* and as it was frozen */
    case 4: return (u64)&unifork_again + offset;
    case 5: return (u64)input + offset;
    case 6: return (u64)stack + offset;
    case 7: return (u64)area + offset;
    default: return at;
    }
}

static void do_it(const struct step *step)
{
    volatile u8 *at = (volatile u8 *)place(step->at);
    u64 value = step->value, bytes = step->bytes;
    counters[step->what * 16 + step->at % 16]++;
    switch (step->what) {
    case WORD: *(volatile u64 *)at = value; break;
    case FILL:
        for (u64 i = 0; i < bytes; i++)
            at[i] = (u8)(value + i);
        break;
    case COPY: {
        volatile u8 *from = (volatile u8 *)place(value);
        for (u64 i = 0; i < bytes; i++)
            at[i] = from[i];
        break;
    }
    case JUMP: __asm__ volatile("jmp *%0" : : "r"(at), "D"(value), "b"(bytes), "S"(value) : "memory"); break;
    case CALL: ((void (*)(u64))at)(value); break;
    case OUT:
        __asm__ volatile("outl %0, %1" : : "a"((int)step->at), "d"((unsigned short)UNIFORK_PORT), "D"(value), "S"(bytes) : "memory");
        break;
    case STATE: /* what a run must not leave to the next one */
        __asm__ volatile("push %0\n popfq\n wrfsbase %1\n wrgsbase %1" : : "r"(value & 0xcd5), "r"(bytes) : "memory", "cc");
        __asm__ volatile("cld");
        break;
    case SPIN:
        for (u64 i = 0; i < bytes; i++)
            *(volatile u64 *)place(1ul << 60 | 0x200000) = value + i;
        break;
    }
}

void kernel_main(void)
{
    unifork_counters(counters, counters + sizeof counters);
    unifork_input_window(input, sizeof input);
    u64 size = unifork_snapshot();
    u64 at = 0, sum = 0;
    for (; at + sizeof(struct step) <= size; at += sizeof(struct step)) {
        struct step step;
        for (u64 i = 0; i < sizeof step; i++)
            ((volatile u8 *)&step)[i] = input[at + i];
        if (step.what == END)
            break;
        do_it(&step);
    }
    for (; at < size; at++)
        sum = sum * 31 + input[at] + counters[input[at]]++;
    for (u64 i = 0; i < sizeof area; i += 63)
        sum = sum * 31 + area[i]++;
    unifork_done((int)sum);
}
