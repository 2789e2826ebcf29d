/*
 * What the runtime and the libOS agree on, in C.
 *
 * The master is guest/abi/src/lib.rs; each constant here names its Rust twin, and
 * harnesses/tests/runtime_abi.rs compares the two. Private to the runtime: harnesses include
 * <unifork.h>.
 */
#ifndef UNIFORK_RUNTIME_ABI_H
#define UNIFORK_RUNTIME_ABI_H

#include <stddef.h>
#include <stdint.h>

#define UF_ABI_VERSION 1u                      /* unifork_abi::ABI_VERSION */
#define UF_AT_UNIFORK 0x554e4946ul             /* unifork_abi::AT_UNIFORK */
#define UF_SYS_UNIFORK_ASSERT 0x554e0001l      /* unifork_abi::SYS_UNIFORK_ASSERT */
#define UF_IMAGE_MAGIC "UFIMAGE"               /* unifork_abi::IMAGE_MAGIC, with its final NUL */
#define UF_INPUT_ALIGN 16ul                    /* unifork_abi::INPUT_ALIGN */
#define UF_PAGE_BYTES 4096ul                   /* unifork_abi::PAGE_BYTES */
#define UF_COMPARISONS_VA 0x2600000000ul       /* unifork_abi::COMPARISONS_VA */
#define UF_COMPARISONS_MAX 16384ul             /* unifork_abi::COMPARISONS_MAX */
#define UF_COMPARISONS_PER_SITE_MAX 32         /* unifork_abi::COMPARISONS_PER_SITE_MAX */
#define UF_COMPARISON_SITES 4096ul             /* unifork_abi::COMPARISON_SITES */
#define UF_COMPARISON_BYTES 32ul               /* unifork_abi::COMPARISON_BYTES */

/* One input: read-only, gone when the run ends. */
struct uf_input {
    const uint8_t *data;
    size_t size;
};

/* Entry points of the libOS, called directly: unifork_abi::Vector. */
struct uf_vector {
    uint64_t abi_version;
    /* Takes the snapshot when first called; returns once in each fork, with that fork's input. */
    struct uf_input (*input)(void);
    /* Ends the run. `code` is what LLVMFuzzerTestOneInput returned. */
    void (*done)(int64_t code) __attribute__((noreturn));
    /* A system call without the trap. */
    int64_t (*call)(int64_t nr, int64_t a0, int64_t a1, int64_t a2, int64_t a3, int64_t a4, int64_t a5);
};

/* Content of the section .unifork.image: unifork_abi::ImageHeader. */
struct uf_image_header {
    char magic[8];
    uint32_t abi_version;
    uint32_t flags;
    uint64_t reserved[6];
};

/* What was compared with what: unifork_abi::ComparisonKind. */
enum uf_comparison_kind {
    UF_COMPARE_NUMBERS = 0,
    UF_COMPARE_CONSTANT = 1, /* the first operand is the constant */
    UF_COMPARE_BYTES = 2,
};

/* The head of the comparison log: unifork_abi::ComparisonLog. */
struct uf_comparison_log {
    uint64_t count;
    uint64_t lost;
    uint64_t reserved[510];
    uint8_t sites[UF_COMPARISON_SITES];
};

/* One comparison: unifork_abi::Comparison. */
struct uf_comparison {
    uint64_t site;
    uint64_t left_at;
    uint64_t right_at;
    uint32_t kind;
    uint16_t left_len;
    uint16_t right_len;
    uint8_t left[UF_COMPARISON_BYTES];
    uint8_t right[UF_COMPARISON_BYTES];
};

_Static_assert(sizeof(struct uf_comparison_log) == 8192, "unifork_abi::ComparisonLog");
_Static_assert(offsetof(struct uf_comparison_log, sites) == 4096, "unifork_abi::ComparisonLog::sites");
_Static_assert(sizeof(struct uf_comparison) == 96, "unifork_abi::Comparison");
_Static_assert(offsetof(struct uf_comparison, kind) == 24, "unifork_abi::Comparison::kind");
_Static_assert(offsetof(struct uf_comparison, left) == 32, "unifork_abi::Comparison::left");
_Static_assert(sizeof(struct uf_input) == 16, "returned in rax:rdx");
_Static_assert(sizeof(struct uf_vector) == 32, "unifork_abi::Vector");
_Static_assert(offsetof(struct uf_vector, input) == 8, "unifork_abi::Vector::input");
_Static_assert(offsetof(struct uf_vector, done) == 16, "unifork_abi::Vector::done");
_Static_assert(offsetof(struct uf_vector, call) == 24, "unifork_abi::Vector::call");
_Static_assert(sizeof(struct uf_image_header) == 64, "unifork_abi::ImageHeader");
_Static_assert(offsetof(struct uf_image_header, abi_version) == 8, "unifork_abi::ImageHeader::abi_version");
_Static_assert(offsetof(struct uf_image_header, flags) == 12, "unifork_abi::ImageHeader::flags");
_Static_assert(sizeof(UF_IMAGE_MAGIC) == 8, "unifork_abi::IMAGE_MAGIC");

/* The libOS's vector, or NULL when this runs on some other kernel. */
const struct uf_vector *uf_vector(void);

/*
 * Whether comparisons are logged. Always 0 in the program's file; the VMM sets it in the one machine
 * that traces, where it also leaves the calls to the callbacks in place that it takes out elsewhere.
 */
extern volatile uint32_t uf_comparisons;

/* Logs one comparison, made at `site`, if its place has not had its share. */
void uf_log_comparison(uintptr_t site, enum uf_comparison_kind kind, const void *left, size_t left_len,
                       const void *right, size_t right_len);

/* Runs each of the files once, as libFuzzer's stand-alone main does. Returns main's exit code. */
int uf_run_files(int count, char **paths);

/* How many coverage counters the program has, and how many of them are not zero. */
struct uf_coverage {
    size_t counters;
    size_t reached;
};
struct uf_coverage uf_coverage(void);

#endif
