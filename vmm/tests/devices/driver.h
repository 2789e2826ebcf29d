/* A driver of virtio devices, as simple as can be: one request at a time, with interrupts through the 8259. */
#ifndef DRIVER_H
#define DRIVER_H

typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;

/* How a device is reached: registers in memory, PCI by its capabilities, PCI as before virtio 1.0. */
enum way { MMIO, MODERN, LEGACY };

#define QUEUES 2

struct descriptor {
    u64 address;
    u32 length;
    u16 flags, next;
};

struct used {
    u32 head, length;
};

/* Laid out as before virtio 1.0, which is right for all. */
struct queue {
    u8 memory[16384] __attribute__((aligned(4096)));
    struct descriptor *descriptors;
    volatile u16 *available, *used_index;
    volatile struct used *used;
    u16 size, seen;
};

struct device {
    enum way way;
    u16 ports;
    volatile u8 *common, *notify, *isr, *config;
    struct queue *queues;
    u32 interrupts;
};

/* Where a request's bytes are. The device reads OUT and writes IN. */
enum direction { OUT, IN };
struct part {
    enum direction direction;
    void *at;
    u32 length;
};

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out16(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 in32(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 get32(volatile u8 *at) { return *(volatile u32 *)at; }
static inline void put16(volatile u8 *at, u16 value) { *(volatile u16 *)at = value; }
static inline void put32(volatile u8 *at, u32 value) { *(volatile u32 *)at = value; }

static inline u32 pci(u32 slot, u32 at)
{
    out32(0xcf8, 0x80000000u | slot << 11 | (at & 0xfc));
    return in32(0xcfc);
}

/* Finds device number `number`; 0 if there is none. */
static int find_device(struct device *device, enum way way, u32 number)
{
    device->way = way;
    if (way == MMIO) {
        device->common = (volatile u8 *)(0xd0000000ul + number * 0x1000ul);
        device->config = device->common + 0x100;
        return get32(device->common) == 0x74726976;
    }
    u32 slot = number + 1;
    if ((u16)pci(slot, 0) != 0x1af4)
        return 0;
    device->ports = (u16)(pci(slot, 0x10) & 0xfffc);
    for (u32 at = pci(slot, 0x34) & 0xff; at; at = pci(slot, at) >> 8 & 0xff) {
        u32 head = pci(slot, at), bar = 0x10 + 4 * (pci(slot, at + 4) & 0xff);
        volatile u8 *place = (volatile u8 *)(u64)((pci(slot, bar) & ~15u) + pci(slot, at + 8));
        switch (head >> 24) {
        case 1: device->common = place; break;
        case 2: device->notify = place; break;
        case 3: device->isr = place; break;
        case 4: device->config = place; break;
        }
    }
    if (way == LEGACY)
        device->config = 0;
    return 1;
}

static void set_status(struct device *device, u8 status)
{
    switch (device->way) {
    case MMIO: put32(device->common + 0x70, status); break;
    case MODERN: device->common[20] = status; break;
    case LEGACY: out8(device->ports + 18, status); break;
    }
}

static u8 get_status(struct device *device)
{
    switch (device->way) {
    case MMIO: return (u8)get32(device->common + 0x70);
    case MODERN: return device->common[20];
    default: return in8(device->ports + 18);
    }
}

static u8 config_byte(struct device *device, u32 at)
{
    return device->way == LEGACY ? in8((u16)(device->ports + 20 + at)) : device->config[at];
}

/* Takes note of an interrupt, if this device has raised it. */
static void acknowledge(struct device *device)
{
    u8 reasons;
    if (device->way == MMIO) {
        reasons = (u8)get32(device->common + 0x60);
        put32(device->common + 0x64, reasons);
    } else {
        reasons = device->way == MODERN ? *device->isr : in8(device->ports + 19);
    }
    if (reasons != 0xff) /* nobody there */
        device->interrupts += reasons & 1;
}

static void notify(struct device *device, u32 queue)
{
    __asm__ volatile("" : : : "memory");
    switch (device->way) {
    case MMIO: put32(device->common + 0x50, queue); break;
    case MODERN: put16(device->notify + 4 * queue, (u16)queue); break;
    case LEGACY: out16(device->ports + 16, (u16)queue); break;
    }
}

static void set_up_queue(struct device *device, u32 number)
{
    struct queue *queue = &device->queues[number];
    volatile u8 *common = device->common;
    for (u32 i = 0; i < sizeof queue->memory; i++)
        queue->memory[i] = 0;
    queue->seen = 0;
    switch (device->way) {
    case MMIO:
        put32(common + 0x30, number);
        queue->size = (u16)get32(common + 0x34);
        put32(common + 0x38, queue->size);
        break;
    case MODERN:
        put16(common + 22, (u16)number);
        queue->size = *(volatile u16 *)(common + 24);
        break;
    case LEGACY:
        out16(device->ports + 14, (u16)number);
        queue->size = (u16)in32(device->ports + 12);
        break;
    }
    u32 used = (queue->size * 18u + 6 + 4095) & ~4095u;
    queue->descriptors = (struct descriptor *)queue->memory;
    queue->available = (volatile u16 *)(queue->memory + queue->size * 16u);
    queue->used_index = (volatile u16 *)(queue->memory + used + 2);
    queue->used = (volatile struct used *)(queue->memory + used + 4);
    u64 parts[3] = {(u64)queue->memory, (u64)queue->available, (u64)queue->memory + used};
    switch (device->way) {
    case MMIO:
        for (u32 i = 0; i < 3; i++) {
            put32(common + 0x80 + 0x10 * i, (u32)parts[i]);
            put32(common + 0x84 + 0x10 * i, (u32)(parts[i] >> 32));
        }
        put32(common + 0x44, 1);
        break;
    case MODERN:
        for (u32 i = 0; i < 3; i++)
            *(volatile u64 *)(common + 32 + 8 * i) = parts[i];
        put16(common + 28, 1);
        break;
    case LEGACY:
        out32(device->ports + 8, (u32)(parts[0] >> 12));
        break;
    }
}

/* Brings a device up with its first `count` queues in `queues`. Which features it has does not matter. */
static int start_device(struct device *device, struct queue *queues, u32 count)
{
    device->queues = queues;
    set_status(device, 0);
    set_status(device, 1);
    set_status(device, 3);
    if (device->way == MMIO) {
        put32(device->common + 0x24, 1);
        put32(device->common + 0x20, 1);
    } else if (device->way == MODERN) {
        put32(device->common + 8, 1);
        put32(device->common + 12, 1);
    }
    if (device->way != LEGACY) {
        set_status(device, 11);
        if (!(get_status(device) & 8))
            return 0;
    }
    for (u32 i = 0; i < count; i++)
        set_up_queue(device, i);
    set_status(device, 15);
    return 1;
}

/* Hands over a request, and notifies. */
static void submit(struct device *device, u32 number, const struct part *parts, u32 count)
{
    struct queue *queue = &device->queues[number];
    for (u32 i = 0; i < count; i++) {
        u16 flags = (u16)((parts[i].direction == IN ? 2 : 0) | (i + 1 < count ? 1 : 0));
        queue->descriptors[i] = (struct descriptor){(u64)parts[i].at, parts[i].length, flags, (u16)(i + 1)};
    }
    queue->available[2 + queue->available[1] % queue->size] = 0;
    __asm__ volatile("" : : : "memory");
    queue->available[1]++;
    notify(device, number);
}

/* Whether it has been answered. */
static int answered(struct device *device, u32 number)
{
    return *device->queues[number].used_index != device->queues[number].seen;
}

/* How many bytes the answer has. */
static u32 take_answer(struct device *device, u32 number)
{
    struct queue *queue = &device->queues[number];
    return queue->used[queue->seen++ % queue->size].length;
}

#endif
