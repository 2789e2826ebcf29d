/*
 * A kernel that drives its devices as its input says, two bytes to a step: requests that are answered, left lying
 * or nonsense; devices reset, moved and switched off; interrupts taken, masked and put off. What it has seen goes
 * into the result. It has brought all of them up before the snapshot. Its command line says how.
 */
#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

#include "driver.h"

void kernel_main(const u8 *boot_params);
void *memset(void *at, int value, __SIZE_TYPE__ bytes);

/* In the order in which the machine has them. */
enum { DISK, ENTROPY, NET, CONSOLE, DEVICES };

__attribute__((used)) static u8 stack[16384] __attribute__((aligned(16)));
static struct queue queues[DEVICES][QUEUES];
static struct device devices[DEVICES];
static u64 idt[512];
static u8 input[4096], pages[8][4096], counters[256];
static volatile u64 seen;

__asm__(".globl _start\n"
        "_start: lea stack + 16384(%rip), %rsp\n"
        "mov %rsi, %rdi\n"
        "call kernel_main\n"
        "1: cli\n"
        "hlt\n"
        "jmp 1b\n");

void *memset(void *at, int value, __SIZE_TYPE__ bytes)
{
    for (__SIZE_TYPE__ i = 0; i < bytes; i++)
        ((volatile u8 *)at)[i] = (u8)value;
    return at;
}

static void note(u64 value) { seen = seen * 31 + value; }

struct frame;
/* Nothing here uses more than general registers: it is compiled so. */
#pragma clang diagnostic ignored "-Winterrupt-service-routine"
__attribute__((interrupt)) static void interrupted(struct frame *frame)
{
    (void)frame;
    u32 all = 0;
    for (u32 i = 0; i < DEVICES; i++) {
        u32 before = devices[i].interrupts;
        acknowledge(&devices[i]);
        note(devices[i].interrupts - before);
        all += devices[i].interrupts - before;
    }
    /* One that cannot be reached would ask for ever. */
    if (!all) {
        out8(0xa1, 0xff);
        out8(0x21, 0xff);
    }
    out8(0xa0, 0x20);
    out8(0x20, 0x20);
}

static void set_up_interrupts(void)
{
    static struct __attribute__((packed)) {
        u16 limit;
        void *at;
    } pointer = {sizeof idt - 1, idt};
    u64 handler = (u64)interrupted;
    for (u32 vector = 0x20; vector < 0x30; vector++) {
        idt[2 * vector] = (handler & 0xffff) | 0x10ul << 16 | 0x8e00ul << 32 | (handler >> 16 & 0xffff) << 48;
        idt[2 * vector + 1] = handler >> 32;
    }
    __asm__ volatile("lidt %0" : : "m"(pointer));
    const u8 words[][2] = {{0x11, 0x11}, {0x20, 0x28}, {4, 2}, {1, 1}};
    for (u32 i = 0; i < 4; i++) {
        out8(i ? 0x21 : 0x20, words[i][0]);
        out8(i ? 0xa1 : 0xa0, words[i][1]);
    }
    out8(0x21, 0x01);
    out8(0xa1, 0x00);
}

static u32 queues_of(u32 number) { return number == NET || number == CONSOLE ? 2 : 1; }

/* Interrupts that wait come here. */
static void let_in(void) { __asm__ volatile("sti\n nop\n nop\n cli" : : : "memory"); }

static void take_all(struct device *device, u32 queue)
{
    while (answered(device, queue)) {
        u32 length = take_answer(device, queue);
        note(length);
        for (u32 i = 0; i < length && i < 64; i++)
            note(pages[i % 8][i]);
    }
}

static void disk(u8 value, u32 type)
{
    static struct {
        u32 type, reserved;
        u64 sector;
    } header;
    static u8 status;
    header.type = type;
    header.sector = value % 24;
    u8 *data = pages[value % 8];
    if (type == 1)
        memset(data, value, 512);
    struct part parts[] = {
        {OUT, &header, sizeof header}, {type == 1 ? OUT : IN, data, 512u * (1 + value % 3)}, {IN, &status, 1}};
    submit(&devices[DISK], 0, parts, 3);
    take_all(&devices[DISK], 0);
    note(status);
}

static void step(u8 kind, u8 value)
{
    u32 number = value % DEVICES;
    struct device *device = &devices[number];
    counters[kind * 16 + value % 16]++;
    switch (kind) {
    case 0: disk(value, 0); break;
    case 1: disk(value, 1); break;
    case 2: {
        struct part part = {IN, pages[value % 8], value};
        submit(&devices[ENTROPY], 0, &part, 1);
        take_all(&devices[ENTROPY], 0);
        break;
    }
    case 3: { /* a frame goes out */
        memset(pages[1], value, 100);
        struct part part = {OUT, pages[1], 12u + value % 64};
        submit(&devices[NET], 1, &part, 1);
        take_all(&devices[NET], 1);
        break;
    }
    case 4: { /* and room for one that comes */
        struct part part = {IN, pages[value % 8], 1600};
        submit(&devices[NET], 0, &part, 1);
        take_all(&devices[NET], 0);
        break;
    }
    case 5: {
        struct part part = {OUT, pages[value % 8], value};
        submit(&devices[CONSOLE], 1, &part, 1);
        take_all(&devices[CONSOLE], 1);
        break;
    }
    case 6: let_in(); break;
    case 7: /* masks, and how inputs are triggered */
        note(in8(0x21) + in8(0xa1) + in8(0x4d1));
        out8(0x21, value | 1);
        out8(0xa1, (u8)(value >> 1));
        out8(0x4d1, (u8)(value >> 2));
        break;
    case 8: /* from the beginning, or not quite */
        set_status(device, 0);
        if (value & 16)
            note((u64)start_device(device, queues[number], queues_of(number)));
        break;
    case 9: { /* nonsense */
        struct part part = {value & 1 ? IN : OUT, (void *)(u64)((value % 64 + 4) * 0x100000u), value * 16u};
        submit(device, value >> 2 & 1 & (queues_of(number) - 1), &part, 1);
        note(get_status(device));
        break;
    }
    case 10: /* the bus */
        if (device->way == MMIO) {
            put32(device->common + 0x30, value);
            put32(device->common + 0x14, value & 1);
            note(get32(device->common + 0x10));
        } else {
            u32 slot = number + 1;
            note(pci(slot, 4));
            out32(0xcfc, value & 32 ? 7 : 0x407);
            note(pci(slot, 0x3c));
            out32(0xcfc, value);
        }
        break;
    case 11: /* somewhere else, and back or not */
        if (device->way != MMIO) {
            u32 bar = device->way == LEGACY ? 0x10 : 0x20;
            u32 before = pci(number + 1, bar);
            out32(0xcfc, before + (device->way == LEGACY ? 0x1000 : 0x100000));
            note(get_status(device));
            if (value & 48) {
                pci(number + 1, bar);
                out32(0xcfc, before);
            }
        }
        break;
    default:
        note(config_byte(device, value % 24));
        acknowledge(device);
        note(device->interrupts);
        note(get_status(device));
        for (u32 queue = 0; queue < queues_of(number); queue++)
            take_all(device, queue);
    }
}

void kernel_main(const u8 *boot_params)
{
    const u8 *words = (const u8 *)(u64) * (const u32 *)(boot_params + 0x228);
    enum way way = words[1] == 'm' ? MMIO : words[1] == 'o' ? MODERN : LEGACY;
    set_up_interrupts();
    for (u32 i = 0; i < DEVICES; i++)
        if (!find_device(&devices[i], way, i) || !start_device(&devices[i], queues[i], queues_of(i)))
            unifork_report("a device does not start");
    /* Something of everything: some of it answered, some waiting, one interrupt still to be taken. */
    for (u8 i = 0; i < 20; i++) {
        step(i % 6, i);
        if (i == 10)
            let_in();
    }
    unifork_counters(counters, counters + sizeof counters);
    unifork_input_window(input, sizeof input);
    u64 size = unifork_snapshot();
    for (u64 i = 0; i + 1 < size; i += 2)
        step(input[i] % 13, input[i + 1]);
    unifork_done((int)seen);
}
