/*
 * What a system call leaves of the registers: all but RAX, RCX and R11, and of x87, SSE, AVX and AVX-512
 * everything. Written from the System V ABI, AMD64 supplement, A.2.1, sigaction(2), getauxval(3) and the
 * Intel SDM, volume 1, chapter 13.
 */
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <sys/auxv.h>
#include <time.h>
#include <ucontext.h>

/* x87, SSE, AVX, and the three parts of AVX-512. */
#define COMPONENTS 0xe7u
#define AREA 2688
#define XMM 160
#define YMM_HIGH 576
#define MASKS 1088
#define ZMM_HIGH 1152

struct state {
    uint8_t bytes[AREA] __attribute__((aligned(64)));
};

static const uint32_t usual_mxcsr = 0x1f80;
static uint32_t components; /* of those, what this CPU has */

static uint32_t enabled(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low & COMPONENTS;
}

/* A state that no code begins with: every register different, other rounding, no flush to zero. */
static void make_state(struct state *state, uint64_t seed)
{
    uint64_t random = seed * 2 + 1;
    memset(state, 0, sizeof *state);
    for (int i = 32; i < AREA; i++)
        if (i < XMM + 256 || i >= YMM_HIGH)
            state->bytes[i] = next_random(&random) >> 40;
    memset(state->bytes + 512, 0, 64);
    memcpy(state->bytes + 512, &components, sizeof components);
    uint16_t control = 0x0b7f;      /* round up, exceptions masked */
    uint32_t mxcsr = 0x1f80 | 0x6000; /* round to zero, exceptions masked */
    memcpy(state->bytes, &control, sizeof control);
    state->bytes[4] = 0xff;
    memcpy(state->bytes + 24, &mxcsr, sizeof mxcsr);
    for (int i = 0; i < 8; i++) {
        uint8_t *st = state->bytes + 32 + 16 * i;
        st[7] |= 0x80; /* a normal number */
        st[9] &= 0x3f;
        memset(st + 10, 0, 6);
    }
}

/* What differs, as text; none when all is as it was. */
static const char *lost(const struct state *before, const struct state *after)
{
    static const struct {
        const char *name;
        uint32_t of;
        int from, bytes;
    } parts[] = {
        {"control word", 1, 0, 2}, {"x87 tags", 1, 4, 1},  {"x87", 1, 32, 128},
        {"MXCSR", 2, 24, 4},       {"XMM", 2, XMM, 256},   {"YMM", 4, YMM_HIGH, 256},
        {"masks", 0x20, MASKS, 64}, {"ZMM", 0x40, ZMM_HIGH, 512}, {"ZMM 16 to 31", 0x80, 1664, 1024},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if ((components & parts[i].of) && memcmp(before->bytes + parts[i].from, after->bytes + parts[i].from, parts[i].bytes))
            return parts[i].name;
    return "nothing";
}

/* Loads a state, makes a call, stores the state. */
static long call(const struct state *before, struct state *after, long number, long a, long b, long c)
{
    register const struct state *from __asm__("r12") = before;
    register struct state *to __asm__("r13") = after;
    register long r14 __asm__("r14") = number;
    register long r15 __asm__("r15") = c;
    long result;
    memset(after, 0, sizeof *after);
    __asm__ volatile("mov $0xe7, %%eax\n\txor %%edx, %%edx\n\txrstor64 (%%r12)\n\t"
                     "mov %%r14, %%rax\n\tmov %%r15, %%rdx\n\tsyscall\n\tmov %%rax, %%r14\n\t"
                     "mov $0xe7, %%eax\n\txor %%edx, %%edx\n\txsave64 (%%r13)\n\t"
                     "fninit\n\tldmxcsr %[usual]\n\tvzeroupper\n\tmov %%r14, %%rax"
                     : "=a"(result), "+r"(r14), "+D"(a), "+S"(b)
                     : "r"(from), "r"(to), "r"(r15), [usual] "m"(usual_mxcsr)
                     : "rcx", "rdx", "r11", "memory", "cc");
    return result;
}

static void across_calls(void)
{
    static struct state before, after;
    static char bytes[8192];
    struct timespec moment = {0, 1000};
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    make_state(&before, 1);
#define KEPT(name, ...) (call(&before, &after, __VA_ARGS__), line(name ": lost %s", lost(&before, &after)))
    KEPT("registers after getpid", SYS_getpid, 0, 0, 0);
    KEPT("registers after write", SYS_write, fd, (long)bytes, sizeof bytes);
    KEPT("registers after getrandom", SYS_getrandom, (long)bytes, sizeof bytes, 0);
    KEPT("registers after nanosleep", SYS_nanosleep, (long)&moment, 0, 0);
    KEPT("registers after sched_yield", SYS_sched_yield, 0, 0, 0);
    KEPT("registers after an unknown call", 9999, 0, 0, 0);
    KEPT("registers after a bad address", SYS_write, fd, (long)BAD, 10);
    close(fd);
    fd = open("/proc/self/maps", O_RDONLY);
    KEPT("registers after maps", SYS_read, fd, (long)bytes, sizeof bytes);
    close(fd);
}

static void *with_own_state(void *seed)
{
    struct state before, after;
    struct timespec moment = {0, 1000};
    for (int i = 0; i < 100; i++) {
        make_state(&before, (uintptr_t)seed * 1000 + i);
        call(&before, &after, SYS_sched_yield, 0, 0, 0);
        if (strcmp(lost(&before, &after), "nothing"))
            return (void *)lost(&before, &after);
        call(&before, &after, SYS_nanosleep, (long)&moment, 0, 0);
        if (strcmp(lost(&before, &after), "nothing"))
            return (void *)lost(&before, &after);
    }
    return "nothing";
}

static void across_threads(void)
{
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        NEED(pthread_create(&threads[i], NULL, with_own_state, (void *)(i + 1)) == 0);
    for (int i = 0; i < 4; i++) {
        void *what;
        pthread_join(threads[i], &what);
        line("registers of thread %d: lost %s", i, (char *)what);
    }
}

static volatile int handled;
static volatile uint16_t handler_control;
static volatile uint32_t handler_mxcsr;

/* Uses up what it can. */
static void scribble(int signal, siginfo_t *info, void *context)
{
    uint16_t control;
    uint32_t mxcsr;
    __asm__ volatile("fnstcw %0\n\tstmxcsr %1" : "=m"(control), "=m"(mxcsr));
    (handler_control = control, handler_mxcsr = mxcsr);
    __asm__ volatile("fninit\n\tfldpi\n\tfldl2e\n\tpcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm9, %%xmm9" ::: "memory");
    if (components & 4)
        __asm__ volatile("vpcmpeqd %%xmm5, %%xmm5, %%xmm5\n\tvinsertf128 $1, %%xmm5, %%ymm5, %%ymm15" ::: "memory");
    handled++;
    ucontext_t *at = context;
    if (signal == SIGUSR2)
        at->uc_mcontext.fpregs->_xmm[3].element[1] = 0x41424344;
    if (signal == SIGILL)
        at->uc_mcontext.gregs[REG_RIP] += 2;
}

static void across_handlers(void)
{
    static struct state before, after;
    struct sigaction action = {.sa_sigaction = scribble, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    make_state(&before, 2);
    KEPT("registers after a handler", SYS_kill, getpid(), SIGUSR1, 0);
    line("a handler begins with: control word %x MXCSR %x", handler_control, handler_mxcsr);
    call(&before, &after, SYS_kill, getpid(), SIGUSR2, 0);
    uint32_t changed;
    memcpy(&changed, after.bytes + XMM + 3 * 16 + 4, sizeof changed);
    line("a handler changes a register: %x", changed);
    __asm__ volatile("mov $0xe7, %%eax\n\txor %%edx, %%edx\n\txrstor64 %1\n\tud2\n\txsave64 %0\n\t"
                     "fninit\n\tldmxcsr %[usual]\n\tvzeroupper"
                     : "+m"(after)
                     : "m"(before), [usual] "m"(usual_mxcsr)
                     : "rax", "rdx", "memory");
    line("registers after an exception: lost %s", lost(&before, &after));
    line("handled: %d", handled);
}

/* Flags, general registers and the stack's red zone, with the number as a constant and not. */
static void general(void)
{
    uint64_t flags, kept, at, rcx;
    __asm__ volatile("std\n\tmov $39, %%eax\n\tsyscall\n\tpushf\n\tpop %0\n\tcld" : "=r"(flags)::"rax", "rcx", "r11", "memory");
    TRUE("the direction flag is kept", flags & 1 << 10);
    __asm__ volatile("stc\n\tmov $39, %%eax\n\tsyscall\n\tpushf\n\tpop %0" : "=r"(flags)::"rax", "rcx", "r11", "memory");
    TRUE("the carry flag is kept", flags & 1);
    char from[300], to[300];
    int pipe_of[2];
    long done;
    memset(from, 7, sizeof from);
    NEED(pipe(pipe_of) == 0);
    __asm__ volatile("std\n\tsyscall\n\tcld" : "=a"(done) : "a"(SYS_write), "D"(pipe_of[1]), "S"(from), "d"(sizeof from) : "rcx", "r11", "memory");
    line("write with the direction flag: %ld", done);
    __asm__ volatile("std\n\tsyscall\n\tcld" : "=a"(done) : "a"(SYS_read), "D"(pipe_of[0]), "S"(to), "d"(sizeof to) : "rcx", "r11", "memory");
    line("read with the direction flag: %ld %s", done, memcmp(from, to, sizeof from) ? "differs" : "same");
    /* With AC set, what is not aligned faults: in the program, not in its calls. */
    int fd = open("/proc/self/status", O_RDONLY);
    __asm__ volatile("pushf\n\torl $0x40000, (%%rsp)\n\tpopf\n\tsyscall\n\tpushf\n\tpop %1\n\tpushf\n\tandl $~0x40000, (%%rsp)\n\tpopf"
                     : "=a"(done), "=&r"(flags) : "a"(SYS_read), "D"(fd), "S"(to + 1), "d"(99) : "rcx", "r11", "memory");
    line("read with the alignment flag: %ld, kept %d", done, (int)(flags >> 18 & 1));
    __asm__ volatile("pushf\n\torl $0x40000, (%%rsp)\n\tpopf\n\tmov $63, %%eax\n\tsyscall\n\tpushf\n\tandl $~0x40000, (%%rsp)\n\tpopf"
                     : "=a"(done) : "D"(BAD) : "rcx", "r11", "memory");
    line("uname with the alignment flag: %ld", done);
    close(fd);
    __asm__ volatile("movq $0x1122, -8(%%rsp)\n\tmovq $0x3344, -128(%%rsp)\n\tmov $39, %%eax\n\tsyscall\n\t"
                     "mov -8(%%rsp), %0\n\tadd -128(%%rsp), %0" : "=r"(kept)::"rax", "rcx", "r11", "memory");
    line("the red zone: %lx", (unsigned long)kept);
    __asm__ volatile("mov %%rsp, %%r12\n\tmov $0x10, %%esp\n\tmov $102, %%eax\n\tsyscall\n\tmov %%r12, %%rsp" : "=a"(done)::"rcx", "r11", "r12", "memory");
    line("a call without a stack: %ld", done);
    __asm__ volatile("mov $39, %%eax\n\tsyscall\n1:\tlea 1b(%%rip), %0" : "=r"(at), "=c"(rcx)::"rax", "r11", "memory");
    TRUE("RCX is the return address", at == rcx);
    __asm__ volatile("mov $0x1111, %%rdi\n\tmov $0x2222, %%rsi\n\tmov $0x3333, %%rdx\n\tmov $0x4444, %%r10\n\tmov $0x5555, %%r8\n\t"
                     "mov $0x6666, %%r9\n\tmov $39, %%eax\n\tsyscall\n\tlea (%%rdi,%%rsi), %0\n\tadd %%rdx, %0\n\tadd %%r10, %0\n\t"
                     "add %%r8, %0\n\tadd %%r9, %0" : "=&r"(kept)::"rax", "rcx", "r11", "rdi", "rsi", "rdx", "r10", "r8", "r9", "memory");
    line("the arguments' registers: %lx", (unsigned long)kept);
    TRUE("the upper half of a call's number is not looked at", RAW(0x100000000 | SYS_getpid) == getpid());
    CALL("a number of the x32 ABI", 0x40000000 | SYS_getpid);
    TRUE("the auxiliary vector says how large a signal's frame is", getauxval(51) >= 2048);
}

int main(void)
{
    own_folder("work");
    components = enabled();
    across_calls();
    across_threads();
    across_handlers();
    general();
    line("end");
    return 0;
}
