/*
 * The callbacks of clang's -fsanitize-coverage.
 *
 * Coverage itself needs none of them: the inline counters are plain memory that the host maps
 * (counters.ld gives them pages of their own) and finds by the symbols __start___sancov_cntrs and
 * __stop___sancov_cntrs. The range is kept here only for running on plain Linux.
 *
 * The comparison and data-flow callbacks are for sources that ask for trace-cmp, trace-div,
 * trace-gep or indirect-calls themselves, as -fsanitize=fuzzer does: their operands are not
 * recorded, so there is nothing to do in them.
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

#define COMPARISON(name, type)             \
    CALLBACK void name(type left, type right) \
    {                                      \
        (void)left;                        \
        (void)right;                       \
    }

COMPARISON(__sanitizer_cov_trace_cmp1, uint8_t)
COMPARISON(__sanitizer_cov_trace_cmp2, uint16_t)
COMPARISON(__sanitizer_cov_trace_cmp4, uint32_t)
COMPARISON(__sanitizer_cov_trace_cmp8, uint64_t)
COMPARISON(__sanitizer_cov_trace_const_cmp1, uint8_t)
COMPARISON(__sanitizer_cov_trace_const_cmp2, uint16_t)
COMPARISON(__sanitizer_cov_trace_const_cmp4, uint32_t)
COMPARISON(__sanitizer_cov_trace_const_cmp8, uint64_t)

CALLBACK void __sanitizer_cov_trace_switch(uint64_t value, const uint64_t *cases)
{
    (void)value;
    (void)cases;
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
