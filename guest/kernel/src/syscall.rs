//! The table of system calls: `NAME = number => handler`. Numbers are those of
//! `arch/x86/entry/syscalls/syscall_64.tbl`.

use unifork_abi::SYS_UNIFORK_ASSERT;
use unifork_hal::{SyscallFrame, assertion_failed, count_unserved, exit};

use crate::errno::{Errno, Outcome};
use crate::files::no_such_path;
use crate::{Kernel, process};

macro_rules! table {
    ($($name:ident = $number:literal => |$kernel:pat_param, $args:pat_param, $frame:pat_param| $handler:expr;)*) => {
        /// Serves the call that `frame` holds, or counts that it was not.
        pub(crate) fn dispatch(kernel: &mut Kernel, frame: &SyscallFrame) -> Outcome {
            let number = frame.rax;
            let args = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9];
            let result: Outcome = match number {
                $($number => { let ($kernel, $args, $frame) = (kernel, args, frame); $handler })*
                SYS_UNIFORK_ASSERT => assertion_failed(args[0], args[1], frame),
                _ => Err(Errno::ENOSYS),
            };
            if result == Err(Errno::ENOSYS) {
                count_unserved(number);
            }
            result
        }
    };
}

table! {
    // Memory.
    mmap = 9 => |k, [address, bytes, protection, flags, _, offset], f| k.mm.mmap(address, bytes, protection, flags, offset, f);
    mprotect = 10 => |k, [start, bytes, protection, ..], _| k.mm.mprotect(start, bytes, protection);
    munmap = 11 => |k, [start, bytes, ..], _| k.mm.munmap(start, bytes);
    brk = 12 => |k, [to, ..], _| k.mm.brk(to);
    mremap = 25 => |k, [start, old, new, flags, ..], f| k.mm.mremap(start, old, new, flags, f);
    madvise = 28 => |k, [start, bytes, advice, ..], _| k.mm.madvise(start, bytes, advice);
    // Files.
    read = 0 => |k, [fd, to, bytes, ..], _| k.files.read(fd, to, bytes);
    write = 1 => |k, [fd, from, bytes, ..], _| k.files.write(fd, from, bytes);
    open = 2 => |_, [path, ..], _| no_such_path(path);
    close = 3 => |k, [fd, ..], _| k.files.close(fd);
    stat = 4 => |_, [path, ..], _| no_such_path(path);
    fstat = 5 => |k, [fd, to, ..], _| k.files.fstat(fd, to);
    lstat = 6 => |_, [path, ..], _| no_such_path(path);
    poll = 7 => |k, [entries, count, ..], _| k.files.poll(entries, count);
    lseek = 8 => |k, [fd, ..], _| k.files.lseek(fd);
    ioctl = 16 => |k, [fd, request, argument, ..], _| k.files.ioctl(fd, request, argument);
    readv = 19 => |k, [fd, vector, count, ..], _| k.files.readv(fd, vector, count);
    writev = 20 => |k, [fd, vector, count, ..], _| k.files.writev(fd, vector, count);
    access = 21 => |_, [path, ..], _| no_such_path(path);
    fcntl = 72 => |k, [fd, command, ..], _| k.files.fcntl(fd, command);
    getcwd = 79 => |_, [to, bytes, ..], _| process::getcwd(to, bytes);
    readlink = 89 => |_, [path, ..], _| no_such_path(path);
    openat = 257 => |_, [_, path, ..], _| no_such_path(path);
    newfstatat = 262 => |k, [fd, path, to, flags, ..], _| k.files.newfstatat(fd, path, to, flags);
    readlinkat = 267 => |_, [_, path, ..], _| no_such_path(path);
    faccessat = 269 => |_, [_, path, ..], _| no_such_path(path);
    // Time.
    nanosleep = 35 => |k, [request, ..], _| k.clock.nanosleep(request);
    gettimeofday = 96 => |k, [to, ..], _| k.clock.gettimeofday(to);
    getrusage = 98 => |k, [_, to, ..], _| k.clock.getrusage(to);
    times = 100 => |k, [to, ..], _| k.clock.times(to);
    time = 201 => |k, [to, ..], _| k.clock.time(to);
    clock_gettime = 228 => |k, [clock, to, ..], _| k.clock.clock_gettime(clock, to);
    clock_getres = 229 => |k, [clock, to, ..], _| k.clock.clock_getres(clock, to);
    clock_nanosleep = 230 => |k, [clock, flags, request, ..], _| k.clock.clock_nanosleep(clock, flags, request);
    // Signals.
    rt_sigaction = 13 => |k, [signal, new, old, bytes, ..], _| k.signals.rt_sigaction(signal, new, old, bytes);
    rt_sigprocmask = 14 => |k, [how, new, old, bytes, ..], f| k.signals.rt_sigprocmask(how, new, old, bytes, f);
    kill = 62 => |k, [pid, signal, ..], f| k.signals.raise(pid, signal, f);
    sigaltstack = 131 => |k, [new, old, ..], _| k.signals.sigaltstack(new, old);
    tkill = 200 => |k, [tid, signal, ..], f| k.signals.raise(tid, signal, f);
    tgkill = 234 => |k, [_, tid, signal, ..], f| k.signals.raise(tid, signal, f);
    // The process.
    sched_yield = 24 => |_, _, _| Ok(0);
    getpid = 39 => |_, _, _| Ok(process::PID);
    exit = 60 => |_, [code, ..], _| exit(code as u32 as i32);
    uname = 63 => |_, [to, ..], _| process::uname(to);
    sysinfo = 99 => |k, [to, ..], _| process::sysinfo(k.clock.look(), k.mm.free_bytes(), to);
    getuid = 102 => |_, _, _| Ok(0);
    getgid = 104 => |_, _, _| Ok(0);
    geteuid = 107 => |_, _, _| Ok(0);
    getegid = 108 => |_, _, _| Ok(0);
    getppid = 110 => |_, _, _| Ok(process::PARENT);
    arch_prctl = 158 => |_, [code, address, ..], _| process::arch_prctl(code, address);
    gettid = 186 => |_, _, _| Ok(process::PID);
    futex = 202 => |_, [address, operation, value, timeout, ..], _| process::futex(address, operation, value, timeout);
    sched_getaffinity = 204 => |_, [pid, bytes, to, ..], _| process::sched_getaffinity(pid, bytes, to);
    set_tid_address = 218 => |_, _, _| Ok(process::PID);
    exit_group = 231 => |_, [code, ..], _| exit(code as u32 as i32);
    set_robust_list = 273 => |_, _, _| Ok(0);
    prlimit64 = 302 => |_, [pid, resource, new, old, ..], _| process::prlimit64(pid, resource, new, old);
    getrandom = 318 => |k, [to, bytes, flags, ..], _| k.random.getrandom(to, bytes, flags);
}
