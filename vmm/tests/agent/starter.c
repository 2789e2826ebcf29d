/*
 * A kernel that is handed a program, a position-independent ELF file, as its initial RAM disk, and does to it what Hermit's
 * loader does: copies it elsewhere, relocates it and runs it.
 */
typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;

#define PLACE 0x600000ul
#define LOAD 1
#define DYNAMIC 2
#define RELA 7
#define RELA_BYTES 8

void kernel_main(const u8 *boot_params);
void *memcpy(void *to, const void *from, __SIZE_TYPE__ bytes);

__attribute__((used)) static u8 stack[16384] __attribute__((aligned(16)));

__asm__(".globl _start\n"
        "_start: lea stack + 16384(%rip), %rsp\n"
        "mov %rsi, %rdi\n"
        "call kernel_main\n"
        "1: cli\n"
        "hlt\n"
        "jmp 1b\n");

struct segment {
    u32 kind, flags;
    u64 offset, address, physical, file_bytes, bytes, align;
};

void *memcpy(void *to, const void *from, __SIZE_TYPE__ bytes)
{
    for (__SIZE_TYPE__ i = 0; i < bytes; i++)
        ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

void kernel_main(const u8 *boot_params)
{
    const u8 *file = (const u8 *)(u64) * (const u32 *)(boot_params + 0x218);
    const struct segment *segments = (const struct segment *)(file + *(const u64 *)(file + 32));
    u16 count = *(const u16 *)(file + 56);
    for (u16 i = 0; i < count; i++)
        if (segments[i].kind == LOAD)
            memcpy((void *)(PLACE + segments[i].address), file + segments[i].offset, segments[i].file_bytes);
    for (u16 i = 0; i < count; i++) {
        u64 *words = (u64 *)(PLACE + segments[i].address), relocations = 0, bytes = 0;
        for (; segments[i].kind == DYNAMIC && words[0]; words += 2) {
            relocations = words[0] == RELA ? words[1] : relocations;
            bytes = words[0] == RELA_BYTES ? words[1] : bytes;
        }
        for (u64 at = relocations; at < relocations + bytes; at += 24) {
            const u64 *relocation = (const u64 *)(PLACE + at);
            *(u64 *)(PLACE + relocation[0]) = PLACE + relocation[2];
        }
    }
    ((void (*)(void))(PLACE + *(const u64 *)(file + 24)))();
}
