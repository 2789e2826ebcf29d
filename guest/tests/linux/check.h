/*
 * One line for each check, on standard output: its name, what the call returned, and errno by name
 * when that was -1. Nothing in a line may depend on the host: no addresses, inode numbers, times or
 * process numbers. The same binary runs on Linux and in the guest, and the lines are compared.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A page nothing is mapped at, for EFAULT: the first one, which no program may map. */
#define BAD ((void *)8)

static inline const char *errno_name(int number)
{
    switch (number) {
#define NAME(e) case e: return #e;
    NAME(EPERM) NAME(ENOENT) NAME(ESRCH) NAME(EINTR) NAME(EIO) NAME(ENXIO) NAME(E2BIG) NAME(ENOEXEC)
    NAME(EBADF) NAME(ECHILD) NAME(EAGAIN) NAME(ENOMEM) NAME(EACCES) NAME(EFAULT) NAME(ENOTBLK)
    NAME(EBUSY) NAME(EEXIST) NAME(EXDEV) NAME(ENODEV) NAME(ENOTDIR) NAME(EISDIR) NAME(EINVAL)
    NAME(ENFILE) NAME(EMFILE) NAME(ENOTTY) NAME(ETXTBSY) NAME(EFBIG) NAME(ENOSPC) NAME(ESPIPE)
    NAME(EROFS) NAME(EMLINK) NAME(EPIPE) NAME(EDOM) NAME(ERANGE) NAME(EDEADLK) NAME(ENAMETOOLONG)
    NAME(ENOLCK) NAME(ENOSYS) NAME(ENOTEMPTY) NAME(ELOOP) NAME(ENODATA) NAME(ETIME) NAME(EPROTO)
    NAME(EBADMSG) NAME(EOVERFLOW) NAME(EILSEQ) NAME(ENOTSOCK) NAME(EDESTADDRREQ) NAME(EMSGSIZE)
    NAME(EPROTOTYPE) NAME(ENOPROTOOPT) NAME(EPROTONOSUPPORT) NAME(ESOCKTNOSUPPORT) NAME(EOPNOTSUPP)
    NAME(EAFNOSUPPORT) NAME(EADDRINUSE) NAME(EADDRNOTAVAIL) NAME(ENETDOWN) NAME(ENETUNREACH)
    NAME(ECONNABORTED) NAME(ECONNRESET) NAME(ENOBUFS) NAME(EISCONN) NAME(ENOTCONN) NAME(ETIMEDOUT)
    NAME(ECONNREFUSED) NAME(EHOSTUNREACH) NAME(EALREADY) NAME(EINPROGRESS) NAME(ECANCELED)
    NAME(EOWNERDEAD) NAME(ENOTRECOVERABLE)
#undef NAME
    default: return "another";
    }
}

/* Written at once, so that what came before a crash is there. */
static void line(const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int bytes = vsnprintf(text, sizeof text - 1, format, args);
    va_end(args);
    if (bytes > (int)sizeof text - 2)
        bytes = sizeof text - 2;
    text[bytes++] = '\n';
    for (int done = 0; done < bytes;) {
        ssize_t n = write(1, text + done, bytes - done);
        if (n <= 0)
            _exit(99);
        done += n;
    }
}

/* What a call returned. Gives it back, with errno as it was. */
static inline long report(const char *name, long returned)
{
    int saved = errno;
    if (returned == -1)
        line("%s: -1 %s", name, errno_name(saved));
    else
        line("%s: %ld", name, returned);
    errno = saved;
    return returned;
}

/* As report, for what returns a descriptor, an address or a size that differs by host: ok, or errno. */
static inline long report_ok(const char *name, long returned)
{
    int saved = errno;
    if (returned == -1)
        line("%s: -1 %s", name, errno_name(saved));
    else
        line("%s: ok", name);
    errno = saved;
    return returned;
}

/* As report, for a function that returns its error. */
static inline int report_error(const char *name, int error)
{
    line("%s: %s", name, error ? errno_name(error) : "0");
    return error;
}

/* A system call with each argument widened, as the registers are. */
#define RAW(...) RAW_(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define RAW_(n, a, b, c, d, e, f, ...) \
    syscall(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* CALL(name, number, arguments...): makes the call and reports it. OK(...) hides what it returned. */
#define CALL(name, ...) (errno = 0, report(name, RAW(__VA_ARGS__)))
#define OK(name, ...) (errno = 0, report_ok(name, RAW(__VA_ARGS__)))
/* The same for an expression. */
#define EXPR(name, expression) (errno = 0, report(name, (long)(expression)))
#define EXPR_OK(name, expression) (errno = 0, report_ok(name, (long)(expression)))

/* Whether something holds. */
#define TRUE(name, condition) line("%s: %s", name, (condition) ? "yes" : "no")

/* What the rest of the program cannot do without. */
#define NEED(condition)                                                                   \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            line("line %d: cannot go on, %s", __LINE__, errno_name(errno));               \
            exit(98);                                                                     \
        }                                                                                 \
    } while (0)

/* A folder to work in that has a parent: not the root of the file system. */
static inline void own_folder(const char *name)
{
    NEED(mkdir(name, 0755) == 0 || errno == EEXIST);
    NEED(chdir(name) == 0);
    umask(022);
}

/* Makes a file with this content. */
static inline void make_file(const char *path, const char *content)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    NEED(fd >= 0);
    NEED(write(fd, content, strlen(content)) == (ssize_t)strlen(content));
    close(fd);
}

/* xorshift64*, so that a seed means the same everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dULL;
}

#endif
