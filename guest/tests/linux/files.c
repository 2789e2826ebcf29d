/* open(2), read(2), write(2), pread(2), readv(2), lseek(2), truncate(2), fallocate(2), stat(2), statx(2), link(2),
 * symlink(2), readlink(2), unlink(2), access(2), chmod(2), utimensat(2), sendfile(2), copy_file_range(2). */
#include "check.h"
#include <sys/sendfile.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <time.h>

/* struct statx(2), which musl 1.2.3 does not have. */
struct extended {
    uint32_t mask, blksize;
    uint64_t attributes;
    uint32_t links, uid, gid;
    uint16_t mode, pad;
    uint64_t inode, size, blocks, attributes_mask, times[8];
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
    uint64_t more[14];
};
#define ALL_BASIC 0x7ff
#define ONLY_SIZE 0x200

static char long_name[300], long_path[5000];

static void opening(void)
{
    CALL("open missing", SYS_open, "missing", O_RDONLY, 0);
    CALL("open bad address", SYS_open, BAD, O_RDONLY, 0);
    CALL("open empty path", SYS_open, "", O_RDONLY, 0);
    CALL("open name too long", SYS_open, long_name, O_RDONLY, 0);
    CALL("open path too long", SYS_open, long_path, O_RDONLY, 0);
    OK("open create", SYS_open, "file", O_RDWR | O_CREAT | O_EXCL, 0644);
    CALL("open create exclusively what exists", SYS_open, "file", O_RDWR | O_CREAT | O_EXCL, 0644);
    OK("open create what exists", SYS_open, "file", O_RDWR | O_CREAT, 0644);
    CALL("open through a file", SYS_open, "file/x", O_RDONLY, 0);
    CALL("open a file with a slash", SYS_open, "file/", O_RDONLY, 0);
    CALL("open create with a slash", SYS_open, "new/", O_RDWR | O_CREAT, 0644);
    CALL("open create in a missing folder", SYS_open, "nowhere/x", O_RDWR | O_CREAT, 0644);
    CALL("open a file as a folder", SYS_open, "file", O_RDONLY | O_DIRECTORY, 0);
    CALL("open a folder for writing", SYS_open, ".", O_RDWR, 0);
    CALL("open a folder to create it", SYS_open, ".", O_RDONLY | O_CREAT, 0644);
    OK("open a folder", SYS_open, ".", O_RDONLY, 0);
    OK("open a folder as one", SYS_open, ".", O_RDONLY | O_DIRECTORY, 0);
    CALL("open create a folder", SYS_open, "new", O_RDWR | O_CREAT | O_DIRECTORY, 0644);
    OK("creat", SYS_creat, "created", 0600);
    CALL("openat bad descriptor", SYS_openat, 77, "file", O_RDONLY, 0);
    OK("openat absolute ignores descriptor", SYS_openat, 77, "/", O_RDONLY, 0);
    int fd = open("file", O_RDONLY);
    CALL("openat relative to a file", SYS_openat, fd, "x", O_RDONLY, 0);
    int folder = open(".", O_RDONLY | O_DIRECTORY);
    OK("openat relative to a folder", SYS_openat, folder, "file", O_RDONLY, 0);
    OK("openat working folder", SYS_openat, AT_FDCWD, "file", O_RDONLY, 0);
    int path = open("file", O_PATH);
    report_ok("open for its path", path);
    char byte;
    CALL("read of a path", SYS_read, path, &byte, 1);
    CALL("write of a path", SYS_write, path, &byte, 1);
    CALL("lseek of a path", SYS_lseek, path, 0, SEEK_SET);
    struct stat st;
    CALL("fstat of a path", SYS_fstat, path, &st);
    line("fcntl of a path: %o", fcntl(path, F_GETFL) & (O_PATH | O_ACCMODE));
    fd = open("new mode", O_RDWR | O_CREAT, 07777);
    NEED(fd >= 0 && fstat(fd, &st) == 0);
    line("umask is taken from the mode: %o", st.st_mode);
    fd = open("read only mode", O_RDWR | O_CREAT, 0400);
    line("a new file may be written whatever its mode: %ld", (long)write(fd, "x", 1));
    NEED((fd = open("file", O_RDWR | O_TRUNC)) >= 0 && write(fd, "0123456789", 10) == 10);
    NEED((fd = open("file", O_RDONLY | O_APPEND)) >= 0);
    line("flags of append: %o", fcntl(fd, F_GETFL) & (O_APPEND | O_ACCMODE | O_NONBLOCK));
    NEED((fd = open("file", O_RDWR | O_TRUNC)) >= 0 && fstat(fd, &st) == 0);
    line("open truncates: %ld", (long)st.st_size);
    OK("open temporary file", SYS_open, ".", O_TMPFILE | O_RDWR, 0600);
    CALL("open temporary file for reading", SYS_open, ".", O_TMPFILE | O_RDONLY, 0600);
    CALL("open access mode 3 reads not", SYS_read, open("file", 3), &byte, 1);
    CALL("openat2 bad size", SYS_openat2, AT_FDCWD, "file", &st, 1);
}

static void reading_and_writing(void)
{
    make_file("digits", "0123456789");
    char bytes[64] = "";
    int fd = open("digits", O_RDWR), reader = open("digits", O_RDONLY), writer = open("digits", O_WRONLY);
    NEED(fd >= 0 && reader >= 0 && writer >= 0);
    CALL("read", SYS_read, fd, bytes, 4);
    line("read gave: %.4s", bytes);
    CALL("read to the end", SYS_read, fd, bytes, 64);
    CALL("read at the end", SYS_read, fd, bytes, 64);
    CALL("read nothing", SYS_read, fd, bytes, 0);
    CALL("read nothing to a bad address at the end", SYS_read, fd, BAD, 0);
    CALL("read bad descriptor", SYS_read, 77, bytes, 1);
    CALL("read negative descriptor", SYS_read, -1, bytes, 1);
    CALL("read of what is open for writing", SYS_read, writer, bytes, 1);
    CALL("write of what is open for reading", SYS_write, reader, bytes, 1);
    CALL("write nothing", SYS_write, fd, bytes, 0);
    CALL("write bad descriptor", SYS_write, 77, bytes, 1);
    CALL("read of a folder", SYS_read, open(".", O_RDONLY), bytes, 1);
    lseek(fd, 0, SEEK_SET);
    CALL("read to a bad address", SYS_read, fd, BAD, 4);
    CALL("write from a bad address", SYS_write, fd, BAD, 4);
    CALL("position behind failed calls", SYS_lseek, fd, 0, SEEK_CUR);
    CALL("pread", SYS_pread64, fd, bytes, 3, 5);
    line("pread gave: %.3s", bytes);
    CALL("pread leaves the position", SYS_lseek, fd, 0, SEEK_CUR);
    CALL("pread at the end", SYS_pread64, fd, bytes, 3, 10);
    CALL("pread far behind the end", SYS_pread64, fd, bytes, 3, 1L << 40);
    CALL("pread negative", SYS_pread64, fd, bytes, 3, -1);
    CALL("pread negative, of nothing", SYS_pread64, 77, bytes, 3, -1);
    CALL("pwrite negative, to nothing", SYS_pwrite64, 77, bytes, 3, -1);
    CALL("preadv negative, of nothing", SYS_preadv, 77, BAD, 3, -1, -1);
    CALL("pread of nothing", SYS_pread64, 77, bytes, 3, 0);
    CALL("pwrite", SYS_pwrite64, fd, "AB", 2, 12);
    CALL("pwrite negative", SYS_pwrite64, fd, "AB", 2, -1);
    CALL("pread over the hole", SYS_pread64, fd, bytes, 14, 0);
    line("hole is zero: %d %d %c%c", bytes[10], bytes[11], bytes[12], bytes[13]);
    int append = open("digits", O_WRONLY | O_APPEND);
    lseek(append, 0, SEEK_SET);
    CALL("write appends", SYS_write, append, "Z", 1);
    CALL("position behind an appended byte", SYS_lseek, append, 0, SEEK_CUR);
    CALL("pwrite appends, too", SYS_pwrite64, append, "Y", 1, 0);
    struct stat st;
    NEED(fstat(fd, &st) == 0);
    line("size after appending: %ld", (long)st.st_size);
    struct iovec parts[3] = { { bytes, 2 }, { bytes + 10, 0 }, { bytes + 20, 3 } };
    lseek(fd, 0, SEEK_SET);
    CALL("readv", SYS_readv, fd, parts, 3);
    line("readv gave: %.2s %.3s", bytes, bytes + 20);
    CALL("readv no parts", SYS_readv, fd, parts, 0);
    CALL("readv too many parts", SYS_readv, fd, parts, 1025);
    CALL("readv negative count", SYS_readv, fd, parts, -1);
    CALL("readv bad vector", SYS_readv, fd, BAD, 1);
    struct iovec bad[2] = { { bytes, 2 }, { BAD, 2 } };
    CALL("readv second part bad", SYS_readv, fd, bad, 2);
    struct iovec huge[2] = { { bytes, 2 }, { bytes, (size_t)-1 } };
    CALL("readv negative part", SYS_readv, fd, huge, 2);
    CALL("writev", SYS_writev, fd, parts, 3);
    CALL("writev second part bad", SYS_writev, fd, bad, 2);
    CALL("preadv", SYS_preadv, fd, parts, 3, 1, 0);
    line("preadv gave: %.2s %.3s", bytes, bytes + 20);
    CALL("pwritev", SYS_pwritev, fd, parts, 3, 30, 0);
    CALL("preadv negative", SYS_preadv, fd, parts, 3, -1, -1);
    CALL("preadv2 at the position", SYS_preadv2, fd, parts, 3, -1, -1, 0);
    CALL("preadv2 unknown flags", SYS_preadv2, fd, parts, 3, 0, 0, 0x40000000);
    CALL("fsync", SYS_fsync, fd);
    CALL("fdatasync", SYS_fdatasync, fd);
    CALL("fsync bad descriptor", SYS_fsync, 77);
    CALL("syncfs", SYS_syncfs, fd);
    CALL("sync_file_range", SYS_sync_file_range, fd, 0, 0, 7);
    CALL("fadvise", SYS_fadvise64, fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    CALL("fadvise unknown", SYS_fadvise64, fd, 0, 0, 99);
    CALL("fadvise bad descriptor", SYS_fadvise64, 77, 0, 0, 0);
    CALL("readahead", SYS_readahead, fd, 0, 100);
    CALL("close", SYS_close, fd);
    CALL("close again", SYS_close, fd);
    CALL("close negative", SYS_close, -1);
}

static void seeking(void)
{
    make_file("seek", "0123456789");
    int fd = open("seek", O_RDWR);
    CALL("lseek set", SYS_lseek, fd, 4, SEEK_SET);
    CALL("lseek current", SYS_lseek, fd, 2, SEEK_CUR);
    CALL("lseek end", SYS_lseek, fd, -3, SEEK_END);
    CALL("lseek behind the end", SYS_lseek, fd, 100, SEEK_END);
    CALL("lseek before the start", SYS_lseek, fd, -1, SEEK_SET);
    CALL("lseek current before the start", SYS_lseek, fd, -1000, SEEK_CUR);
    CALL("lseek unknown", SYS_lseek, fd, 0, 99);
    CALL("lseek overflow", SYS_lseek, fd, 0x7fffffffffffffffL, SEEK_CUR);
    CALL("lseek is as it was", SYS_lseek, fd, 0, SEEK_CUR);
    CALL("lseek bad descriptor", SYS_lseek, 77, 0, SEEK_SET);
    CALL("lseek data", SYS_lseek, fd, 0, SEEK_DATA);
    CALL("lseek hole is the end", SYS_lseek, fd, 0, SEEK_HOLE);
    CALL("lseek data behind the end", SYS_lseek, fd, 10, SEEK_DATA);
    CALL("lseek hole behind the end", SYS_lseek, fd, 11, SEEK_HOLE);
    NEED(ftruncate(fd, 1 << 20) == 0 && pwrite(fd, "x", 1, 512 << 10) == 1);
    CALL("lseek data over a hole", SYS_lseek, fd, 8192, SEEK_DATA);
    CALL("lseek hole behind data", SYS_lseek, fd, 512 << 10, SEEK_HOLE);
    int ends[2];
    NEED(pipe(ends) == 0);
    CALL("lseek of a pipe", SYS_lseek, ends[0], 0, SEEK_SET);
    CALL("pread of a pipe", SYS_pread64, ends[0], &fd, 1, 0);
    CALL("pwrite of a pipe", SYS_pwrite64, ends[1], &fd, 1, 0);
}

static void sizes(void)
{
    make_file("size", "0123456789");
    int fd = open("size", O_RDWR), reader = open("size", O_RDONLY);
    struct stat st;
    CALL("ftruncate shorter", SYS_ftruncate, fd, 5);
    CALL("ftruncate longer", SYS_ftruncate, fd, 20);
    char bytes[20];
    NEED(pread(fd, bytes, 20, 0) == 20);
    line("what was cut off is zero: %c %d %d", bytes[4], bytes[5], bytes[19]);
    CALL("ftruncate negative", SYS_ftruncate, fd, -1);
    CALL("ftruncate of what is open for reading", SYS_ftruncate, reader, 5);
    CALL("ftruncate bad descriptor", SYS_ftruncate, 77, 5);
    CALL("ftruncate of a folder", SYS_ftruncate, open(".", O_RDONLY), 5);
    CALL("truncate", SYS_truncate, "size", 3);
    CALL("truncate missing", SYS_truncate, "missing", 3);
    CALL("truncate of a folder", SYS_truncate, ".", 3);
    CALL("truncate negative", SYS_truncate, "size", -1);
    NEED(stat("size", &st) == 0);
    line("size after truncate: %ld", (long)st.st_size);
    CALL("fallocate", SYS_fallocate, fd, 0, 0, 4096);
    NEED(fstat(fd, &st) == 0);
    line("size after fallocate: %ld", (long)st.st_size);
    CALL("fallocate keeps size", SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, 4096, 4096);
    NEED(fstat(fd, &st) == 0);
    line("size after fallocate that keeps it: %ld", (long)st.st_size);
    CALL("fallocate no bytes", SYS_fallocate, fd, 0, 0, 0);
    CALL("fallocate negative", SYS_fallocate, fd, 0, -1, 5);
    CALL("fallocate of what is open for reading", SYS_fallocate, reader, 0, 0, 5);
    CALL("fallocate punch a hole", SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2);
    CALL("fallocate punch without keeping size", SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE, 0, 2);
    NEED(pread(fd, bytes, 3, 0) == 3);
    line("punched: %d %d %c", bytes[0], bytes[1], bytes[2]);
    int ends[2];
    NEED(pipe(ends) == 0);
    CALL("fallocate of a pipe", SYS_fallocate, ends[1], 0, 0, 5);
    CALL("ftruncate of a pipe", SYS_ftruncate, ends[1], 5);
}

static void show(const char *name, const struct stat *st)
{
    line("%s: mode %o links %ld size %ld", name, st->st_mode, (long)st->st_nlink,
         S_ISDIR(st->st_mode) ? 0L : (long)st->st_size);
}

static void status(void)
{
    make_file("stat", "0123456789");
    struct stat st, other;
    CALL("stat", SYS_stat, "stat", &st);
    NEED(stat("stat", &st) == 0);
    line("stat of a file: mode %o links %ld size %ld blksize %ld", st.st_mode, (long)st.st_nlink, (long)st.st_size,
         (long)st.st_blksize);
    TRUE("stat is mine", st.st_uid == geteuid() && st.st_gid == getegid());
    CALL("stat missing", SYS_stat, "missing", &st);
    CALL("stat bad path", SYS_stat, BAD, &st);
    CALL("stat bad buffer", SYS_stat, "stat", BAD);
    CALL("stat empty path", SYS_stat, "", &st);
    CALL("stat through a file", SYS_stat, "stat/x", &st);
    CALL("stat through dots of a file", SYS_stat, "stat/..", &st);
    CALL("stat through dots of a missing folder", SYS_stat, "missing/..", &st);
    CALL("stat name too long", SYS_stat, long_name, &st);
    CALL("fstat bad descriptor", SYS_fstat, 77, &st);
    CALL("symlink to a file", SYS_symlink, "stat", "link");
    NEED(lstat("link", &st) == 0);
    line("lstat of a link: type %o size %ld", st.st_mode & S_IFMT, (long)st.st_size);
    NEED(stat("link", &st) == 0 && stat("stat", &other) == 0);
    TRUE("stat of a link is of its target", st.st_ino == other.st_ino);
    int fd = open("stat", O_RDWR);
    NEED(fstat(fd, &st) == 0);
    TRUE("fstat is of the same file", st.st_ino == other.st_ino && st.st_dev == other.st_dev);
    CALL("newfstatat of a descriptor", SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH);
    CALL("newfstatat empty path", SYS_newfstatat, fd, "", &st, 0);
    CALL("newfstatat unknown flags", SYS_newfstatat, AT_FDCWD, "stat", &st, 0x40000);
    CALL("newfstatat bad descriptor", SYS_newfstatat, 77, "stat", &st, 0);
    CALL("newfstatat relative to a file", SYS_newfstatat, fd, "stat", &st, 0);
    CALL("newfstatat nofollow", SYS_newfstatat, AT_FDCWD, "link", &st, AT_SYMLINK_NOFOLLOW);
    line("newfstatat nofollow type: %o", st.st_mode & S_IFMT);
    struct extended sx;
    memset(&sx, 0, sizeof sx);
    CALL("statx of a file", SYS_statx, AT_FDCWD, "stat", 0, ALL_BASIC, &sx);
    line("statx: mode %o links %d size %ld mask has %x", sx.mode, sx.links, (long)sx.size,
         sx.mask & ALL_BASIC);
    TRUE("statx is the same file", sx.inode == other.st_ino && makedev(sx.dev_major, sx.dev_minor) == other.st_dev);
    CALL("statx missing", SYS_statx, AT_FDCWD, "missing", 0, ALL_BASIC, &sx);
    CALL("statx unknown flags", SYS_statx, AT_FDCWD, "stat", 0x80000, ALL_BASIC, &sx);
    CALL("statx reserved mask", SYS_statx, AT_FDCWD, "stat", 0, 0x80000000, &sx);
    CALL("statx bad buffer", SYS_statx, AT_FDCWD, "stat", 0, ALL_BASIC, BAD);
    CALL("statx of a descriptor", SYS_statx, fd, "", AT_EMPTY_PATH, ONLY_SIZE, &sx);
    CALL("statx two ways to sync", SYS_statx, fd, "", AT_EMPTY_PATH | 0x6000, ONLY_SIZE, &sx);
    struct statfs fs;
    CALL("statfs", SYS_statfs, ".", &fs);
    CALL("statfs missing", SYS_statfs, "missing", &fs);
    CALL("fstatfs of a file", SYS_fstatfs, fd, &fs);
    line("fstatfs: names up to %ld", (long)fs.f_namelen);
    CALL("fstatfs bad descriptor", SYS_fstatfs, 77, &fs);
    CALL("access exists", SYS_access, "stat", F_OK);
    CALL("access read and write", SYS_access, "stat", R_OK | W_OK);
    CALL("access execute without a bit", SYS_access, "stat", X_OK);
    CALL("access missing", SYS_access, "missing", F_OK);
    CALL("access unknown mode", SYS_access, "stat", 8);
    CALL("access a folder", SYS_access, ".", R_OK | W_OK | X_OK);
    CALL("faccessat", SYS_faccessat, AT_FDCWD, "stat", R_OK);
    CALL("faccessat2 nofollow", SYS_faccessat2, AT_FDCWD, "link", F_OK, AT_SYMLINK_NOFOLLOW);
    CALL("faccessat2 unknown flags", SYS_faccessat2, AT_FDCWD, "stat", R_OK, 0x4000000);
    CALL("chmod", SYS_chmod, "stat", 04751);
    NEED(stat("stat", &st) == 0);
    show("after chmod", &st);
    CALL("access execute with a bit", SYS_access, "stat", X_OK);
    CALL("fchmod", SYS_fchmod, fd, 0640);
    CALL("fchmod bad descriptor", SYS_fchmod, 77, 0640);
    CALL("fchmodat", SYS_fchmodat, AT_FDCWD, "stat", 0600);
    CALL("chmod missing", SYS_chmod, "missing", 0600);
    CALL("chmod higher bits are dropped", SYS_chmod, "stat", 0170600);
    NEED(fstat(fd, &st) == 0);
    show("after fchmod", &st);
    CALL("chown to oneself", SYS_chown, "stat", geteuid(), getegid());
    CALL("chown to nobody new", SYS_chown, "stat", -1, -1);
    CALL("fchown", SYS_fchown, fd, -1, -1);
    CALL("lchown", SYS_lchown, "link", -1, -1);
    CALL("fchownat empty path", SYS_fchownat, fd, "", -1, -1, AT_EMPTY_PATH);
    CALL("chown missing", SYS_chown, "missing", -1, -1);
}

static void links(void)
{
    make_file("one", "content");
    struct stat st;
    CALL("link", SYS_link, "one", "two");
    NEED(stat("two", &st) == 0);
    show("two links", &st);
    CALL("link onto what exists", SYS_link, "one", "two");
    CALL("link missing", SYS_link, "missing", "three");
    CALL("link a folder", SYS_link, ".", "three");
    CALL("link into a missing folder", SYS_link, "one", "nowhere/x");
    CALL("link bad address", SYS_link, BAD, "three");
    CALL("unlink", SYS_unlink, "one");
    CALL("unlink again", SYS_unlink, "one");
    NEED(stat("two", &st) == 0);
    show("one link left", &st);
    CALL("unlink a folder", SYS_unlink, "..");
    CALL("unlink with a slash", SYS_unlink, "two/");
    CALL("unlink bad address", SYS_unlink, BAD);
    CALL("unlink empty", SYS_unlink, "");
    CALL("unlinkat unknown flags", SYS_unlinkat, AT_FDCWD, "two", 1);
    int fd = open("two", O_RDWR);
    CALL("unlinkat", SYS_unlinkat, AT_FDCWD, "two", 0);
    NEED(fstat(fd, &st) == 0);
    show("open without a name", &st);
    char bytes[8] = "";
    CALL("read without a name", SYS_read, fd, bytes, 7);
    CALL("write without a name", SYS_write, fd, "more", 4);
    CALL("symlink", SYS_symlink, "nothing", "dangling");
    CALL("symlink onto what exists", SYS_symlink, "x", "dangling");
    CALL("symlink of nothing", SYS_symlink, "", "empty");
    CALL("symlink too long", SYS_symlink, long_path, "long");
    CALL("open dangling", SYS_open, "dangling", O_RDONLY, 0);
    CALL("open dangling exclusively", SYS_open, "dangling", O_RDWR | O_CREAT | O_EXCL, 0644);
    CALL("open dangling nofollow", SYS_open, "dangling", O_RDONLY | O_NOFOLLOW, 0);
    OK("open dangling creates its target", SYS_open, "dangling", O_RDWR | O_CREAT, 0644);
    CALL("the target is there", SYS_access, "nothing", F_OK);
    OK("open a link for its path", SYS_open, "dangling", O_PATH | O_NOFOLLOW, 0);
    NEED(symlink("loop b", "loop a") == 0 && symlink("loop a", "loop b") == 0);
    CALL("open a loop", SYS_open, "loop a", O_RDONLY, 0);
    CALL("stat a loop", SYS_stat, "loop a", &st);
    CALL("lstat a loop", SYS_lstat, "loop a", &st);
    char name[16], target[16];
    make_file("l0", "");
    for (int i = 1; i <= 41; i++) {
        snprintf(name, sizeof name, "l%d", i);
        snprintf(target, sizeof target, "l%d", i - 1);
        NEED(symlink(target, name) == 0);
    }
    CALL("forty links", SYS_stat, "l40", &st);
    CALL("forty-one links", SYS_stat, "l41", &st);
    CALL("readlink", SYS_readlink, "dangling", bytes, 8);
    line("readlink gave: %.7s", bytes);
    CALL("readlink short buffer", SYS_readlink, "dangling", bytes, 3);
    CALL("readlink no buffer", SYS_readlink, "dangling", bytes, 0);
    CALL("readlink of a file", SYS_readlink, "l0", bytes, 8);
    CALL("readlink missing", SYS_readlink, "missing", bytes, 8);
    CALL("readlink bad buffer", SYS_readlink, "dangling", BAD, 8);
    CALL("readlinkat of a descriptor of a link", SYS_readlinkat, open("l1", O_PATH | O_NOFOLLOW), "", bytes, 8);
    CALL("readlinkat empty path of a folder", SYS_readlinkat, AT_FDCWD, "", bytes, 8);
    CALL("linkat follows", SYS_linkat, AT_FDCWD, "l1", AT_FDCWD, "hard", AT_SYMLINK_FOLLOW);
    CALL("linkat does not follow", SYS_linkat, AT_FDCWD, "l1", AT_FDCWD, "soft", 0);
    NEED(lstat("hard", &st) == 0);
    line("linkat followed: type %o", st.st_mode & S_IFMT);
    NEED(lstat("soft", &st) == 0);
    line("linkat did not follow: type %o", st.st_mode & S_IFMT);
    CALL("linkat unknown flags", SYS_linkat, AT_FDCWD, "l0", AT_FDCWD, "y", 0x40000);
    NEED(mkdir("target", 0755) == 0 && symlink("target", "to folder") == 0);
    CALL("unlink a link to a folder", SYS_unlink, "to folder");
}

static void times(void)
{
    make_file("times", "x");
    struct timespec now[2] = { { 100, 7 }, { 200, 9 } };
    struct stat st;
    CALL("utimensat", SYS_utimensat, AT_FDCWD, "times", now, 0);
    NEED(stat("times", &st) == 0);
    line("utimensat set: %ld %ld", (long)st.st_atime, (long)st.st_mtime);
    now[0].tv_nsec = UTIME_OMIT;
    now[1].tv_sec = 300;
    CALL("utimensat omits", SYS_utimensat, AT_FDCWD, "times", now, 0);
    NEED(stat("times", &st) == 0);
    line("utimensat set one: %ld %ld", (long)st.st_atime, (long)st.st_mtime);
    now[1].tv_nsec = 1000000000;
    CALL("utimensat bad nanoseconds", SYS_utimensat, AT_FDCWD, "times", now, 0);
    CALL("utimensat missing", SYS_utimensat, AT_FDCWD, "missing", NULL, 0);
    CALL("utimensat now", SYS_utimensat, AT_FDCWD, "times", NULL, 0);
    CALL("utimensat unknown flags", SYS_utimensat, AT_FDCWD, "times", NULL, 8);
    NEED(stat("times", &st) == 0);
    TRUE("utimensat now is late", st.st_mtime > 1000000000);
    int fd = open("times", O_RDWR);
    struct timespec old[2] = { { 5, 0 }, { 6, 0 } };
    CALL("futimens", SYS_utimensat, fd, NULL, old, 0);
    NEED(write(fd, "y", 1) == 1 && fstat(fd, &st) == 0);
    TRUE("writing sets the time of change", st.st_mtime > 1000000000);
    line("writing leaves the time of access: %ld", (long)st.st_atime);
    struct timeval old_values[2] = { { 50, 0 }, { 60, 0 } };
    CALL("utimes", SYS_utimes, "times", old_values);
    NEED(stat("times", &st) == 0);
    line("utimes set: %ld %ld", (long)st.st_atime, (long)st.st_mtime);
}

static void copying(void)
{
    make_file("from", "0123456789");
    int from = open("from", O_RDWR), to = open("to", O_RDWR | O_CREAT, 0644), ends[2];
    NEED(pipe(ends) == 0);
    loff_t at = 2;
    CALL("sendfile to a file", SYS_sendfile, to, from, &at, 5);
    line("sendfile moved its offset: %ld", (long)at);
    CALL("sendfile leaves the position", SYS_lseek, from, 0, SEEK_CUR);
    CALL("sendfile to a pipe", SYS_sendfile, ends[1], from, NULL, 100);
    CALL("sendfile at the end", SYS_sendfile, ends[1], from, NULL, 100);
    CALL("sendfile from a pipe", SYS_sendfile, to, ends[0], NULL, 5);
    CALL("sendfile bad descriptor", SYS_sendfile, 77, from, NULL, 5);
    CALL("sendfile to what is open for reading", SYS_sendfile, open("from", O_RDONLY), from, NULL, 5);
    at = 0;
    loff_t to_at = 20;
    CALL("copy_file_range", SYS_copy_file_range, from, &at, to, &to_at, 4, 0);
    CALL("copy_file_range unknown flags", SYS_copy_file_range, from, &at, to, &to_at, 4, 1);
    CALL("copy_file_range of a pipe", SYS_copy_file_range, ends[0], NULL, to, &to_at, 4, 0);
    at = 0;
    to_at = 2;
    CALL("copy_file_range onto itself", SYS_copy_file_range, from, &at, from, &to_at, 4, 0);
    char bytes[32] = "";
    CALL("what was copied", SYS_pread64, to, bytes, 32, 0);
    line("copied: %.5s %d %.4s", bytes, bytes[10], bytes + 20);
    CALL("splice without a pipe", SYS_splice, from, NULL, to, NULL, 5, 0);
    CALL("tee of files", SYS_tee, from, to, 5, 0);
    CALL("flock", SYS_flock, from, 2);
    CALL("flock unlock", SYS_flock, from, 8);
    CALL("flock unknown", SYS_flock, from, 77);
    CALL("flock bad descriptor", SYS_flock, 77, 2);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10 };
    CALL("fcntl set a lock", SYS_fcntl, from, F_SETLK, &lock);
    CALL("fcntl get a lock", SYS_fcntl, from, F_GETLK, &lock);
    line("one's own lock is in nobody's way: %d", lock.l_type == F_UNLCK);
    lock.l_type = 55;
    CALL("fcntl unknown lock", SYS_fcntl, from, F_SETLK, &lock);
    CALL("getxattr of none", SYS_getxattr, "from", "user.none", bytes, 32);
}

int main(void)
{
    own_folder("work");
    memset(long_name, 'n', 256);
    memset(long_path, '/', sizeof long_path - 1);
    opening();
    reading_and_writing();
    seeking();
    sizes();
    status();
    links();
    times();
    copying();
    line("end");
    return 0;
}
