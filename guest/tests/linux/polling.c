/* poll(2), ppoll(2), select(2), pselect(2), epoll_create(2), epoll_ctl(2), epoll_wait(2). */
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

static int pipe_ends[2], socket_ends[2], event;

static void show(const char *name, struct pollfd *entries, int count, int returned)
{
    int saved = errno;
    char text[256];
    int at = 0;
    for (int i = 0; i < count; i++)
        at += snprintf(text + at, sizeof text - at, " %x", entries[i].revents);
    if (returned < 0)
        line("%s: -1 %s", name, errno_name(saved));
    else
        line("%s: %d%s", name, returned, text);
}

static void polls(const char *name, int fd, int events)
{
    struct pollfd entry = { fd, events, 0x7777 };
    show(name, &entry, 1, poll(&entry, 1, 0));
}

#define ALL (POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM)

static void polling(void)
{
    polls("poll a reading end, empty", pipe_ends[0], ALL);
    polls("poll a writing end", pipe_ends[1], ALL);
    polls("poll for nothing", pipe_ends[1], 0);
    polls("poll a bad descriptor", 77, ALL);
    polls("poll a negative descriptor", -5, ALL);
    NEED(write(pipe_ends[1], "x", 1) == 1);
    polls("poll a reading end, with a byte", pipe_ends[0], ALL);
    polls("poll it for nothing", pipe_ends[0], 0);
    polls("poll it for writing", pipe_ends[0], POLLOUT);
    make_file("file", "x");
    int file = open("file", O_RDWR);
    polls("poll a file", file, ALL);
    polls("poll a folder", open(".", O_RDONLY), ALL);
    polls("poll an eventfd of zero", event, ALL);
    uint64_t value = 1;
    NEED(write(event, &value, 8) == 8);
    polls("poll an eventfd of one", event, ALL);
    NEED(read(event, &value, 8) == 8);
    value = UINT64_MAX - 1;
    NEED(write(event, &value, 8) == 8);
    polls("poll a full eventfd", event, ALL);
    NEED(read(event, &value, 8) == 8);
    polls("poll a socket", socket_ends[0], ALL);
    NEED(write(socket_ends[1], "x", 1) == 1);
    polls("poll a socket with a byte", socket_ends[0], ALL);
    int ends[2];
    NEED(pipe(ends) == 0 && close(ends[1]) == 0);
    polls("poll a reading end without a writer", ends[0], ALL);
    NEED(pipe(ends) == 0 && close(ends[0]) == 0);
    polls("poll a writing end without a reader", ends[1], ALL);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && shutdown(ends[1], SHUT_WR) == 0);
    polls("poll a socket whose peer writes no more", ends[0], ALL);
    NEED(close(ends[1]) == 0);
    polls("poll a socket without a peer", ends[0], ALL);
    NEED(pipe2(ends, O_NONBLOCK) == 0);
    char page[4096] = { 0 };
    while (write(ends[1], page, sizeof page) > 0) {
    }
    polls("poll a full pipe", ends[1], ALL);
    NEED(read(ends[0], page, 1) == 1);
    polls("poll a nearly full pipe", ends[1], ALL);
    struct pollfd several[3] = { { pipe_ends[0], POLLIN, 0 }, { -1, POLLIN, 9 }, { pipe_ends[1], POLLOUT, 0 } };
    show("poll three", several, 3, poll(several, 3, -1));
    CALL("poll none", SYS_poll, NULL, 0, 0);
    CALL("poll none for a while", SYS_poll, NULL, 0, 10);
    CALL("poll bad address", SYS_poll, BAD, 1, 0);
    CALL("poll too many", SYS_poll, several, 1 << 30, 0);
    struct timespec none = { 0, 0 }, bad = { 0, 1000000000 }, negative = { -1, 0 }, soon = { 0, 1000000 };
    sigset_t mask;
    sigemptyset(&mask);
    CALL("ppoll at once", SYS_ppoll, several, 3, &none, &mask, 8);
    CALL("ppoll bad nanoseconds", SYS_ppoll, several, 3, &bad, NULL, 8);
    CALL("ppoll negative", SYS_ppoll, several, 3, &negative, NULL, 8);
    CALL("ppoll bad mask size", SYS_ppoll, several, 3, &none, &mask, 4);
    several[0].fd = event;
    CALL("ppoll times out", SYS_ppoll, several, 1, &soon, NULL, 8);
    line("ppoll used its time up: %ld %ld", (long)soon.tv_sec, (long)soon.tv_nsec);
}

static void selecting(void)
{
    fd_set in, out, err;
    struct timeval none = { 0, 0 }, negative = { -1, 0 }, soon = { 0, 2000 };
#define SETS()                                                                                       \
    do {                                                                                             \
        FD_ZERO(&in); FD_ZERO(&out); FD_ZERO(&err);                                                  \
        FD_SET(pipe_ends[0], &in); FD_SET(event, &in);                                               \
        FD_SET(pipe_ends[1], &out); FD_SET(pipe_ends[0], &err); \
    } while (0)
    SETS();
    CALL("select", SYS_select, 64, &in, &out, &err, &none);
    line("select gave: %d %d %d %d", FD_ISSET(pipe_ends[0], &in) != 0, FD_ISSET(event, &in) != 0,
         FD_ISSET(pipe_ends[1], &out) != 0, FD_ISSET(pipe_ends[0], &err) != 0);
    SETS();
    CALL("select without time", SYS_select, 64, &in, &out, NULL, NULL);
    SETS();
    CALL("select looks below its count only", SYS_select, 1, &in, &out, NULL, &none);
    CALL("select negative count", SYS_select, -1, NULL, NULL, NULL, &none);
    CALL("select negative time", SYS_select, 0, NULL, NULL, NULL, &negative);
    FD_ZERO(&in);
    FD_SET(60, &in);
    CALL("select bad descriptor", SYS_select, 64, &in, NULL, NULL, &none);
    CALL("select bad address", SYS_select, 64, BAD, NULL, NULL, &none);
    CALL("select of nothing", SYS_select, 0, NULL, NULL, NULL, &soon);
    line("select used its time up: %ld %ld", (long)soon.tv_sec, (long)soon.tv_usec);
    FD_ZERO(&in);
    FD_SET(event, &in);
    soon.tv_usec = 1000;
    CALL("select times out", SYS_select, 64, &in, NULL, NULL, &soon);
    line("select cleared: %d", FD_ISSET(event, &in));
    struct timespec at_once = { 0, 0 };
    struct {
        sigset_t *mask;
        size_t size;
    } with = { NULL, 8 };
    SETS();
    CALL("pselect", SYS_pselect6, 64, &in, &out, NULL, &at_once, &with);
    with.mask = (sigset_t *)&in;
    with.size = 3;
    CALL("pselect bad mask size", SYS_pselect6, 64, NULL, NULL, NULL, &at_once, &with);
}

static void show_events(const char *name, int fd, int max, int time)
{
    struct epoll_event got[8];
    int count = epoll_wait(fd, got, max, time), saved = errno;
    char text[256] = "";
    int at = 0;
    for (int i = 0; i < count; i++)
        at += snprintf(text + at, sizeof text - at, " %lu:%x", (unsigned long)got[i].data.u64, got[i].events);
    if (count < 0)
        line("%s: -1 %s", name, errno_name(saved));
    else
        line("%s: %d%s", name, count, text);
}

static void epolling(void)
{
    CALL("epoll_create no size", SYS_epoll_create, 0);
    OK("epoll_create", SYS_epoll_create, 1);
    CALL("epoll_create1 unknown flags", SYS_epoll_create1, 1);
    int fd = epoll_create1(EPOLL_CLOEXEC);
    report_ok("epoll_create1", fd);
    CALL("epoll close-on-exec", SYS_fcntl, fd, F_GETFD);
    struct epoll_event want = { .events = EPOLLIN, .data.u64 = 1 };
    CALL("epoll_ctl add", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, event, &want);
    CALL("epoll_ctl add again", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, event, &want);
    CALL("epoll_ctl add itself", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, fd, &want);
    CALL("epoll_ctl add bad descriptor", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, 77, &want);
    CALL("epoll_ctl bad epoll", SYS_epoll_ctl, 77, EPOLL_CTL_ADD, event, &want);
    CALL("epoll_ctl not an epoll", SYS_epoll_ctl, event, EPOLL_CTL_ADD, pipe_ends[0], &want);
    CALL("epoll_ctl add a file", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, open("file", O_RDONLY), &want);
    CALL("epoll_ctl add a folder", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, open(".", O_RDONLY), &want);
    CALL("epoll_ctl bad address", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, pipe_ends[0], BAD);
    CALL("epoll_ctl unknown operation", SYS_epoll_ctl, fd, 9, pipe_ends[0], &want);
    CALL("epoll_ctl change what is not there", SYS_epoll_ctl, fd, EPOLL_CTL_MOD, pipe_ends[0], &want);
    CALL("epoll_ctl remove what is not there", SYS_epoll_ctl, fd, EPOLL_CTL_DEL, pipe_ends[0], NULL);
    show_events("epoll_wait nothing", fd, 8, 0);
    show_events("epoll_wait for a while", fd, 8, 5);
    uint64_t value = 1;
    NEED(write(event, &value, 8) == 8);
    show_events("epoll_wait level", fd, 8, -1);
    show_events("epoll_wait level again", fd, 8, 0);
    CALL("epoll_wait no room", SYS_epoll_wait, fd, &want, 0, 0);
    CALL("epoll_wait negative room", SYS_epoll_wait, fd, &want, -1, 0);
    CALL("epoll_wait bad address", SYS_epoll_wait, fd, BAD, 1, 0);
    CALL("epoll_wait not an epoll", SYS_epoll_wait, event, &want, 1, 0);
    CALL("epoll_wait bad descriptor", SYS_epoll_wait, 77, &want, 1, 0);
    CALL("epoll_pwait bad mask size", SYS_epoll_pwait, fd, &want, 1, 0, &want, 3);
    CALL("epoll_pwait", SYS_epoll_pwait, fd, &want, 1, 0, NULL, 8);
    struct timespec none = { 0, 0 };
    CALL("epoll_pwait2", SYS_epoll_pwait2, fd, &want, 1, &none, NULL, 8);
    want.events = EPOLLIN | EPOLLOUT;
    want.data.u64 = 2;
    CALL("epoll_ctl change", SYS_epoll_ctl, fd, EPOLL_CTL_MOD, event, &want);
    show_events("epoll_wait changed", fd, 8, 0);
    want.events = EPOLLIN | EPOLLET;
    want.data.u64 = 3;
    CALL("epoll_ctl edge", SYS_epoll_ctl, fd, EPOLL_CTL_MOD, event, &want);
    show_events("epoll_wait edge", fd, 8, 0);
    show_events("epoll_wait edge again", fd, 8, 0);
    NEED(write(event, &value, 8) == 8);
    show_events("epoll_wait edge after another write", fd, 8, 0);
    want.events = EPOLLIN | EPOLLONESHOT;
    want.data.u64 = 4;
    CALL("epoll_ctl one shot", SYS_epoll_ctl, fd, EPOLL_CTL_MOD, event, &want);
    show_events("epoll_wait one shot", fd, 8, 0);
    show_events("epoll_wait one shot again", fd, 8, 0);
    CALL("epoll_ctl one shot armed", SYS_epoll_ctl, fd, EPOLL_CTL_MOD, event, &want);
    show_events("epoll_wait one shot armed", fd, 8, 0);
    CALL("epoll_ctl remove", SYS_epoll_ctl, fd, EPOLL_CTL_DEL, event, NULL);
    show_events("epoll_wait removed", fd, 8, 0);

    want.events = EPOLLIN;
    want.data.u64 = 10;
    NEED(epoll_ctl(fd, EPOLL_CTL_ADD, pipe_ends[0], &want) == 0);
    want.events = EPOLLOUT;
    want.data.u64 = 11;
    NEED(epoll_ctl(fd, EPOLL_CTL_ADD, pipe_ends[1], &want) == 0);
    polls("poll an epoll", fd, ALL);
    show_events("epoll_wait one at a time", fd, 1, 0);
    show_events("epoll_wait takes turns", fd, 1, 0);
    int outer = epoll_create1(0);
    want.events = EPOLLIN;
    want.data.u64 = 20;
    CALL("epoll in epoll", SYS_epoll_ctl, outer, EPOLL_CTL_ADD, fd, &want);
    show_events("epoll in epoll is ready", outer, 8, 0);
    CALL("epoll in a circle", SYS_epoll_ctl, fd, EPOLL_CTL_ADD, outer, &want);
    int ends[2];
    NEED(pipe(ends) == 0);
    want.events = 0;
    want.data.u64 = 30;
    NEED(epoll_ctl(outer, EPOLL_CTL_ADD, ends[0], &want) == 0 && epoll_ctl(outer, EPOLL_CTL_DEL, fd, NULL) == 0);
    close(ends[1]);
    show_events("hanging up is told unasked", outer, 8, 0);
    close(ends[0]);
    show_events("closing removes", outer, 8, 0);
    NEED(pipe(ends) == 0);
    want.events = EPOLLIN;
    want.data.u64 = 31;
    NEED(epoll_ctl(outer, EPOLL_CTL_ADD, ends[0], &want) == 0 && write(ends[1], "x", 1) == 1);
    int twin = dup(ends[0]);
    close(ends[0]);
    show_events("a copy keeps it registered", outer, 8, 0);
    close(twin);
    show_events("the last copy removes it", outer, 8, 0);
    want.events = EPOLLIN | EPOLLEXCLUSIVE;
    NEED(pipe(ends) == 0);
    CALL("epoll_ctl exclusive", SYS_epoll_ctl, outer, EPOLL_CTL_ADD, ends[0], &want);
    CALL("epoll_ctl change exclusive", SYS_epoll_ctl, outer, EPOLL_CTL_MOD, ends[0], &want);
    want.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT;
    CALL("epoll_ctl exclusive one shot", SYS_epoll_ctl, outer, EPOLL_CTL_ADD, ends[1], &want);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    want.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    want.data.u64 = 40;
    NEED(epoll_ctl(outer, EPOLL_CTL_ADD, ends[0], &want) == 0);
    show_events("epoll of a socket", outer, 8, 0);
    NEED(write(ends[1], "x", 1) == 1);
    show_events("epoll of a socket with a byte", outer, 8, 0);
    NEED(shutdown(ends[1], SHUT_WR) == 0);
    show_events("epoll of a socket whose peer writes no more", outer, 8, 0);
    close(ends[1]);
    show_events("epoll of a socket without a peer", outer, 8, 0);
    char byte;
    CALL("read of an epoll", SYS_read, outer, &byte, 1);
    CALL("lseek of an epoll", SYS_lseek, outer, 0, SEEK_SET);
}

int main(void)
{
    own_folder("work");
    NEED(pipe(pipe_ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, socket_ends) == 0);
    event = eventfd(0, EFD_NONBLOCK);
    NEED(event >= 0);
    polling();
    selecting();
    epolling();
    line("end");
    return 0;
}
