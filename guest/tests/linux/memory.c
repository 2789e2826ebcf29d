/* mmap(2), munmap(2), mprotect(2), mremap(2), madvise(2), brk(2), mincore(2), msync(2), mlock(2). */
#include "check.h"
#include <setjmp.h>

#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static sigjmp_buf back;
static volatile int fault_signal, fault_code, fault_near;
static volatile char *fault_expected;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)context;
    fault_signal = signal;
    fault_code = info->si_code;
    fault_near = info->si_addr == (void *)fault_expected;
    siglongjmp(back, 1);
}

/* What touching an address does. */
static void touch(const char *name, volatile char *at, int write)
{
    fault_expected = at;
    if (sigsetjmp(back, 1) == 0) {
        if (write)
            *at = 7;
        else
            (void)*at;
        line("%s: fine", name);
    } else {
        line("%s: signal %d code %d, address %s", name, fault_signal, fault_code, fault_near ? "right" : "wrong");
    }
}

static char *map(size_t bytes)
{
    char *at = mmap(NULL, bytes, RW, ANON, -1, 0);
    NEED(at != MAP_FAILED);
    return at;
}

static void anonymous(void)
{
    OK("mmap anonymous", SYS_mmap, 0, PAGE, RW, ANON, -1, 0);
    CALL("mmap no bytes", SYS_mmap, 0, 0, RW, ANON, -1, 0);
    CALL("mmap too large", SYS_mmap, 0, 1UL << 60, RW, ANON, -1, 0);
    CALL("mmap all of the address space", SYS_mmap, 0, -1L, RW, ANON, -1, 0);
    CALL("mmap neither shared nor private", SYS_mmap, 0, PAGE, RW, MAP_ANONYMOUS, -1, 0);
    CALL("mmap offset not of a page", SYS_mmap, 0, PAGE, RW, ANON, -1, 17);
    CALL("mmap fixed not of a page", SYS_mmap, 0x10000001, PAGE, RW, ANON | MAP_FIXED, -1, 0);
    CALL("mmap bad descriptor", SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, -1, 0);
    CALL("mmap closed descriptor", SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, 77, 0);
    OK("mmap anonymous ignores descriptor", SYS_mmap, 0, PAGE, RW, ANON, 77, 0);
    OK("mmap shared anonymous", SYS_mmap, 0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    OK("mmap no access", SYS_mmap, 0, PAGE, PROT_NONE, ANON, -1, 0);
    OK("mmap noreserve", SYS_mmap, 0, 64 * PAGE, RW, ANON | MAP_NORESERVE, -1, 0);
    OK("mmap populate", SYS_mmap, 0, 4 * PAGE, RW, ANON | MAP_POPULATE, -1, 0);
    OK("mmap stack", SYS_mmap, 0, 4 * PAGE, RW, ANON | MAP_STACK, -1, 0);
    OK("mmap executable", SYS_mmap, 0, PAGE, PROT_READ | PROT_EXEC, ANON, -1, 0);
    char *at = map(5);
    TRUE("mmap is of whole pages", ((uintptr_t)at & (PAGE - 1)) == 0);
    at[PAGE - 1] = 1;
    TRUE("mmap rounds up", at[PAGE - 1] == 1);
    char *zero = map(16 * PAGE);
    int sum = 0;
    for (size_t i = 0; i < 16 * PAGE; i++)
        sum |= zero[i];
    TRUE("mmap is zero", sum == 0);
    memset(zero, 0xff, 16 * PAGE);
    NEED(munmap(zero, 16 * PAGE) == 0);
    zero = map(16 * PAGE);
    sum = 0;
    for (size_t i = 0; i < 16 * PAGE; i++)
        sum |= zero[i];
    TRUE("mmap is zero again", sum == 0);

    char *block = map(8 * PAGE);
    memset(block, 'x', 8 * PAGE);
    TRUE("mmap fixed over another", mmap(block + 2 * PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0) == block + 2 * PAGE);
    line("mmap fixed replaced one page: %d %d %d", block[PAGE], block[2 * PAGE], block[3 * PAGE]);
    CALL("mmap fixed noreplace on a mapping", SYS_mmap, block, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    NEED(munmap(block + 4 * PAGE, PAGE) == 0);
    TRUE("mmap fixed noreplace on a hole",
         mmap(block + 4 * PAGE, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0) == block + 4 * PAGE);
    NEED(munmap(block + 5 * PAGE, PAGE) == 0);
    TRUE("mmap hint that is free is taken", mmap(block + 5 * PAGE, PAGE, RW, ANON, -1, 0) == block + 5 * PAGE);
    TRUE("mmap hint that is used is not", mmap(block, PAGE, RW, ANON, -1, 0) != block);
    OK("mmap hint not of a page", SYS_mmap, block + 100, PAGE, RW, ANON, -1, 0);
}

static void unmapping(void)
{
    char *at = map(4 * PAGE);
    CALL("munmap not of a page", SYS_munmap, at + 1, PAGE);
    CALL("munmap no bytes", SYS_munmap, at, 0);
    CALL("munmap beyond the address space", SYS_munmap, at, -1L);
    CALL("munmap the middle", SYS_munmap, at + PAGE, PAGE);
    touch("touch before the hole", at, 1);
    touch("touch the hole", at + PAGE, 0);
    touch("touch behind the hole", at + 2 * PAGE, 1);
    CALL("munmap the hole again", SYS_munmap, at + PAGE, PAGE);
    CALL("munmap all with a hole", SYS_munmap, at, 4 * PAGE);
    touch("touch unmapped", at + 3 * PAGE, 0);
    CALL("munmap less than a page", SYS_munmap, map(PAGE), 1);
}

static void protection(void)
{
    char *at = map(4 * PAGE);
    at[0] = at[9] = 1;
    CALL("mprotect not of a page", SYS_mprotect, at + 1, PAGE, PROT_READ);
    CALL("mprotect no bytes", SYS_mprotect, at, 0, PROT_READ);
    CALL("mprotect unknown bits", SYS_mprotect, at, PAGE, 0x100000);
    CALL("mprotect grows up and down", SYS_mprotect, at, PAGE, PROT_READ | PROT_GROWSUP | PROT_GROWSDOWN);
    CALL("mprotect beyond the address space", SYS_mprotect, at, -1L, PROT_READ);
    CALL("mprotect read only", SYS_mprotect, at, PAGE, PROT_READ);
    touch("read of read only", at, 0);
    touch("write to read only", at, 1);
    touch("write next to read only", at + PAGE, 1);
    CALL("mprotect none", SYS_mprotect, at, PAGE, PROT_NONE);
    touch("read of none", at, 0);
    CALL("mprotect back", SYS_mprotect, at, PAGE, RW);
    TRUE("mprotect keeps content", at[9] == 1);
    NEED(munmap(at + 2 * PAGE, PAGE) == 0);
    CALL("mprotect over a hole", SYS_mprotect, at, 4 * PAGE, PROT_READ);
    touch("mprotect over a hole did what came before", at, 1);
    touch("mprotect over a hole did nothing behind", at + 3 * PAGE, 1);
    CALL("mprotect of nothing mapped", SYS_mprotect, at + 2 * PAGE, PAGE, PROT_READ);
    char *none = mmap(NULL, PAGE, PROT_NONE, ANON, -1, 0);
    touch("read of mapped without access", none, 0);
    CALL("write from no access", SYS_write, 1, none, 1);
    CALL("mprotect gives access", SYS_mprotect, none, PAGE, RW);
    touch("write to given access", none, 1);
    char *code = map(PAGE);
    memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6);
    CALL("mprotect executable", SYS_mprotect, code, PAGE, PROT_READ | PROT_EXEC);
    fault_expected = code;
    if (sigsetjmp(back, 1) == 0)
        line("code that was written runs: %d", ((int (*)(void))code)());
    else
        line("code that was written runs: signal %d", fault_signal);
    memset(code = map(PAGE), 0xc3, 16);
    fault_expected = code;
    if (sigsetjmp(back, 1) == 0) {
        ((void (*)(void))code)();
        line("code that may not run: ran");
    } else {
        line("code that may not run: signal %d code %d", fault_signal, fault_code);
    }
    touch("read of null", NULL, 0);
    touch("write to null", NULL, 1);
}

static void moving(void)
{
    char *at = map(4 * PAGE);
    memset(at, 'a', 4 * PAGE);
    CALL("mremap not of a page", SYS_mremap, at + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0);
    CALL("mremap to no bytes", SYS_mremap, at, PAGE, 0, MREMAP_MAYMOVE, 0);
    CALL("mremap unknown flags", SYS_mremap, at, PAGE, PAGE, 64, 0);
    CALL("mremap fixed without maymove", SYS_mremap, at, PAGE, PAGE, MREMAP_FIXED, at + PAGE);
    CALL("mremap of what is not mapped", SYS_mremap, 0x10000, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0);
    TRUE("mremap shrinks in place", mremap(at, 4 * PAGE, 2 * PAGE, 0) == at);
    touch("mremap gave the end back", at + 2 * PAGE, 0);
    TRUE("mremap to the same size", mremap(at, 2 * PAGE, 2 * PAGE, 0) == at);
    char *wall = map(3 * PAGE);
    NEED(munmap(wall, 3 * PAGE) == 0);
    NEED(mmap(wall, PAGE, RW, ANON | MAP_FIXED, -1, 0) == wall);
    NEED(mmap(wall + PAGE, PAGE, PROT_READ, ANON | MAP_FIXED, -1, 0) == wall + PAGE);
    wall[0] = 'w';
    CALL("mremap cannot grow in place", SYS_mremap, wall, PAGE, 2 * PAGE, 0, 0);
    char *moved = mremap(wall, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
    TRUE("mremap moves", moved != MAP_FAILED && moved != wall);
    line("mremap moved the content: %c %d", moved[0], moved[PAGE]);
    touch("mremap left a hole", wall, 0);
    char *free_place = map(2 * PAGE);
    free_place[0] = 'f';
    TRUE("mremap fixed", mremap(moved, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, free_place) == free_place);
    line("mremap fixed replaced: %c", free_place[0]);
    CALL("mremap fixed onto itself", SYS_mremap, free_place, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, free_place + PAGE);
    CALL("mremap fixed not of a page", SYS_mremap, free_place, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, free_place + 5);
    CALL("mremap over two mappings", SYS_mremap, wall, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE, 0);
}

static void advice(void)
{
    char *at = map(4 * PAGE);
    memset(at, 'a', 4 * PAGE);
    CALL("madvise not of a page", SYS_madvise, at + 1, PAGE, MADV_NORMAL);
    CALL("madvise unknown", SYS_madvise, at, PAGE, 999);
    CALL("madvise no bytes", SYS_madvise, at, 0, MADV_DONTNEED);
    CALL("madvise beyond the address space", SYS_madvise, at, -1L, MADV_NORMAL);
    for (int advice = MADV_NORMAL; advice <= MADV_WILLNEED; advice++) {
        char name[32];
        snprintf(name, sizeof name, "madvise %d", advice);
        CALL(name, SYS_madvise, at, PAGE, advice);
    }
    TRUE("madvise keeps content", at[0] == 'a');
    CALL("madvise dontneed", SYS_madvise, at + PAGE, PAGE, MADV_DONTNEED);
    line("madvise dontneed clears one page: %d %d %d", at[0], at[PAGE], at[2 * PAGE]);
    CALL("madvise free", SYS_madvise, at, PAGE, MADV_FREE);
    CALL("madvise hugepage", SYS_madvise, at, PAGE, MADV_HUGEPAGE);
    CALL("madvise nohugepage", SYS_madvise, at, PAGE, MADV_NOHUGEPAGE);
    CALL("madvise dontfork", SYS_madvise, at, PAGE, MADV_DONTFORK);
    CALL("madvise dontdump", SYS_madvise, at, PAGE, MADV_DONTDUMP);
    NEED(munmap(at + PAGE, PAGE) == 0);
    CALL("madvise over a hole", SYS_madvise, at, 3 * PAGE, MADV_DONTNEED);
    line("madvise over a hole went on: %d %d", at[0], at[2 * PAGE]);
    unsigned char core[4] = { 0 };
    at = map(4 * PAGE);
    memset(at, 1, 4 * PAGE);
    CALL("mincore", SYS_mincore, at, 4 * PAGE, core);
    line("mincore of touched pages: %d %d", core[0] & 1, core[3] & 1);
    CALL("mincore not of a page", SYS_mincore, at + 1, PAGE, core);
    CALL("mincore to a bad address", SYS_mincore, at, PAGE, BAD);
    NEED(munmap(at + PAGE, PAGE) == 0);
    CALL("mincore over a hole", SYS_mincore, at, 3 * PAGE, core);
    CALL("msync", SYS_msync, at, PAGE, MS_SYNC);
    CALL("msync both", SYS_msync, at, PAGE, MS_SYNC | MS_ASYNC);
    CALL("msync unknown flags", SYS_msync, at, PAGE, 64);
    CALL("msync not of a page", SYS_msync, at + 1, PAGE, MS_SYNC);
    CALL("msync over a hole", SYS_msync, at, 3 * PAGE, MS_SYNC);
    CALL("mlock", SYS_mlock, at, PAGE);
    CALL("munlock", SYS_munlock, at, PAGE);
    CALL("mlock of a hole", SYS_mlock, at + PAGE, PAGE);
    CALL("mlock2 unknown flags", SYS_mlock2, at, PAGE, 8);
    CALL("mlockall no flags", SYS_mlockall, 0);
    CALL("mlockall unknown flags", SYS_mlockall, 64);
    CALL("munlockall", SYS_munlockall);
}

static void files(void)
{
    make_file("mapped", "0123456789");
    int fd = open("mapped", O_RDWR);
    NEED(fd >= 0 && ftruncate(fd, PAGE + 100) == 0);
    char *shared = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    TRUE("mmap of a file, shared", shared != MAP_FAILED);
    char *own = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    TRUE("mmap of a file, private", own != MAP_FAILED);
    if (own != MAP_FAILED) {
        line("mmap private reads the file: %.10s", own);
        own[0] = 'P';
        char byte = 0;
        NEED(pread(fd, &byte, 1, 0) == 1);
        line("mmap private leaves the file alone: %c", byte);
        line("mmap behind the end of file in its page: %d", own[PAGE + 200]);
        char *second = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE);
        TRUE("mmap at an offset", second != MAP_FAILED);
        char *beyond = mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE, fd, 0);
        TRUE("mmap beyond the end of the file", beyond != MAP_FAILED);
        if (beyond != MAP_FAILED)
            touch("touch beyond the end of the file", beyond + 2 * PAGE, 0);
    }
    if (shared != MAP_FAILED) {
        line("mmap shared reads the file: %.10s", shared);
        shared[1] = 'S';
        char bytes[3] = "";
        CALL("msync of a file", SYS_msync, shared, PAGE, MS_SYNC);
        NEED(pread(fd, bytes, 2, 0) == 2);
        line("mmap shared writes the file: %s", bytes);
        CALL("munmap of a file", SYS_munmap, shared, 2 * PAGE);
    }
    int reader = open("mapped", O_RDONLY), writer = open("mapped", O_WRONLY);
    CALL("mmap shared writable of a file open for reading", SYS_mmap, 0, PAGE, RW, MAP_SHARED, reader, 0);
    OK("mmap private writable of a file open for reading", SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, reader, 0);
    CALL("mmap of a file open for writing", SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, writer, 0);
    CALL("mmap of a file with an odd offset", SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, 1);
    int folder = open(".", O_RDONLY), ends[2];
    CALL("mmap of a folder", SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, folder, 0);
    NEED(pipe(ends) == 0);
    CALL("mmap of a pipe", SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, ends[0], 0);
    OK("mmap validates flags", SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED_VALIDATE, reader, 0);
    char *kept = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, reader, 0);
    close(reader);
    NEED(unlink("mapped") == 0);
    if (kept != MAP_FAILED)
        line("mmap outlives descriptor and name: %c", kept[2]);
}

static void breaks(void)
{
    char *start = (char *)RAW(SYS_brk, 0);
    TRUE("brk 0 is the break", start == (char *)RAW(SYS_brk, 0));
    TRUE("brk grows", (char *)RAW(SYS_brk, start + 3 * PAGE) == start + 3 * PAGE);
    touch("touch what brk gave", start + 2 * PAGE, 1);
    TRUE("brk odd", (char *)RAW(SYS_brk, start + 5001) == start + 5001);
    TRUE("brk below its start is refused", (char *)RAW(SYS_brk, 4096) == start + 5001);
    TRUE("brk far away is refused", (char *)RAW(SYS_brk, 1UL << 62) == start + 5001);
    start[PAGE] = 9;
    TRUE("brk shrinks", (char *)RAW(SYS_brk, start) == start);
    TRUE("brk grows again", (char *)RAW(SYS_brk, start + 3 * PAGE) == start + 3 * PAGE);
    if (((uintptr_t)start & (PAGE - 1)) == 0)
        TRUE("brk is zero again", start[PAGE] == 0);
    else
        TRUE("brk is zero again", start[2 * PAGE] == 0);
}

static void kinds(void)
{
    int fd = RAW(SYS_memfd_create, "name", MFD_CLOEXEC);
    report_ok("memfd_create", fd);
    CALL("memfd_create unknown flags", SYS_memfd_create, "name", 0x4000);
    CALL("memfd_create bad name", SYS_memfd_create, BAD, 0);
    if (fd >= 0) {
        CALL("ftruncate of a memfd", SYS_ftruncate, fd, 2 * PAGE);
        char *one = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
        TRUE("mmap of a memfd", one != MAP_FAILED);
        char *two = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
        if (one != MAP_FAILED && two != MAP_FAILED) {
            one[5] = 'm';
            line("two shared mappings are one memory: %c", two[5]);
        }
    }
    CALL("membarrier query", SYS_membarrier, 999, 0, 0);
    CALL("process_madvise bad", SYS_process_madvise, -1, 0, 0, 0, 0);
}

int main(void)
{
    own_folder("work");
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    NEED(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    anonymous();
    unmapping();
    protection();
    moving();
    advice();
    files();
    breaks();
    kinds();
    line("end");
    return 0;
}
