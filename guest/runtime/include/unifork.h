/*
 * unifork.h: what a fuzz harness may say to unifork. Nothing here is needed to be fuzzed.
 *
 *     #include <unifork.h>
 *
 *     UNIFORK_ASSERT(decoded_length == length);
 *
 * Everything does nothing outside a unifork guest, also when the harness is built by another tool
 * that does not link unifork's runtime: the functions are weak, and called only if they are there.
 */
#ifndef UNIFORK_H
#define UNIFORK_H

#ifdef __cplusplus
extern "C" {
#endif

/* 1 in a unifork guest, 0 elsewhere. Call it through UNIFORK_ACTIVE. */
__attribute__((weak)) int unifork_active(void);

/* In a unifork guest: ends the run as a finding with this message. Elsewhere: returns. */
__attribute__((weak)) void unifork_report(const char *message);

/* The same for a condition that does not hold. */
__attribute__((weak)) void unifork_report_assertion(const char *condition, const char *file, int line);

#ifdef __cplusplus
}
#endif

/* Whether this runs in a unifork guest. */
#define UNIFORK_ACTIVE() (unifork_active ? unifork_active() : 0)

/* Ends the run as a finding. */
#define UNIFORK_REPORT(message)             \
    do {                                    \
        if (unifork_report)                 \
            unifork_report(message);        \
    } while (0)

/* Ends the run as a finding unless `condition` holds. The condition is always evaluated. */
#define UNIFORK_ASSERT(condition)                                             \
    do {                                                                      \
        if (!(condition) && unifork_report_assertion)                         \
            unifork_report_assertion(#condition, __FILE__, __LINE__);         \
    } while (0)

#endif
