/*
 * Running an image on plain Linux: each file named on the command line is one input.
 *
 * The input is placed as in the guest: it starts at a multiple of UF_INPUT_ALIGN, is read-only, and
 * ends less than UF_INPUT_ALIGN bytes before an unmapped page, so that reading far behind it faults
 * here too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct placed_input {
    void *mapping;
    size_t mapping_bytes;
    struct uf_input input;
};

static size_t round_up(size_t value, size_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static int read_all(int fd, uint8_t *into, size_t size)
{
    while (size > 0) {
        ssize_t got = read(fd, into, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        into += got;
        size -= (size_t)got;
    }
    return 0;
}

/* Reads `path` into fresh pages; returns 0, or -1 with errno set. */
static int place_file(const char *path, struct placed_input *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    struct stat status;
    if (fstat(fd, &status) != 0)
        goto close_fd;
    if (!S_ISREG(status.st_mode)) {
        errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
        goto close_fd;
    }

    size_t size = (size_t)status.st_size;
    size_t body = round_up(size, UF_PAGE_BYTES);
    if (body == 0)
        body = UF_PAGE_BYTES;
    size_t total = body + UF_PAGE_BYTES;
    uint8_t *pages = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        goto close_fd;
    uint8_t *data = pages + body - round_up(size, UF_INPUT_ALIGN);
    if (read_all(fd, data, size) != 0 || mprotect(pages, body, PROT_READ) != 0
        || mprotect(pages + body, UF_PAGE_BYTES, PROT_NONE) != 0) {
        munmap(pages, total);
        goto close_fd;
    }
    close(fd);
    *out = (struct placed_input){pages, total, {data, size}};
    return 0;

close_fd:;
    int cause = errno;
    close(fd);
    errno = cause;
    return -1;
}

static long long milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int uf_run_files(int count, char **paths)
{
    if (count == 0) {
        fprintf(stderr,
                "This is a unifork image. Fuzz it with `unifork fuzz`; on plain Linux it runs\n"
                "each FILE given as an argument once.\n");
        return 2;
    }
    for (int i = 0; i < count; i++) {
        struct placed_input placed;
        if (place_file(paths[i], &placed) != 0) {
            fprintf(stderr, "cannot read %s: %s\n", paths[i], strerror(errno));
            return EXIT_FAILURE;
        }
        fprintf(stderr, "Running: %s (%zu bytes)\n", paths[i], placed.input.size);
        long long start = milliseconds();
        LLVMFuzzerTestOneInput(placed.input.data, placed.input.size);
        fprintf(stderr, "Executed %s in %lld ms\n", paths[i], milliseconds() - start);
        munmap(placed.mapping, placed.mapping_bytes);
    }
    struct uf_coverage coverage = uf_coverage();
    fprintf(stderr, "Covered %zu of %zu counters\n", coverage.reached, coverage.counters);
    return EXIT_SUCCESS;
}
