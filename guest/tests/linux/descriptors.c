/* dup(2), dup2(2), dup3(2), fcntl(2), pipe2(2), eventfd(2), close_range(2), ioctl(2), splice(2), and pipes. */
#include "check.h"
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <termios.h>

static void duplicating(void)
{
    make_file("file", "0123456789");
    int fd = open("file", O_RDWR);
    CALL("lowest descriptor", SYS_dup, fd);
    CALL("dup bad", SYS_dup, 77);
    CALL("dup2", SYS_dup2, fd, 50);
    CALL("dup2 onto itself", SYS_dup2, fd, fd);
    CALL("dup2 bad onto itself", SYS_dup2, 77, 77);
    CALL("dup2 bad", SYS_dup2, 77, 51);
    CALL("dup2 negative", SYS_dup2, fd, -1);
    CALL("dup2 beyond the limit", SYS_dup2, fd, 1 << 30);
    CALL("dup2 closes", SYS_dup2, open("file", O_RDONLY), 50);
    CALL("write after dup2", SYS_write, 50, "x", 1);
    CALL("dup3", SYS_dup3, fd, 52, O_CLOEXEC);
    CALL("dup3 sets close-on-exec", SYS_fcntl, 52, F_GETFD);
    CALL("dup3 onto itself", SYS_dup3, fd, fd, 0);
    CALL("dup3 unknown flags", SYS_dup3, fd, 53, O_APPEND);
    int twin = dup(fd);
    char bytes[8];
    NEED(read(fd, bytes, 3) == 3);
    CALL("dup shares the position", SYS_lseek, twin, 0, SEEK_CUR);
    CALL("dup drops close-on-exec", SYS_fcntl, dup(52), F_GETFD);
    CALL("fcntl set flags", SYS_fcntl, fd, F_SETFL, O_APPEND);
    line("dup shares flags: %d", (fcntl(twin, F_GETFL) & O_APPEND) != 0);
    CALL("fcntl set flags drops them", SYS_fcntl, fd, F_SETFL, 0);
    line("fcntl set flags keeps the mode: %d", (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    CALL("fcntl dup at least", SYS_fcntl, fd, F_DUPFD, 60);
    CALL("fcntl dup at least again", SYS_fcntl, fd, F_DUPFD, 60);
    CALL("fcntl dup close-on-exec", SYS_fcntl, fd, F_DUPFD_CLOEXEC, 70);
    CALL("fcntl its flag", SYS_fcntl, 70, F_GETFD);
    CALL("fcntl dup negative", SYS_fcntl, fd, F_DUPFD, -1);
    CALL("fcntl dup beyond the limit", SYS_fcntl, fd, F_DUPFD, 1 << 30);
    CALL("fcntl set close-on-exec", SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
    CALL("fcntl get close-on-exec", SYS_fcntl, fd, F_GETFD);
    CALL("fcntl set descriptor flags, unknown", SYS_fcntl, fd, F_SETFD, 0xfe);
    CALL("fcntl get descriptor flags", SYS_fcntl, fd, F_GETFD);
    CALL("fcntl unknown command", SYS_fcntl, fd, 9999, 0);
    CALL("fcntl bad descriptor", SYS_fcntl, 77, F_GETFL);
    CALL("fcntl owner", SYS_fcntl, fd, F_GETOWN);
    close(3 + 20);
    int at = dup(fd);
    close(at);
    CALL("the lowest is given again", SYS_fcntl, fd, F_DUPFD, at);
    CALL("close_range empty", SYS_close_range, 40, 39, 0);
    CALL("close_range unknown flags", SYS_close_range, 40, 41, 64);
    CALL("close_range marks", SYS_close_range, 60, 61, 4);
    CALL("close_range marked", SYS_fcntl, 60, F_GETFD);
    CALL("close_range", SYS_close_range, 50, 1000, 0);
    CALL("close_range closed", SYS_fcntl, 60, F_GETFD);
    CALL("close_range left the others", SYS_fcntl, fd, F_GETFD);
}

static void pipes(void)
{
    int ends[2], others[2];
    char bytes[70000];
    memset(bytes, 'b', sizeof bytes);
    CALL("pipe", SYS_pipe, ends);
    CALL("pipe bad address", SYS_pipe, BAD);
    CALL("pipe2 unknown flags", SYS_pipe2, others, O_APPEND);
    CALL("pipe2", SYS_pipe2, others, O_NONBLOCK | O_CLOEXEC);
    CALL("pipe2 close-on-exec", SYS_fcntl, others[0], F_GETFD);
    line("pipe flags: %o %o", fcntl(others[0], F_GETFL) & (O_ACCMODE | O_NONBLOCK),
         fcntl(others[1], F_GETFL) & (O_ACCMODE | O_NONBLOCK));
    CALL("read of an empty pipe", SYS_read, others[0], bytes, 10);
    CALL("read nothing of an empty pipe", SYS_read, others[0], bytes, 0);
    CALL("read of the writing end", SYS_read, others[1], bytes, 10);
    CALL("write to the reading end", SYS_write, others[0], bytes, 10);
    CALL("write to a pipe", SYS_write, others[1], "hello", 5);
    int count = -1;
    CALL("ioctl bytes to read", SYS_ioctl, others[0], FIONREAD, &count);
    line("bytes to read: %d", count);
    CALL("read of a pipe", SYS_read, others[0], bytes, 3);
    CALL("read of its rest", SYS_read, others[0], bytes, 10);
    CALL("pipe size", SYS_fcntl, others[0], F_GETPIPE_SZ);
    CALL("write more than a pipe holds", SYS_write, others[1], bytes, 70000);
    CALL("write to a full pipe", SYS_write, others[1], bytes, 1);
    CALL("read one byte of a full pipe", SYS_read, others[0], bytes, 1);
    CALL("write a page less than whole", SYS_write, others[1], bytes, 4096);
    CALL("read a page", SYS_read, others[0], bytes, 4096);
    int drained = 0;
    long n;
    while ((n = read(others[0], bytes, sizeof bytes)) > 0)
        drained += n;
    line("drained: %d", drained > 60000);
    CALL("fcntl pipe size grows", SYS_fcntl, others[0], F_SETPIPE_SZ, 128 << 10);
    CALL("fcntl pipe size odd", SYS_fcntl, others[0], F_SETPIPE_SZ, 5000);
    struct iovec parts[2] = { { bytes, 2 }, { bytes + 2, 3 } };
    CALL("writev to a pipe", SYS_writev, others[1], parts, 2);
    CALL("readv of a pipe", SYS_readv, others[0], parts, 2);
    CALL("write from a bad address to a pipe", SYS_write, others[1], BAD, 3);
    NEED(write(others[1], "abc", 3) == 3);
    CALL("read to a bad address of a pipe", SYS_read, others[0], BAD, 3);
    close(others[1]);
    CALL("read what a closed end left", SYS_read, others[0], bytes, 10);
    CALL("read without writers", SYS_read, others[0], bytes, 10);
    signal(SIGPIPE, SIG_IGN);
    close(ends[0]);
    CALL("write without readers", SYS_write, ends[1], "x", 1);
    NEED(pipe(ends) == 0);
    int twin = dup(ends[1]);
    close(ends[1]);
    CALL("a copy of the end keeps it open", SYS_write, twin, "y", 1);
    struct stat st;
    NEED(fstat(twin, &st) == 0);
    line("stat of a pipe: %o", st.st_mode);
    CALL("fsync of a pipe", SYS_fsync, twin);
    /* splice and tee */
    int in[2], out[2];
    NEED(pipe2(in, O_NONBLOCK) == 0 && pipe2(out, O_NONBLOCK) == 0 && write(in[1], "splice", 6) == 6);
    CALL("tee", SYS_tee, in[0], out[1], 6, 0);
    CALL("splice between pipes", SYS_splice, in[0], NULL, out[1], NULL, 3, 0);
    CALL("read what was spliced", SYS_read, out[0], bytes, 64);
    line("spliced: %.9s", bytes);
    int file = open("spliced", O_RDWR | O_CREAT, 0644);
    CALL("splice to a file", SYS_splice, in[0], NULL, file, NULL, 64, 0);
    CALL("splice from an empty pipe", SYS_splice, in[0], NULL, file, NULL, 64, SPLICE_F_NONBLOCK);
    loff_t at = 0;
    CALL("splice from a file", SYS_splice, file, &at, out[1], NULL, 64, 0);
    CALL("splice with an offset of a pipe", SYS_splice, in[0], &at, file, NULL, 64, 0);
    CALL("splice nothing", SYS_splice, in[0], NULL, file, NULL, 0, 0);
    CALL("vmsplice", SYS_vmsplice, out[1], parts, 2, 0);
}

static void events(void)
{
    uint64_t value = 0;
    CALL("eventfd unknown flags", SYS_eventfd2, 0, 64);
    int fd = eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC);
    report_ok("eventfd", fd);
    CALL("eventfd read", SYS_read, fd, &value, 8);
    line("eventfd gave: %lu", (unsigned long)value);
    CALL("eventfd read of zero", SYS_read, fd, &value, 8);
    CALL("eventfd read too short", SYS_read, fd, &value, 7);
    CALL("eventfd write too short", SYS_write, fd, &value, 4);
    value = 3;
    CALL("eventfd write", SYS_write, fd, &value, 8);
    CALL("eventfd write again", SYS_write, fd, &value, 8);
    CALL("eventfd read long", SYS_read, fd, (uint64_t[2]){ 0 }, 16);
    CALL("eventfd is empty", SYS_read, fd, &value, 8);
    value = UINT64_MAX;
    CALL("eventfd write of the highest", SYS_write, fd, &value, 8);
    value = UINT64_MAX - 1;
    CALL("eventfd fills", SYS_write, fd, &value, 8);
    value = 1;
    CALL("eventfd is full", SYS_write, fd, &value, 8);
    value = 0;
    CALL("eventfd write zero when full", SYS_write, fd, &value, 8);
    CALL("eventfd lseek", SYS_lseek, fd, 0, SEEK_SET);
    CALL("eventfd pread", SYS_pread64, fd, &value, 8, 0);
    CALL("eventfd read to a bad address", SYS_read, fd, BAD, 8);
    int semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
    for (int i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "semaphore read %d", i);
        CALL(name, SYS_read, semaphore, &value, 8);
        line("semaphore gave %d: %lu", i, (unsigned long)value);
    }
    struct stat st;
    NEED(fstat(fd, &st) == 0);
    line("eventfd type: %o", st.st_mode & S_IFMT);
    CALL("eventfd ftruncate", SYS_ftruncate, fd, 0);
}

static void controls(void)
{
    int ends[2], on = 1, fd = open("file", O_RDWR);
    struct winsize size;
    struct termios termios;
    NEED(pipe(ends) == 0);
    CALL("ioctl window size of a pipe", SYS_ioctl, ends[0], TIOCGWINSZ, &size);
    CALL("ioctl window size of a file", SYS_ioctl, fd, TIOCGWINSZ, &size);
    CALL("ioctl termios of a pipe", SYS_ioctl, ends[0], TCGETS, &termios);
    CALL("ioctl bad descriptor", SYS_ioctl, 77, TIOCGWINSZ, &size);
    CALL("ioctl unknown", SYS_ioctl, fd, 0x12345678, 0);
    CALL("ioctl nonblocking", SYS_ioctl, ends[0], FIONBIO, &on);
    line("ioctl nonblocking set: %d", (fcntl(ends[0], F_GETFL) & O_NONBLOCK) != 0);
    CALL("ioctl nonblocking bad address", SYS_ioctl, ends[0], FIONBIO, BAD);
    CALL("ioctl close-on-exec", SYS_ioctl, ends[0], FIOCLEX);
    CALL("ioctl close-on-exec set", SYS_fcntl, ends[0], F_GETFD);
    CALL("ioctl no close-on-exec", SYS_ioctl, ends[0], FIONCLEX);
    CALL("ioctl bytes of a file", SYS_ioctl, fd, FIONREAD, &on);
    line("bytes of a file: %d", on);
    CALL("ioctl bytes bad address", SYS_ioctl, fd, FIONREAD, BAD);
    CALL("isatty of a file", SYS_ioctl, fd, TCGETS, &termios);
}

static void many(void)
{
    int count = 0, in_order = 1, fd, first = dup(0);
    while (count < 300 && (fd = open("file", O_RDONLY)) >= 0)
        in_order &= fd == first + ++count;
    line("three hundred files: %d, in order %d", count, in_order);
}

int main(void)
{
    own_folder("work");
    duplicating();
    pipes();
    events();
    controls();
    many();
    line("end");
    return 0;
}
