/* A program for the kernel in starter.c. More than a page of it is code. */
typedef __UINT64_TYPE__ u64;

void _start(void);
u64 parse(const char *data, u64 size);

static u64 counts[3];
static u64 *const places[] = {&counts[2], &counts[0], &counts[1], &counts[2], &counts[0]};
static char buffer[64] = "nothing";

__asm__(".text\n"
        ".set word, 1\n"
        ".rept 1250\n"
        ".quad word * 2654435761\n"
        ".set word, word + 1\n"
        ".endr\n");

__attribute__((noinline)) u64 parse(const char *data, u64 size)
{
    (*places[size % 5])++;
    if (size > 1 && data[0] == 'B' && data[1] == 'U')
        *(volatile int *)0x123456789000ul = 1;
    return counts[0];
}

void _start(void)
{
    parse(buffer, sizeof buffer);
}
