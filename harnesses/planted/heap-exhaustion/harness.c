/*
 * Planted bug: memory is allocated, used and never given back, until there is none.
 *
 * Trigger:  the input begins with "ME".
 * Expected: out of memory. On Linux: stops when malloc fails, which may be never; set a limit.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (64 * 1024)

struct block {
    struct block *previous;
    uint8_t body[BLOCK_BYTES];
};

static struct block *newest;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'M' && data[1] == 'E') {
        struct block *block;
        while ((block = malloc(sizeof *block)) != NULL) {
            memset(block->body, 0xa5, sizeof block->body);
            block->previous = newest;
            newest = block;
        }
    }
    return 0;
}
