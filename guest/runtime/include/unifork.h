/*
 * unifork.h: what code that is fuzzed may say to unifork. Nothing outside a unifork machine is changed
 * by it. C99 and later, C++11 and later; gcc and clang; x86-64. No other header is needed.
 *
 * A libFuzzer harness built by `unifork build` needs none of this, and may say
 *
 *     UNIFORK_ASSERT(decoded_length == length);
 *
 * An image of one's own, Unikraft's or Solo5's or any other kernel's, says where its input goes, and in
 * ONE of its files defines UNIFORK_IMPLEMENTATION before the #include:
 *
 *     static unsigned char input[4096];
 *
 *     unifork_input_window(input, sizeof input);
 *     size_t size = unifork_snapshot();      frozen here: every run begins with the return
 *     parse(input, size);
 *     unifork_done(0);                       and ends here
 *
 * That file also defines the callbacks of -fsanitize-coverage, so it is best compiled without it:
 *   clang -fsanitize-coverage=inline-8bit-counters,pc-table   best
 *   clang -fsanitize-coverage=trace-pc-guard
 *   gcc   -fsanitize-coverage=trace-pc                        edges share counters, by a hash
 * each with ,trace-cmp for the comparisons. docs/agent.md has the rest, and the protocol.
 *
 * Works in a kernel at ring 0, and under unifork's monitor in a program at ring 3. Natively a program at ring 3 needs
 * access to I/O port UNIFORK_PORT (ioperm on Linux).
 */
#ifndef UNIFORK_H
#define UNIFORK_H

#if !defined(__GNUC__)
#error "unifork.h is for gcc and clang"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Code that other tools build, too, calls these where they are linked, by way of the macros below. */
#ifdef UNIFORK_IMPLEMENTATION
#define UNIFORK_OPTIONAL
#define UNIFORK_LINKED(function) 1
#else
#define UNIFORK_OPTIONAL __attribute__((weak))
#define UNIFORK_LINKED(function) ((function) != 0)
#endif

/* 1 in a unifork machine, 0 elsewhere. */
UNIFORK_OPTIONAL int unifork_active(void);

/* In a unifork machine: ends the run as a finding with this message. Elsewhere: returns. */
UNIFORK_OPTIONAL void unifork_report(const char *message);

/* The same for a condition that does not hold. */
UNIFORK_OPTIONAL void unifork_report_assertion(const char *condition, const char *file, int line);

/* The rest is for images with UNIFORK_IMPLEMENTATION. */

/*
 * Inputs go into this buffer, of at most 16 MiB. All of it is written to once, so that it is mapped.
 * Returns 0, or -1 when the host does not take it; outside a unifork machine 0.
 */
int unifork_input_window(void *buffer, __SIZE_TYPE__ capacity);

/*
 * The machine is frozen here. Returns in every run, with the bytes of its input in the buffer and their
 * number. Outside a unifork machine: 0, and the buffer is as it was.
 */
__SIZE_TYPE__ unifork_snapshot(void);

/* The run is over. Returns outside a unifork machine alone. */
void unifork_done(int code);

/*
 * Coverage counters, one byte each, from `start` up to `stop`. Those of -fsanitize-coverage are known
 * without this. Before unifork_snapshot.
 */
void unifork_counters(void *start, void *stop);

/* Tells the fuzzer that these bytes were compared, as trace-cmp does for numbers. */
void unifork_compared(const void *left, __SIZE_TYPE__ left_bytes, const void *right, __SIZE_TYPE__ right_bytes);

#ifdef __cplusplus
}
#endif

/* Whether this runs in a unifork machine. */
#define UNIFORK_ACTIVE() (UNIFORK_LINKED(unifork_active) ? unifork_active() : 0)

/* Ends the run as a finding. */
#define UNIFORK_REPORT(message)             \
    do {                                    \
        if (UNIFORK_LINKED(unifork_report)) \
            unifork_report(message);        \
    } while (0)

/* Ends the run as a finding unless `condition` holds. The condition is always evaluated. */
#define UNIFORK_ASSERT(condition)                                             \
    do {                                                                      \
        if (!(condition) && UNIFORK_LINKED(unifork_report_assertion))         \
            unifork_report_assertion(#condition, __FILE__, __LINE__);         \
    } while (0)

#endif /* UNIFORK_H */

/* ------------------------------------------------------------------------------------------------ */
#if defined(UNIFORK_IMPLEMENTATION) && !defined(UNIFORK_IMPLEMENTED)
#define UNIFORK_IMPLEMENTED

/* Counters for trace-pc-guard and trace-pc, in bytes; a power of two. */
#ifndef UNIFORK_EDGES
#define UNIFORK_EDGES 65536
#endif
/* How many comparisons of a run are logged, at 96 bytes each. */
#ifndef UNIFORK_COMPARISONS
#define UNIFORK_COMPARISONS 1024
#endif

/* The protocol: guest/abi/src/agent.rs, whose constants these are. */
#define UNIFORK_VERSION 1u
#define UNIFORK_CPUID_LEAF 0x40000000u
#define UNIFORK_SIGNATURE "UniforkAgent"
#define UNIFORK_PORT 0xf6
#define UNIFORK_CALL_TAG 0x55460000u
enum unifork_call {
    UNIFORK_HELLO = 1,
    UNIFORK_INPUT = 2,
    UNIFORK_SNAPSHOT = 3,
    UNIFORK_DONE = 4,
    UNIFORK_REPORTED = 5,
    UNIFORK_COUNTERS = 6,
    UNIFORK_COUNTER_PCS = 7,
    UNIFORK_COMPARISON_LOG = 8,
    UNIFORK_AGAIN = 9
};

#if defined(__clang__)
#define UNIFORK_PLAIN __attribute__((no_sanitize("coverage")))
#elif __GNUC__ >= 12
#define UNIFORK_PLAIN __attribute__((no_sanitize_coverage))
#else
#define UNIFORK_PLAIN
#endif
/* Weak: what the image brings itself, a kcov of its own for instance, goes before. */
#define UNIFORK_CALLBACK UNIFORK_PLAIN __attribute__((weak))

typedef __SIZE_TYPE__ unifork_size;
typedef __UINTPTR_TYPE__ unifork_address;
typedef __UINT8_TYPE__ unifork_u8;
typedef __UINT16_TYPE__ unifork_u16;
typedef __UINT32_TYPE__ unifork_u32;
typedef __UINT64_TYPE__ unifork_u64;

#ifdef __cplusplus
extern "C" {
#endif

/* Does not return its arguments changed: all of memory may be, which is how inputs arrive. */
UNIFORK_PLAIN static inline unifork_u64 unifork_call(enum unifork_call call, unifork_address first,
                                                     unifork_address second, unifork_address third)
{
#if defined(__x86_64__)
    unifork_u64 rax = UNIFORK_CALL_TAG | (unifork_u32)call;
    __asm__ volatile("outl %%eax, %[port]"
                     : "+a"(rax)
                     : [port] "N"(UNIFORK_PORT), "D"(first), "S"(second), "d"(third)
                     : "memory");
    return rax;
#else
    (void)call, (void)first, (void)second, (void)third;
    return (unifork_u64)-1;
#endif
}

/* 0: not asked yet. 1: some other machine. 2: unifork's. */
static volatile int unifork_state;

#if defined(__x86_64__)
UNIFORK_PLAIN static inline void unifork_cpuid(unifork_u32 leaf, unifork_u32 out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(0));
}
#endif

UNIFORK_PLAIN static int unifork_detect(void)
{
#if defined(__x86_64__)
    unifork_u32 leaf[4];
    const char *signature = UNIFORK_SIGNATURE;
    unifork_cpuid(1, leaf);
    if (!(leaf[2] >> 31))
        return 0;
    unifork_cpuid(UNIFORK_CPUID_LEAF, leaf);
    for (int i = 0; i < 12; i++)
        if ((char)(leaf[1 + i / 4] >> (i % 4 * 8)) != signature[i])
            return 0;
    if (leaf[0] <= UNIFORK_CPUID_LEAF)
        return 0;
    return unifork_call(UNIFORK_HELLO, UNIFORK_VERSION, 0, 0) == 0;
#else
    return 0;
#endif
}

UNIFORK_PLAIN int unifork_active(void)
{
    if (unifork_state == 0)
        unifork_state = unifork_detect() ? 2 : 1;
    return unifork_state == 2;
}

/* A page that is only mapped when it is used is mapped now, and is the page's own. */
UNIFORK_PLAIN static void unifork_touch(void *start, unifork_size bytes)
{
    for (unifork_size at = 0; at < bytes; at += 4096 - (((unifork_address)start + at) & 4095)) {
        volatile unifork_u8 *byte = (volatile unifork_u8 *)start + at;
        *byte = *byte;
    }
}

UNIFORK_PLAIN int unifork_input_window(void *buffer, unifork_size capacity)
{
    if (!unifork_active())
        return 0;
    unifork_touch(buffer, capacity);
    return unifork_call(UNIFORK_INPUT, (unifork_address)buffer, capacity, 0) == 0 ? 0 : -1;
}

/* Where the host can go on with the next input by itself, it puts the address of what does so here. */
static void (*volatile unifork_again)(long long code);

UNIFORK_PLAIN void unifork_done(int code)
{
    if (!unifork_active())
        return;
    if (unifork_again)
        unifork_again(code);
    else
        unifork_call(UNIFORK_DONE, (unifork_address)(unifork_u64)(long long)code, 0, 0);
}

UNIFORK_PLAIN static unifork_size unifork_length(const char *text)
{
    unifork_size length = 0;
    while (text[length] != 0)
        length++;
    return length;
}

UNIFORK_PLAIN void unifork_report(const char *message)
{
    if (unifork_active())
        unifork_call(UNIFORK_REPORTED, (unifork_address)message, unifork_length(message), 0);
}

/* "condition (file:line)" */
UNIFORK_PLAIN void unifork_report_assertion(const char *condition, const char *file, int line)
{
    char message[512];
    char digits[12];
    unifork_size length = 0, count = 0;
    unsigned number = line > 0 ? (unsigned)line : 0;
    if (!unifork_active())
        return;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    while (*condition != 0 && length < 320)
        message[length++] = *condition++;
    message[length++] = ' ';
    message[length++] = '(';
    while (*file != 0 && length < sizeof message - 16)
        message[length++] = *file++;
    message[length++] = ':';
    while (count > 0)
        message[length++] = digits[--count];
    message[length++] = ')';
    unifork_call(UNIFORK_REPORTED, (unifork_address)message, length, 0);
}

/* --- Coverage ------------------------------------------------------------------------------------ */

/* Announced at the snapshot and not before: a constructor may run when little else works yet. */
#define UNIFORK_RANGES 16
static struct {
    unifork_u8 *start, *stop;
    const unifork_address *pcs, *pcs_stop;
} unifork_ranges[UNIFORK_RANGES];
static unsigned unifork_range_count;

UNIFORK_PLAIN static unsigned unifork_range(void *start, void *stop)
{
    unsigned i;
    for (i = 0; i < unifork_range_count; i++)
        if (unifork_ranges[i].start == (unifork_u8 *)start)
            return i;
    if (i < UNIFORK_RANGES && (unifork_address)start < (unifork_address)stop) {
        unifork_ranges[i].start = (unifork_u8 *)start;
        unifork_ranges[i].stop = (unifork_u8 *)stop;
        unifork_range_count = i + 1;
    }
    return i;
}

UNIFORK_PLAIN void unifork_counters(void *start, void *stop)
{
    unifork_range(start, stop);
}

/*
 * inline-8bit-counters, pc-table. The compiler's constructors call these, once for each object file, with
 * ranges that the linker has joined; and where nobody runs constructors, the linker's symbols serve.
 */
extern __attribute__((weak)) unifork_u8 __start___sancov_cntrs[], __stop___sancov_cntrs[];
extern __attribute__((weak)) unifork_address __start___sancov_pcs[], __stop___sancov_pcs[];
extern __attribute__((weak)) unifork_u32 __start___sancov_guards[], __stop___sancov_guards[];

void __sanitizer_cov_8bit_counters_init(unifork_u8 *start, unifork_u8 *stop);
void __sanitizer_cov_pcs_init(const unifork_address *start, const unifork_address *stop);
void __sanitizer_cov_trace_pc_guard_init(unifork_u32 *start, unifork_u32 *stop);
void __sanitizer_cov_trace_pc_guard(unifork_u32 *guard);
void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc_indir(unifork_address callee);

UNIFORK_CALLBACK void __sanitizer_cov_8bit_counters_init(unifork_u8 *start, unifork_u8 *stop)
{
    unifork_range(start, stop);
}

/* Called behind the former, for the same counters. */
UNIFORK_CALLBACK void __sanitizer_cov_pcs_init(const unifork_address *start, const unifork_address *stop)
{
    for (unsigned i = 0; i < unifork_range_count; i++) {
        unifork_size counters = (unifork_size)(unifork_ranges[i].stop - unifork_ranges[i].start);
        if (unifork_ranges[i].pcs == start)
            return;
        if (!unifork_ranges[i].pcs && counters == (unifork_size)(stop - start) / 2) {
            unifork_ranges[i].pcs = start;
            unifork_ranges[i].pcs_stop = stop;
            return;
        }
    }
}

/* trace-pc-guard and trace-pc: counters of our own. */
static unifork_u8 unifork_edges[UNIFORK_EDGES];
static unifork_u32 unifork_guards;
static volatile int unifork_edges_used;

UNIFORK_CALLBACK void __sanitizer_cov_trace_pc_guard_init(unifork_u32 *start, unifork_u32 *stop)
{
    if (start == stop || *start != 0)
        return;
    unifork_edges_used = 1;
    for (unifork_u32 *guard = start; guard < stop; guard++)
        *guard = ++unifork_guards;
}

UNIFORK_CALLBACK void __sanitizer_cov_trace_pc_guard(unifork_u32 *guard)
{
    if (*guard != 0)
        unifork_edges[(*guard - 1) % UNIFORK_EDGES]++;
}

UNIFORK_CALLBACK void __sanitizer_cov_trace_pc(void)
{
    unifork_u64 site = (unifork_address)__builtin_return_address(0);
    unifork_edges_used = 1;
    unifork_edges[(site * 0x9e3779b97f4a7c15u >> 40) % UNIFORK_EDGES]++;
}

UNIFORK_CALLBACK void __sanitizer_cov_trace_pc_indir(unifork_address callee)
{
    (void)callee;
}

/* --- Comparisons --------------------------------------------------------------------------------- */

enum unifork_comparison_kind { UNIFORK_NUMBERS = 0, UNIFORK_CONSTANT = 1, UNIFORK_BYTES = 2 };

/* guest/abi/src/lib.rs: ComparisonLog, then Comparison. */
static struct {
    unifork_u64 count, lost, reserved[510];
    unifork_u8 sites[4096];
    struct {
        unifork_u64 site, left_at, right_at;
        unifork_u32 kind;
        unifork_u16 left_bytes, right_bytes;
        unifork_u8 left[32], right[32];
    } records[UNIFORK_COMPARISONS];
} unifork_log;

/* The host sets it in the machine that logs. */
static volatile unifork_u32 unifork_logging;

UNIFORK_PLAIN static void unifork_log_one(unifork_address site, enum unifork_comparison_kind kind,
                                          const void *left, unifork_size left_bytes, const void *right,
                                          unifork_size right_bytes)
{
    unifork_u64 count = unifork_log.count;
    unifork_u8 *share = &unifork_log.sites[(site ^ site >> 12) % 4096];
    if (count >= UNIFORK_COMPARISONS || *share >= 32) {
        unifork_log.lost++;
        return;
    }
    ++*share;
    left_bytes = left_bytes > 32 ? 32 : left_bytes;
    right_bytes = right_bytes > 32 ? 32 : right_bytes;
    unifork_log.records[count].site = site;
    unifork_log.records[count].left_at = kind == UNIFORK_BYTES ? (unifork_address)left : 0;
    unifork_log.records[count].right_at = kind == UNIFORK_BYTES ? (unifork_address)right : 0;
    unifork_log.records[count].kind = (unifork_u32)kind;
    unifork_log.records[count].left_bytes = (unifork_u16)left_bytes;
    unifork_log.records[count].right_bytes = (unifork_u16)right_bytes;
    for (unifork_size i = 0; i < left_bytes; i++)
        unifork_log.records[count].left[i] = ((const volatile unifork_u8 *)left)[i];
    for (unifork_size i = 0; i < right_bytes; i++)
        unifork_log.records[count].right[i] = ((const volatile unifork_u8 *)right)[i];
    unifork_log.count = count + 1;
}

#define UNIFORK_SITE ((unifork_address)__builtin_return_address(0))

UNIFORK_PLAIN void unifork_compared(const void *left, unifork_size left_bytes, const void *right,
                                    unifork_size right_bytes)
{
    if (unifork_logging && left_bytes > 0 && right_bytes > 0)
        unifork_log_one(UNIFORK_SITE, UNIFORK_BYTES, left, left_bytes, right, right_bytes);
}

#define UNIFORK_TRACE(name, kind, type)                                                           \
    void name(type left, type right);                                                             \
    UNIFORK_CALLBACK void name(type left, type right)                                             \
    {                                                                                             \
        if (unifork_logging)                                                                      \
            unifork_log_one(UNIFORK_SITE, kind, &left, sizeof left, &right, sizeof right);        \
    }

UNIFORK_TRACE(__sanitizer_cov_trace_cmp1, UNIFORK_NUMBERS, unifork_u8)
UNIFORK_TRACE(__sanitizer_cov_trace_cmp2, UNIFORK_NUMBERS, unifork_u16)
UNIFORK_TRACE(__sanitizer_cov_trace_cmp4, UNIFORK_NUMBERS, unifork_u32)
UNIFORK_TRACE(__sanitizer_cov_trace_cmp8, UNIFORK_NUMBERS, unifork_u64)
UNIFORK_TRACE(__sanitizer_cov_trace_const_cmp1, UNIFORK_CONSTANT, unifork_u8)
UNIFORK_TRACE(__sanitizer_cov_trace_const_cmp2, UNIFORK_CONSTANT, unifork_u16)
UNIFORK_TRACE(__sanitizer_cov_trace_const_cmp4, UNIFORK_CONSTANT, unifork_u32)
UNIFORK_TRACE(__sanitizer_cov_trace_const_cmp8, UNIFORK_CONSTANT, unifork_u64)
#if defined(__SSE2__) /* gcc; a kernel without vector registers has no such comparisons */
UNIFORK_TRACE(__sanitizer_cov_trace_cmpf, UNIFORK_NUMBERS, float)
UNIFORK_TRACE(__sanitizer_cov_trace_cmpd, UNIFORK_NUMBERS, double)
#endif

/* cases: how many, the bits of the value, then each of them. */
void __sanitizer_cov_trace_switch(unifork_u64 value, const unifork_u64 *cases);
UNIFORK_CALLBACK void __sanitizer_cov_trace_switch(unifork_u64 value, const unifork_u64 *cases)
{
    unifork_size bytes = cases[1] <= 8 ? 1 : cases[1] <= 16 ? 2 : cases[1] <= 32 ? 4 : 8;
    if (!unifork_logging)
        return;
    for (unifork_u64 i = 0; i < cases[0]; i++)
        if (cases[2 + i] != value)
            unifork_log_one(UNIFORK_SITE + i, UNIFORK_CONSTANT, &cases[2 + i], bytes, &value, bytes);
}

UNIFORK_PLAIN unifork_size unifork_snapshot(void)
{
    if (!unifork_active())
        return 0;
    /* The symbols are weak: tests for null that a compiler must not take for granted. */
    unifork_u8 *volatile counters = __start___sancov_cntrs;
    unifork_u32 *volatile guards = __start___sancov_guards;
    unifork_address *volatile pcs = __start___sancov_pcs;
    if (counters)
        unifork_range(counters, __stop___sancov_cntrs);
    if (counters && pcs)
        __sanitizer_cov_pcs_init(pcs, __stop___sancov_pcs);
    if (guards)
        __sanitizer_cov_trace_pc_guard_init(guards, __stop___sancov_guards);
    /* With trace-pc nothing tells before the first edge, which may be behind the snapshot. */
    if (unifork_edges_used || unifork_range_count == 0)
        unifork_range(unifork_edges, unifork_edges + UNIFORK_EDGES);
    for (unsigned i = 0; i < unifork_range_count; i++) {
        unifork_u8 *start = unifork_ranges[i].start;
        unifork_size bytes = (unifork_size)(unifork_ranges[i].stop - start);
        unifork_touch(start, bytes);
        unifork_call(UNIFORK_COUNTERS, (unifork_address)start, bytes, 0);
        if (unifork_ranges[i].pcs)
            unifork_call(UNIFORK_COUNTER_PCS, (unifork_address)unifork_ranges[i].pcs,
                         (unifork_address)unifork_ranges[i].pcs_stop - (unifork_address)unifork_ranges[i].pcs, 0);
    }
    unifork_touch(&unifork_log, sizeof unifork_log);
    unifork_call(UNIFORK_COMPARISON_LOG, (unifork_address)&unifork_log, UNIFORK_COMPARISONS,
                 (unifork_address)&unifork_logging);
    unifork_touch((void *)&unifork_again, sizeof unifork_again);
    unifork_call(UNIFORK_AGAIN, (unifork_address)&unifork_again, 0, 0);
    return (unifork_size)unifork_call(UNIFORK_SNAPSHOT, 0, 0, 0);
}

#ifdef __cplusplus
}
#endif
#endif /* UNIFORK_IMPLEMENTATION */
