//! Signals: who holds which off, what is pending, and what happens when one is delivered.
//!
//! Delivery is at the end of a system call, of the call's own thread; a signal for a thread that waits
//! ends its waiting. An exception becomes a signal when the host hands it over, which it does when
//! the signal has a handler; otherwise it is a crash, and the libOS never sees it. A signal that would
//! end the process is a finding, at once.

pub(crate) mod action;
pub(crate) mod deliver;
pub(crate) mod frame;
pub(crate) mod mask;
pub(crate) mod pending;
pub(crate) mod send;
pub(crate) mod wait;

/// Signals are numbered 1 to 64.
pub(crate) const SIGNALS: usize = 64;
pub(crate) const SIGILL: u32 = 4;
pub(crate) const SIGTRAP: u32 = 5;
pub(crate) const SIGBUS: u32 = 7;
pub(crate) const SIGFPE: u32 = 8;
pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGSEGV: u32 = 11;
pub(crate) const SIGPIPE: u32 = 13;
pub(crate) const SIGSTOP: u32 = 19;
/// Ignored unless handled: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
const IGNORED: u64 = bit(17) | bit(18) | bit(23) | bit(28);
/// Nothing holds these off.
const NEVER_BLOCKED: u64 = bit(SIGKILL) | bit(SIGSTOP);
/// Those that exceptions raise.
const OF_EXCEPTIONS: u64 = bit(SIGILL) | bit(SIGTRAP) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGSEGV);
/// Bytes of `sigset_t` as the system calls know it.
const SET_BYTES: u64 = 8;

/// The bit of a signal in a set.
pub(crate) const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// A signal's number, if it is one.
pub(crate) fn number(signal: u64) -> Option<u32> {
    Some(signal as u32).filter(|n| (1..=SIGNALS as u32).contains(n))
}
