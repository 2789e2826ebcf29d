/* Thousands of mmap, munmap, mprotect, mremap, madvise and brk calls, chosen by a seed, held against a model: what each page
 * holds, whether it is mapped and how it may be used. Whether a page may be read or written is asked with write(2) and read(2)
 * through a pipe, which answer EFAULT. All happens in a range that was reserved first, so that addresses do not differ.
 *
 *     random_memory SEED CALLS */
#include "check.h"

#define PAGE 4096UL
#define PAGES 64
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

enum { NONE = 0, READ = 1, WRITE = 2, MAPPED = 4 };

static uint64_t state;
static char *base;
static struct {
    int how;
    unsigned char value;
} model[PAGES];
static int ends[2];

static unsigned pick(unsigned below)
{
    return next_random(&state) % below;
}

static int readable(char *at)
{
    char byte;
    if (write(ends[1], at, 1) != 1)
        return 0;
    NEED(read(ends[0], &byte, 1) == 1);
    return 1;
}

static int writable(char *at)
{
    char byte = *at;
    NEED(write(ends[1], &byte, 1) == 1);
    if (read(ends[0], at, 1) == 1)
        return 1;
    while (read(ends[0], &byte, 1) == 1) {
    }
    return 0;
}

/* What is mapped is what the model says. The number of pages that differ. */
static int compare(int call)
{
    int wrong = 0;
    for (int i = 0; i < PAGES; i++) {
        char *at = base + i * PAGE;
        int can = readable(at) ? READ : 0;
        if (can && writable(at))
            can |= WRITE;
        int should = model[i].how & (READ | WRITE);
        int holds = !(can & READ) || ((unsigned char)at[17] == model[i].value && (unsigned char)at[4000] == model[i].value);
        if (can != should || !holds) {
            if (wrong++ < 3)
                line("page %d after call %d: can %d should %d, content %s", i, call, can, should, holds ? "right" : "wrong");
        }
    }
    return wrong;
}

static int mapped(int first, int count)
{
    for (int i = first; i < first + count; i++)
        if (!(model[i].how & MAPPED))
            return 0;
    return 1;
}

static int to_model(int protection)
{
    /* On x86 what may be written may be read. */
    return MAPPED | (protection & PROT_READ ? READ : 0) | (protection & PROT_WRITE ? READ | WRITE : 0);
}

int main(int argc, char **argv)
{
    state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    state = state * 0x9e3779b97f4a7c15ULL + 1;
    int calls = argc > 2 ? atoi(argv[2]) : 2000, wrong = 0;
    NEED(pipe2(ends, O_NONBLOCK) == 0);
    base = mmap(NULL, PAGES * PAGE, PROT_NONE, ANON, -1, 0);
    NEED(base != MAP_FAILED && munmap(base, PAGES * PAGE) == 0);
    static const int protections[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_WRITE };
    char *const start = (char *)RAW(SYS_brk, 0);
    unsigned long broken = 0;
    for (int i = 0; i < calls; i++) {
        int first = pick(PAGES - 8), count = 1 + pick(8), protection = protections[pick(5)];
        char *at = base + first * PAGE;
        unsigned long size = count * PAGE - (pick(4) ? 0 : pick(PAGE));
        long result;
        const char *what;
        errno = 0;
        switch (pick(8)) {
        case 0: case 1:
            what = "mmap";
            result = RAW(SYS_mmap, at, size, protection, ANON | MAP_FIXED, -1, 0);
            for (int j = first; result != -1 && j < first + count; j++)
                model[j].how = to_model(protection), model[j].value = 0;
            result = result == -1 ? -1 : (result - (long)base) / (long)PAGE;
            break;
        case 2:
            what = "munmap";
            result = RAW(SYS_munmap, at, size);
            for (int j = first; result == 0 && j < first + count; j++)
                model[j].how = NONE;
            break;
        case 3: case 4:
            what = "mprotect";
            result = RAW(SYS_mprotect, at, size, protection);
            for (int j = first; j < first + count && (model[j].how & MAPPED); j++)
                model[j].how = to_model(protection);
            break;
        case 5: {
            int new_first = pick(PAGES - 8), new_count = 1 + pick(8);
            /* All of it one mapping with one protection, or Linux may refuse: only whole pages that the model has alike. */
            int alike = mapped(first, count);
            for (int j = first + 1; alike && j < first + count; j++)
                alike &= model[j].how == model[first].how;
            what = "mremap";
            if (!alike || (new_first < first + count && first < new_first + new_count)) {
                result = -3;
                break;
            }
            /* Neighbours of different history are different mappings on Linux; made anew they are one. */
            result = 0;
            int how = model[first].how;
            unsigned char kept[8];
            for (int j = 0; j < count; j++)
                kept[j] = model[first + j].value;
            NEED(RAW(SYS_mmap, at, count * PAGE, PROT_READ | PROT_WRITE, ANON | MAP_FIXED, -1, 0) == (long)at);
            for (int j = 0; j < count; j++)
                memset(at + j * PAGE, kept[j], PAGE);
            protection = (how & READ ? PROT_READ : 0) | (how & WRITE ? PROT_WRITE : 0);
            NEED(mprotect(at, count * PAGE, protection) == 0);
            result = RAW(SYS_mremap, at, count * PAGE, new_count * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, base + new_first * PAGE);
            if (result != -1) {
                for (int j = first; j < first + count; j++)
                    model[j].how = NONE;
                for (int j = 0; j < new_count; j++) {
                    model[new_first + j].how = how;
                    model[new_first + j].value = j < count ? kept[j] : 0;
                }
                result = (result - (long)base) / (long)PAGE;
            }
            break;
        }
        case 6:
            what = "madvise";
            result = RAW(SYS_madvise, at, count * PAGE, MADV_DONTNEED);
            for (int j = first; j < first + count; j++)
                if (model[j].how & MAPPED)
                    model[j].value = 0;
            break;
        default: {
            what = "brk";
            unsigned long want = pick(40) * 1000;
            result = RAW(SYS_brk, start + want) - (long)start;
            char *page = (char *)(((unsigned long)start + PAGE - 1) & -PAGE);
            for (char *byte = page; byte + PAGE <= start + want; byte += PAGE) {
                int fresh = byte >= start + ((broken + PAGE - 1) & -PAGE);
                if (fresh && *byte != 0)
                    line("brk after call %d: not zero", i);
                *byte = 5;
            }
            broken = want;
            break;
        }
        }
        line("%d %s %d %d: %ld %s", i, what, first, count, result, result == -1 ? errno_name(errno) : "-");
        /* Something in some page. */
        int page = pick(PAGES);
        if (model[page].how & WRITE) {
            model[page].value = pick(256);
            memset(base + page * PAGE, model[page].value, PAGE);
        }
        if (i % 20 == 19)
            wrong += compare(i);
    }
    line("pages that were not as the model has them: %d", wrong);
    line("end");
    return 0;
}
