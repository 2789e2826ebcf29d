/* rt_sigaction(2), rt_sigprocmask(2), sigaltstack(2), kill(2), tgkill(2), rt_sigsuspend(2), rt_sigtimedwait(2), signalfd(2),
 * rt_sigqueueinfo(2), pause(2), and what a handler sees.
 *
 * With an argument, "die NUMBER": dies of that signal. */
#include "check.h"
#include <poll.h>
#include <setjmp.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static volatile int calls, last_signal, last_code, last_value, depth, deepest, on_alternative;
static volatile char *alternative, *alternative_end;
static sigjmp_buf back;
static volatile void *fault_address;

static void count(int signal)
{
    calls++;
    last_signal = signal;
}

static void tell(int signal, siginfo_t *info, void *context)
{
    (void)context;
    char here;
    calls++;
    last_signal = signal;
    last_code = info->si_code;
    last_value = info->si_value.sival_int;
    on_alternative = &here >= alternative && &here < alternative_end;
}

static void nest(int signal)
{
    calls++;
    if (++depth > deepest)
        deepest = depth;
    if (calls < 5)
        raise(signal);
    depth--;
}

static void set(int signal, void (*handler)(int), int flags)
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
    NEED(sigaction(signal, &action, NULL) == 0);
}

static void actions(void)
{
    struct sigaction action = { .sa_handler = count }, old;
    EXPR("sigaction", sigaction(SIGUSR1, &action, NULL));
    EXPR("sigaction tells the last", sigaction(SIGUSR1, NULL, &old));
    TRUE("sigaction told it", old.sa_handler == count);
    EXPR("sigaction of none", sigaction(SIGUSR2, NULL, &old));
    TRUE("none is the default", old.sa_handler == SIG_DFL);
    uint64_t raw[4] = { 0 };
    CALL("rt_sigaction kill", SYS_rt_sigaction, SIGKILL, raw, NULL, 8);
    CALL("rt_sigaction stop", SYS_rt_sigaction, SIGSTOP, raw, NULL, 8);
    CALL("rt_sigaction tells of kill", SYS_rt_sigaction, SIGKILL, NULL, raw, 8);
    CALL("rt_sigaction zero", SYS_rt_sigaction, 0, raw, NULL, 8);
    CALL("rt_sigaction beyond the last", SYS_rt_sigaction, 65, raw, NULL, 8);
    CALL("rt_sigaction the last", SYS_rt_sigaction, 64, NULL, raw, 8);
    CALL("rt_sigaction bad size", SYS_rt_sigaction, SIGUSR1, NULL, raw, 4);
    CALL("rt_sigaction bad address", SYS_rt_sigaction, SIGUSR1, BAD, NULL, 8);
    CALL("rt_sigaction bad old", SYS_rt_sigaction, SIGUSR1, NULL, BAD, 8);
    calls = 0;
    EXPR("raise", raise(SIGUSR1));
    line("handler was called: %d with %d", calls, last_signal);
    CALL("kill self", SYS_kill, getpid(), SIGUSR1);
    CALL("tgkill self", SYS_tgkill, getpid(), RAW(SYS_gettid), SIGUSR1);
    CALL("tkill self", SYS_tkill, RAW(SYS_gettid), SIGUSR1);
    CALL("kill own group", SYS_kill, getpid(), 0);
    line("handler was called each time: %d", calls);
    CALL("kill unknown signal", SYS_kill, getpid(), 65);
    CALL("kill negative signal", SYS_kill, getpid(), -1);
    CALL("kill nobody", SYS_kill, 0x3ffffff, SIGUSR1);
    CALL("tgkill nobody", SYS_tgkill, getpid(), 0x3ffffff, SIGUSR1);
    CALL("tgkill zero", SYS_tgkill, getpid(), 0, SIGUSR1);
    CALL("tgkill another process", SYS_tgkill, 0x3ffffff, RAW(SYS_gettid), SIGUSR1);
    CALL("tkill negative", SYS_tkill, -1, SIGUSR1);
    set(SIGUSR1, SIG_IGN, 0);
    calls = 0;
    NEED(raise(SIGUSR1) == 0);
    line("ignored: %d", calls);
    set(SIGUSR1, count, SA_RESETHAND);
    NEED(raise(SIGUSR1) == 0);
    NEED(sigaction(SIGUSR1, NULL, &old) == 0);
    TRUE("one-shot handler is gone", old.sa_handler == SIG_DFL);
    set(SIGCHLD, SIG_DFL, 0);
    EXPR("raise what is ignored by default", raise(SIGCHLD));
    EXPR("raise window change", raise(SIGWINCH));
    EXPR("raise urgent", raise(SIGURG));
    EXPR("raise continue", raise(SIGCONT));
}

static void masks(void)
{
    sigset_t mask, old;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGUSR2);
    set(SIGUSR1, count, 0);
    set(SIGUSR2, count, 0);
    EXPR("sigprocmask block", sigprocmask(SIG_BLOCK, &mask, &old));
    calls = 0;
    NEED(raise(SIGUSR1) == 0 && raise(SIGUSR1) == 0 && kill(getpid(), SIGUSR2) == 0);
    line("blocked: %d", calls);
    EXPR("sigpending", sigpending(&old));
    line("pending: %d %d %d", sigismember(&old, SIGUSR1), sigismember(&old, SIGUSR2), sigismember(&old, SIGTERM));
    CALL("rt_sigpending bad address", SYS_rt_sigpending, BAD, 8);
    CALL("rt_sigpending too large", SYS_rt_sigpending, &old, 9);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    EXPR("sigprocmask unblock", sigprocmask(SIG_UNBLOCK, &mask, NULL));
    line("delivered once: %d", calls);
    sigemptyset(&mask);
    EXPR("sigprocmask set", sigprocmask(SIG_SETMASK, &mask, NULL));
    line("delivered the other: %d, last %d", calls, last_signal);
    CALL("rt_sigprocmask unknown", SYS_rt_sigprocmask, 9, &mask, NULL, 8);
    CALL("rt_sigprocmask unknown, no set", SYS_rt_sigprocmask, 9, NULL, &old, 8);
    CALL("rt_sigprocmask bad size", SYS_rt_sigprocmask, SIG_BLOCK, &mask, NULL, 4);
    CALL("rt_sigprocmask bad address", SYS_rt_sigprocmask, SIG_BLOCK, BAD, NULL, 8);
    CALL("rt_sigprocmask bad old", SYS_rt_sigprocmask, SIG_BLOCK, NULL, BAD, 8);
    uint64_t all = ~0ULL, now = 0;
    CALL("rt_sigprocmask all", SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
    CALL("rt_sigprocmask tells", SYS_rt_sigprocmask, SIG_SETMASK, NULL, &now, 8);
    line("kill and stop cannot be blocked: %lx", (unsigned long)~now);
    all = 0;
    NEED(RAW(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8) == 0);
    set(SIGUSR1, nest, 0);
    calls = deepest = 0;
    NEED(raise(SIGUSR1) == 0);
    line("a handler blocks its own signal: %d deep, %d calls", deepest, calls);
    set(SIGUSR1, nest, SA_NODEFER);
    calls = deepest = 0;
    NEED(raise(SIGUSR1) == 0);
    line("unless it asks not to: %d deep, %d calls", deepest, calls);
    /* Real-time signals queue, with their values, lowest number first. */
    struct sigaction action = { .sa_sigaction = tell, .sa_flags = SA_SIGINFO };
    NEED(sigaction(SIGRTMIN, &action, NULL) == 0 && sigaction(SIGRTMIN + 1, &action, NULL) == 0);
    sigaddset(&mask, SIGRTMIN);
    sigaddset(&mask, SIGRTMIN + 1);
    NEED(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
    calls = 0;
    EXPR("sigqueue", sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = 30 }));
    for (int i = 0; i < 3; i++)
        NEED(sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i }) == 0);
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN);
    siginfo_t info;
    struct timespec none = { 0, 0 }, bad = { 0, -1 };
    for (int i = 0; i < 2; i++) {
        EXPR(i ? "sigtimedwait again" : "sigtimedwait", sigtimedwait(&mask, &info, &none) - SIGRTMIN);
        line("sigtimedwait gave %d: value %d code %d", i, info.si_value.sival_int, info.si_code);
    }
    NEED(sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL) == 0);
    line("the rest was delivered: %d, last value %d code %d", calls, last_value, last_code);
    EXPR("sigtimedwait nothing", sigtimedwait(&mask, &info, &none));
    EXPR("sigtimedwait bad time", sigtimedwait(&mask, &info, &bad));
    NEED(kill(getpid(), SIGRTMIN) == 0);
    line("kill's code: %d", last_code);
    NEED(raise(SIGRTMIN) == 0);
    line("tgkill's code: %d", last_code);
    EXPR("sigqueue unknown signal", sigqueue(getpid(), 100, (union sigval){ 0 }));
    EXPR("sigqueue nobody", sigqueue(0x3ffffff, SIGUSR1, (union sigval){ 0 }));
}

static void waiting(void)
{
    struct itimerval soon = { { 0, 0 }, { 0, 200000 } };
    struct timespec hour = { 3600, 0 };
    sigset_t mask;
    sigemptyset(&mask);
    set(SIGALRM, count, 0);
    int ends[2];
    char byte;
    NEED(pipe(ends) == 0);
    NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CALL("read interrupted", SYS_read, ends[0], &byte, 1);
    struct pollfd entry = { ends[0], POLLIN, 0 };
    NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CALL("poll interrupted", SYS_poll, &entry, 1, -1);
    NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CALL("pause", SYS_pause);
    NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    EXPR("sigsuspend", sigsuspend(&mask));
    set(SIGALRM, count, SA_RESTART);
    NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CALL("poll is not begun again", SYS_poll, &entry, 1, -1);
    NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CALL("nanosleep is not begun again", SYS_nanosleep, &hour, NULL);
    sigaddset(&mask, SIGALRM);
    NEED(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
    NEED(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    EXPR("sigwaitinfo", sigwaitinfo(&mask, NULL));
    NEED(raise(SIGALRM) == 0);
    calls = 0;
    sigset_t none;
    sigemptyset(&none);
    EXPR("sigsuspend with one pending", sigsuspend(&none));
    line("sigsuspend delivered: %d", calls);
    NEED(sigprocmask(SIG_BLOCK, NULL, &none) == 0);
    line("sigsuspend put the mask back: %d", sigismember(&none, SIGALRM));
    CALL("rt_sigsuspend bad size", SYS_rt_sigsuspend, &none, 4);
    int fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    report_ok("signalfd", fd);
    struct signalfd_siginfo info;
    CALL("signalfd read nothing", SYS_read, fd, &info, sizeof info);
    NEED(raise(SIGALRM) == 0);
    entry.fd = fd;
    CALL("signalfd poll", SYS_poll, &entry, 1, 0);
    CALL("signalfd read", SYS_read, fd, &info, sizeof info);
    line("signalfd gave: %u", info.ssi_signo);
    CALL("signalfd read short", SYS_read, fd, &info, 4);
    CALL("signalfd4 unknown flags", SYS_signalfd4, -1, &mask, 8, 64);
    CALL("signalfd4 bad size", SYS_signalfd4, -1, &mask, 4, 0);
    NEED(sigprocmask(SIG_UNBLOCK, &mask, NULL) == 0);
    signal(SIGPIPE, count);
    close(ends[0]);
    calls = 0;
    CALL("write without a reader", SYS_write, ends[1], "x", 1);
    line("SIGPIPE came: %d", calls);
}

static void stacks(void)
{
    stack_t stack = { 0 }, old;
    EXPR("sigaltstack tells", sigaltstack(NULL, &old));
    line("none is set: %d", old.ss_flags == SS_DISABLE);
    stack.ss_size = 1000;
    stack.ss_sp = malloc(65536);
    CALL("sigaltstack too small", SYS_sigaltstack, &stack, NULL);
    stack.ss_size = 65536;
    stack.ss_flags = 77;
    CALL("sigaltstack unknown flags", SYS_sigaltstack, &stack, NULL);
    CALL("sigaltstack bad address", SYS_sigaltstack, BAD, NULL);
    stack.ss_flags = 0;
    alternative = stack.ss_sp;
    alternative_end = alternative + 65536;
    CALL("sigaltstack", SYS_sigaltstack, &stack, NULL);
    struct sigaction action = { .sa_sigaction = tell, .sa_flags = SA_SIGINFO };
    NEED(sigaction(SIGUSR1, &action, NULL) == 0 && raise(SIGUSR1) == 0);
    line("a handler runs on the stack: alternative %d", on_alternative);
    action.sa_flags |= SA_ONSTACK;
    NEED(sigaction(SIGUSR1, &action, NULL) == 0 && raise(SIGUSR1) == 0);
    line("a handler that asks runs on the other: alternative %d", on_alternative);
    stack.ss_flags = SS_DISABLE;
    CALL("sigaltstack off", SYS_sigaltstack, &stack, &old);
    line("it was: %d", old.ss_sp == alternative && old.ss_size == 65536 && old.ss_flags == 0);
}

static void change_register(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    ucontext_t *state = context;
    fault_address = info->si_addr;
    state->uc_mcontext.gregs[REG_RAX] = 1234;
    state->uc_mcontext.gregs[REG_RIP] += 3; /* behind the load */
}

static void mend(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    calls++;
    mprotect((void *)((uintptr_t)info->si_addr & ~4095UL), 4096, PROT_READ | PROT_WRITE);
}

static void jump(int signal, siginfo_t *info, void *context)
{
    (void)context;
    last_signal = signal;
    last_code = info->si_code;
    siglongjmp(back, 1);
}

static int overflow(volatile int *depth_)
{
    volatile char room[4096];
    room[0] = ++*depth_;
    return *depth_ < 0 ? 0 : overflow(depth_) + room[0];
}

static volatile int zero;

static void spoil(int signal)
{
    (void)signal;
    __asm__ volatile("xorps %%xmm9, %%xmm9" : : : "xmm9");
}

static void faults(void)
{
    struct sigaction action = { .sa_sigaction = change_register, .sa_flags = SA_SIGINFO };
    NEED(sigaction(SIGSEGV, &action, NULL) == 0);
    long value;
    __asm__ volatile("movq (%%rcx), %%rax" : "=a"(value) : "c"(0x18L));
    line("a handler changes a register and goes on: %ld, address %lx", value, (unsigned long)fault_address);
    action.sa_sigaction = mend;
    NEED(sigaction(SIGSEGV, &action, NULL) == 0);
    volatile char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    calls = 0;
    page[5] = 9;
    line("a handler gives access and the write is made again: %d, %d call", page[5], calls);
    action.sa_sigaction = jump;
    for (int i = 0; i < 3; i++)
        NEED(sigaction((int[]){ SIGSEGV, SIGFPE, SIGILL }[i], &action, NULL) == 0);
    NEED(sigaction(SIGTRAP, &action, NULL) == 0);
    if (sigsetjmp(back, 1) == 0)
        line("division by zero: %d", 100 / zero);
    else
        line("division by zero: signal %d code %d", last_signal, last_code);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("ud2");
    else
        line("no instruction: signal %d code %d", last_signal, last_code);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("int3");
    else
        line("breakpoint: signal %d code %d", last_signal, last_code);
    if (sigsetjmp(back, 1) == 0)
        __asm__ volatile("hlt");
    else
        line("privileged: signal %d code %d", last_signal, last_code);
    if (sigsetjmp(back, 1) == 0)
        (void)*(volatile char *)0x8000000000000000UL;
    else
        line("no address: signal %d code %d", last_signal, last_code);
    if (sigsetjmp(back, 1) == 0)
        ((void (*)(void))8)();
    else
        line("jump to nowhere: signal %d code %d", last_signal, last_code);
    static char room[65536];
    stack_t stack = { .ss_sp = room, .ss_size = sizeof room };
    NEED(sigaltstack(&stack, NULL) == 0);
    action.sa_flags |= SA_ONSTACK;
    NEED(sigaction(SIGSEGV, &action, NULL) == 0);
    if (sigsetjmp(back, 1) == 0)
        line("stack overflow: %d", overflow(&calls));
    else
        line("stack overflow on another stack: signal %d", last_signal);
    /* A handler that uses the floating-point registers leaves those of what it interrupts alone. */
    set(SIGUSR1, spoil, 0);
    double kept = 0;
    long pid = getpid(), id = RAW(SYS_gettid), number = SYS_tgkill;
    __asm__ volatile("movq %5, %%xmm9\n\tsyscall\n\tmovq %%xmm9, %1"
                     : "+a"(number), "=m"(kept)
                     : "D"(pid), "S"(id), "d"((long)SIGUSR1), "r"(0x3ff8000000000000L)
                     : "rcx", "r11", "xmm9", "memory");
    line("floating-point registers behind a handler: %g", kept);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "die") == 0) {
        line("dying: %d", atoi(argv[2]));
        raise(atoi(argv[2]));
        line("alive");
        return 3;
    }
    actions();
    masks();
    waiting();
    stacks();
    faults();
    line("end");
    return 0;
}
