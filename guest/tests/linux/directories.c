/* mkdir(2), rmdir(2), rename(2), renameat2(2), getdents64(2), chdir(2), getcwd(2), mknod(2), umask(2), and paths. */
#include "check.h"
#include <dirent.h>
#include <sys/sysmacros.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#define RENAME_WHITEOUT 4
#endif

static char long_name[300], name_255[256], long_path[5000];

static void making(void)
{
    struct stat st;
    CALL("mkdir", SYS_mkdir, "a", 0755);
    CALL("mkdir again", SYS_mkdir, "a", 0755);
    CALL("mkdir with a slash", SYS_mkdir, "slash/", 0755);
    CALL("mkdir with a slash again", SYS_mkdir, "slash/", 0755);
    CALL("mkdir in a missing folder", SYS_mkdir, "nowhere/b", 0755);
    CALL("mkdir dot", SYS_mkdir, ".", 0755);
    CALL("mkdir dots", SYS_mkdir, "..", 0755);
    CALL("mkdir root", SYS_mkdir, "/", 0755);
    CALL("mkdir ends in dot", SYS_mkdir, "new/.", 0755);
    CALL("mkdir empty", SYS_mkdir, "", 0755);
    CALL("mkdir bad address", SYS_mkdir, BAD, 0755);
    CALL("mkdir longest name", SYS_mkdir, name_255, 0755);
    CALL("mkdir name too long", SYS_mkdir, long_name, 0755);
    CALL("mkdir path too long", SYS_mkdir, long_path, 0755);
    make_file("file", "x");
    CALL("mkdir on a file", SYS_mkdir, "file", 0755);
    CALL("mkdir in a file", SYS_mkdir, "file/x", 0755);
    NEED(symlink("nothing", "dangling") == 0 && symlink("a", "to a") == 0);
    CALL("mkdir on a dangling link", SYS_mkdir, "dangling", 0755);
    CALL("mkdir on a dangling link with a slash", SYS_mkdir, "dangling/", 0755);
    CALL("mkdir through a link", SYS_mkdir, "to a/inner", 0755);
    NEED(stat("a/inner", &st) == 0);
    line("mkdir mode: %o links %ld", st.st_mode, (long)st.st_nlink);
    NEED(stat("a", &st) == 0);
    line("links of a folder with a folder: %ld", (long)st.st_nlink);
    CALL("mkdir sticky", SYS_mkdir, "sticky", 01777);
    NEED(stat("sticky", &st) == 0);
    line("mkdir sticky mode: %o", st.st_mode);
    CALL("mkdirat bad descriptor", SYS_mkdirat, 77, "x", 0755);
    int folder = open("a", O_RDONLY | O_DIRECTORY), file = open("file", O_RDONLY);
    CALL("mkdirat", SYS_mkdirat, folder, "at", 0700);
    CALL("mkdirat relative to a file", SYS_mkdirat, file, "at", 0700);
    CALL("umask", SYS_umask, 077);
    CALL("umask is what it was", SYS_umask, 0777022);
    CALL("umask has nine bits", SYS_umask, 022);
}

static void removing(void)
{
    CALL("rmdir with content", SYS_rmdir, "a");
    CALL("rmdir missing", SYS_rmdir, "missing");
    CALL("rmdir a file", SYS_rmdir, "file");
    CALL("rmdir dot", SYS_rmdir, ".");
    CALL("rmdir dots", SYS_rmdir, "..");
    CALL("rmdir ends in dots", SYS_rmdir, "a/..");
    CALL("rmdir ends in dot", SYS_rmdir, "a/inner/.");
    CALL("rmdir root", SYS_rmdir, "/");
    CALL("rmdir a link", SYS_rmdir, "to a");
    CALL("rmdir a link with a slash", SYS_rmdir, "to a/");
    CALL("rmdir bad address", SYS_rmdir, BAD);
    CALL("rmdir empty path", SYS_rmdir, "");
    CALL("rmdir", SYS_rmdir, "a/inner");
    CALL("rmdir with a slash", SYS_rmdir, "slash/");
    CALL("unlink a folder", SYS_unlink, "a");
    CALL("unlinkat removes a folder", SYS_unlinkat, AT_FDCWD, "a/at", AT_REMOVEDIR);
    CALL("unlinkat removes no file as a folder", SYS_unlinkat, AT_FDCWD, "file", AT_REMOVEDIR);
    NEED(mkdir("open", 0755) == 0);
    int open_one = open("open", O_RDONLY | O_DIRECTORY);
    CALL("rmdir an open folder", SYS_rmdir, "open");
    char bytes[1024];
    CALL("openat in a removed folder", SYS_openat, open_one, "x", O_CREAT | O_RDWR, 0644);
    CALL("openat dot of a removed folder", SYS_openat, open_one, "x", O_RDONLY, 0);
    CALL("getdents64 of a removed folder", SYS_getdents64, open_one, bytes, sizeof bytes);
    struct stat st;
    NEED(fstat(open_one, &st) == 0);
    line("links of a removed folder: %ld", (long)st.st_nlink);
}

static void renaming(void)
{
    struct stat st;
    make_file("r1", "one");
    make_file("r2", "two");
    CALL("rename", SYS_rename, "r1", "r3");
    CALL("rename missing", SYS_rename, "r1", "r4");
    CALL("rename replaces", SYS_rename, "r2", "r3");
    NEED(stat("r3", &st) == 0);
    line("rename replaced: size %ld links %ld", (long)st.st_size, (long)st.st_nlink);
    CALL("rename to itself", SYS_rename, "r3", "r3");
    NEED(link("r3", "r4") == 0);
    CALL("rename to another name of the same file", SYS_rename, "r3", "r4");
    CALL("rename left both names", SYS_access, "r3", F_OK);
    CALL("rename into a missing folder", SYS_rename, "r3", "nowhere/r");
    CALL("rename in a file", SYS_rename, "r3", "r4/r");
    CALL("rename bad address", SYS_rename, "r3", BAD);
    CALL("rename to an empty path", SYS_rename, "r3", "");
    CALL("rename name too long", SYS_rename, "r3", long_name);
    CALL("rename a file with a slash", SYS_rename, "r3/", "r5");
    CALL("rename to a file with a slash", SYS_rename, "r3", "r5/");
    CALL("rename dot", SYS_rename, ".", "x");
    CALL("rename to dots", SYS_rename, "r3", "..");
    CALL("rename root", SYS_rename, "/", "x");
    NEED(mkdir("d1", 0755) == 0 && mkdir("d2", 0755) == 0 && mkdir("d1/sub", 0755) == 0 && mkdir("d3", 0755) == 0);
    CALL("rename a folder onto an empty one", SYS_rename, "d1", "d2");
    CALL("rename moved its content", SYS_access, "d2/sub", F_OK);
    CALL("rename a folder onto one with content", SYS_rename, "d3", "d2");
    CALL("rename a folder onto a file", SYS_rename, "d2", "r3");
    CALL("rename a file onto a folder", SYS_rename, "r3", "d2");
    CALL("rename a folder into itself", SYS_rename, "d2", "d2/sub/inside");
    CALL("rename a folder to its parent", SYS_rename, "d2/sub", "d2");
    CALL("rename a folder with slashes", SYS_rename, "d2/", "d4/");
    CALL("rename up", SYS_rename, "d4/sub", "sub");
    NEED(stat("d4", &st) == 0);
    line("links after a folder left: %ld", (long)st.st_nlink);
    CALL("rename into a folder", SYS_rename, "sub", "d4/sub");
    NEED(stat("d4/sub/..", &st) == 0);
    line("links after a folder came: %ld", (long)st.st_nlink);
    NEED(symlink("d4", "ld") == 0 && symlink("r3", "lf") == 0);
    CALL("rename a link", SYS_rename, "lf", "lf2");
    NEED(lstat("lf2", &st) == 0);
    line("rename moved the link itself: %o", st.st_mode & S_IFMT);
    CALL("rename a folder onto a link to one", SYS_rename, "d3", "ld");
    CALL("rename a file onto a link", SYS_rename, "r4", "lf2");
    CALL("renameat2 unknown flags", SYS_renameat2, AT_FDCWD, "r3", AT_FDCWD, "r9", 64);
    CALL("renameat2 two flags", SYS_renameat2, AT_FDCWD, "r3", AT_FDCWD, "r9", RENAME_NOREPLACE | RENAME_EXCHANGE);
    make_file("e1", "1");
    make_file("e2", "22");
    CALL("renameat2 noreplace on a file", SYS_renameat2, AT_FDCWD, "e1", AT_FDCWD, "e2", RENAME_NOREPLACE);
    CALL("renameat2 noreplace", SYS_renameat2, AT_FDCWD, "e1", AT_FDCWD, "e3", RENAME_NOREPLACE);
    CALL("renameat2 exchange", SYS_renameat2, AT_FDCWD, "e2", AT_FDCWD, "e3", RENAME_EXCHANGE);
    NEED(stat("e2", &st) == 0);
    line("renameat2 exchanged: %ld", (long)st.st_size);
    CALL("renameat2 exchange with nothing", SYS_renameat2, AT_FDCWD, "e2", AT_FDCWD, "e9", RENAME_EXCHANGE);
    CALL("renameat2 exchange a file and a folder", SYS_renameat2, AT_FDCWD, "e2", AT_FDCWD, "d4", RENAME_EXCHANGE);
    NEED(stat("d4", &st) == 0);
    line("renameat2 exchanged types: %o", st.st_mode & S_IFMT);
    CALL("renameat bad descriptor", SYS_renameat, 77, "e2", AT_FDCWD, "e9");
    int fd = open("e3", O_RDONLY);
    make_file("e4", "4444");
    CALL("rename over an open file", SYS_rename, "e4", "e3");
    char bytes[8] = "";
    CALL("the open file is still there", SYS_read, fd, bytes, 8);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void reading(void)
{
    NEED(mkdir("list", 0755) == 0);
    make_file("list/file", "x");
    NEED(mkdir("list/folder", 0755) == 0 && symlink("file", "list/link") == 0);
    NEED(mkfifo("list/fifo", 0600) == 0);
    char bytes[4096], *names[32];
    int fd = open("list", O_RDONLY | O_DIRECTORY), count = 0;
    long got;
    while ((got = RAW(SYS_getdents64, fd, bytes, sizeof bytes)) > 0) {
        for (long at = 0; at < got;) {
            unsigned short length = *(unsigned short *)(bytes + at + 16);
            unsigned char type = bytes[at + 18];
            char text[300];
            snprintf(text, sizeof text, "%s type %d aligned %d", bytes + at + 19, type, length % 8 == 0);
            names[count++] = strdup(text);
            at += length;
        }
    }
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++)
        line("entry %d: %s", i, names[i]);
    CALL("getdents64 at the end", SYS_getdents64, fd, bytes, sizeof bytes);
    CALL("lseek to the start of a folder", SYS_lseek, fd, 0, SEEK_SET);
    TRUE("getdents64 again from the start", RAW(SYS_getdents64, fd, bytes, sizeof bytes) > 0);
    lseek(fd, 0, SEEK_SET);
    CALL("getdents64 no room", SYS_getdents64, fd, bytes, 10);
    CALL("getdents64 bad buffer", SYS_getdents64, fd, BAD, 1024);
    CALL("getdents64 of a file", SYS_getdents64, open("list/file", O_RDONLY), bytes, sizeof bytes);
    CALL("getdents64 bad descriptor", SYS_getdents64, 77, bytes, sizeof bytes);
    CALL("getdents64 of a path", SYS_getdents64, open("list", O_PATH), bytes, sizeof bytes);
    lseek(fd, 0, SEEK_SET);
    int small = 0;
    while (RAW(SYS_getdents64, fd, bytes, 32) > 0)
        small++;
    line("getdents64 one at a time: %d", small);

    /* What is added or removed while a folder is read; POSIX leaves it open, but the rest must come once. */
    NEED(mkdir("many", 0755) == 0);
    char name[300];
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "many/%d", i);
        make_file(name, "");
    }
    DIR *many = opendir("many");
    struct dirent *entry;
    int seen = 0;
    while ((entry = readdir(many))) {
        if (entry->d_name[0] == '.')
            continue;
        seen++;
        snprintf(name, sizeof name, "many/%s", entry->d_name);
        NEED(unlink(name) == 0);
    }
    line("entries seen while they are removed: %d", seen);
    closedir(many);
    CALL("rmdir what was emptied", SYS_rmdir, "many");
    many = opendir("list");
    TRUE("telldir and seekdir", readdir(many) && readdir(many));
    long place = telldir(many);
    entry = readdir(many);
    strcpy(name, entry->d_name);
    seekdir(many, place);
    entry = readdir(many);
    TRUE("seekdir gives the same entry", entry && strcmp(name, entry->d_name) == 0);
}

static void working(void)
{
    char path[5000], base[5000];
    long length = RAW(SYS_getcwd, base, sizeof base);
    TRUE("getcwd counts its zero", length == (long)strlen(base) + 1);
    CALL("chdir missing", SYS_chdir, "missing");
    CALL("chdir a file", SYS_chdir, "file");
    CALL("chdir bad address", SYS_chdir, BAD);
    CALL("chdir empty", SYS_chdir, "");
    CALL("chdir", SYS_chdir, "a");
    RAW(SYS_getcwd, path, sizeof path);
    line("getcwd after chdir: %s", path + strlen(base));
    CALL("getcwd too small", SYS_getcwd, path, 2);
    CALL("getcwd no room", SYS_getcwd, path, 0);
    CALL("getcwd bad address", SYS_getcwd, BAD, 100000);
    NEED(chdir("..") == 0);
    RAW(SYS_getcwd, path, sizeof path);
    TRUE("dots lead back", strcmp(path, base) == 0);
    CALL("chdir through a link", SYS_chdir, "to a");
    RAW(SYS_getcwd, path, sizeof path);
    line("getcwd is without links: %s", path + strlen(base));
    NEED(chdir("..") == 0);
    int folder = open("a", O_RDONLY | O_DIRECTORY), file = open("file", O_RDONLY);
    CALL("fchdir", SYS_fchdir, folder);
    CALL("fchdir a file", SYS_fchdir, file);
    CALL("fchdir bad descriptor", SYS_fchdir, 77);
    NEED(chdir(base) == 0 && mkdir("gone", 0755) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0);
    CALL("getcwd in a removed folder", SYS_getcwd, path, sizeof path);
    CALL("open in a removed folder", SYS_open, "x", O_CREAT | O_RDWR, 0644);
    CALL("mkdir in a removed folder", SYS_mkdir, "x", 0755);
    CALL("stat dot in a removed folder", SYS_access, ".", F_OK);
    CALL("stat dots in a removed folder", SYS_access, "..", F_OK);
    NEED(chdir(base) == 0);
    NEED(chdir("/") == 0);
    RAW(SYS_getcwd, path, sizeof path);
    line("getcwd of root: %s", path);
    CALL("dots of root", SYS_chdir, "../../..");
    RAW(SYS_getcwd, path, sizeof path);
    line("getcwd above root: %s", path);
    NEED(chdir(base) == 0);
    CALL("access many slashes", SYS_access, ".//.///a/../a//.", F_OK);
    CALL("access dots of a file", SYS_access, "file/.", F_OK);
    NEED(rename("a", "renamed") == 0 && chdir("renamed") == 0 && rename("../renamed", "../a") == 0);
    RAW(SYS_getcwd, path, sizeof path);
    line("getcwd after the folder was renamed: %s", path + strlen(base));
    NEED(chdir(base) == 0);
    /* A tree deeper than a path may be long. */
    int depth = 0;
    while (depth < 40 && mkdir(name_255, 0755) == (depth == 0 ? -1 : 0) && chdir(name_255) == 0)
        depth++;
    line("depth of folders with long names: %d", depth);
    CALL("getcwd longer than a path", SYS_getcwd, path, sizeof path);
    while (depth-- > 0)
        NEED(chdir("..") == 0);
}

static void nodes(void)
{
    struct stat st;
    CALL("mknod of a file", SYS_mknod, "node", S_IFREG | 0644, 0);
    CALL("mknod without a type", SYS_mknod, "node 2", 0644, 0);
    CALL("mknod of a fifo", SYS_mknod, "fifo", S_IFIFO | 0644, 0);
    CALL("mknod of a folder", SYS_mknod, "folder", S_IFDIR | 0755, 0);
    CALL("mknod unknown type", SYS_mknod, "unknown", 0110000 | 0644, 0);
    CALL("mknod again", SYS_mknod, "node", S_IFREG | 0644, 0);
    CALL("mknod of a socket", SYS_mknod, "socket", S_IFSOCK | 0644, 0);
    NEED(stat("fifo", &st) == 0);
    line("a fifo: %o", st.st_mode);
    CALL("open a fifo for writing without a reader", SYS_open, "fifo", O_WRONLY | O_NONBLOCK, 0);
    int reader = open("fifo", O_RDONLY | O_NONBLOCK);
    report_ok("open a fifo for reading", reader);
    int writer = open("fifo", O_WRONLY | O_NONBLOCK);
    report_ok("open a fifo for writing with a reader", writer);
    CALL("write to a fifo", SYS_write, writer, "fifo", 4);
    char bytes[8] = "";
    CALL("read from a fifo", SYS_read, reader, bytes, 8);
    CALL("read from an empty fifo", SYS_read, reader, bytes, 8);
    close(writer);
    CALL("read from a fifo without a writer", SYS_read, reader, bytes, 8);
    CALL("open a socket file", SYS_open, "socket", O_RDWR, 0);
    CALL("chroot missing", SYS_chroot, "missing");
}

int main(void)
{
    own_folder("work");
    memset(long_name, 'n', 256);
    memset(name_255, 'm', 255);
    memset(long_path, 'p', sizeof long_path - 1);
    making();
    removing();
    renaming();
    reading();
    working();
    nodes();
    line("end");
    return 0;
}
