/* getpid(2), getrlimit(2), prlimit(2), uname(2), sysinfo(2), sched_*(2), getpriority(2), prctl(2), arch_prctl(2), getrandom(2),
 * personality(2), capget(2), setsid(2), wait4(2), and what is not served: fork(2), execve(2).
 *
 * With arguments: "exit NUMBER", "thread-exit", "return". */
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>

extern char **environ;

static void identity(void)
{
    TRUE("getpid", getpid() > 0);
    TRUE("gettid of the first thread", RAW(SYS_gettid) == getpid());
    TRUE("getuid", getuid() == geteuid());
    TRUE("getgid", getgid() == getegid());
    uid_t ids[3];
    CALL("getresuid", SYS_getresuid, &ids[0], &ids[1], &ids[2]);
    TRUE("getresuid are one", ids[0] == ids[1] && ids[1] == ids[2]);
    CALL("getresgid", SYS_getresgid, &ids[0], &ids[1], &ids[2]);
    CALL("getresuid bad address", SYS_getresuid, BAD, &ids[1], &ids[2]);
    CALL("setuid to oneself", SYS_setuid, getuid());
    CALL("setgid to oneself", SYS_setgid, getgid());
    CALL("setresuid unchanged", SYS_setresuid, -1, -1, -1);
    CALL("setreuid unchanged", SYS_setreuid, -1, -1);
    TRUE("setfsuid tells", RAW(SYS_setfsuid, -1) == (long)getuid());
    CALL("getgroups negative", SYS_getgroups, -1, NULL);
    TRUE("getpgid of oneself", RAW(SYS_getpgid, 0) == RAW(SYS_getpgrp));
    CALL("getpgid nobody", SYS_getpgid, 0x3ffffff);
    CALL("getsid nobody", SYS_getsid, 0x3ffffff);
    CALL("setpgid nobody", SYS_setpgid, 0x3ffffff, 0);
    CALL("setpgid negative", SYS_setpgid, 0, -1);
    struct {
        uint32_t version;
        int pid;
    } head = { 0x20080522, 0 };
    uint32_t data[6];
    CALL("capget", SYS_capget, &head, data);
    head.version = 1;
    CALL("capget unknown version", SYS_capget, &head, NULL);
    line("capget tells its version: %x", head.version);
}

static void limits(void)
{
    struct rlimit limit, old;
    for (int resource = 0; resource < 16; resource++) {
        char name[32];
        snprintf(name, sizeof name, "prlimit64 %d", resource);
        CALL(name, SYS_prlimit64, 0, resource, NULL, &limit);
        TRUE((snprintf(name, sizeof name, "limit %d in order", resource), name), limit.rlim_cur <= limit.rlim_max);
    }
    CALL("prlimit64 unknown", SYS_prlimit64, 0, 16, NULL, &limit);
    CALL("prlimit64 nobody", SYS_prlimit64, 0x3ffffff, RLIMIT_NOFILE, NULL, &limit);
    CALL("prlimit64 bad address", SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, BAD);
    CALL("prlimit64 bad new", SYS_prlimit64, 0, RLIMIT_NOFILE, BAD, NULL);
    NEED(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    struct rlimit fewer = { 64, limit.rlim_max }, wrong = { 65, 64 };
    CALL("setrlimit soft above hard", SYS_setrlimit, RLIMIT_NOFILE, &wrong);
    CALL("prlimit64 sets and tells", SYS_prlimit64, 0, RLIMIT_NOFILE, &fewer, &old);
    TRUE("it told the old", old.rlim_cur == limit.rlim_cur);
    int fd, highest = 0;
    while ((fd = dup(1)) >= 0)
        highest = fd;
    line("no more descriptors: %s, highest %d", errno_name(errno), highest);
    CALL("open beyond the limit", SYS_open, ".", O_RDONLY);
    CALL("dup2 at the limit", SYS_dup2, 1, 64);
    CALL("fcntl dup at the limit", SYS_fcntl, 1, F_DUPFD, 64);
    int ends[2];
    CALL("pipe beyond the limit", SYS_pipe, ends);
    close(63);
    CALL("pipe with room for one end", SYS_pipe, ends);
    for (fd = 3; fd < 64; fd++)
        close(fd);
    CALL("setrlimit back", SYS_setrlimit, RLIMIT_NOFILE, &limit);
    struct rlimit no_core = { 0, 0 };
    CALL("setrlimit core", SYS_setrlimit, RLIMIT_CORE, &no_core);
    CALL("getrlimit core", SYS_getrlimit, RLIMIT_CORE, &old);
    line("core limit: %ld", (long)old.rlim_cur);
}

static void machine(void)
{
    struct utsname name;
    struct sysinfo info;
    CALL("uname", SYS_uname, &name);
    line("system and machine: %s %s", name.sysname, name.machine);
    CALL("uname bad address", SYS_uname, BAD);
    CALL("sysinfo", SYS_sysinfo, &info);
    line("what sysinfo told: memory %d, free not more %d, processes %d, unit %d", info.totalram > 0, info.freeram <= info.totalram,
         info.procs > 0, info.mem_unit);
    CALL("sysinfo bad address", SYS_sysinfo, BAD);
    unsigned long cpus[16] = { 0 };
    TRUE("sched_getaffinity", RAW(SYS_sched_getaffinity, 0, sizeof cpus, cpus) >= 8);
    TRUE("there is a CPU", cpus[0] != 0);
    CALL("sched_getaffinity too small", SYS_sched_getaffinity, 0, 1, cpus);
    CALL("sched_getaffinity odd", SYS_sched_getaffinity, 0, 13, cpus);
    CALL("sched_getaffinity nobody", SYS_sched_getaffinity, 0x3ffffff, sizeof cpus, cpus);
    CALL("sched_setaffinity the same", SYS_sched_setaffinity, 0, sizeof cpus, cpus);
    memset(cpus, 0, sizeof cpus);
    CALL("sched_setaffinity none", SYS_sched_setaffinity, 0, sizeof cpus, cpus);
    CALL("sched_getscheduler", SYS_sched_getscheduler, 0);
    CALL("sched_getscheduler negative", SYS_sched_getscheduler, -1);
    CALL("sched_getscheduler nobody", SYS_sched_getscheduler, 0x3ffffff);
    struct sched_param param;
    CALL("sched_getparam", SYS_sched_getparam, 0, &param);
    line("priority: %d", param.sched_priority);
    param.sched_priority = 5;
    CALL("sched_setscheduler priority of another policy", SYS_sched_setscheduler, 0, SCHED_OTHER, &param);
    param.sched_priority = 0;
    CALL("sched_setscheduler the same", SYS_sched_setscheduler, 0, SCHED_OTHER, &param);
    CALL("sched_setscheduler unknown", SYS_sched_setscheduler, 0, 99, &param);
    CALL("sched_get_priority_max", SYS_sched_get_priority_max, SCHED_FIFO);
    CALL("sched_get_priority_min", SYS_sched_get_priority_min, SCHED_FIFO);
    CALL("sched_get_priority_max other", SYS_sched_get_priority_max, SCHED_OTHER);
    CALL("sched_get_priority_max unknown", SYS_sched_get_priority_max, 99);
    CALL("sched_yield", SYS_sched_yield);
    struct timespec slice = { 9, 9 };
    CALL("sched_rr_get_interval", SYS_sched_rr_get_interval, 0, &slice);
    TRUE("a slice is short", slice.tv_sec == 0 && slice.tv_nsec < 1000000000);
    CALL("sched_rr_get_interval nobody", SYS_sched_rr_get_interval, 0x3ffffff, &slice);
    CALL("sched_rr_get_interval negative", SYS_sched_rr_get_interval, -1, &slice);
    CALL("sched_rr_get_interval bad address", SYS_sched_rr_get_interval, 0, BAD);
    CALL("getpriority", SYS_getpriority, PRIO_PROCESS, 0);
    CALL("getpriority unknown", SYS_getpriority, 9, 0);
    CALL("getpriority nobody", SYS_getpriority, PRIO_PROCESS, 0x3ffffff);
    CALL("setpriority", SYS_setpriority, PRIO_PROCESS, 0, 5);
    CALL("getpriority tells twenty less it", SYS_getpriority, PRIO_PROCESS, 0);
    unsigned cpu = 99;
    CALL("getcpu", SYS_getcpu, &cpu, NULL, NULL);
    CALL("getcpu bad address", SYS_getcpu, BAD, NULL, NULL);
    CALL("personality asks", SYS_personality, 0xffffffff);
    CALL("umask", SYS_umask, 022);
    CALL("sync", SYS_sync);
    CALL("syslog unknown", SYS_syslog, 99, NULL, 0);
}

static void controls(void)
{
    char name[16] = "";
    int value = -1;
    CALL("prctl set name", SYS_prctl, PR_SET_NAME, "a name that is too long");
    CALL("prctl get name", SYS_prctl, PR_GET_NAME, name);
    line("name: %s", name);
    CALL("prctl name bad address", SYS_prctl, PR_SET_NAME, BAD);
    CALL("prctl get dumpable", SYS_prctl, PR_GET_DUMPABLE);
    CALL("prctl set dumpable unknown", SYS_prctl, PR_SET_DUMPABLE, 9);
    CALL("prctl get death signal", SYS_prctl, PR_GET_PDEATHSIG, &value);
    line("death signal: %d", value);
    CALL("prctl set death signal unknown", SYS_prctl, PR_SET_PDEATHSIG, 999);
    CALL("prctl set keep capabilities", SYS_prctl, PR_SET_KEEPCAPS, 0);
    CALL("prctl get no new privileges", SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    CALL("prctl set no new privileges wrong", SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0);
    CALL("prctl unknown", SYS_prctl, 0x7fffffff);
    CALL("prctl timer slack", SYS_prctl, PR_SET_TIMERSLACK, 50000);
    CALL("prctl get timer slack", SYS_prctl, PR_GET_TIMERSLACK);
    unsigned long base = 0;
    CALL("arch_prctl get fs", SYS_arch_prctl, 0x1003, &base);
    TRUE("fs is the thread's", base == (unsigned long)pthread_self());
    CALL("arch_prctl set gs", SYS_arch_prctl, 0x1001, 0x1234000);
    CALL("arch_prctl get gs", SYS_arch_prctl, 0x1004, &base);
    line("gs: %lx", base);
    CALL("arch_prctl beyond the address space", SYS_arch_prctl, 0x1001, 1UL << 63);
    CALL("arch_prctl bad address", SYS_arch_prctl, 0x1003, BAD);
    CALL("arch_prctl unknown", SYS_arch_prctl, 0x9999, 0);
}

static void randomness(void)
{
    unsigned char bytes[256] = { 0 }, others[256] = { 0 };
    CALL("getrandom", SYS_getrandom, bytes, sizeof bytes, 0);
    CALL("getrandom nonblocking", SYS_getrandom, others, sizeof others, 1);
    TRUE("they differ", memcmp(bytes, others, sizeof bytes) != 0);
    int ones = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        ones += __builtin_popcount(bytes[i]);
    TRUE("about half of the bits are ones", ones > 850 && ones < 1200);
    CALL("getrandom nothing", SYS_getrandom, bytes, 0, 0);
    CALL("getrandom unknown flags", SYS_getrandom, bytes, 1, 64);
    CALL("getrandom two ways", SYS_getrandom, bytes, 1, 6);
    CALL("getrandom bad address", SYS_getrandom, BAD, 16, 0);
}

static void children(void)
{
    int status;
    CALL("wait4 without children", SYS_wait4, -1, &status, 0, NULL);
    CALL("wait4 unknown options", SYS_wait4, -1, &status, 0x10000, NULL);
    CALL("waitid without children", SYS_waitid, P_ALL, 0, NULL, WEXITED, NULL);
    CALL("waitid no options", SYS_waitid, P_ALL, 0, NULL, 0, NULL);
    CALL("execve missing", SYS_execve, "missing", NULL, NULL);
    CALL("unknown call", 9999);
    CALL("unknown call, negative", -1);
    TRUE("there are arguments", environ != NULL);
}

static void *outlive(void *unused)
{
    usleep(20000);
    line("the last thread ends: 5");
    return unused;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "exit") == 0) {
        line("exiting: %s", argv[2]);
        exit(atoi(argv[2]));
    }
    if (argc == 2 && strcmp(argv[1], "thread-exit") == 0) {
        pthread_t thread;
        NEED(pthread_create(&thread, NULL, outlive, NULL) == 0);
        line("the first thread ends: 4");
        RAW(SYS_exit, 4);
    }
    if (argc == 2 && strcmp(argv[1], "environment") == 0) {
        for (char **each = environ; *each; each++)
            line("environment %s: there", *each);
        return 0;
    }
    own_folder("work");
    identity();
    limits();
    machine();
    controls();
    randomness();
    children();
    line("end");
    return 0;
}
