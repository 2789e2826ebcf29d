//! SIGINT, SIGTERM and SIGHUP: a flag that the run loop reads, so that a campaign ends whole.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether someone asked the program to stop.
#[inline]
pub(crate) fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// From here on, SIGINT, SIGTERM and SIGHUP (the terminal closed) set the flag instead of ending the program. A second one
/// ends it at once, for a program that does not get to read the flag.
pub(crate) fn catch() {
    extern "C" fn on_signal(signal: libc::c_int) {
        if STOP.swap(true, Ordering::Relaxed) {
            // SAFETY: `_exit` is async-signal-safe.
            unsafe { libc::_exit(128 + signal) };
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask, no restorer.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
        // A blocking call (KVM_RUN) returns EINTR, so that the flag is seen soon.
        action.sa_flags = 0;
        // SAFETY:
        // 1. `action` lives across the call, and the old action is not asked for.
        // 2. The handler does nothing but an atomic store and `_exit`.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}
