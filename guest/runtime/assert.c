/* What is behind <unifork.h>, and behind the C library's own assert(). */
#include "include/unifork.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"

int unifork_active(void)
{
    return uf_vector() != NULL;
}

void unifork_report(const char *message)
{
    const struct uf_vector *libos = uf_vector();
    if (libos == NULL)
        return;
    libos->call(UF_SYS_UNIFORK_ASSERT, (int64_t)message, (int64_t)strlen(message), 0, 0, 0, 0);
    abort(); /* not reached: the call ends the run */
}

void unifork_report_assertion(const char *condition, const char *file, int line)
{
    char message[512];
    snprintf(message, sizeof message, "%s (%s:%d)", condition, file, line);
    unifork_report(message);
}

/*
 * What assert() calls. Takes the place of the C library's function, which prints and aborts: in a
 * guest the finding is then called an assertion, by its text, and not one more abort.
 */
_Noreturn void __assert_fail(const char *condition, const char *file, unsigned int line, const char *function);

_Noreturn void __assert_fail(const char *condition, const char *file, unsigned int line, const char *function)
{
    unifork_report_assertion(condition, file, (int)line);
    fprintf(stderr, "Assertion failed: %s (%s: %s: %u)\n", condition, file, function, line);
    abort();
}
