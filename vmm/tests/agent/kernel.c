/* The smallest kernel with an agent: entered in 64-bit mode, at ring 0, with memory mapped as it is. */
#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

int parse(const unsigned char *data, __SIZE_TYPE__ size);
void kernel_main(void);

/* Neither begins nor ends with a page. */
static struct {
    unsigned char before[100], window[6000];
} input;

__attribute__((used)) static unsigned char stack[16384] __attribute__((aligned(16)));

__asm__(".globl _start\n"
        "_start: lea stack + 16384(%rip), %rsp\n"
        "call kernel_main\n"
        "1: hlt\n"
        "jmp 1b\n");

void kernel_main(void)
{
    if (unifork_input_window(input.window, sizeof input.window) != 0)
        unifork_report("no window");
    __SIZE_TYPE__ size = unifork_snapshot();
    unifork_done(parse(input.window, size));
    unifork_report("still here");
}
