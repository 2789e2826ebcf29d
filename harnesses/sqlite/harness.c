/*
 * SQLite: the input is SQL text, run against an empty in-memory database.
 *
 * A query may ask for any amount of work, so there are three limits: the progress handler stops a
 * statement after PROGRESS_STEPS_MAX calls, and SQLite's own limits bound the length of strings and
 * of compiled programs. An interrupted statement is not an error of SQLite's.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

#define INPUT_BYTES_MAX 4096
#define OPCODES_PER_PROGRESS_STEP 100
#define PROGRESS_STEPS_MAX 500
#define STRING_BYTES_MAX 100000
#define PROGRAM_OPCODES_MAX 25000

static int stop_when_long(void *context)
{
    int *steps = context;
    return ++*steps > PROGRESS_STEPS_MAX;
}

static int ignore_row(void *context, int columns, char **values, char **names)
{
    (void)context;
    (void)columns;
    (void)values;
    (void)names;
    return 0;
}

/* Before the snapshot: what sqlite3_open would otherwise do once in each fork. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return sqlite3_initialize();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_BYTES_MAX)
        return -1;
    char *sql = malloc(size + 1);
    if (sql == NULL)
        return 0;
    memcpy(sql, data, size);
    sql[size] = '\0';

    sqlite3 *database = NULL;
    if (sqlite3_open(":memory:", &database) == SQLITE_OK) {
        int steps = 0;
        sqlite3_progress_handler(database, OPCODES_PER_PROGRESS_STEP, stop_when_long, &steps);
        sqlite3_limit(database, SQLITE_LIMIT_LENGTH, STRING_BYTES_MAX);
        sqlite3_limit(database, SQLITE_LIMIT_VDBE_OP, PROGRAM_OPCODES_MAX);
        sqlite3_exec(database, sql, ignore_row, NULL, NULL);
    }
    sqlite3_close(database);
    free(sql);
    return 0;
}
