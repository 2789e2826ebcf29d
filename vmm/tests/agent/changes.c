/*
 * A kernel that does what its input says: writes, maps, unmaps and remaps pages in page tables of its own,
 * programs devices, takes interrupts or leaves them pending, changes registers of the CPU. Two bytes to a step. What it has read goes into the result.
 */
#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

typedef __UINT64_TYPE__ u64;
typedef __UINT8_TYPE__ u8;

#define PAGE 4096
#define PAGES 64
#define PRESENT 1ul
#define WRITE 2ul
#define APIC ((volatile unsigned *)0xfee00000ul)
#define IOAPIC ((volatile unsigned *)0xfec00000ul)
#define MASKED 0x10000u
#define WINDOW ((volatile u8 *)0x8000000000ul)

void kernel_main(void);

__attribute__((used)) static u8 stack[16384] __attribute__((aligned(16)));
static u8 input[4096];
static u8 frames[PAGES][PAGE] __attribute__((aligned(PAGE)));
static u64 root[512] __attribute__((aligned(PAGE)));
static u64 directories[2][512] __attribute__((aligned(PAGE)));
static volatile u64 table[512] __attribute__((aligned(PAGE)));
static u8 counters[512];
static u64 interrupts[0x30][2] __attribute__((aligned(16)));
__attribute__((used)) static volatile u64 ticks;

__asm__(".globl _start\n"
        "_start: lea stack + 16384(%rip), %rsp\n"
        "call kernel_main\n"
        "1: hlt\n"
        "jmp 1b\n");

/* IRQ 0. */
void tick(void);
__asm__("tick: push %rax\n"
        "incq ticks(%rip)\n"
        "mov $0x20, %al\n"
        "outb %al, $0x20\n"
        "pop %rax\n"
        "iretq\n");

static void out(unsigned short port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 in(unsigned short port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void flush(u8 page)
{
    __asm__ volatile("invlpg (%0)" : : "r"(WINDOW + page * PAGE) : "memory");
}

/* The timer's interrupt, once, in `count` 838ths of a nanosecond. */
static void once(unsigned count)
{
    out(0x21, 0xfe);
    out(0x43, 0x30);
    out(0x40, (u8)count);
    out(0x40, (u8)(count >> 8));
}

static u64 frame(unsigned number)
{
    return (u64)frames[number % PAGES];
}

static u64 run(const u8 *steps, u64 bytes)
{
    u64 seen = 0;
    for (u64 i = 0; i + 1 < bytes; i += 2) {
        u8 step = steps[i] % 20, value = steps[i + 1], page = value % PAGES;
        counters[step * 16 + value % 16]++;
        switch (step) {
        case 0: /* an ordinary page */
            frames[page][value]++;
            break;
        case 1: /* nothing there before: no flush is needed */
            if (!table[page])
                table[page] = frame(value / 3u) | PRESENT | WRITE;
            break;
        case 2:
            table[page] = 0;
            flush(page);
            break;
        case 3: /* another frame, perhaps read-only, with CR0.WP off or on */
            table[page] = frame(value * 7u + (unsigned)i) | PRESENT | (value & 64 ? WRITE : 0);
            flush(page);
            break;
        case 4:
            if (table[page] & WRITE)
                WINDOW[page * PAGE + value] += (u8)(i + 1);
            break;
        case 5:
            if (table[page] & PRESENT)
                seen = seen * 31 + WINDOW[page * PAGE + value];
            break;
        case 6: /* all at once */
            __asm__ volatile("mov %%cr3, %%rax\n mov %%rax, %%cr3" : : : "rax", "memory");
            break;
        case 7: /* both interrupt controllers' masks, and the serial port's scratch register */
            seen = seen * 31 + in(0x21) + in(0xa1) + in(0x3ff);
            out(0x21, value | 1);
            out(0xa1, value);
            out(0x3ff, value);
            break;
        case 8: /* the timer, whose interrupt is masked, and the clock's memory */
            out(0x43, 0x34);
            out(0x40, value);
            out(0x40, 1);
            out(0x70, 0x40 + value % 16);
            seen = seen * 31 + in(0x71);
            out(0x71, value);
            break;
        case 9: { /* KERNEL_GS_BASE, SYSENTER_CS and _EIP, FMASK, MISC_ENABLE, MTRRs: a base, a mask, fixed ones, all */
            static const unsigned indices[] = {0xc0000102, 0x174,      0x176,      0xc0000084,
                                               0x1a0,      0x200,      0x201,      0x258,
                                               0x26f,      0x2ff};
            static const unsigned allowed[] = {~0u, ~0u, ~0u, ~0u, 1, 0xfffff000, 0xfffff800, 0x04040404, 0x04040404, 0xc00};
            unsigned low, high, which = value % 10;
            __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(indices[which]));
            seen = seen * 31 + low;
            low = (value * 0x01010101u) & allowed[which];
            __asm__ volatile("wrmsr" : : "a"(low), "d"(0), "c"(indices[which]));
            break;
        }
        case 10: {
            u64 flags;
            __asm__ volatile("pushfq\n pop %0" : "=r"(flags));
            seen = seen * 31 + (flags & 0x200);
            if (value & 1)
                __asm__ volatile("sti");
            else
                __asm__ volatile("cli");
            break;
        }
        case 11: /* the table's own accessed and dirty bits */
            seen = seen * 31 + (table[page] & 0x60);
            break;
        case 12: { /* a vector register */
            unsigned low;
            __asm__ volatile("movd %%xmm5, %0\n movd %1, %%xmm5" : "=&r"(low) : "r"((unsigned)value));
            seen = seen * 31 + low;
            break;
        }
        case 13: /* an interrupt is waited for */
            once(value * 16u + 1);
            __asm__ volatile("sti\n hlt\n cli" : : : "memory");
            seen = seen * 31 + ticks;
            break;
        case 14: /* one is left pending, or is taken now */
            if (value & 1) {
                __asm__ volatile("cli");
                once(4);
                for (int wait = 0; wait < 20; wait++)
                    in(0x21);
            } else {
                __asm__ volatile("sti\n nop\n nop\n cli" : : : "memory");
            }
            seen = seen * 31 + ticks;
            break;
        case 15: /* the end, right behind an `sti` */
            __asm__ volatile("sti\n outl %%eax, $0xf6" : : "a"(0x55460004), "D"((u64)(int)seen) : "memory");
            break;
        case 16: /* the time stamp counter */
            __asm__ volatile("wrmsr" : : "a"(value), "d"(1 << 18), "c"(0x10));
            break;
        case 18: { /* the local APIC: its timer, an interrupt to itself that its priority holds back, its wires */
            static const unsigned registers[] = {0x320, 0x380, 0x3e0, 0x300, 0xd0, 0x350};
            static const unsigned fixed[] = {MASKED, 100, 0, 0x40020, 0x1000000, MASKED};
            unsigned which = value % 6;
            seen = seen * 31 + APIC[0x390 / 4] + APIC[0x200 / 4 + value % 8 * 4];
            APIC[registers[which] / 4] = fixed[which] | value % 64;
            break;
        }
        case 19: /* and the I/O APIC's table */
            IOAPIC[0] = 0x10 + value % 48;
            seen = seen * 31 + IOAPIC[4];
            IOAPIC[4] = MASKED | value;
            break;
        default: {
            unsigned low, high;
            __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
            seen = seen * 31 + (high >> 17);
        }
        }
    }
    return seen;
}

void kernel_main(void)
{
    u64 cr3;
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    for (int i = 0; i < 512; i++)
        root[i] = ((const u64 *)(cr3 & ~0xffful))[i];
    root[1] = (u64)directories[0] | PRESENT | WRITE;
    directories[0][0] = (u64)directories[1] | PRESENT | WRITE;
    directories[1][0] = (u64)table | PRESENT | WRITE;
    __asm__ volatile("mov %0, %%cr3" : : "r"(root) : "memory");
    for (unsigned i = 0; i < PAGES; i += 3)
        table[i] = frame(i) | PRESENT | WRITE;
    APIC[0x80 / 4] = 0xff;
    WINDOW[0] = 1;
    WINDOW[3 * PAGE] = 2;
    /* The controllers' vectors from 0x20 on, everything masked; and a handler for the first. */
    static const u8 words[][2] = { { 0x20, 0x11 }, { 0xa0, 0x11 }, { 0x21, 0x20 }, { 0xa1, 0x28 }, { 0x21, 4 },
                                   { 0xa1, 2 },    { 0x21, 1 },    { 0xa1, 1 },    { 0x21, 0xff }, { 0xa1, 0xff } };
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++)
        out(words[i][0], words[i][1]);
    u64 handler = (u64)tick, segment;
    __asm__ volatile("mov %%cs, %0" : "=r"(segment));
    interrupts[0x20][0] = (handler & 0xffff) | segment << 16 | 0x8e0000000000ul | (handler >> 16 & 0xffff) << 48;
    interrupts[0x20][1] = handler >> 32;
    struct {
        unsigned short limit;
        u64 base;
    } __attribute__((packed)) idtr = { sizeof interrupts - 1, (u64)interrupts };
    __asm__ volatile("lidt %0" : : "m"(idtr));
    unifork_counters(counters, counters + sizeof counters);
    unifork_input_window(input, sizeof input);
    u64 size = unifork_snapshot();
    unifork_done((int)run(input, size));
}
