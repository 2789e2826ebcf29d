/* The functions behind <unifork.h>. */
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
    snprintf(message, sizeof message, "%s:%d: assertion failed: %s", file, line, condition);
    unifork_report(message);
}
