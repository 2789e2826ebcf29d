// Does what each byte of its input says, and counts what the handlers of its signals see.
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static sigjmp_buf back;
static int faults, others, right;
static char alternate[65536];

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    char here;
    faults++;
    if (&here >= alternate && &here < alternate + sizeof alternate) right++;
    if (signal == SIGSEGV && info->si_addr == (void *)16) right++;
    siglongjmp(back, signal);
}

static void on_other(int signal) { others += signal; }

static void set(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    sigaction(signal, &action, NULL);
}

__attribute__((noinline, optnone)) static int deeper(int depth) {
    volatile char frame[4096];
    frame[0] = (char)depth;
    return depth < 0 ? 0 : deeper(depth + 1) + frame[0];
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, NULL);
    int signals[] = {SIGSEGV, SIGFPE, SIGILL, SIGTRAP};
    for (int i = 0; i < 4; i++) set(signals[i], on_fault, SA_SIGINFO | SA_ONSTACK);
    signal(SIGUSR1, on_other);
    signal(SIGALRM, on_other);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    volatile int zero = 0;
    for (volatile size_t i = 0; i < size; i++) {
        if (sigsetjmp(back, 1)) continue;
        switch (data[i]) {
        case 's': *(volatile int *)16 = 1; break;
        case 'd': zero = 7 / zero; break;
        case 'u': __asm__ volatile("ud2"); break;
        case 't': __asm__ volatile("int3"); break;
        case 'o': zero = deeper(0); break;
        case 'r': raise(SIGUSR1); break;
        case 'a': alarm(1), pause(); break;
        case 'N': signal(SIGSEGV, SIG_DFL), *(volatile int *)16 = 1; break;
        case 'B': {
            sigset_t all;
            sigfillset(&all);
            sigprocmask(SIG_BLOCK, &all, NULL);
            *(volatile int *)16 = 1;
            break;
        }
        case 'K': signal(SIGUSR1, SIG_DFL), raise(SIGUSR1); break;
        }
    }
    return 1 + faults + right * 100 + others * 10000;
}
