//! Names of the x86-64 Linux system calls, for reports.
//!
//! Source: `arch/x86/entry/syscalls/syscall_64.tbl` of Linux 6.12, "common" and "64" entries.

/// What a list of counted calls is headed with.
pub(crate) const NOT_SERVED: &str =
    "system calls the libOS does not serve (ENOSYS), or not fully (mprotect is not enforced)";

/// Number 0 onwards.
#[rustfmt::skip]
const FIRST: [&str; 335] = [
    "read", "write", "open", "close", "stat", "fstat", "lstat", "poll", "lseek", "mmap", "mprotect",
    "munmap", "brk", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "ioctl", "pread64", "pwrite64",
    "readv", "writev", "access", "pipe", "select", "sched_yield", "mremap", "msync", "mincore",
    "madvise", "shmget", "shmat", "shmctl", "dup", "dup2", "pause", "nanosleep", "getitimer", "alarm",
    "setitimer", "getpid", "sendfile", "socket", "connect", "accept", "sendto", "recvfrom", "sendmsg",
    "recvmsg", "shutdown", "bind", "listen", "getsockname", "getpeername", "socketpair", "setsockopt",
    "getsockopt", "clone", "fork", "vfork", "execve", "exit", "wait4", "kill", "uname", "semget",
    "semop", "semctl", "shmdt", "msgget", "msgsnd", "msgrcv", "msgctl", "fcntl", "flock", "fsync",
    "fdatasync", "truncate", "ftruncate", "getdents", "getcwd", "chdir", "fchdir", "rename", "mkdir",
    "rmdir", "creat", "link", "unlink", "symlink", "readlink", "chmod", "fchmod", "chown", "fchown",
    "lchown", "umask", "gettimeofday", "getrlimit", "getrusage", "sysinfo", "times", "ptrace", "getuid",
    "syslog", "getgid", "setuid", "setgid", "geteuid", "getegid", "setpgid", "getppid", "getpgrp",
    "setsid", "setreuid", "setregid", "getgroups", "setgroups", "setresuid", "getresuid", "setresgid",
    "getresgid", "getpgid", "setfsuid", "setfsgid", "getsid", "capget", "capset", "rt_sigpending",
    "rt_sigtimedwait", "rt_sigqueueinfo", "rt_sigsuspend", "sigaltstack", "utime", "mknod", "uselib",
    "personality", "ustat", "statfs", "fstatfs", "sysfs", "getpriority", "setpriority", "sched_setparam",
    "sched_getparam", "sched_setscheduler", "sched_getscheduler", "sched_get_priority_max",
    "sched_get_priority_min", "sched_rr_get_interval", "mlock", "munlock", "mlockall", "munlockall",
    "vhangup", "modify_ldt", "pivot_root", "_sysctl", "prctl", "arch_prctl", "adjtimex", "setrlimit",
    "chroot", "sync", "acct", "settimeofday", "mount", "umount2", "swapon", "swapoff", "reboot",
    "sethostname", "setdomainname", "iopl", "ioperm", "create_module", "init_module", "delete_module",
    "get_kernel_syms", "query_module", "quotactl", "nfsservctl", "getpmsg", "putpmsg", "afs_syscall",
    "tuxcall", "security", "gettid", "readahead", "setxattr", "lsetxattr", "fsetxattr", "getxattr",
    "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "removexattr", "lremovexattr",
    "fremovexattr", "tkill", "time", "futex", "sched_setaffinity", "sched_getaffinity",
    "set_thread_area", "io_setup", "io_destroy", "io_getevents", "io_submit", "io_cancel",
    "get_thread_area", "lookup_dcookie", "epoll_create", "epoll_ctl_old", "epoll_wait_old",
    "remap_file_pages", "getdents64", "set_tid_address", "restart_syscall", "semtimedop", "fadvise64",
    "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete",
    "clock_settime", "clock_gettime", "clock_getres", "clock_nanosleep", "exit_group", "epoll_wait",
    "epoll_ctl", "tgkill", "utimes", "vserver", "mbind", "set_mempolicy", "get_mempolicy", "mq_open",
    "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr", "kexec_load", "waitid",
    "add_key", "request_key", "keyctl", "ioprio_set", "ioprio_get", "inotify_init", "inotify_add_watch",
    "inotify_rm_watch", "migrate_pages", "openat", "mkdirat", "mknodat", "fchownat", "futimesat",
    "newfstatat", "unlinkat", "renameat", "linkat", "symlinkat", "readlinkat", "fchmodat", "faccessat",
    "pselect6", "ppoll", "unshare", "set_robust_list", "get_robust_list", "splice", "tee",
    "sync_file_range", "vmsplice", "move_pages", "utimensat", "epoll_pwait", "signalfd",
    "timerfd_create", "eventfd", "fallocate", "timerfd_settime", "timerfd_gettime", "accept4",
    "signalfd4", "eventfd2", "epoll_create1", "dup3", "pipe2", "inotify_init1", "preadv", "pwritev",
    "rt_tgsigqueueinfo", "perf_event_open", "recvmmsg", "fanotify_init", "fanotify_mark", "prlimit64",
    "name_to_handle_at", "open_by_handle_at", "clock_adjtime", "syncfs", "sendmmsg", "setns", "getcpu",
    "process_vm_readv", "process_vm_writev", "kcmp", "finit_module", "sched_setattr", "sched_getattr",
    "renameat2", "seccomp", "getrandom", "memfd_create", "kexec_file_load", "bpf", "execveat",
    "userfaultfd", "membarrier", "mlock2", "copy_file_range", "preadv2", "pwritev2", "pkey_mprotect",
    "pkey_alloc", "pkey_free", "statx", "io_pgetevents", "rseq",
];

/// Number 424 onwards, where the numbers of all architectures were joined.
#[rustfmt::skip]
const JOINED: [&str; 39] = [
    "pidfd_send_signal", "io_uring_setup", "io_uring_enter", "io_uring_register", "open_tree",
    "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "pidfd_open", "clone3", "close_range",
    "openat2", "pidfd_getfd", "faccessat2", "process_madvise", "epoll_pwait2", "mount_setattr",
    "quotactl_fd", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    "memfd_secret", "process_mrelease", "futex_waitv", "set_mempolicy_home_node", "cachestat",
    "fchmodat2", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue", "statmount",
    "listmount", "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules", "mseal",
];

/// The first number of [`JOINED`].
const JOINED_START: u64 = 424;

/// The name of system call `number`, or its number where it has none.
pub(crate) fn name(number: u64) -> String {
    let at = |table: &[&str], index: u64| {
        usize::try_from(index).ok().and_then(|i| table.get(i).map(|n| (*n).to_owned()))
    };
    let found = match number.checked_sub(JOINED_START) {
        Some(index) => at(&JOINED, index),
        None => at(&FIRST, number),
    };
    found.unwrap_or_else(|| format!("syscall {number}"))
}

/// `ioctl x3, socket x1`: the calls in order of count.
pub(crate) fn list(calls: &[(u64, u32)]) -> String {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|&(number, count)| (std::cmp::Reverse(count), number));
    let shown: Vec<_> = calls.iter().map(|&(number, count)| format!("{} x{count}", name(number))).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call that the libOS serves: number, name, how far, and in what it deviates.
    type Served = (u64, &'static str, &'static str, &'static str);

    macro_rules! syscalls {
        ($($number:literal $name:ident $status:ident $(($deviation:literal))? => |$k:pat_param, $args:pat_param, $frame:pat_param| $handler:expr;)*) => {
            const SERVED: &[Served] = &[$(($number, stringify!($name), stringify!($status), [$($deviation,)? ""][0]),)*];
        };
    }
    include!("../../guest/kernel/src/syscall/table.rs");

    fn document() -> String {
        let mut served = SERVED.to_vec();
        served.sort_unstable();
        let count = |status: &str| served.iter().filter(|call| call.2 == status).count();
        let mut text = format!(
            "# System calls\n\n\
             What the libOS serves of the x86-64 Linux system calls. This page is made from its table,\n\
             `guest/kernel/src/syscall/table.rs`, by `UNIFORK_UPDATE=1 cargo test -p unifork syscalls`.\n\n\
             *full*: as Linux, as far as is known. *partial*: with the deviation named. *stub*: accepted, and\n\
             does less than Linux, in the way named. Every other call returns `ENOSYS`, is counted, and is\n\
             named in the report of the run.\n\n\
             {} calls: {} full, {} partial, {} stub.\n\n\
             | number | call | served | deviation |\n|---|---|---|---|\n",
            served.len(),
            count("full"),
            count("partial"),
            count("stub"),
        );
        for (number, name, status, deviation) in served {
            text += &format!("| {number} | `{name}` | {status} | {deviation} |\n");
        }
        text
    }

    #[test]
    fn the_page_about_system_calls_is_the_libos_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/syscalls.md");
        if std::env::var_os("UNIFORK_UPDATE").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert_eq!(page, document(), "run this test with UNIFORK_UPDATE=1");
    }

    #[test]
    fn served_calls_have_linux_numbers_and_say_what_they_lack() {
        for &(number, called, status, deviation) in SERVED {
            assert_eq!(name(number), called);
            assert!(matches!(status, "full" | "partial" | "stub"), "{called}: {status}");
            assert_eq!(deviation.is_empty(), status == "full", "{called}");
        }
        let mut numbers: Vec<u64> = SERVED.iter().map(|call| call.0).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "a number twice");
    }

    #[test]
    fn the_table_agrees_with_the_c_library() {
        for (number, expected) in [
            (libc::SYS_read, "read"),
            (libc::SYS_ioctl, "ioctl"),
            (libc::SYS_socket, "socket"),
            (libc::SYS_exit_group, "exit_group"),
            (libc::SYS_getrandom, "getrandom"),
            (libc::SYS_rseq, "rseq"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_mseal, "mseal"),
        ] {
            assert_eq!(name(number.cast_unsigned()), expected);
        }
        assert_eq!(name(400), "syscall 400");
        assert_eq!(name(u64::MAX), format!("syscall {}", u64::MAX));
        assert_eq!(list(&[(0, 1), (16, 3)]), "ioctl x3, read x1");
    }
}
