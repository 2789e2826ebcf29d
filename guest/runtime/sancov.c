/*
 * The callbacks of clang's -fsanitize-coverage.
 *
 * Coverage itself needs none of them: the inline counters are plain memory that the host maps
 * (counters.ld gives them pages of their own) and finds by the symbols __start___sancov_cntrs and
 * __stop___sancov_cntrs. The range is kept here only for running on plain Linux.
 *
 * The callbacks of trace-cmp log their operands, in the machine that traces. In all others the VMM
 * replaces the calls to them by no-ops, so they cost next to nothing (vmm/src/comparisons.rs); those
 * that it does not find come here and find uf_comparisons to be 0.
 *
 * The data-flow callbacks are for sources that ask for trace-div, trace-gep or indirect-calls
 * themselves: their operands are not recorded, so there is nothing to do in them.
 */
#include "abi.h"

#define CALLBACK __attribute__((no_sanitize("coverage"), visibility("default")))

static const uint8_t *counters_start;
static const uint8_t *counters_stop;

CALLBACK void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop)
{
    /* Called once by each object file, always with the same whole range. */
    counters_start = start;
    counters_stop = stop;
}

CALLBACK void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop)
{
    (void)start;
    (void)stop;
}

CALLBACK struct uf_coverage uf_coverage(void)
{
    struct uf_coverage coverage = {(size_t)(counters_stop - counters_start), 0};
    for (const uint8_t *counter = counters_start; counter != counters_stop; counter++)
        coverage.reached += *counter != 0;
    return coverage;
}

#define SITE ((uintptr_t)__builtin_return_address(0))

#define COMPARISON(name, kind, type)                                                      \
    CALLBACK void name(type left, type right)                                             \
    {                                                                                     \
        if (uf_comparisons)                                                               \
            uf_log_comparison(SITE, kind, &left, sizeof left, &right, sizeof right);      \
    }

COMPARISON(__sanitizer_cov_trace_cmp1, UF_COMPARE_NUMBERS, uint8_t)
COMPARISON(__sanitizer_cov_trace_cmp2, UF_COMPARE_NUMBERS, uint16_t)
COMPARISON(__sanitizer_cov_trace_cmp4, UF_COMPARE_NUMBERS, uint32_t)
COMPARISON(__sanitizer_cov_trace_cmp8, UF_COMPARE_NUMBERS, uint64_t)
COMPARISON(__sanitizer_cov_trace_const_cmp1, UF_COMPARE_CONSTANT, uint8_t)
COMPARISON(__sanitizer_cov_trace_const_cmp2, UF_COMPARE_CONSTANT, uint16_t)
COMPARISON(__sanitizer_cov_trace_const_cmp4, UF_COMPARE_CONSTANT, uint32_t)
COMPARISON(__sanitizer_cov_trace_const_cmp8, UF_COMPARE_CONSTANT, uint64_t)

/* cases: how many, the bits of the value, then each of them. */
CALLBACK void __sanitizer_cov_trace_switch(uint64_t value, const uint64_t *cases)
{
    if (!uf_comparisons)
        return;
    size_t bytes = cases[1] <= 8 ? 1 : cases[1] <= 16 ? 2 : cases[1] <= 32 ? 4 : 8;
    for (uint64_t i = 0; i < cases[0]; i++)
        if (cases[2 + i] != value)
            uf_log_comparison(SITE + i, UF_COMPARE_CONSTANT, &cases[2 + i], bytes, &value, bytes);
}

CALLBACK void __sanitizer_cov_trace_div4(uint32_t divisor)
{
    (void)divisor;
}

CALLBACK void __sanitizer_cov_trace_div8(uint64_t divisor)
{
    (void)divisor;
}

CALLBACK void __sanitizer_cov_trace_gep(uintptr_t index)
{
    (void)index;
}

CALLBACK void __sanitizer_cov_trace_pc_indir(uintptr_t callee)
{
    (void)callee;
}
