/*
 * The kernel around the parser: says hello, and lets unifork put inputs where the parser reads them. In any
 * other machine it parses one record of its own and switches the machine off.
 */
#define UNIFORK_IMPLEMENTATION
#include <unifork.h>

#include "records.h"

void kernel_main(void);

static unsigned char input[4096] = "RECS\1\5hello";

static void out8(unsigned short port, unsigned char value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void say(const char *text)
{
    while (*text != 0)
        out8(0x3f8, (unsigned char)*text++);
}

void kernel_main(void)
{
    say("records: up\n");
    unifork_input_window(input, sizeof input);
    size_t size = unifork_snapshot();
    int records = parse_records(input, UNIFORK_ACTIVE() ? size : 11);
#ifdef POSTCODES
    out8(0x80, (unsigned char)records); /* each run uses a port */
#endif
    unifork_done(records);
    say(records == 1 ? "records: one record, as it should be\n" : "records: wrong\n");
    __asm__ volatile("outw %0, %1" : : "a"((unsigned short)0x2000), "Nd"((unsigned short)0x604));
}
