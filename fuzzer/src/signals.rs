//! SIGINT, SIGTERM and SIGHUP: a flag that the run loop reads, so that a campaign ends whole. SIGBUS: a
//! snapshot file that was cut off under the program.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::cmd::Blame;
use crate::ui::terminal;

/// The signal that asked the program to stop; 0 for none.
static STOP: AtomicU8 = AtomicU8::new(0);

/// Whether someone asked the program to stop.
#[inline]
pub(crate) fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed) != 0
}

/// What a shell says of a program that the signal ended which asked this one to stop.
pub(crate) fn stopped_code() -> u8 {
    128 + STOP.load(Ordering::Relaxed)
}

/// Asks the program to stop, as a signal would.
pub(crate) fn request_stop() {
    STOP.store(libc::SIGINT as u8, Ordering::Relaxed);
}

/// From here on, what a terminal sends does nothing: the process that started this one gets it as well, and
/// says when to stop.
pub(crate) fn leave_to_parent() {
    for signal in [libc::SIGINT, libc::SIGHUP] {
        // SAFETY: SIG_IGN is a valid disposition for both signals, and runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// From here on, SIGINT, SIGTERM and SIGHUP (the terminal closed) set the flag instead of ending the program. A second one
/// ends it at once, for a program that does not get to read the flag.
pub(crate) fn catch() {
    extern "C" fn on_signal(signal: libc::c_int) {
        if STOP.swap(signal as u8, Ordering::Relaxed) != 0 {
            terminal::restore();
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
        // 2. The handler does nothing but atomic stores, system calls and `_exit`.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// Does `work` with all signals blocked, so that the threads it starts never take a signal that is meant to
/// interrupt the campaign's own.
pub(crate) fn blocked<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: all-zero is a valid `sigset_t`; it is filled at once.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is a valid set to write.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both sets live across the call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    let done = work();
    // SAFETY: `before` was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    done
}

/// What is said when a mapped snapshot file turns out to be shorter than it was.
static CUT_OFF: OnceLock<Vec<u8>> = OnceLock::new();

/// From here on, SIGBUS says that `file`, whose memory is mapped, was changed, and ends the program: the
/// forks' memory is gone, and there is nothing to go back to. Only the first file is named.
pub(crate) fn name_at_sigbus(file: &Path) {
    extern "C" fn on_sigbus(_: libc::c_int) {
        terminal::restore();
        if let Some(text) = CUT_OFF.get() {
            // SAFETY: `write` is async-signal-safe, and the text is never changed again.
            unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
        }
        // SAFETY: `_exit` is async-signal-safe.
        unsafe { libc::_exit(Blame::Host as libc::c_int) };
    }
    let help = b" was changed while it was in use\n  help: replace snapshot files, as `unifork snapshot` does; never write into them\n";
    let text = [b"unifork: ", file.as_os_str().as_bytes(), help].concat();
    if CUT_OFF.set(text).is_err() {
        return;
    }
    // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask, no restorer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as extern "C" fn(libc::c_int) as usize;
    // SAFETY:
    // 1. `action` lives across the call, and the old action is not asked for.
    // 2. The handler reads constants, and does nothing but an atomic store, system calls and `_exit`.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
}
