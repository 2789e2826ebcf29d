/* Thousands of file-system calls, chosen by a seed: what each returned, and the whole tree every so often.
 *
 *     random_files SEED CALLS */
#include "check.h"
#include <dirent.h>
#include <sys/uio.h>

#define NAMES 6
#define OPEN 12

static uint64_t state;
static int open_files[OPEN];
static char path_a[256], path_b[256], bytes[20000];

static unsigned pick(unsigned below)
{
    return next_random(&state) % below;
}

/* A path of up to four parts, of which some are dots, links or missing. */
static char *path(char *to)
{
    static const int lengths[] = { 1, 1, 1, 1, 2, 2, 2, 3 };
    int parts = lengths[pick(8)];
    *to = 0;
    for (int i = 0; i < parts; i++) {
        static const char *const odd[] = { ".", "c/.", "..", "" };
        char part[16];
        if (pick(16) == 0)
            snprintf(part, sizeof part, "%s", odd[pick(i ? 4 : 2)]);
        else
            snprintf(part, sizeof part, "%c", 'a' + pick(NAMES));
        if (i)
            strcat(to, "/");
        strcat(to, part);
    }
    if (pick(25) == 0)
        strcat(to, "/");
    return to;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static uint64_t hash(uint64_t seed, const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        seed = (seed ^ ((const unsigned char *)data)[i]) * 0x100000001b3ULL;
    return seed;
}

/* Everything below a folder, in order of names. */
static void tree(const char *at, int depth, int *entries, uint64_t *sum)
{
    DIR *folder = opendir(at);
    NEED(folder);
    char *names[NAMES + 4];
    int count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        NEED(count < NAMES + 4);
        names[count++] = strdup(entry->d_name);
    }
    closedir(folder);
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) {
        char inside[2048];
        struct stat st;
        if (names[i][0] != '.') {
            snprintf(inside, sizeof inside, "%s/%s", at, names[i]);
            NEED(lstat(inside, &st) == 0);
            ++*entries;
            char text[2200];
            int size = snprintf(text, sizeof text, "%s %o %ld %ld", inside, st.st_mode,
                                S_ISDIR(st.st_mode) ? 0L : (long)st.st_size, (long)st.st_nlink);
            *sum = hash(*sum, text, size);
            if (S_ISREG(st.st_mode)) {
                int fd = open(inside, O_RDONLY);
                NEED(fd >= 0);
                for (long n; (n = read(fd, bytes, sizeof bytes)) > 0;)
                    *sum = hash(*sum, bytes, n);
                close(fd);
            } else if (S_ISLNK(st.st_mode)) {
                long n = readlink(inside, bytes, sizeof bytes);
                *sum = hash(*sum, bytes, n);
            } else if (S_ISDIR(st.st_mode) && depth < 12) {
                tree(inside, depth + 1, entries, sum);
            }
        }
        free(names[i]);
    }
}

static void fill(unsigned size)
{
    for (unsigned i = 0; i < size; i += 8) {
        uint64_t value = next_random(&state);
        memcpy(bytes + i, &value, 8);
    }
}

int main(int argc, char **argv)
{
    state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    state = state * 0x9e3779b97f4a7c15ULL + 1;
    int calls = argc > 2 ? atoi(argv[2]) : 2000;
    /* Dots behind a link lead up, once for each name at most: never out of the first of these. */
    own_folder("work");
    for (int i = 0; i < 2 * NAMES + 8; i++)
        own_folder("deep");
    memset(open_files, -1, sizeof open_files);
    static const int flags[] = { O_RDONLY, O_WRONLY | O_TRUNC, O_RDWR, O_RDWR | O_CREAT, O_RDWR | O_CREAT | O_TRUNC,
                                 O_RDWR | O_CREAT | O_EXCL, O_RDWR | O_APPEND | O_CREAT, O_RDONLY | O_DIRECTORY,
                                 O_RDONLY | O_NOFOLLOW, O_RDWR | O_CREAT };
    for (int i = 0; i < calls; i++) {
        const char *what = "?";
        long result = 0;
        uint64_t sum = 0;
        int slot = pick(OPEN);
        for (int again = 0; again < 4 && open_files[slot] < 0; again++)
            slot = pick(OPEN);
        int fd = open_files[slot];
        struct stat st;
        errno = 0;
        switch (pick(30)) {
        case 0: case 1: case 2: case 3: case 26: case 27:
            what = "open";
            path(path_a);
            if (fd >= 0)
                close(fd);
            errno = 0;
            result = open_files[slot] = open(path_a, flags[pick(10)], 0600 | pick(0200));
            result = result < 0 ? -1 : 0;
            break;
        case 4:
            what = "close";
            result = close(fd);
            open_files[slot] = -1;
            break;
        case 5: case 6: case 28: {
            unsigned size = pick(pick(4) ? 200 : 18000);
            fill(size);
            what = "write";
            errno = 0;
            result = write(fd, bytes, size);
            break;
        }
        case 7: {
            unsigned size = pick(9000);
            fill(size);
            what = "pwrite";
            errno = 0;
            result = pwrite(fd, bytes, size, (long)pick(60000) - 10);
            break;
        }
        case 8: case 9:
            what = "read";
            result = read(fd, bytes, pick(18000));
            sum = hash(1, bytes, result > 0 ? result : 0);
            break;
        case 10:
            what = "pread";
            result = pread(fd, bytes, pick(18000), (long)pick(60000) - 10);
            sum = hash(1, bytes, result > 0 ? result : 0);
            break;
        case 11:
            what = "lseek";
            result = lseek(fd, (long)pick(40000) - 2000, pick(3));
            if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
                lseek(fd, 0, SEEK_SET); /* a folder's positions differ by file system */
                result = -2;
            }
            break;
        case 12:
            what = "ftruncate";
            result = ftruncate(fd, (long)pick(40000) - 5);
            break;
        case 13: case 14: case 29:
            what = "mkdir";
            result = mkdir(path(path_a), 0700 | pick(0100));
            break;
        case 15:
            what = "rmdir";
            result = rmdir(path(path_a));
            break;
        case 16:
            what = "unlink";
            result = unlink(path(path_a));
            break;
        case 17: case 18:
            what = "rename";
            path(path_a);
            path(path_b);
            errno = 0;
            result = rename(path_a, path_b);
            break;
        case 19:
            what = "link";
            path(path_a);
            path(path_b);
            result = link(path_a, path_b);
            break;
        case 20:
            what = "symlink";
            path(path_a);
            path(path_b);
            result = symlink(path_a, path_b);
            break;
        case 21:
            what = "stat";
            result = stat(path(path_a), &st);
            if (result == 0)
                sum = st.st_mode * 1000UL + (S_ISDIR(st.st_mode) ? 0 : st.st_size) * 7 + st.st_nlink;
            break;
        case 22:
            what = "readlink";
            result = readlink(path(path_a), bytes, 100);
            sum = hash(1, bytes, result > 0 ? result : 0);
            break;
        case 23:
            what = "chmod";
            result = chmod(path(path_a), 0600 | pick(0200));
            break;
        case 24:
            what = "truncate";
            result = truncate(path(path_a), pick(30000));
            break;
        case 25: {
            struct iovec parts[3] = { { bytes, pick(300) }, { bytes + 5000, pick(3000) }, { bytes + 400, pick(10) } };
            what = "readv";
            result = readv(fd, parts, 3);
            break;
        }
        }
        int error = errno;
        line("%d %s %s %s: %ld %s %lx", i, what, path_a, path_b, result, result == -1 ? errno_name(error) : "-",
             (unsigned long)sum);
        *path_a = *path_b = 0;
        if (i % 250 == 249) {
            int entries = 0;
            sum = 1;
            tree(".", 0, &entries, &sum);
            line("tree after %d: %d entries %lx", i, entries, (unsigned long)sum);
        }
    }
    line("end");
    return 0;
}
