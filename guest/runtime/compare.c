/*
 * The comparison log, and the functions of <string.h> that compare: the linker sends calls of them
 * here (--wrap), and they go on to the C library's own.
 *
 * Only the machine that traces logs; see sancov.c. What is logged goes to a window that the host
 * reads after the run and that no reset touches.
 */
#define _GNU_SOURCE
#include <string.h>
#include <strings.h>

#include "abi.h"

#define PLAIN __attribute__((no_sanitize("coverage")))
#define SITE ((uintptr_t)__builtin_return_address(0))

__attribute__((used, retain)) volatile uint32_t uf_comparisons = 0;

PLAIN void uf_log_comparison(uintptr_t site, enum uf_comparison_kind kind, const void *left, size_t left_len,
                             const void *right, size_t right_len)
{
    struct uf_comparison_log *log = (struct uf_comparison_log *)UF_COMPARISONS_VA;
    struct uf_comparison *records = (struct uf_comparison *)(log + 1);
    uint8_t *share = &log->sites[(site ^ site >> 12) % UF_COMPARISON_SITES];
    uint64_t count = log->count;
    if (*share >= UF_COMPARISONS_PER_SITE_MAX || count >= UF_COMPARISONS_MAX) {
        log->lost++;
        return;
    }
    ++*share;
    if (left_len > UF_COMPARISON_BYTES)
        left_len = UF_COMPARISON_BYTES;
    if (right_len > UF_COMPARISON_BYTES)
        right_len = UF_COMPARISON_BYTES;
    struct uf_comparison *record = &records[count];
    record->site = site;
    record->left_at = kind == UF_COMPARE_BYTES ? (uintptr_t)left : 0;
    record->right_at = kind == UF_COMPARE_BYTES ? (uintptr_t)right : 0;
    record->kind = kind;
    record->left_len = (uint16_t)left_len;
    record->right_len = (uint16_t)right_len;
    /* Byte by byte: memcpy may be the application's own. */
    for (size_t i = 0; i < left_len; i++)
        record->left[i] = ((const uint8_t *)left)[i];
    for (size_t i = 0; i < right_len; i++)
        record->right[i] = ((const uint8_t *)right)[i];
    log->count = count + 1;
}

/* The length of a string, looked for in at most as many bytes as are kept. */
PLAIN static size_t length(const char *text, size_t most)
{
    size_t len = 0;
    while (len < most && len < UF_COMPARISON_BYTES && text[len] != 0)
        len++;
    return len;
}

PLAIN static void log_memory(uintptr_t site, const void *left, const void *right, size_t size)
{
    if (uf_comparisons && size > 0)
        uf_log_comparison(site, UF_COMPARE_BYTES, left, size, right, size);
}

PLAIN static void log_strings(uintptr_t site, const char *left, const char *right, size_t most)
{
    if (!uf_comparisons)
        return;
    size_t left_len = length(left, most), right_len = length(right, most);
    if (left_len > 0 && right_len > 0)
        uf_log_comparison(site, UF_COMPARE_BYTES, left, left_len, right, right_len);
}

int __real_memcmp(const void *left, const void *right, size_t size);
int __wrap_memcmp(const void *left, const void *right, size_t size);
PLAIN int __wrap_memcmp(const void *left, const void *right, size_t size)
{
    log_memory(SITE, left, right, size);
    return __real_memcmp(left, right, size);
}

int __real_bcmp(const void *left, const void *right, size_t size);
int __wrap_bcmp(const void *left, const void *right, size_t size);
PLAIN int __wrap_bcmp(const void *left, const void *right, size_t size)
{
    log_memory(SITE, left, right, size);
    return __real_bcmp(left, right, size);
}

int __real_strcmp(const char *left, const char *right);
int __wrap_strcmp(const char *left, const char *right);
PLAIN int __wrap_strcmp(const char *left, const char *right)
{
    log_strings(SITE, left, right, SIZE_MAX);
    return __real_strcmp(left, right);
}

int __real_strncmp(const char *left, const char *right, size_t size);
int __wrap_strncmp(const char *left, const char *right, size_t size);
PLAIN int __wrap_strncmp(const char *left, const char *right, size_t size)
{
    log_strings(SITE, left, right, size);
    return __real_strncmp(left, right, size);
}

int __real_strcasecmp(const char *left, const char *right);
int __wrap_strcasecmp(const char *left, const char *right);
PLAIN int __wrap_strcasecmp(const char *left, const char *right)
{
    log_strings(SITE, left, right, SIZE_MAX);
    return __real_strcasecmp(left, right);
}

int __real_strncasecmp(const char *left, const char *right, size_t size);
int __wrap_strncasecmp(const char *left, const char *right, size_t size);
PLAIN int __wrap_strncasecmp(const char *left, const char *right, size_t size)
{
    log_strings(SITE, left, right, size);
    return __real_strncasecmp(left, right, size);
}

char *__real_strstr(const char *text, const char *part);
char *__wrap_strstr(const char *text, const char *part);
PLAIN char *__wrap_strstr(const char *text, const char *part)
{
    log_strings(SITE, text, part, SIZE_MAX);
    return __real_strstr(text, part);
}

char *__real_strcasestr(const char *text, const char *part);
char *__wrap_strcasestr(const char *text, const char *part);
PLAIN char *__wrap_strcasestr(const char *text, const char *part)
{
    log_strings(SITE, text, part, SIZE_MAX);
    return __real_strcasestr(text, part);
}

void *__real_memmem(const void *text, size_t size, const void *part, size_t part_size);
void *__wrap_memmem(const void *text, size_t size, const void *part, size_t part_size);
PLAIN void *__wrap_memmem(const void *text, size_t size, const void *part, size_t part_size)
{
    if (uf_comparisons && size > 0 && part_size > 0)
        uf_log_comparison(SITE, UF_COMPARE_BYTES, text, size, part, part_size);
    return __real_memmem(text, size, part, part_size);
}
