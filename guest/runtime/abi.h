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

/* Runs each of the files once, as libFuzzer's stand-alone main does. Returns main's exit code. */
int uf_run_files(int count, char **paths);

/* How many coverage counters the program has, and how many of them are not zero. */
struct uf_coverage {
    size_t counters;
    size_t reached;
};
struct uf_coverage uf_coverage(void);

#endif
