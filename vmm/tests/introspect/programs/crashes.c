/* Crashes in the way that its argument names. The tests know who calls whom here. */
#define _GNU_SOURCE
#include <alloca.h>
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keeps a call from becoming a jump, and the compiler from knowing a value. */
#define BARRIER() __asm__ volatile("" ::: "memory")
#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif

static volatile int sink;

static inline __attribute__((always_inline)) void poke(volatile int *to) {
    *to = 7; /* the fault of "write" */
}

NOINLINE static void how(const char *mode);

NOINLINE static void c(const char *mode) {
    how(mode);
    BARRIER();
}

NOINLINE static void b(const char *mode) {
    c(mode);
    BARRIER();
}

NOINLINE static void a(const char *mode) {
    b(mode);
    BARRIER();
}

NOINLINE static void write_null(void) {
    int *volatile nowhere = 0;
    poke(nowhere);
    BARRIER();
}

NOINLINE static void fail_assertion(int x) {
    assert(x == 3);
    BARRIER();
}

NOINLINE static void call_null(void) {
    void (*volatile nothing)(void) = 0;
    nothing();
    BARRIER();
}

NOINLINE static int runaway(int depth) {
    volatile char room[64];
    room[0] = (char)depth;
    int below = runaway(depth + 1) + room[0];
    BARRIER();
    return below;
}

NOINLINE static int odd(int depth);

NOINLINE static int even(int depth) {
    if (depth == 0) {
        write_null();
    }
    int below = odd(depth - 1);
    BARRIER();
    return below;
}

NOINLINE static int odd(int depth) {
    int below = even(depth - 1);
    BARRIER();
    return below;
}

NOINLINE static void huge_frame(void) {
    char room[16 << 20];
    memset(room, 1, sizeof room);
    __asm__ volatile("" : : "r"(room) : "memory");
}

NOINLINE static void variable_frame(int size) {
    char *room = alloca(size);
    memset(room, 1, size);
    sink = room[size / 2];
    write_null();
    BARRIER();
}

NOINLINE static void on_signal(int number) {
    sink = number;
    write_null();
    BARRIER();
}

NOINLINE static void signal_handler(void) {
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    BARRIER();
}

NOINLINE static int compare(const void *left, const void *right) {
    sink = *(const int *)left - *(const int *)right;
    write_null();
    BARRIER();
    return sink;
}

NOINLINE static void callback(void) {
    int numbers[8] = {5, 3, 8, 1, 9, 2, 7, 4};
    qsort(numbers, 8, sizeof *numbers, compare);
    BARRIER();
}

/* The return address of this function is overwritten, and so are two words above it. */
NOINLINE static void smash(void) {
    volatile unsigned long room[4];
    volatile unsigned long *slot = room;
    for (int i = 0; i < 4; i++) {
        room[i] = 0;
    }
    BARRIER();
    slot = __builtin_frame_address(0);
    slot[1] = 0x414141414141;
}

/* Leaves return addresses behind, below the stack pointer, for a careless scan to find. */
NOINLINE static void dirty_the_stack(void) {
    char text[512];
    snprintf(text, sizeof text, "%s %f %d", "some", 1.5, 3);
    sink = text[0];
}

NOINLINE static void copy_from_null(unsigned long length) {
    static char target[4096];
    const char *volatile nowhere = 0;
    const char *source = nowhere;
    char *to = target;
    __asm__ volatile("rep movsb" : "+S"(source), "+D"(to), "+c"(length) : : "memory");
}

static inline __attribute__((always_inline)) void divide(int by) {
    int quotient = 1, remainder = 0;
    __asm__ volatile("idivl %2" : "+a"(quotient), "+d"(remainder) : "r"(by));
    sink = quotient;
}

NOINLINE static void how(const char *mode) {
    dirty_the_stack();
    if (!strcmp(mode, "write")) write_null();
    if (!strcmp(mode, "abort")) abort();
    if (!strcmp(mode, "assert")) fail_assertion(sink + 4);
    if (!strcmp(mode, "call-null")) call_null();
    if (!strcmp(mode, "runaway")) sink = runaway(0);
    if (!strcmp(mode, "mutual")) sink = even(20);
    if (!strcmp(mode, "huge-frame")) huge_frame();
    if (!strcmp(mode, "alloca")) variable_frame(sink + 300);
    if (!strcmp(mode, "signal")) signal_handler();
    if (!strcmp(mode, "callback")) callback();
    if (!strcmp(mode, "smash")) smash();
    if (!strcmp(mode, "rep")) copy_from_null(100);
    if (!strcmp(mode, "divide")) divide(0);
    if (!strcmp(mode, "trap")) __builtin_trap();
    BARRIER();
}

int main(int argc, char **argv) {
    if (argc > 1) {
        a(argv[1]);
    }
    return 0;
}
