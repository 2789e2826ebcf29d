/*
 * A kernel for Solo5's hvt, which calls a disk and two network cards. With `show` on its command line it says what it
 * finds, and ends with 7; else it does as its input says, two bytes to a step, and what it has seen goes into the
 * result.
 */
#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;

struct entry {
    char name[68];
    u32 kind;
    u8 properties[16];
    u64 backing;
    u8 attached;
};

struct manifest {
    u32 version, entries;
    struct entry entry[4];
};

struct boot_info {
    u64 memory, end, frequency;
    const char *command_line;
    const struct manifest *manifest;
};

/* As Solo5's tools write them: the manifest is aligned behind the note's header. */
__attribute__((used, section(".note.solo5.abi"), aligned(4))) static const struct {
    u32 name_bytes, bytes, kind;
    char name[8];
    u32 target, version, reserved[2];
} abi = {6, 16, 0x31494241, "Solo5", 1, 2, {0, 0}};

__attribute__((used, section(".note.solo5.manifest"), aligned(4))) static const struct {
    u32 name_bytes, bytes, kind;
    char name[8];
    u32 padding;
    struct manifest manifest;
} note = {6,
          4 + sizeof(struct manifest),
          0x3154464d,
          "Solo5",
          0,
          {1,
           4,
           {{.kind = 1u << 30},
            {.name = "first", .kind = 2},
            {.name = "data", .kind = 1},
            {.name = "second", .kind = 2}}}};

enum { FIRST = 1, DATA, SECOND };
enum { WALL_TIME = 1, PUTS, POLL, BLOCK_WRITE, BLOCK_READ, NET_WRITE, NET_READ, HALT };

void start(const struct boot_info *info);
void *memset(void *at, int value, __SIZE_TYPE__ bytes);

__asm__(".globl _start\n"
        "_start: call start\n"
        "1: jmp 1b\n");

static u8 input[4096], pages[4][4096], counters[256];
/* Which only what is behind calls writes to. */
static u8 theirs[8][4096] __attribute__((aligned(4096)));
static const struct boot_info *boot;
static u64 seen;

void *memset(void *at, int value, __SIZE_TYPE__ bytes)
{
    for (__SIZE_TYPE__ i = 0; i < bytes; i++)
        ((volatile u8 *)at)[i] = (u8)value;
    return at;
}

static void note_down(u64 value) { seen = seen * 31 + value; }

static void call(u32 number, volatile void *arguments)
{
    __asm__ volatile("outl %0, %1" : : "a"((u32)(u64)arguments), "d"((u16)(0x500 + number)) : "memory");
}

static void say(const void *text, u64 bytes)
{
    volatile u64 words[] = {(u64)text, bytes};
    call(PUTS, words);
}

static void say_text(const char *text)
{
    u64 bytes = 0;
    while (text[bytes])
        bytes++;
    say(text, bytes);
}

static u32 block(u32 number, u64 handle, u64 at, void *data, u64 bytes)
{
    volatile u64 words[] = {handle, at, (u64)data, bytes, 0x55};
    call(number, words);
    return (u32)words[4];
}

/* The result, and the length of what came behind it. */
static u64 net(u32 number, u64 handle, void *data, u64 bytes)
{
    volatile u64 words[] = {handle, (u64)data, bytes, 0x55};
    call(number, words);
    return words[3] | words[2] << 32;
}

static u64 poll(u64 nanoseconds)
{
    volatile u64 words[] = {nanoseconds, 0x55, 0x55};
    call(POLL, words);
    return words[1] | words[2] << 32;
}

static u64 now(void)
{
    volatile u64 time = 0;
    call(WALL_TIME, &time);
    return time;
}

static __attribute__((noreturn)) void end(u64 status)
{
    volatile u64 words[] = {0, status};
    call(HALT, words);
    for (;;)
        ;
}

static void expect(int as_it_should_be, u64 what)
{
    if (!as_it_should_be)
        end(100 + what);
}

static void show(void)
{
    const struct entry *entry = boot->manifest->entry;
    expect(!entry[0].attached && entry[1].attached && entry[2].attached && entry[3].attached, 0);
    expect(*(const u64 *)entry[DATA].properties == 20 * 512, 1);
    expect(entry[FIRST].properties[5] == 1 && entry[SECOND].properties[5] == 2, 2);
    /* The disk: its second sector, which it changes. */
    expect(block(BLOCK_READ, DATA, 512, pages[0], 512) == 0, 3);
    say(pages[0], 12);
    memset(pages[0], 'w', 512);
    expect(block(BLOCK_WRITE, DATA, 1024, pages[0], 512) == 0, 4);
    expect(block(BLOCK_READ, DATA, 1023, pages[1], 3) == 0, 5);
    say(pages[1], 3);
    expect(block(BLOCK_READ, DATA, 20 * 512, pages[1], 512) == 2, 6);
    expect(block(BLOCK_READ, FIRST, 0, pages[1], 512) == 2, 7);
    /* The cards: what comes is awaited. */
    expect((u32)net(NET_READ, FIRST, pages[1], 4096) == 1, 8);
    expect((u32)net(NET_WRITE, SECOND, "gnip", 4) == 0, 9);
    expect(poll(60000000000ul) == (1u << SECOND | 1ul << 32), 10);
    expect(net(NET_READ, SECOND, pages[1], 4096) == 4ul << 32, 11);
    say(pages[1], 4);
    u64 before = now();
    expect(poll(20000000) == 0 && now() - before >= 20000000, 12);
    say_text("\n");
    end(7);
}

static void step(u8 kind, u8 value)
{
    u64 handle = value % 5;
    u8 *page = pages[value % 4];
    u64 bytes = value * 16u;
    counters[kind * 16 + value % 16]++;
    switch (kind) {
    case 0: note_down(block(BLOCK_READ, DATA, value * 32u, theirs[value % 8], bytes)); break;
    case 1: /* what is written is told apart */
        memset(page, value, 64);
        note_down(block(BLOCK_WRITE, DATA, value * 48u, page, bytes));
        break;
    case 2:
        page[0] = value;
        note_down(net(NET_WRITE, value & 1 ? FIRST : SECOND, page, 14 + value));
        break;
    case 3: note_down(net(NET_READ, value & 1 ? FIRST : SECOND, page, value * 8u)); break;
    case 4: note_down(poll(value * 1000u)); break;
    case 5: note_down(now()); break;
    case 6: /* nonsense */
        note_down(block(value & 1 ? BLOCK_READ : BLOCK_WRITE, handle, ~0ul << value, page + ((u64)value << 40), bytes));
        note_down(net(value & 2 ? NET_READ : NET_WRITE, handle, page + ((u64)(value & 7) << 36), bytes << (value % 60)));
        call(value % 12, (void *)(~(u64)value * 4096));
        break;
    default:
        for (u64 i = 0; i < 4096; i += 61)
            note_down(page[i] + theirs[value % 8][i]);
    }
}

void start(const struct boot_info *info)
{
    boot = info;
    if (info->command_line[0] == 's')
        show();
    /* Something of everything, a frame that has been sent, and a disk that was written. */
    for (u8 i = 0; i < 24; i++)
        step(i % 6, (u8)(i * 7));
    unifork_counters(counters, counters + sizeof counters);
    unifork_input_window(input, sizeof input);
    u64 size = unifork_snapshot();
    for (u64 i = 0; i + 1 < size; i += 2)
        step(input[i] % 8, input[i + 1]);
    unifork_done((int)seen);
}
