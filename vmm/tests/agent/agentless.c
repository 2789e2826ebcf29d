/*
 * A kernel that knows nothing of unifork: it prints, waits, parses what is in its buffer, handles its exceptions, and
 * panics in its own way. What is not an application's is left out.
 */
typedef __UINT64_TYPE__ u64;
typedef __UINT8_TYPE__ u8;

void kernel_main(void);
int parse(const u8 *data, u64 size);
void panic(const char *format, const char *what);
void trap(u64 vector, u64 *frame);

__attribute__((used)) static u8 stack[16384] __attribute__((aligned(16)));
u8 buffer[256];
u64 buffer_length;
static struct {
    unsigned short low, selector;
    u8 ist, kind;
    unsigned short middle;
    unsigned high, zero;
} gates[256] __attribute__((aligned(16)));

__asm__(".globl _start\n"
        "_start: lea stack + 16384(%rip), %rsp\n"
        "call kernel_main\n"
        "1: hlt\n"
        "jmp 1b\n"
        /* Every register is kept, and the handler may return. */
        ".macro entry number, code\n"
        "entry\\number:\n"
        ".if !\\code\n push $0\n .endif\n"
        "push %rdi; push %rax; push %rcx; push %rdx; push %rsi; push %r8; push %r9; push %r10; push %r11\n"
        "mov $\\number, %edi\n"
        "mov %rsp, %rsi\n"
        "call trap\n"
        "pop %r11; pop %r10; pop %r9; pop %r8; pop %rsi; pop %rdx; pop %rcx; pop %rax; pop %rdi\n"
        "add $8, %rsp\n"
        "iretq\n"
        ".endm\n"
        "entry 0, 0\n"
        "entry 6, 0\n"
        "entry 14, 1\n");

extern const u8 entry0[], entry6[], entry14[];

/* What compilers call for coverage does nothing here. */
void __sanitizer_cov_8bit_counters_init(void);
void __sanitizer_cov_pcs_init(void);
void __sanitizer_cov_8bit_counters_init(void) {}
void __sanitizer_cov_pcs_init(void) {}

/* Data among the code, as kernels have it: it has a symbol, and is no function. */
__asm__(".pushsection .text\n"
        ".globl text_table\n"
        "text_table: .quad 0x1003, 0x2003, 0x3003, 0x74007500, 0xebfe\n"
        ".popsection\n");

static inline void out(unsigned short port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 in(unsigned short port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

__attribute__((noinline)) static void print(const char *text)
{
    while (*text)
        out(0x3f8, (u8)*text++);
}

__attribute__((noinline)) void panic(const char *format, const char *what)
{
    print("PANIC: ");
    print(format);
    print(what);
    for (int i = 0; i < 100; i++)
        print("\nmuch more is said, slowly");
    out(0xf4, 42);
    for (;;)
        __asm__ volatile("cli; hlt");
}

static volatile u64 expected, divided;

/* A division by zero is handled where one is expected: it is skipped. */
void trap(u64 vector, u64 *frame)
{
    if (vector == 0 && expected) {
        expected = 0;
        divided++;
        frame[10] += 2;
        return;
    }
    panic("trap %s", "");
}

static inline void divide_by_zero(void)
{
    expected = 1;
    __asm__ volatile("div %b0" : : "c"(0) : "rax");
}

__attribute__((noinline)) static int deeper(const u8 *data, u64 size)
{
    switch (data[3]) {
    case '!':
        *(volatile int *)0x123456789000 = 1;
        break;
    case '/':
        return (int)(size / (u64)(data[4] - data[3]));
    case 'p':
        panic("assertion failed: %s", "data[3] != 'p'");
        break;
    case 'l':
        for (;;)
            __asm__ volatile("pause");
    case 'h':
        __asm__ volatile("cli; hlt");
        break;
    case '3': /* is handled, and then there is a panic that has nothing to do with it */
        divide_by_zero();
        panic("assertion failed: %s", "after");
        break;
    case 'x':
        print("done, says the console\n");
        for (;;)
            __asm__ volatile("pause");
    case 'o':
        out(0xf4, 7);
        break;
    }
    return 3;
}

__attribute__((noinline)) int parse(const u8 *data, u64 size)
{
    int sum = 0;
    if (size < 5)
        return -1;
    if (data[0] == 'B')
        if (data[1] == 'U')
            if (data[2] == 'G')
                return deeper(data, size);
    if (data[0] == 'r') /* calls itself from where it is called */
        return parse(data + 1, size - 1) + 1;
    divide_by_zero();
    for (u64 i = 0; i < size; i++)
        sum += data[i];
    return sum + (int)divided;
}

static void gate(int vector, const u8 *handler)
{
    u64 at = (u64)handler;
    gates[vector].low = (unsigned short)at;
    gates[vector].selector = 0x10; /* __BOOT_CS */
    gates[vector].kind = 0x8e;
    gates[vector].middle = (unsigned short)(at >> 16);
    gates[vector].high = (unsigned)(at >> 32);
}

__attribute__((noinline)) static void serve_line(void)
{
    u64 length = 0;
    /* One line, by polling. */
    for (;;) {
        while (!(in(0x3fd) & 1))
            __asm__ volatile("pause");
        u8 byte = in(0x3f8);
        if (byte == '\n' || length == sizeof buffer)
            break;
        buffer[length++] = byte;
    }
    parse(buffer, length);
    print("ready\n");
}

void kernel_main(void)
{
    struct {
        unsigned short limit;
        u64 base;
    } __attribute__((packed)) table = {sizeof gates - 1, (u64)gates};
    gate(0, entry0);
    gate(6, entry6);
    gate(14, entry14);
    __asm__ volatile("lidt %0" : : "m"(table));
    print("kernel up\n");
    buffer_length = 6;
    buffer[0] = 'h';
    parse(buffer, buffer_length);
    print("ready\n");
    for (;;)
        serve_line();
}
