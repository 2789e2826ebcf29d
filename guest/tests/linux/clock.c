/* clock_gettime(2), gettimeofday(2), nanosleep(2), clock_nanosleep(2), timerfd_create(2), setitimer(2), timer_create(2),
 * alarm(2), times(2), getrusage(2). How long something takes is compared with what was asked for, not shown. */
#include "check.h"
#include <poll.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <time.h>

static int64_t now(clockid_t clock)
{
    struct timespec time;
    NEED(clock_gettime(clock, &time) == 0);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static volatile int alarms;

static void on_alarm(int signal)
{
    (void)signal;
    alarms++;
}

static void clocks(void)
{
    struct timespec time;
    struct timeval value;
    for (int clock = 0; clock <= 11; clock++) {
        char name[40];
        if (clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM)
            continue; /* needs a clock that can wake a machine up */
        snprintf(name, sizeof name, "clock_gettime %d", clock);
        CALL(name, SYS_clock_gettime, clock, &time);
        snprintf(name, sizeof name, "clock_getres %d", clock);
        CALL(name, SYS_clock_getres, clock, &time);
        if (clock <= 1 || clock == 4 || clock == 7)
            line("resolution %d: %ld %ld", clock, (long)time.tv_sec, (long)time.tv_nsec);
    }
    CALL("clock_gettime unknown", SYS_clock_gettime, 99, &time);
    CALL("clock_gettime negative", SYS_clock_gettime, -1, &time);
    CALL("clock_gettime bad address", SYS_clock_gettime, 0, BAD);
    CALL("clock_getres nowhere", SYS_clock_getres, 0, NULL);
    CALL("clock_getres unknown", SYS_clock_getres, 99, &time);
    CALL("clock_settime monotonic", SYS_clock_settime, CLOCK_MONOTONIC, &time);
    CALL("clock_settime unknown", SYS_clock_settime, 99, &time);
    CALL("gettimeofday", SYS_gettimeofday, &value, NULL);
    CALL("gettimeofday nowhere", SYS_gettimeofday, NULL, NULL);
    CALL("gettimeofday bad address", SYS_gettimeofday, BAD, NULL);
    CALL("time bad address", SYS_time, BAD);
    TRUE("time is that of the clock", labs(RAW(SYS_time, NULL) - now(CLOCK_REALTIME) / 1000000000) <= 1);
    int64_t before = now(CLOCK_MONOTONIC);
    int steady = 1;
    for (int i = 0; i < 100; i++) {
        int64_t after = now(CLOCK_MONOTONIC);
        steady &= after >= before;
        before = after;
    }
    TRUE("the clock never goes back", steady);
    TRUE("it is past 2020", now(CLOCK_REALTIME) / 1000000000 > 1577836800);
}

static void sleeping(void)
{
    struct timespec ten = { 0, 10000000 }, bad = { 0, 1000000000 }, negative = { -1, 0 }, none = { 0, 0 },
                    past = { 1, 0 }, rest = { 7, 7 };
    int64_t start = now(CLOCK_MONOTONIC);
    CALL("nanosleep", SYS_nanosleep, &ten, &rest);
    TRUE("nanosleep slept", now(CLOCK_MONOTONIC) - start >= 10000000);
    line("nanosleep leaves the rest alone: %ld", (long)rest.tv_sec);
    CALL("nanosleep nothing", SYS_nanosleep, &none, NULL);
    CALL("nanosleep bad nanoseconds", SYS_nanosleep, &bad, NULL);
    CALL("nanosleep negative", SYS_nanosleep, &negative, NULL);
    CALL("nanosleep bad address", SYS_nanosleep, BAD, NULL);
    CALL("clock_nanosleep", SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &ten, NULL);
    int64_t until = now(CLOCK_MONOTONIC) + 10000000;
    struct timespec absolute = { until / 1000000000, until % 1000000000 };
    CALL("clock_nanosleep until", SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &absolute, NULL);
    TRUE("clock_nanosleep slept until", now(CLOCK_MONOTONIC) >= until);
    CALL("clock_nanosleep until the past", SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &past, NULL);
    CALL("clock_nanosleep of its own time", SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &ten, NULL);
    CALL("clock_nanosleep unknown", SYS_clock_nanosleep, 99, 0, &ten, NULL);
    CALL("clock_nanosleep bad nanoseconds", SYS_clock_nanosleep, CLOCK_REALTIME, 0, &bad, NULL);
    signal(SIGALRM, on_alarm);
    struct itimerval soon = { { 0, 0 }, { 0, 200000 } };
    struct timespec hour = { 3600, 0 };
    CALL("setitimer", SYS_setitimer, ITIMER_REAL, &soon, NULL);
    CALL("nanosleep interrupted", SYS_nanosleep, &hour, &rest);
    line("an alarm came: %d, rest %d", alarms, rest.tv_sec > 3590 && rest.tv_sec < 3600);
    CALL("alarm", SYS_alarm, 100);
    CALL("alarm tells the last one", SYS_alarm, 0);
    CALL("alarm that is off", SYS_alarm, 0);
}

static void timers(void)
{
    uint64_t ticks = 0;
    struct itimerspec set = { { 0, 0 }, { 0, 200000000 } }, old;
    CALL("timerfd_create unknown clock", SYS_timerfd_create, 99, 0);
    CALL("timerfd_create own time", SYS_timerfd_create, CLOCK_THREAD_CPUTIME_ID, 0);
    CALL("timerfd_create unknown flags", SYS_timerfd_create, CLOCK_MONOTONIC, 64);
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    report_ok("timerfd_create", fd);
    CALL("timerfd read unarmed", SYS_read, fd, &ticks, 8);
    CALL("timerfd_gettime unarmed", SYS_timerfd_gettime, fd, &old);
    line("timerfd unarmed: %ld %ld", (long)old.it_value.tv_sec, (long)old.it_value.tv_nsec);
    CALL("timerfd_settime", SYS_timerfd_settime, fd, 0, &set, &old);
    CALL("timerfd read too early", SYS_read, fd, &ticks, 8);
    CALL("timerfd read short", SYS_read, fd, &ticks, 4);
    struct pollfd entry = { fd, POLLIN | POLLOUT, 0 };
    CALL("timerfd poll waits", SYS_poll, &entry, 1, 60000);
    line("timerfd poll gave: %x", entry.revents);
    CALL("timerfd read", SYS_read, fd, &ticks, 8);
    line("timerfd ticks: %lu", (unsigned long)ticks);
    CALL("timerfd read again", SYS_read, fd, &ticks, 8);
    CALL("timerfd write", SYS_write, fd, &ticks, 8);
    CALL("timerfd lseek", SYS_lseek, fd, 0, SEEK_SET);
    set.it_value.tv_nsec = set.it_interval.tv_nsec = 5000000;
    CALL("timerfd_settime repeats", SYS_timerfd_settime, fd, 0, &set, NULL);
    NEED(usleep(52000) == 0);
    CALL("timerfd read after a while", SYS_read, fd, &ticks, 8);
    TRUE("timerfd counted", ticks >= 9);
    CALL("timerfd_gettime", SYS_timerfd_gettime, fd, &old);
    line("timerfd interval: %ld, next within it %d", (long)old.it_interval.tv_nsec, old.it_value.tv_nsec <= 5000000);
    memset(&set, 0, sizeof set);
    CALL("timerfd_settime disarms", SYS_timerfd_settime, fd, 0, &set, &old);
    CALL("timerfd disarmed", SYS_poll, &entry, 1, 20);
    set.it_value.tv_sec = 1;
    CALL("timerfd_settime absolute in the past", SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &set, NULL);
    CALL("timerfd in the past is ready", SYS_read, fd, &ticks, 8);
    line("timerfd in the past ticked: %lu", (unsigned long)ticks);
    set.it_value.tv_nsec = 1000000000;
    CALL("timerfd_settime bad nanoseconds", SYS_timerfd_settime, fd, 0, &set, NULL);
    set.it_value.tv_nsec = 0;
    CALL("timerfd_settime unknown flags", SYS_timerfd_settime, fd, 64, &set, NULL);
    CALL("timerfd_settime bad address", SYS_timerfd_settime, fd, 0, BAD, NULL);
    CALL("timerfd_settime bad descriptor", SYS_timerfd_settime, 77, 0, &set, NULL);
    CALL("timerfd_settime not a timer", SYS_timerfd_settime, 1, 0, &set, NULL);
    int blocking = timerfd_create(CLOCK_REALTIME, 0);
    set = (struct itimerspec){ { 0, 0 }, { 0, 3000000 } };
    NEED(timerfd_settime(blocking, 0, &set, NULL) == 0);
    CALL("timerfd read waits", SYS_read, blocking, &ticks, 8);
}

static void intervals(void)
{
    struct itimerval value = { { 0, 5000 }, { 0, 5000 } }, old;
    alarms = 0;
    CALL("setitimer repeats", SYS_setitimer, ITIMER_REAL, &value, NULL);
    struct timespec hour = { 3600, 0 };
    for (int i = 0; i < 3; i++)
        nanosleep(&hour, NULL);
    TRUE("three alarms", alarms >= 3);
    CALL("getitimer", SYS_getitimer, ITIMER_REAL, &old);
    line("getitimer interval: %ld, next within it %d", (long)old.it_interval.tv_usec, old.it_value.tv_usec <= 5000);
    memset(&value, 0, sizeof value);
    CALL("setitimer stops", SYS_setitimer, ITIMER_REAL, &value, &old);
    CALL("getitimer unknown", SYS_getitimer, 9, &old);
    CALL("getitimer bad address", SYS_getitimer, ITIMER_REAL, BAD);
    CALL("setitimer unknown", SYS_setitimer, 9, &value, NULL);
    value.it_value.tv_usec = 1000000;
    CALL("setitimer bad microseconds", SYS_setitimer, ITIMER_REAL, &value, NULL);
    CALL("setitimer nothing", SYS_setitimer, ITIMER_REAL, NULL, NULL);
    int timer;
    struct sigevent how = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
    CALL("timer_create", SYS_timer_create, CLOCK_MONOTONIC, &how, &timer);
    CALL("timer_create unknown clock", SYS_timer_create, 99, &how, &timer);
    struct itimerspec set = { { 0, 0 }, { 0, 200000000 } };
    alarms = 0;
    CALL("timer_settime", SYS_timer_settime, timer, 0, &set, NULL);
    CALL("nanosleep until a timer", SYS_nanosleep, &hour, NULL);
    line("the timer came: %d", alarms);
    CALL("timer_gettime", SYS_timer_gettime, timer, &set);
    CALL("timer_getoverrun", SYS_timer_getoverrun, timer);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGALRM);
    NEED(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
    set.it_value.tv_nsec = set.it_interval.tv_nsec = 10000000;
    NEED(RAW(SYS_timer_settime, timer, 0, &set, NULL) == 0 && usleep(105000) == 0);
    siginfo_t info;
    CALL("a timer's signal is pending once", SYS_rt_sigtimedwait, &mask, &info, &hour, 8);
    line("it tells of the others: %d, code %d", info.si_overrun >= 9 && info.si_overrun < 1000, info.si_code);
    TRUE("timer_getoverrun counts them", RAW(SYS_timer_getoverrun, timer) >= 9);
    memset(&set, 0, sizeof set);
    NEED(RAW(SYS_timer_settime, timer, 0, &set, NULL) == 0 && sigprocmask(SIG_UNBLOCK, &mask, NULL) == 0);
    CALL("timer_delete", SYS_timer_delete, timer);
    CALL("timer_delete again", SYS_timer_delete, timer);
    how.sigev_notify = 99;
    CALL("timer_create unknown way", SYS_timer_create, CLOCK_MONOTONIC, &how, &timer);
}

static void usage(void)
{
    struct rusage used;
    struct tms ticks;
    CALL("getrusage", SYS_getrusage, RUSAGE_SELF, &used);
    CALL("getrusage thread", SYS_getrusage, 1, &used);
    CALL("getrusage children", SYS_getrusage, RUSAGE_CHILDREN, &used);
    line("children used: %ld %ld", (long)used.ru_utime.tv_sec, (long)used.ru_maxrss);
    CALL("getrusage unknown", SYS_getrusage, 99, &used);
    CALL("getrusage bad address", SYS_getrusage, RUSAGE_SELF, BAD);
    OK("times", SYS_times, &ticks);
    CALL("times bad address", SYS_times, BAD);
    OK("times nowhere", SYS_times, NULL);
}

int main(void)
{
    clocks();
    sleeping();
    timers();
    intervals();
    usage();
    line("end");
    return 0;
}
