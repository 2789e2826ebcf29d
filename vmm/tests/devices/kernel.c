/*
 * A kernel with drivers: brings up the devices that its command line names, in their order, and says what it found.
 * The first word is how they are reached (mmio, modern, legacy), the others are e(ntropy), d(isk), n(et), c(onsole).
 */
#include "driver.h"

void kernel_main(const u8 *boot_params);
void *memset(void *at, int value, __SIZE_TYPE__ bytes);
void *memcpy(void *to, const void *from, __SIZE_TYPE__ bytes);

#define DEVICES 8

__attribute__((used)) static u8 stack[16384] __attribute__((aligned(16)));
static struct queue queues[DEVICES][QUEUES];
static struct device devices[DEVICES];
static volatile u32 count;
static u64 idt[512];
static u8 buffer[4096], other[4096];

/* The boot protocol's selectors are CS 0x10 and DS 0x18. */
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

void *memcpy(void *to, const void *from, __SIZE_TYPE__ bytes)
{
    for (__SIZE_TYPE__ i = 0; i < bytes; i++)
        ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

static void say(const char *text)
{
    while (*text)
        out8(0x3f8, (u8)*text++);
}

static void say_bytes(const u8 *bytes, u32 length)
{
    for (u32 i = 0; i < length; i++) {
        out8(0x3f8, (u8)"0123456789abcdef"[bytes[i] >> 4]);
        out8(0x3f8, (u8)"0123456789abcdef"[bytes[i] & 15]);
    }
    say("\n");
}

__attribute__((noreturn)) static void stop(void)
{
    out16(0x604, 0x2000); /* a PC's */
    out8(0x64, 0xfe);     /* or Firecracker's */
    for (;;)
        __asm__ volatile("cli\n hlt");
}

static void check(int holds, const char *what)
{
    if (!holds) {
        say("not so: ");
        say(what);
        say("\n");
        stop();
    }
}

struct frame;
/* Nothing here uses more than general registers: it is compiled so. */
#pragma clang diagnostic ignored "-Winterrupt-service-routine"
__attribute__((interrupt)) static void interrupted(struct frame *frame)
{
    (void)frame;
    for (u32 i = 0; i < count; i++)
        acknowledge(&devices[i]);
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
    out8(0x21, 0x01); /* all but the timer */
    out8(0xa1, 0x00);
}

/* Waits until queue `number` is answered; says how many bytes the answer has. */
static u32 wait_for(struct device *device, u32 number)
{
    __asm__ volatile("cli");
    while (!answered(device, number))
        __asm__ volatile("sti\n hlt\n cli" : : : "memory");
    return take_answer(device, number);
}

/* The same for a request that is answered at once, and by an interrupt. */
static u32 request(struct device *device, u32 number, const struct part *parts, u32 parts_count)
{
    __asm__ volatile("cli");
    u32 before = device->interrupts;
    submit(device, number, parts, parts_count);
    check(answered(device, number), "it is answered at once");
    while (device->interrupts == before)
        __asm__ volatile("sti\n hlt\n cli" : : : "memory");
    return wait_for(device, number);
}

static u8 transfer(struct device *device, u32 type, u64 sector, u8 *data, u32 length)
{
    struct {
        u32 type, reserved;
        u64 sector;
    } header = {type, 0, sector};
    static u8 status;
    status = 0xff;
    struct part parts[] = {{OUT, &header, sizeof header}, {type == 0 ? IN : OUT, data, length}, {IN, &status, 1}};
    request(device, 0, parts, 3);
    return status;
}

static void entropy(struct device *device)
{
    struct part part = {IN, buffer, 8};
    check(request(device, 0, &part, 1) == 8, "8 bytes of entropy");
    say("entropy ");
    say_bytes(buffer, 8);
}

static void disk(struct device *device)
{
    u8 sectors = config_byte(device, 0);
    say("disk ");
    say_bytes(&sectors, 1);
    check(transfer(device, 0, 1, buffer, 512) == 0, "a sector can be read");
    say((const char *)buffer);
    memset(buffer, 'w', 512);
    u8 status = transfer(device, 1, 1, buffer, 512);
    check(transfer(device, 0, 0, other, 1024) == 0, "two sectors can be read");
    if (status)
        say("it cannot be written\n");
    else
        check(other[511] != 'w' && other[512] == 'w' && other[1023] == 'w', "it has what was written");
    check(transfer(device, 0, sectors, buffer, 512) == 1, "there is an end");
}

static void net(struct device *device)
{
    u32 header = device->way == LEGACY ? 10 : 12;
    say("net ");
    for (u32 i = 0; i < 6; i++)
        buffer[i] = config_byte(device, i);
    say_bytes(buffer, 6);
    struct part in = {IN, other, sizeof other};
    submit(device, 0, &in, 1);
    memset(buffer, 0, 64);
    memcpy(buffer + header, "ping", 4);
    struct part out = {OUT, buffer, header + 4};
    request(device, 1, &out, 1);
    u32 length = wait_for(device, 0);
    other[length] = 0;
    say((const char *)other + header);
    say("\n");
}

static void console(struct device *device)
{
    memcpy(buffer, "console: ", 9);
    struct part out = {OUT, buffer, 9};
    request(device, 1, &out, 1);
    struct part in = {IN, other, sizeof other};
    submit(device, 0, &in, 1);
    out.at = other;
    out.length = wait_for(device, 0);
    request(device, 1, &out, 1);
}

void kernel_main(const u8 *boot_params)
{
    const u8 *words = (const u8 *)(u64) * (const u32 *)(boot_params + 0x228);
    enum way way = words[1] == 'm' ? MMIO : words[1] == 'o' ? MODERN : LEGACY;
    set_up_interrupts();
    while (*words && *words != ' ')
        words++;
    /* What is behind them is the machine's. */
    for (u32 i = 0; words[0] == ' ' && words[1] && words[2] <= ' '; i++, words += 2) {
        struct device *device = &devices[i];
        check(find_device(device, way, i), "a device is there");
        count = i + 1;
        check(start_device(device, queues[i], words[1] == 'n' || words[1] == 'c' ? 2 : 1), "it starts");
        switch (words[1]) {
        case 'e': entropy(device); break;
        case 'd': disk(device); break;
        case 'n': net(device); break;
        case 'c': console(device); break;
        }
    }
    say("done\n");
    stop();
}
