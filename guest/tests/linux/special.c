/* /dev and /proc: null(4), zero(4), full(4), random(4), tty(4), fd(5), proc(5). */
#include "check.h"
#include <ctype.h>
#include <dirent.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>

static char bytes[65536];

/* The first bytes of a file. */
static long slurp(const char *path)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    long got = 0, n;
    while (got < (long)sizeof bytes - 1 && (n = read(fd, bytes + got, sizeof bytes - 1 - got)) > 0)
        got += n;
    bytes[got] = 0;
    close(fd);
    return got;
}

static void device(const char *path)
{
    struct stat st;
    if (stat(path, &st))
        line("stat %s: %s", path, errno_name(errno));
    else
        line("stat %s: type %o number %d:%d", path, st.st_mode & S_IFMT, major(st.st_rdev), minor(st.st_rdev));
}

static void devices(void)
{
    const char *all[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty" };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device(all[i]);
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR), full = open("/dev/full", O_RDWR);
    memset(bytes, 1, 16);
    CALL("read of null", SYS_read, null, bytes, 16);
    CALL("write to null", SYS_write, null, bytes, 1000);
    CALL("write from a bad address to null", SYS_write, null, BAD, 10);
    CALL("lseek of null", SYS_lseek, null, 100, SEEK_SET);
    CALL("pread of null", SYS_pread64, null, bytes, 16, 5);
    CALL("ftruncate of null", SYS_ftruncate, null, 0);
    CALL("fsync of null", SYS_fsync, null);
    OK("open null to create and cut it", SYS_open, "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CALL("open null exclusively", SYS_open, "/dev/null", O_WRONLY | O_CREAT | O_EXCL, 0644);
    CALL("open null as a folder", SYS_open, "/dev/null", O_RDONLY | O_DIRECTORY);
    CALL("read of zero", SYS_read, zero, bytes, 16);
    line("zero gave: %d %d", bytes[0], bytes[15]);
    CALL("write to zero", SYS_write, zero, bytes, 1000);
    CALL("read of zero to a bad address", SYS_read, zero, BAD, 16);
    char *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    TRUE("mmap of zero", mapped != MAP_FAILED);
    if (mapped != MAP_FAILED) {
        mapped[5000] = 3;
        line("mapped zero: %d %d", mapped[0], mapped[5000]);
    }
    CALL("read of full", SYS_read, full, bytes, 16);
    CALL("write to full", SYS_write, full, bytes, 1);
    int random = open("/dev/urandom", O_RDONLY);
    CALL("read of urandom", SYS_read, random, bytes, 300);
    int same = 1;
    for (int i = 1; i < 300; i++)
        same &= bytes[i] == bytes[0];
    TRUE("urandom gives different bytes", !same);
    CALL("read of random", SYS_read, open("/dev/random", O_RDONLY), bytes, 16);
    struct pollfd entry = { null, POLLIN | POLLOUT, 0 };
    CALL("poll null", SYS_poll, &entry, 1, 0);
    line("poll null gave: %x", entry.revents);
    CALL("ioctl window size of null", SYS_ioctl, null, TIOCGWINSZ, bytes);
    CALL("unknown device", SYS_open, "/dev/no-such-device", O_RDONLY);
    int ends[2];
    NEED(pipe(ends) == 0 && write(ends[1], "through", 7) == 7);
    char path[64];
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    int again = open(path, O_RDONLY);
    report_ok("open of a descriptor in /dev/fd", again);
    CALL("read through it", SYS_read, again, bytes, 16);
    CALL("open a bad descriptor in /dev/fd", SYS_open, "/dev/fd/77", O_RDONLY);
    TRUE("/dev/stdin is there", access("/dev/stdin", F_OK) == 0);
    TRUE("/dev/stdout is there", access("/dev/stdout", F_OK) == 0);
    TRUE("/dev/shm is there", access("/dev/shm", F_OK) == 0);
    int shared = shm_open("/unifork-check", O_RDWR | O_CREAT | O_EXCL, 0600);
    report_ok("shm_open", shared);
    CALL("ftruncate of shared memory", SYS_ftruncate, shared, 100);
    EXPR("shm_unlink", shm_unlink("/unifork-check"));
}

/* A number behind a name and a colon, as in /proc/self/status. */
static long field(const char *name)
{
    char *at = strstr(bytes, name);
    return at ? strtol(at + strlen(name), NULL, 0) : -1;
}

static void self(void)
{
    long n = slurp("/proc/self/maps");
    TRUE("maps is there", n > 0);
    int lines = 0, shaped = 1, with_code = 0, with_stack = 0, ordered = 1;
    unsigned long last = 0, code = (unsigned long)self, stack = (unsigned long)&n;
    for (char *at = strtok(bytes, "\n"); at; at = strtok(NULL, "\n")) {
        unsigned long start, end, offset, inode;
        unsigned int major_, minor_;
        char how[5];
        lines++;
        if (sscanf(at, "%lx-%lx %4s %lx %x:%x %lu", &start, &end, how, &offset, &major_, &minor_, &inode) != 7) {
            shaped = 0;
            continue;
        }
        shaped &= strlen(how) == 4 && start < end && start % 4096 == 0;
        ordered &= start >= last;
        last = end;
        with_code |= start <= code && code < end && how[0] == 'r' && how[2] == 'x';
        with_stack |= start <= stack && stack < end && how[1] == 'w' && strstr(at, "[stack]");
    }
    line("maps: shaped %d ordered %d code %d stack %d several %d", shaped, ordered, with_code, with_stack, lines > 3);
    n = readlink("/proc/self/exe", bytes, sizeof bytes - 1);
    TRUE("exe is a link to an absolute path", n > 0 && bytes[0] == '/');
    int exe = open("/proc/self/exe", O_RDONLY);
    TRUE("exe is this program", exe >= 0 && read(exe, bytes, 4) == 4 && memcmp(bytes, "\177ELF", 4) == 0);
    n = slurp("/proc/self/cmdline");
    TRUE("cmdline ends with a zero", n > 1 && bytes[n - 1] == 0);
    line("cmdline: %s", n > 1 ? strchr(bytes, 0) + 1 : "-");
    n = slurp("/proc/self/environ");
    TRUE("environ is there", n >= 0);
    n = slurp("/proc/self/comm");
    TRUE("comm ends with a newline", n > 1 && bytes[n - 1] == '\n');
    n = slurp("/proc/self/stat");
    TRUE("stat begins with the process", n > 0 && strtol(bytes, NULL, 10) == getpid());
    char *close_ = n > 0 ? strrchr(bytes, ')') : NULL;
    int fields = 2;
    for (char *at = close_; at && *at; at++)
        fields += *at == ' ';
    line("fields of stat: state %c, %d fields", close_ ? close_[2] : '-', fields);
    n = slurp("/proc/self/statm");
    int numbers = 0;
    for (char *at = strtok(bytes, " \n"); at; at = strtok(NULL, " \n"))
        numbers += isdigit(at[0]) != 0;
    line("statm: %d numbers", n > 0 ? numbers : -1);
    n = slurp("/proc/self/status");
    line("status: process %d, threads %ld", field("\nPid:") == getpid(), field("\nThreads:"));
    TRUE("status knows memory", field("\nVmSize:") > 0 && field("\nVmRSS:") > 0);
    TRUE("self is the process", readlink("/proc/self", bytes, 64) > 0 && strtol(bytes, NULL, 10) == getpid());
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/exe", getpid());
    TRUE("the process by number", readlink(path, bytes, 64) > 0);
    CALL("a process that is not", SYS_open, "/proc/67108863/exe", O_RDONLY);
    n = readlink("/proc/self/cwd", bytes, sizeof bytes - 1);
    bytes[n > 0 ? n : 0] = 0;
    char here[4096];
    TRUE("cwd is the working folder", n > 0 && getcwd(here, sizeof here) && strcmp(here, bytes) == 0);
    n = readlink("/proc/self/root", bytes, sizeof bytes - 1);
    line("root: %.*s", (int)(n > 0 ? n : 0), bytes);
}

static void descriptors(void)
{
    make_file("named", "content");
    int fd = open("named", O_RDONLY), ends[2];
    NEED(pipe(ends) == 0);
    char path[64], here[4096];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    long n = readlink(path, bytes, sizeof bytes - 1);
    bytes[n > 0 ? n : 0] = 0;
    NEED(getcwd(here, sizeof here));
    strcat(here, "/named");
    TRUE("fd of a file is a link to it", n > 0 && strcmp(here, bytes) == 0);
    int again = open(path, O_RDONLY);
    CALL("fd of a file, opened again", SYS_read, again, bytes, 16);
    CALL("its position is its own", SYS_lseek, fd, 0, SEEK_CUR);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
    n = readlink(path, bytes, sizeof bytes - 1);
    TRUE("fd of a pipe says so", n > 0 && strncmp(bytes, "pipe:[", 6) == 0);
    CALL("fd that is not", SYS_open, "/proc/self/fd/77", O_RDONLY);
    CALL("fd readlink that is not", SYS_readlink, "/proc/self/fd/77", bytes, 64);
    int met = 0, entries = 0;
    DIR *walked = opendir("/proc/self/fd");
    for (struct dirent *entry; walked && entries < 1000 && (entry = readdir(walked)); entries++) {
        struct stat status;
        met += fstatat(dirfd(walked), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && atoi(entry->d_name) == fd;
    }
    closedir(walked);
    line("a walk through the descriptors: ends %d, met %d", entries < 1000, met);
    walked = opendir("/proc/self");
    for (met = entries = 0; walked && entries < 1000; entries++) {
        struct dirent *entry = readdir(walked);
        if (!entry)
            break;
        met += strcmp(entry->d_name, "cwd") == 0 && readlink("/proc/self/cwd", bytes, sizeof bytes) > 0;
    }
    closedir(walked);
    line("a walk through the process: ends %d, met %d", entries < 1000, met);
    DIR *all = opendir("/proc/self/fd");
    int found = 0;
    for (struct dirent *entry; all && (entry = readdir(all));)
        found |= atoi(entry->d_name) == fd && isdigit(entry->d_name[0]);
    TRUE("fd lists descriptors", found);
    NEED(unlink("named") == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    n = readlink(path, bytes, sizeof bytes - 1);
    bytes[n > 0 ? n : 0] = 0;
    TRUE("fd of a file without a name says so", n > 10 && strcmp(bytes + n - 10, " (deleted)") == 0);
    OK("and can still be opened", SYS_open, path, O_RDONLY);
}

static void whole(void)
{
    TRUE("cpuinfo names processors", slurp("/proc/cpuinfo") > 0 && field("processor\t:") == 0);
    TRUE("cpuinfo has flags", strstr(bytes, "\nflags\t\t:") != NULL);
    slurp("/proc/meminfo");
    TRUE("meminfo total", field("MemTotal:") > 0);
    TRUE("meminfo free", field("MemFree:") > 0 && field("MemFree:") <= field("MemTotal:"));
    TRUE("meminfo available", field("MemAvailable:") > 0);
    double up = -1, idle = -1;
    TRUE("uptime", slurp("/proc/uptime") > 0 && sscanf(bytes, "%lf %lf", &up, &idle) == 2 && up >= 0);
    double loads[3];
    TRUE("loadavg", slurp("/proc/loadavg") > 0 && sscanf(bytes, "%lf %lf %lf", loads, loads + 1, loads + 2) == 3);
    TRUE("version", slurp("/proc/version") > 0 && strncmp(bytes, "Linux version ", 14) == 0);
    TRUE("stat of the machine", slurp("/proc/stat") > 0 && strncmp(bytes, "cpu ", 4) == 0);
    TRUE("filesystems", slurp("/proc/filesystems") > 0 && strstr(bytes, "proc") != NULL);
    TRUE("mounts", slurp("/proc/mounts") > 0 && strstr(bytes, " / ") != NULL);
    TRUE("somaxconn", slurp("/proc/sys/net/core/somaxconn") > 0 && atoi(bytes) > 0);
    TRUE("overcommit", slurp("/proc/sys/vm/overcommit_memory") > 0 && isdigit(bytes[0]));
    TRUE("pid_max", slurp("/proc/sys/kernel/pid_max") > 0 && atoi(bytes) > 0);
    TRUE("osrelease", slurp("/proc/sys/kernel/osrelease") > 0 && isdigit(bytes[0]));
    CALL("write to /proc", SYS_open, "/proc/cpuinfo", O_RDONLY | O_CREAT | O_EXCL, 0644);
    CALL("create in /proc", SYS_open, "/proc/new-file", O_RDWR | O_CREAT, 0644);
    CALL("mkdir in /proc", SYS_mkdir, "/proc/new-folder", 0755);
    CALL("unlink in /proc", SYS_unlink, "/proc/uptime");
    CALL("missing in /proc", SYS_open, "/proc/no-such-file", O_RDONLY);
    struct stat st;
    NEED(stat("/proc", &st) == 0);
    line("/proc is: %o", st.st_mode);
    if (stat("/proc/uptime", &st) == 0)
        line("a file in /proc: %o size %ld", st.st_mode, (long)st.st_size);
    int fd = open("/proc/uptime", O_RDONLY);
    CALL("pread of /proc", SYS_pread64, fd, bytes, 1, 1000);
    CALL("lseek of /proc", SYS_lseek, fd, 0, SEEK_SET);
    CALL("read behind it", SYS_read, fd, bytes, 0);
    CALL("mmap of /proc", SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
}

int main(void)
{
    own_folder("work");
    devices();
    self();
    descriptors();
    whole();
    line("end");
    return 0;
}
