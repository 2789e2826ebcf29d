/*
 * A kernel with a program at CPL 3, which has the agent. The program does what its input says: has pages of its own
 * mapped to other frames, taken away or made read-only, goes to other page tables, and uses what is there. The kernel
 * gives it pages that it touches and does not have, and counts them.
 */
#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

typedef __UINT64_TYPE__ u64;
typedef __UINT32_TYPE__ u32;

void kernel_main(void);
void kernel_call(u64 what, u64 how);
void page_fault(u64 address);
void program(void);
void entry(void);
void fault_entry(void);

enum { SLOTS = 8 };
enum { MAP, OTHER_TABLES, GS, PANIC };
#define SLOT_VA(i) (0x8000000000ul + (u64)(i) * 4096)
#define PAGE __attribute__((aligned(4096)))

static struct {
    unsigned char before[100], window[1000];
} input;

static u64 gdt[7] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0, 0};
static u32 task[26];
static u64 idt[256][2];
static u64 pointers[512] PAGE, directory[512] PAGE, pages[512] PAGE, other_root[512] PAGE;
static unsigned char frames[SLOTS][4096] PAGE;
static u64 *root;
static volatile u64 faults;
static const u64 words[SLOTS] = {2, 3, 5, 7, 11, 13, 17, 19};
/* The program's RSP, and the kernel's. */
__attribute__((used)) static u64 per_cpu[2];
__attribute__((used)) static unsigned char stack[16384] __attribute__((aligned(16)));
__attribute__((used)) static unsigned char program_stack[16384] __attribute__((aligned(16)));

__asm__(".globl _start\n"
        "_start: lea stack + 16384(%rip), %rsp\n"
        "call kernel_main\n"
        "1: hlt\n"
        "jmp 1b\n"
        "entry: swapgs\n"
        "mov %rsp, %gs:0\n"
        "mov %gs:8, %rsp\n"
        "push %rcx\n"
        "push %r11\n"
        "call kernel_call\n"
        "pop %r11\n"
        "pop %rcx\n"
        "mov %gs:0, %rsp\n"
        "swapgs\n"
        "sysretq\n"
        "fault_entry: swapgs\n"
        "push %rax\n push %rcx\n push %rdx\n push %rsi\n push %rdi\n push %r8\n push %r9\n push %r10\n push %r11\n"
        "mov %cr2, %rdi\n"
        "call page_fault\n"
        "pop %r11\n pop %r10\n pop %r9\n pop %r8\n pop %rdi\n pop %rsi\n pop %rdx\n pop %rcx\n pop %rax\n"
        "add $8, %rsp\n"
        "swapgs\n"
        "iretq\n");

static void set_msr(u32 index, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)));
}

static void map(u64 slot, u64 entry)
{
    pages[slot] = entry;
    __asm__ volatile("invlpg (%0)" : : "r"(SLOT_VA(slot)) : "memory");
}

static void load_root(u64 *new_root)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(new_root) : "memory");
}

static void panic(void)
{
    __asm__ volatile("outl %0, $0xf4" : : "a"(9));
}

/* A system call. */
void kernel_call(u64 what, u64 how)
{
    u64 frame = (u64)frames[how >> 3 & 7];
    u64 cr3;
    switch (what) {
    case MAP:
        map(how & 7, how & 0x80 ? 0 : frame | (how & 0x40 ? 5 : 7));
        break;
    case OTHER_TABLES:
        __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
        load_root(cr3 == (u64)root ? other_root : root);
        break;
    case GS:
        set_msr(0xc0000102, (u64)&words[how & 7]);
        break;
    case PANIC:
        panic();
        break;
    }
}

void page_fault(u64 address)
{
    u64 slot = (address - SLOT_VA(0)) / 4096;
    if (slot >= SLOTS)
        panic();
    faults++;
    load_root(root);
    map(slot, (u64)frames[slot] | 7);
}

static void call(u64 what, u64 how)
{
    __asm__ volatile("syscall"
                     : "+D"(what), "+S"(how)
                     :
                     : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "memory");
}

/* At CPL 3. */
void program(void)
{
    if (unifork_input_window(input.window, sizeof input.window) != 0)
        unifork_report("no window");
    __SIZE_TYPE__ size = unifork_snapshot();
    u64 sum = 0, word;
    for (__SIZE_TYPE__ i = 0; i + 1 < size; i += 2) {
        u64 how = input.window[i + 1];
        volatile unsigned char *byte = (unsigned char *)SLOT_VA(how & 7) + (how >> 3) * 100;
        if (input.window[i] == 0xff && how == 0xff)
            call(PANIC, 0);
        if (input.window[i] == 0xff && how == 0xfe)
            *(volatile u64 *)0x123456789000 = 1;
        switch (input.window[i] & 7) {
        case 0:
            call(MAP, how);
            break;
        case 1:
        case 2:
            *byte = (unsigned char)(*byte + i + 1);
            break;
        case 3:
        case 4:
            sum = sum * 31 + *byte;
            break;
        case 5:
            call(OTHER_TABLES, 0);
            break;
        case 6:
            call(GS, how);
            break;
        case 7:
            __asm__ volatile("mov %%gs:0, %0" : "=r"(word));
            sum = sum * 31 + word;
            break;
        }
    }
    unifork_done((int)(sum * 31 + faults));
    unifork_report("still here");
}

void kernel_main(void)
{
    struct __attribute__((packed)) {
        unsigned short limit;
        u64 base;
    } pointer = {sizeof gdt - 1, (u64)gdt};
    u64 stack_top = (u64)(stack + sizeof stack), at = (u64)task;
    gdt[5] = 0x0000890000000067 | (at & 0xffffff) << 16 | (at >> 24 & 0xff) << 56;
    *(u64 *)(void *)&task[1] = stack_top;
    __asm__ volatile("lgdt %0" : : "m"(pointer));
    __asm__ volatile("ltr %w0" : : "r"(0x28));
    at = (u64)fault_entry;
    idt[14][0] = (at & 0xffff) | 0x08 << 16 | 0x8eull << 40 | (at >> 16 & 0xffff) << 48;
    idt[14][1] = at >> 32;
    pointer.limit = sizeof idt - 1;
    pointer.base = (u64)idt;
    __asm__ volatile("lidt %0" : : "m"(pointer));

    /* Everything is the program's, too, but the kernel's code segment. */
    __asm__ volatile("mov %%cr3, %0" : "=r"(root));
    u64 *third = (u64 *)(root[0] & ~0xffful);
    u64 *second = (u64 *)(third[0] & ~0xffful);
    root[0] |= 4;
    third[0] |= 4;
    for (int i = 0; i < 512; i++)
        second[i] |= 4;
    for (int i = 0; i < 512; i++)
        other_root[i] = root[i];
    root[1] = (u64)pointers | 7;
    pointers[0] = (u64)directory | 7;
    directory[0] = (u64)pages | 7;
    for (u64 i = 0; i < SLOTS; i++)
        pages[i] = (u64)frames[i] | 7;
    load_root(root);

    per_cpu[1] = stack_top;
    set_msr(0xc0000080, 0x501);
    set_msr(0xc0000081, 0x00100008ull << 32);
    set_msr(0xc0000082, (u64)entry);
    set_msr(0xc0000084, 0x40700);
    set_msr(0xc0000101, (u64)per_cpu);
    set_msr(0xc0000102, (u64)words);
    __asm__ volatile("swapgs\n"
                     "mov $2, %%r11d\n"
                     "lea program_stack + 16384 - 8(%%rip), %%rsp\n"
                     "sysretq"
                     :
                     : "c"(program)
                     : "r11", "memory");
}
