//! Counting the system calls that a piece of work makes, with ptrace.

use std::collections::BTreeMap;

/// A system call as it is counted: its number, and for an ioctl which one.
pub(crate) type Call = (u64, u64);

pub(crate) const KVM_RUN: u64 = 0xae80;
pub(crate) const KVM_GET_DIRTY_LOG: u64 = 0x4010_ae42;

/// Rounds that are counted together.
pub(crate) const ROUNDS: u64 = 50;

/// The system calls, by ioctl, of `ROUNDS` rounds, each of `counts`.
pub(crate) fn ioctls(counts: impl IntoIterator<Item = (u64, u64)>) -> BTreeMap<Call, u64> {
    let ioctl = libc::SYS_ioctl as u64;
    counts.into_iter().map(|(which, count)| ((ioctl, which), count * ROUNDS)).collect()
}

/// Makes what `prepare` returns `ROUNDS` times in a child, after five times of warming up, and counts the
/// system calls of its main thread.
pub(crate) fn traced<R: FnMut()>(prepare: impl FnOnce() -> R) -> BTreeMap<Call, u64> {
    // SAFETY: the child makes a machine of its own, and leaves by `_exit` without unwinding.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "cannot fork");
    if child == 0 {
        let went_well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_traced(prepare())));
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(i32::from(went_well.is_err())) };
    }
    let mut calls = BTreeMap::new();
    let (mut counting, mut entering) = (false, true);
    loop {
        let mut status = 0;
        // SAFETY: `status` is writable, `child` is ours.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "the child failed");
            return calls;
        }
        assert!(libc::WIFSTOPPED(status), "status {status:#x}");
        let at_call = libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80;
        if at_call && entering {
            let (call, argument) = call_of(child);
            if call == libc::SYS_getppid as u64 {
                counting = !counting;
            } else if counting {
                let which = if call == libc::SYS_ioctl as u64 { argument } else { 0 };
                *calls.entry((call, which)).or_default() += 1;
            }
        }
        entering ^= at_call;
        if !at_call {
            let option = libc::PTRACE_O_TRACESYSGOOD;
            // SAFETY: the child is stopped and traced by this thread.
            unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, option) };
        }
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child, 0, 0) };
    }
}

/// Number and second argument of the system call that `child` is stopped at.
fn call_of(child: libc::pid_t) -> Call {
    // SAFETY: all-zero registers are valid ones.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the child is stopped and traced by this thread; `registers` is writable.
    unsafe { libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers) };
    (registers.orig_rax, registers.rsi & 0xffff_ffff)
}

fn run_traced(mut round: impl FnMut()) {
    (0..5).for_each(|_| round());
    // SAFETY: asks to be traced by the parent.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0, "this test needs ptrace");
    // SAFETY: stops this process until its parent goes on.
    unsafe { libc::raise(libc::SIGSTOP) };
    // SAFETY: no precondition: a mark.
    unsafe { libc::syscall(libc::SYS_getppid) };
    (0..ROUNDS).for_each(|_| round());
    // SAFETY: no precondition: a mark.
    unsafe { libc::syscall(libc::SYS_getppid) };
}
