// Every system call that is served: its number (`arch/x86/entry/syscalls/syscall_64.tbl`), its name, how
// far it is served, and what serves it.
//
// `full`: as Linux, as far as is known. `partial`: with the deviation that is named. `stub`: it says that
// all is well and does less than Linux, in the way that is named; never silently.
//
// Besides the dispatcher (`syscall.rs`), docs/syscalls.md is made from this file (`fuzzer/src/syscalls.rs`).

syscalls! {
    // Memory.
    9 mmap partial("protection is not enforced; anonymous mappings only") => |_, [address, bytes, protection, flags, _, offset], f| crate::mm::MM.with(|mm| mm.mmap(address, bytes, protection, flags, offset, f));
    10 mprotect partial("not enforced; counted when it takes writing away") => |_, [start, bytes, protection, ..], _| crate::mm::MM.with(|mm| mm.mprotect(start, bytes, protection));
    11 munmap partial("the memory stays accessible to the program itself") => |_, [start, bytes, ..], _| crate::mm::MM.with(|mm| mm.munmap(start, bytes));
    12 brk full => |_, [to, ..], _| crate::mm::MM.with(|mm| mm.brk(to));
    25 mremap partial("no MREMAP_FIXED, no MREMAP_DONTUNMAP") => |_, [start, old, new, flags, ..], f| crate::mm::MM.with(|mm| mm.mremap(start, old, new, flags, f));
    28 madvise full => |_, [start, bytes, advice, ..], _| crate::mm::MM.with(|mm| mm.madvise(start, bytes, advice));

    // Reading and writing.
    0 read full => |k, [fd, to, bytes, ..], _| crate::fd::io::read(k, fd, to, bytes);
    1 write full => |k, [fd, from, bytes, ..], _| crate::fd::io::write(k, fd, from, bytes);
    17 pread64 full => |k, [fd, to, bytes, at, ..], _| crate::fd::io::pread(k, fd, to, bytes, at);
    18 pwrite64 full => |k, [fd, from, bytes, at, ..], _| crate::fd::io::pwrite(k, fd, from, bytes, at);
    19 readv full => |k, [fd, vector, count, ..], _| crate::fd::io::readv(k, fd, vector, count);
    20 writev full => |k, [fd, vector, count, ..], _| crate::fd::io::writev(k, fd, vector, count);
    295 preadv full => |k, [fd, vector, count, at, ..], _| crate::fd::io::preadv(k, fd, vector, count, at);
    296 pwritev full => |k, [fd, vector, count, at, ..], _| crate::fd::io::pwritev(k, fd, vector, count, at);

    // Descriptors.
    3 close full => |k, [fd, ..], _| crate::fd::control::close(k, fd);
    5 fstat full => |k, [fd, to, ..], _| crate::fd::control::fstat(k, fd, to);
    8 lseek full => |k, [fd, offset, whence, ..], _| crate::fd::control::lseek(k, fd, offset, whence);
    16 ioctl partial("TCGETS, TCSETS*, TIOCGWINSZ, TIOC[GS]PGRP, FIONREAD, FIONBIO, FIO[N]CLEX; else ENOTTY") => |k, [fd, request, argument, ..], _| crate::fd::control::ioctl(k, fd, request, argument);
    22 pipe full => |k, [to, ..], _| crate::fd::pipe::pipe2(k, to, 0);
    32 dup full => |k, [fd, ..], _| crate::fd::control::dup(k, fd);
    33 dup2 full => |k, [from, to, ..], _| crate::fd::control::dup2(k, from, to);
    72 fcntl partial("no locks, leases or signals") => |k, [fd, command, argument, ..], _| crate::fd::control::fcntl(k, fd, command, argument);
    284 eventfd full => |k, [count, ..], _| crate::fd::eventfd::eventfd2(k, count, 0);
    290 eventfd2 full => |k, [count, flags, ..], _| crate::fd::eventfd::eventfd2(k, count, flags);
    292 dup3 full => |k, [from, to, flags, ..], _| crate::fd::control::dup3(k, from, to, flags);
    293 pipe2 partial("O_DIRECT makes no packets") => |k, [to, flags, ..], _| crate::fd::pipe::pipe2(k, to, flags);
    436 close_range full => |k, [first, last, flags, ..], _| crate::fd::control::close_range(k, first, last, flags);

    // Waiting for descriptors.
    7 poll full => |k, [entries, count, timeout, ..], _| crate::fd::poll::poll(k, entries, count, timeout);
    23 select full => |k, args, _| crate::fd::select::select(k, args);
    213 epoll_create full => |k, [size, ..], _| crate::fd::epoll::create(k, size);
    232 epoll_wait full => |k, [set, to, max, timeout, ..], _| crate::fd::epoll::wait(k, set, to, max, timeout);
    233 epoll_ctl full => |k, [set, operation, fd, event, ..], _| crate::fd::epoll::ctl(k, set, operation, fd, event);
    270 pselect6 partial("the time left is not written back") => |k, args, _| crate::fd::select::pselect6(k, args);
    271 ppoll partial("the time left is not written back") => |k, args, _| crate::fd::poll::ppoll(k, args);
    281 epoll_pwait full => |k, args, _| crate::fd::epoll::pwait(k, args);
    291 epoll_create1 full => |k, [flags, ..], _| crate::fd::epoll::create1(k, flags);
    441 epoll_pwait2 full => |k, args, _| crate::fd::epoll::pwait2(k, args);

    // Paths: there is no file system yet.
    2 open partial("every path is ENOENT") => |_, [path, ..], _| no_such_path(path);
    4 stat partial("every path is ENOENT") => |_, [path, ..], _| no_such_path(path);
    6 lstat partial("every path is ENOENT") => |_, [path, ..], _| no_such_path(path);
    21 access partial("every path is ENOENT") => |_, [path, ..], _| no_such_path(path);
    79 getcwd partial("always the root") => |_, [to, bytes, ..], _| crate::process::machine::getcwd(to, bytes);
    89 readlink partial("every path is ENOENT") => |_, [path, ..], _| no_such_path(path);
    257 openat partial("every path is ENOENT") => |_, [_, path, ..], _| no_such_path(path);
    262 newfstatat partial("every path is ENOENT") => |k, [fd, path, to, flags, ..], _| {
        const AT_EMPTY_PATH: u64 = 0x1000;
        if flags & AT_EMPTY_PATH != 0 && crate::user::read_bytes(path) == Ok([0]) {
            return crate::fd::control::fstat(k, fd, to);
        }
        no_such_path(path)
    };
    267 readlinkat partial("every path is ENOENT") => |_, [_, path, ..], _| no_such_path(path);
    269 faccessat partial("every path is ENOENT") => |_, [_, path, ..], _| no_such_path(path);

    // Time.
    35 nanosleep full => |k, [request, left, ..], _| crate::time::sleep::nanosleep(k, request, left);
    36 getitimer partial("all three timers count the one clock") => |k, [which, to, ..], _| crate::time::timers::getitimer(k, which, to);
    37 alarm partial("rings in a system call only") => |k, [seconds, ..], _| crate::time::timers::alarm(k, seconds);
    38 setitimer partial("all three timers count the one clock; rings in a system call only") => |k, [which, new, old, ..], _| crate::time::timers::setitimer(k, which, new, old);
    96 gettimeofday full => |k, [to, zone, ..], _| crate::time::clock::gettimeofday(k, to, zone);
    98 getrusage partial("times only, all of it user time") => |k, [who, to, ..], _| crate::time::clock::getrusage(k, who, to);
    100 times partial("all of it user time") => |k, [to, ..], _| crate::time::clock::times(k, to);
    201 time full => |k, [to, ..], _| crate::time::clock::time(k, to);
    227 clock_settime partial("EPERM: the clock is the machine's") => |_, [clock, from, ..], _| crate::time::clock::clock_settime(clock, from);
    228 clock_gettime partial("the clock moves by events; CPU time is time since boot") => |k, [clock, to, ..], _| crate::time::clock::clock_gettime(k, clock, to);
    229 clock_getres full => |k, [clock, to, ..], _| crate::time::clock::clock_getres(k, clock, to);
    230 clock_nanosleep full => |k, [clock, flags, request, left, ..], _| crate::time::sleep::clock_nanosleep(k, clock, flags, request, left);
    283 timerfd_create full => |k, [clock, flags, ..], _| crate::fd::timerfd::create(k, clock, flags);
    286 timerfd_settime full => |k, [fd, flags, new, old, ..], _| crate::fd::timerfd::settime(k, fd, flags, new, old);
    287 timerfd_gettime full => |k, [fd, to, ..], _| crate::fd::timerfd::gettime(k, fd, to);

    // Signals.
    13 rt_sigaction full => |k, [signal, new, old, bytes, ..], _| crate::signal::action::rt_sigaction(k, signal, new, old, bytes);
    14 rt_sigprocmask full => |k, [how, new, old, bytes, ..], _| crate::signal::mask::rt_sigprocmask(k, how, new, old, bytes);
    15 rt_sigreturn full => |k, _, f| crate::signal::frame::rt_sigreturn(k, f);
    34 pause full => |k, _, _| crate::signal::wait::pause(k);
    62 kill partial("to the process itself; stopping ends it, as a finding") => |k, [pid, signal, ..], _| crate::signal::send::kill(k, pid, signal);
    127 rt_sigpending full => |k, [to, bytes, ..], _| crate::signal::wait::rt_sigpending(k, to, bytes);
    128 rt_sigtimedwait full => |k, [set, info, timeout, bytes, ..], _| crate::signal::wait::rt_sigtimedwait(k, set, info, timeout, bytes);
    129 rt_sigqueueinfo full => |k, [pid, signal, info, ..], _| crate::signal::send::rt_sigqueueinfo(k, pid, signal, info);
    130 rt_sigsuspend full => |k, [mask, bytes, ..], _| crate::signal::wait::rt_sigsuspend(k, mask, bytes);
    131 sigaltstack full => |k, [new, old, ..], f| crate::signal::mask::sigaltstack(k, new, old, f.rsp);
    200 tkill full => |k, [tid, signal, ..], _| crate::signal::send::tkill(k, tid, signal);
    234 tgkill full => |k, [pid, tid, signal, ..], _| crate::signal::send::tgkill(k, pid, tid, signal);
    297 rt_tgsigqueueinfo full => |k, args, _| crate::signal::send::rt_tgsigqueueinfo(k, args);

    // Threads.
    24 sched_yield full => |k, _, _| { k.sched.yield_now(); Ok(0) };
    56 clone partial("threads only; another process is ENOSYS") => |k, args, f| crate::sched::clone::clone(k, args, f);
    60 exit full => |k, [code, ..], _| crate::sched::exit::exit_thread(k, code);
    186 gettid full => |k, _, _| Ok(k.sched.tid().into());
    202 futex partial("no priority inheritance") => |k, args, _| crate::sched::futex::futex(k, args);
    218 set_tid_address full => |k, [at, ..], _| crate::process::identity::set_tid_address(k, at);
    231 exit_group full => |_, [code, ..], _| unifork_hal::exit(code as u32 as i32);
    273 set_robust_list full => |k, [head, bytes, ..], _| crate::sched::futex::set_robust_list(k, head, bytes);
    274 get_robust_list full => |k, [tid, head, bytes, ..], _| crate::sched::futex::get_robust_list(k, tid, head, bytes);
    334 rseq partial("a signal handler does not restart a sequence") => |k, [at, bytes, flags, signature, ..], _| crate::process::scheduling::rseq(k, at, bytes, flags, signature);
    435 clone3 partial("threads only; another process is ENOSYS") => |k, [at, bytes, ..], f| crate::sched::clone::clone3(k, at, bytes, f);

    // Scheduling.
    140 getpriority stub("priorities make no difference: always 0") => |_, [which, ..], _| crate::process::scheduling::getpriority(which);
    141 setpriority stub("priorities make no difference: accepted") => |_, [which, ..], _| crate::process::scheduling::setpriority(which);
    142 sched_setparam partial("no real-time policies") => |k, [tid, from, ..], _| crate::process::scheduling::setparam(k, tid, from);
    143 sched_getparam partial("no real-time policies") => |k, [tid, to, ..], _| crate::process::scheduling::getparam(k, tid, to);
    144 sched_setscheduler partial("no real-time policies: EPERM") => |k, [tid, policy, parameter, ..], _| crate::process::scheduling::setscheduler(k, tid, policy, parameter);
    145 sched_getscheduler partial("no real-time policies") => |k, [tid, ..], _| crate::process::scheduling::getscheduler(k, tid);
    146 sched_get_priority_max full => |_, [policy, ..], _| crate::process::scheduling::priority_bound(policy, 99);
    147 sched_get_priority_min full => |_, [policy, ..], _| crate::process::scheduling::priority_bound(policy, 1);
    203 sched_setaffinity full => |k, [tid, bytes, from, ..], _| crate::process::scheduling::setaffinity(k, tid, bytes, from);
    204 sched_getaffinity full => |k, [tid, bytes, to, ..], _| crate::process::scheduling::getaffinity(k, tid, bytes, to);
    309 getcpu full => |_, [cpu, node, ..], _| crate::process::machine::getcpu(cpu, node);
    324 membarrier full => |_, [command, flags, ..], _| crate::process::scheduling::membarrier(command, flags);

    // The process.
    39 getpid full => |_, _, _| Ok(crate::sched::PID.into());
    63 uname full => |_, [to, ..], _| crate::process::machine::uname(to);
    97 getrlimit full => |k, [resource, to, ..], _| crate::process::limits::getrlimit(k, resource, to);
    99 sysinfo full => |k, [to, ..], _| crate::process::machine::sysinfo(k, to);
    102 getuid full => |_, _, _| Ok(0);
    104 getgid full => |_, _, _| Ok(0);
    105 setuid partial("to root only") => |_, [id, ..], _| crate::process::identity::set_ids(&[id]);
    106 setgid partial("to root only") => |_, [id, ..], _| crate::process::identity::set_ids(&[id]);
    107 geteuid full => |_, _, _| Ok(0);
    108 getegid full => |_, _, _| Ok(0);
    109 setpgid partial("EPERM: a session leader") => |_, [pid, group, ..], _| crate::process::identity::setpgid(pid, group);
    110 getppid full => |_, _, _| Ok(crate::process::identity::PARENT);
    111 getpgrp full => |_, _, _| Ok(crate::sched::PID.into());
    112 setsid partial("EPERM: a session leader") => |_, _, _| Err(Errno::EPERM);
    113 setreuid partial("to root only") => |_, [a, b, ..], _| crate::process::identity::set_ids(&[a, b]);
    114 setregid partial("to root only") => |_, [a, b, ..], _| crate::process::identity::set_ids(&[a, b]);
    115 getgroups full => |_, [count, ..], _| crate::process::identity::getgroups(count);
    116 setgroups partial("to none only") => |_, [count, ..], _| crate::process::identity::setgroups(count);
    117 setresuid partial("to root only") => |_, [a, b, c, ..], _| crate::process::identity::set_ids(&[a, b, c]);
    118 getresuid full => |_, [a, b, c, ..], _| crate::process::identity::getres([a, b, c]);
    119 setresgid partial("to root only") => |_, [a, b, c, ..], _| crate::process::identity::set_ids(&[a, b, c]);
    120 getresgid full => |_, [a, b, c, ..], _| crate::process::identity::getres([a, b, c]);
    121 getpgid full => |_, [pid, ..], _| crate::process::identity::group_of(pid);
    124 getsid full => |_, [pid, ..], _| crate::process::identity::group_of(pid);
    125 capget full => |_, [header, to, ..], _| crate::process::identity::capget(header, to);
    135 personality partial("only Linux's own") => |_, [wanted, ..], _| crate::process::prctl::personality(wanted);
    157 prctl partial("names, and flags that make no difference; else EINVAL") => |k, args, _| crate::process::prctl::prctl(k, args);
    158 arch_prctl partial("FS and GS base only") => |_, [code, address, ..], _| crate::process::machine::arch_prctl(code, address);
    160 setrlimit full => |k, [resource, from, ..], _| crate::process::limits::setrlimit(k, resource, from);
    302 prlimit64 full => |k, [pid, resource, new, old, ..], _| crate::process::limits::prlimit64(k, pid, resource, new, old);
    318 getrandom partial("the same in every run") => |k, [to, bytes, flags, ..], _| crate::process::random::getrandom(k, to, bytes, flags);
}
