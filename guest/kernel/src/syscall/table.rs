// Every system call that is served: its number (`arch/x86/entry/syscalls/syscall_64.tbl`), its name, how
// far it is served, and what serves it.
//
// `full`: as Linux, as far as is known. `partial`: with the deviation that is named. `stub`: it says that
// all is well and does less than Linux, in the way that is named; never silently.
//
// Besides the dispatcher (`syscall.rs`), docs/syscalls.md is made from this file (`fuzzer/src/syscalls.rs`).

syscalls! {
    // Memory.
    9 mmap partial("protection is not enforced; address space that is only reserved counts as memory; a shared mapping of a file is brought up to date by calls only") => |k, args, f| crate::fs::map::mmap(k, args, f);
    10 mprotect partial("not enforced; counted when it takes writing away") => |_, [start, bytes, protection, ..], _| crate::mm::advice::mprotect(start, bytes, protection);
    11 munmap partial("the memory stays accessible to the program itself") => |k, [start, bytes, ..], _| crate::fs::map::munmap(k, start, bytes);
    12 brk full => |_, [to, ..], _| crate::mm::map::brk(to);
    25 mremap partial("no second mapping of shared memory") => |k, args, f| crate::fs::map::mremap(k, args, f);
    28 madvise partial("MADV_DONTNEED leaves image and stack as they are") => |k, [start, bytes, advice, ..], _| crate::mm::advice::madvise(k, start, bytes, advice);
    27 mincore partial("all pages are there") => |_, [start, bytes, to, ..], _| crate::mm::advice::mincore(start, bytes, to);
    149 mlock full => |_, [start, bytes, ..], _| crate::mm::advice::mlock(start, bytes);
    150 munlock full => |_, [start, bytes, ..], _| crate::mm::advice::mlock(start, bytes);
    151 mlockall full => |_, [flags, ..], _| crate::mm::advice::mlockall(flags);
    152 munlockall full => |_, _, _| Ok(0);
    325 mlock2 full => |_, [start, bytes, flags, ..], _| crate::mm::advice::mlock2(start, bytes, flags);

    // Reading and writing.
    0 read full => |k, [fd, to, bytes, ..], _| crate::fd::io::read(k, fd, to, bytes);
    1 write full => |k, [fd, from, bytes, ..], _| crate::fd::io::write(k, fd, from, bytes);
    17 pread64 full => |k, [fd, to, bytes, at, ..], _| crate::fd::io::pread(k, fd, to, bytes, at);
    18 pwrite64 full => |k, [fd, from, bytes, at, ..], _| crate::fd::io::pwrite(k, fd, from, bytes, at);
    19 readv full => |k, [fd, vector, count, ..], _| crate::fd::io::readv(k, fd, vector, count);
    20 writev full => |k, [fd, vector, count, ..], _| crate::fd::io::writev(k, fd, vector, count);
    327 preadv2 partial("no flags: EOPNOTSUPP") => |k, [fd, vector, count, at, _, flags], _| crate::fd::io::preadv2(k, fd, vector, count, at, flags);
    328 pwritev2 partial("no flags: EOPNOTSUPP") => |k, [fd, vector, count, at, _, flags], _| crate::fd::io::pwritev2(k, fd, vector, count, at, flags);
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
    72 fcntl partial("record locks never conflict: there is one process; no leases, seals or signals") => |k, [fd, command, argument, ..], _| crate::fd::control::fcntl(k, fd, command, argument);
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

    // Files by name.
    2 open partial("the program's own file can be written: no ETXTBSY") => |k, [path, flags, mode, ..], _| crate::fs::open::open(k, path, flags, mode);
    4 stat full => |k, [path, to, ..], _| crate::fs::stat::stat(k, path, to, true);
    6 lstat full => |k, [path, to, ..], _| crate::fs::stat::stat(k, path, to, false);
    21 access partial("the caller is root") => |k, [path, mode, ..], _| crate::fs::names::faccessat(k, HERE, path, mode, 0);
    76 truncate full => |k, [path, bytes, ..], _| crate::fs::attributes::truncate(k, path, bytes);
    79 getcwd full => |k, [to, bytes, ..], _| crate::fs::place::getcwd(k, to, bytes);
    80 chdir full => |k, [path, ..], _| crate::fs::place::chdir(k, path);
    82 rename full => |k, [old, new, ..], _| crate::fs::names::renameat2(k, [HERE, old, HERE, new, 0, 0]);
    83 mkdir full => |k, [path, mode, ..], _| crate::fs::names::mkdirat(k, HERE, path, mode);
    84 rmdir full => |k, [path, ..], _| crate::fs::names::unlinkat(k, HERE, path, crate::fs::place::AT_REMOVEDIR);
    85 creat full => |k, [path, mode, ..], _| crate::fs::open::creat(k, path, mode);
    86 link full => |k, [old, new, ..], _| crate::fs::names::linkat(k, [HERE, old, HERE, new, 0, 0]);
    87 unlink full => |k, [path, ..], _| crate::fs::names::unlinkat(k, HERE, path, 0);
    88 symlink full => |k, [text, path, ..], _| crate::fs::names::symlinkat(k, text, HERE, path);
    89 readlink full => |k, [path, to, bytes, ..], _| crate::fs::names::readlinkat(k, HERE, path, to, bytes);
    90 chmod full => |k, [path, mode, ..], _| crate::fs::attributes::fchmodat(k, HERE, path, mode, 0);
    92 chown full => |k, [path, uid, gid, ..], _| crate::fs::attributes::fchownat(k, [HERE, path, uid, gid, 0, 0]);
    94 lchown full => |k, [path, uid, gid, ..], _| crate::fs::attributes::fchownat(k, [HERE, path, uid, gid, crate::fs::place::AT_SYMLINK_NOFOLLOW, 0]);
    95 umask full => |k, [mask, ..], _| crate::fs::place::umask(k, mask);
    132 utime full => |k, [path, times, ..], _| crate::fs::attributes::utime(k, path, times);
    133 mknod partial("a FIFO or device is made, but a FIFO cannot be opened: ENXIO") => |k, [path, mode, device, ..], _| crate::fs::names::mknodat(k, HERE, path, mode, device);
    137 statfs full => |k, [path, to, ..], _| crate::fs::stat::statfs(k, path, to);
    235 utimes full => |k, [path, times, ..], _| crate::fs::attributes::futimesat(k, HERE, path, times);
    257 openat partial("the program's own file can be written: no ETXTBSY") => |k, [directory, path, flags, mode, ..], _| crate::fs::open::openat(k, directory, path, flags, mode);
    258 mkdirat full => |k, [directory, path, mode, ..], _| crate::fs::names::mkdirat(k, directory, path, mode);
    259 mknodat partial("a FIFO or device is made, but a FIFO cannot be opened: ENXIO") => |k, [directory, path, mode, device, ..], _| crate::fs::names::mknodat(k, directory, path, mode, device);
    260 fchownat full => |k, args, _| crate::fs::attributes::fchownat(k, args);
    261 futimesat full => |k, [directory, path, times, ..], _| crate::fs::attributes::futimesat(k, directory, path, times);
    262 newfstatat full => |k, [directory, path, to, flags, ..], _| crate::fs::stat::newfstatat(k, directory, path, to, flags);
    263 unlinkat full => |k, [directory, path, flags, ..], _| crate::fs::names::unlinkat(k, directory, path, flags);
    264 renameat full => |k, [from, old, to, new, ..], _| crate::fs::names::renameat2(k, [from, old, to, new, 0, 0]);
    265 linkat full => |k, args, _| crate::fs::names::linkat(k, args);
    266 symlinkat full => |k, [text, directory, path, ..], _| crate::fs::names::symlinkat(k, text, directory, path);
    267 readlinkat full => |k, [directory, path, to, bytes, ..], _| crate::fs::names::readlinkat(k, directory, path, to, bytes);
    268 fchmodat full => |k, [directory, path, mode, ..], _| crate::fs::attributes::fchmodat(k, directory, path, mode, 0);
    269 faccessat partial("the caller is root") => |k, [directory, path, mode, ..], _| crate::fs::names::faccessat(k, directory, path, mode, 0);
    280 utimensat full => |k, [directory, path, times, flags, ..], _| crate::fs::attributes::utimensat(k, directory, path, times, flags);
    316 renameat2 partial("no RENAME_WHITEOUT") => |k, args, _| crate::fs::names::renameat2(k, args);
    319 memfd_create partial("no seals, no huge pages") => |k, [name, flags, ..], _| crate::fs::open::memfd_create(k, name, flags);
    332 statx partial("basic fields only, no time of birth") => |k, args, _| crate::fs::stat::statx(k, args);
    437 openat2 partial("no restrictions on the path") => |k, [directory, path, how, bytes, ..], _| crate::fs::open::openat2(k, directory, path, how, bytes);
    439 faccessat2 partial("the caller is root") => |k, [directory, path, mode, flags, ..], _| crate::fs::names::faccessat(k, directory, path, mode, flags);
    452 fchmodat2 full => |k, [directory, path, mode, flags, ..], _| crate::fs::attributes::fchmodat(k, directory, path, mode, flags);

    // Files by descriptor.
    26 msync partial("stores reach the file then, or when it is next used") => |k, [start, bytes, flags, ..], _| crate::mm::advice::msync(k, start, bytes, flags);
    40 sendfile full => |k, [out, from, offset, count, ..], _| crate::fs::copy::sendfile(k, out, from, offset, count);
    73 flock full => |k, [fd, operation, ..], _| crate::fs::lock::flock(k, fd, operation);
    74 fsync full => |k, [fd, ..], _| crate::fs::attributes::fsync(k, fd);
    75 fdatasync full => |k, [fd, ..], _| crate::fs::attributes::fsync(k, fd);
    77 ftruncate full => |k, [fd, bytes, ..], _| crate::fs::attributes::ftruncate(k, fd, bytes);
    78 getdents full => |k, [fd, to, bytes, ..], _| crate::fs::directory::getdents(k, fd, to, bytes, true);
    81 fchdir full => |k, [fd, ..], _| crate::fs::place::fchdir(k, fd);
    91 fchmod full => |k, [fd, mode, ..], _| crate::fs::attributes::fchmod(k, fd, mode);
    93 fchown full => |k, [fd, uid, gid, ..], _| crate::fs::attributes::fchown(k, fd, uid, gid);
    138 fstatfs full => |k, [fd, to, ..], _| crate::fs::stat::fstatfs(k, fd, to);
    162 sync full => |_, _, _| Ok(0);
    187 readahead full => |k, [fd, ..], _| crate::fs::attributes::readahead(k, fd);
    191 getxattr partial("there are no extended attributes") => |k, [path, ..], _| crate::fs::attributes::getxattr(k, path, true);
    192 lgetxattr partial("there are no extended attributes") => |k, [path, ..], _| crate::fs::attributes::getxattr(k, path, false);
    193 fgetxattr partial("there are no extended attributes") => |k, [fd, ..], _| k.files.get(fd).and(Err(Errno::ENODATA));
    194 listxattr partial("there are no extended attributes") => |k, [path, ..], _| crate::fs::attributes::listxattr(k, path, true);
    195 llistxattr partial("there are no extended attributes") => |k, [path, ..], _| crate::fs::attributes::listxattr(k, path, false);
    196 flistxattr partial("there are no extended attributes") => |k, [fd, ..], _| k.files.get(fd).map(|_| 0);
    217 getdents64 full => |k, [fd, to, bytes, ..], _| crate::fs::directory::getdents(k, fd, to, bytes, false);
    221 fadvise64 full => |k, [fd, _, bytes, advice, ..], _| crate::fs::attributes::fadvise(k, fd, bytes, advice);
    277 sync_file_range full => |k, [fd, offset, bytes, flags, ..], _| crate::fs::attributes::sync_file_range(k, fd, offset, bytes, flags);
    285 fallocate partial("memory is not set aside; no collapsing, zeroing or inserting, as on tmpfs") => |k, [fd, mode, offset, bytes, ..], _| crate::fs::attributes::fallocate(k, fd, mode, offset, bytes);
    306 syncfs full => |k, [fd, ..], _| crate::fs::attributes::fsync(k, fd);
    326 copy_file_range full => |k, args, _| crate::fs::copy::copy_file_range(k, args);

    // Sockets.
    41 socket partial("Unix, TCP and UDP; no network but the loopback device; SOCK_SEQPACKET does not keep messages apart") => |k, [family, kind, protocol, ..], _| crate::net::calls::socket(k, family, kind, protocol);
    42 connect full => |k, [fd, at, bytes, ..], _| crate::net::calls::connect(k, fd, at, bytes);
    43 accept full => |k, [fd, at, length, ..], _| crate::net::calls::accept(k, fd, at, length, 0);
    44 sendto partial("a stream whose reader has gone is EPIPE at once") => |k, args, _| crate::net::message::sendto(k, args);
    45 recvfrom full => |k, args, _| crate::net::message::recvfrom(k, args);
    46 sendmsg partial("credentials are not passed on") => |k, [fd, header, flags, ..], _| crate::net::message::sendmsg(k, fd, header, flags);
    47 recvmsg partial("no credentials") => |k, [fd, header, flags, ..], _| crate::net::message::recvmsg(k, fd, header, flags);
    48 shutdown full => |k, [fd, how, ..], _| crate::net::calls::shutdown(k, fd, how);
    49 bind full => |k, [fd, at, bytes, ..], _| crate::net::calls::bind(k, fd, at, bytes);
    50 listen full => |k, [fd, backlog, ..], _| crate::net::calls::listen(k, fd, backlog);
    51 getsockname full => |k, [fd, at, length, ..], _| crate::net::calls::name(k, fd, at, length, false);
    52 getpeername full => |k, [fd, at, length, ..], _| crate::net::calls::name(k, fd, at, length, true);
    53 socketpair partial("SOCK_SEQPACKET does not keep messages apart") => |k, args, _| crate::net::calls::socketpair(k, args);
    54 setsockopt partial("the usual options; those of the wire change nothing") => |k, args, _| crate::net::options::set(k, args);
    55 getsockopt partial("the usual options") => |k, args, _| crate::net::options::get(k, args);
    288 accept4 full => |k, [fd, at, length, flags, ..], _| crate::net::calls::accept(k, fd, at, length, flags);
    299 recvmmsg partial("no timeout") => |k, [fd, headers, count, flags, ..], _| crate::net::message::recvmmsg(k, fd, headers, count, flags);
    307 sendmmsg full => |k, [fd, headers, count, flags, ..], _| crate::net::message::sendmmsg(k, fd, headers, count, flags);

    // Time.
    35 nanosleep full => |k, [request, left, ..], _| crate::time::sleep::nanosleep(k, request, left);
    36 getitimer partial("all three timers count the one clock") => |k, [which, to, ..], _| crate::time::timers::getitimer(k, which, to);
    37 alarm partial("rings in a system call only") => |k, [seconds, ..], _| crate::time::timers::alarm(k, seconds);
    38 setitimer partial("all three timers count the one clock; rings in a system call only") => |k, [which, new, old, ..], _| crate::time::timers::setitimer(k, which, new, old);
    96 gettimeofday full => |k, [to, zone, ..], _| crate::time::clock::gettimeofday(k, to, zone);
    98 getrusage partial("times only, all of it user time") => |k, [who, to, ..], _| crate::time::clock::getrusage(k, who, to);
    100 times partial("all of it user time") => |k, [to, ..], _| crate::time::clock::times(k, to);
    201 time full => |k, [to, ..], _| crate::time::clock::time(k, to);
    222 timer_create partial("no SIGEV_THREAD; rings in a system call only") => |k, [clock, event, to, ..], _| crate::time::posix::create(k, clock, event, to);
    223 timer_settime full => |k, [id, flags, new, old, ..], _| crate::time::posix::settime(k, id, flags, new, old);
    224 timer_gettime full => |k, [id, to, ..], _| crate::time::posix::gettime(k, id, to);
    225 timer_getoverrun full => |k, [id, ..], _| crate::time::posix::getoverrun(k, id);
    226 timer_delete full => |k, [id, ..], _| crate::time::posix::delete(k, id);
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
    202 futex partial("no FUTEX_WAIT_REQUEUE_PI, no FUTEX_FD") => |k, args, _| crate::sched::futex::futex(k, args);
    218 set_tid_address full => |k, [at, ..], _| crate::process::identity::set_tid_address(k, at);
    231 exit_group full => |_, [code, ..], _| crate::host::exit(code as u32 as i32);
    273 set_robust_list full => |k, [head, bytes, ..], _| crate::sched::futex::set_robust_list(k, head, bytes);
    274 get_robust_list full => |k, [tid, head, bytes, ..], _| crate::sched::futex::get_robust_list(k, tid, head, bytes);
    334 rseq partial("a signal handler does not restart a sequence") => |k, [at, bytes, flags, signature, ..], _| crate::process::scheduling::rseq(k, at, bytes, flags, signature);
    435 clone3 partial("threads only; another process is ENOSYS") => |k, [at, bytes, ..], f| crate::sched::clone::clone3(k, at, bytes, f);

    // Scheduling.
    140 getpriority stub("kept, of all threads alike; makes no difference") => |k, [which, who, ..], _| crate::process::scheduling::getpriority(k, which, who);
    141 setpriority stub("kept, of all threads alike; makes no difference") => |k, [which, who, nice, ..], _| crate::process::scheduling::setpriority(k, which, who, nice);
    142 sched_setparam partial("no real-time policies") => |k, [tid, from, ..], _| crate::process::scheduling::setparam(k, tid, from);
    143 sched_getparam partial("no real-time policies") => |k, [tid, to, ..], _| crate::process::scheduling::getparam(k, tid, to);
    144 sched_setscheduler partial("no real-time policies: EPERM") => |k, [tid, policy, parameter, ..], _| crate::process::scheduling::setscheduler(k, tid, policy, parameter);
    145 sched_getscheduler partial("no real-time policies") => |k, [tid, ..], _| crate::process::scheduling::getscheduler(k, tid);
    146 sched_get_priority_max full => |_, [policy, ..], _| crate::process::scheduling::priority_bound(policy, 99);
    147 sched_get_priority_min full => |_, [policy, ..], _| crate::process::scheduling::priority_bound(policy, 1);
    148 sched_rr_get_interval stub("always 4 ms; a thread runs until it waits") => |k, [tid, to, ..], _| crate::process::scheduling::rr_get_interval(k, tid, to);
    203 sched_setaffinity full => |k, [tid, bytes, from, ..], _| crate::process::scheduling::setaffinity(k, tid, bytes, from);
    204 sched_getaffinity full => |k, [tid, bytes, to, ..], _| crate::process::scheduling::getaffinity(k, tid, bytes, to);
    309 getcpu full => |_, [cpu, node, ..], _| crate::process::machine::getcpu(cpu, node);
    324 membarrier full => |_, [command, flags, ..], _| crate::process::scheduling::membarrier(command, flags);

    // The process.
    39 getpid full => |_, _, _| Ok(crate::sched::PID.into());
    61 wait4 full => |_, [_, _, options, ..], _| crate::process::identity::wait(options, 0xe000_000b);
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
    122 setfsuid partial("to root only") => |_, _, _| Ok(0);
    123 setfsgid partial("to root only") => |_, _, _| Ok(0);
    124 getsid full => |_, [pid, ..], _| crate::process::identity::group_of(pid);
    125 capget full => |_, [header, to, ..], _| crate::process::identity::capget(header, to);
    135 personality partial("only Linux's own") => |_, [wanted, ..], _| crate::process::prctl::personality(wanted);
    157 prctl partial("names, and flags that make no difference; else EINVAL") => |k, args, _| crate::process::prctl::prctl(k, args);
    158 arch_prctl partial("FS and GS base only") => |_, [code, address, ..], _| crate::process::machine::arch_prctl(code, address);
    160 setrlimit full => |k, [resource, from, ..], _| crate::process::limits::setrlimit(k, resource, from);
    247 waitid full => |_, [kind, _, _, options, ..], _| crate::process::identity::waitid(kind, options);
    302 prlimit64 full => |k, [pid, resource, new, old, ..], _| crate::process::limits::prlimit64(k, pid, resource, new, old);
    318 getrandom partial("the same in every run") => |k, [to, bytes, flags, ..], _| crate::process::random::getrandom(k, to, bytes, flags);
}
