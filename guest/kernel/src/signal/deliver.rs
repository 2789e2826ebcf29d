//! Delivery: what happens between the end of a system call and the application.

use unifork_hal::{Exception, SyscallFrame, signalled, signalled_by_fault};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::switch::forget;
use crate::sched::thread::{Resume, Thread};
use crate::signal::action::{Does, SA_RESTART};
use crate::signal::pending::Info;
use crate::signal::send::SI_KERNEL;
use crate::signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, bit, frame as sigframe};

/// Ends a call: its result goes to RAX, and signals that are pending are delivered.
pub(crate) fn finish_call(k: &mut Kernel, outcome: Outcome, frame: &mut SyscallFrame) {
    if let Some(signal) = k.signals.fatal {
        signalled(signal.cast_signed(), frame);
    }
    let pending = k.signals.pending.set();
    let me = k.sched.me();
    let ready = (me.pending.set() | pending) & !me.blocked;
    if ready != 0 {
        return finish_with_signals(k, outcome, frame);
    }
    restore_mask(me);
    set_result(outcome, me.call.progress, frame);
    forget(&mut me.call);
}

/// Ends what `sigsuspend`, `ppoll` and their like hold off. Writes nothing when there is nothing to end:
/// the page would be one more that a batch has to put back.
fn restore_mask(me: &mut Thread) {
    if let Some(before) = me.blocked_before {
        me.blocked = before;
        me.blocked_before = None;
    }
}

fn set_result(outcome: Outcome, progress: u64, frame: &mut SyscallFrame) {
    frame.rax = match outcome {
        Err(Errno::AS_IS) => return,
        Err(Errno::EINTR) if progress > 0 => progress,
        Ok(value) => value,
        Err(errno) => errno.as_result(),
    };
}

fn finish_with_signals(k: &mut Kernel, outcome: Outcome, frame: &mut SyscallFrame) {
    let call = k.sched.me().call;
    let mut set = false;
    while let Some(info) = take(k) {
        match k.signals.does(info.signal) {
            Does::Nothing => continue,
            Does::EndsProcess => signalled(info.signal.cast_signed(), frame),
            Does::CallsHandler => {}
        }
        let action = k.signals.action(info.signal);
        let mut restarts = false;
        if !set {
            let interrupted = outcome == Err(Errno::EINTR) && call.progress == 0;
            restarts = interrupted && call.restarts && action.flags & SA_RESTART != 0;
            if interrupted && call.left_at != 0 {
                crate::time::sleep::write_left(k);
            }
            // A call that begins anew keeps its number in RAX.
            if !restarts {
                set_result(outcome, call.progress, frame);
            }
            set = true;
        }
        if sigframe::push(k, &info, action, None, restarts, frame).is_err() {
            signalled(SIGSEGV.cast_signed(), frame);
        }
    }
    if !set {
        set_result(outcome, call.progress, frame);
    }
    let me = k.sched.me();
    restore_mask(me);
    forget(&mut me.call);
}

/// The next signal for the running thread.
fn take(k: &mut Kernel) -> Option<Info> {
    let me = k.sched.me();
    let wanted = !me.blocked;
    me.pending.take(wanted).or_else(|| k.signals.pending.take(wanted))
}

/// Turns an exception of the application's into a signal. The host hands over only those that have a
/// handler; if what it went by was not so, the exception ends the run as it would have otherwise.
pub(crate) fn exception(k: &mut Kernel, exception: Exception, frame: &mut SyscallFrame) -> Outcome {
    let info = info_of(exception, frame);
    let signal = info.signal;
    let held_off = k.sched.me().blocked & bit(signal) != 0;
    let action = k.signals.action(signal);
    if held_off
        || k.signals.does(signal) != Does::CallsHandler
        || sigframe::push(k, &info, action, Some(exception), false, frame).is_err()
    {
        signalled_by_fault(signal.cast_signed(), frame);
    }
    Err(Errno::AS_IS)
}

/// Signal and `siginfo` of an exception. Linux `arch/x86/kernel/traps.c`, `arch/x86/mm/fault.c`.
fn info_of(exception: Exception, frame: &SyscallFrame) -> Info {
    const PRESENT: u64 = 1;
    // si_code: SEGV_MAPERR SEGV_ACCERR; FPE_INTDIV; ILL_ILLOPN; BUS_ADRALN; TRAP_TRACE.
    let (signal, code, address) = match exception.vector {
        0 => (SIGFPE, 1, frame.rip),
        1 => (SIGTRAP, 2, frame.rip),
        3 => (SIGTRAP, SI_KERNEL, 0),
        6 => (SIGILL, 2, frame.rip),
        11 | 12 => (SIGBUS, SI_KERNEL, 0),
        14 => (SIGSEGV, if exception.error_code & PRESENT == 0 { 1 } else { 2 }, exception.address),
        16 | 19 => (SIGFPE, 0, frame.rip),
        17 => (SIGBUS, 1, 0),
        _ => (SIGSEGV, SI_KERNEL, 0),
    };
    Info { signal, code, words: [address, 0] }
}

impl Kernel {
    /// Whether a signal waits for the thread that would do something.
    fn is_signalled(&mut self, tid: u32) -> bool {
        let shared = self.signals.pending.set();
        let Some(thread) = self.sched.thread(tid) else { return false };
        let mut ready = (thread.pending.set() | shared) & !thread.blocked;
        while ready != 0 {
            let signal = ready.trailing_zeros() + 1;
            if self.signals.does(signal) != Does::Nothing {
                return true;
            }
            ready &= ready - 1;
        }
        false
    }

    /// Ends the waiting of a thread that a signal waits for.
    pub(crate) fn interrupt_if_signalled(&mut self, tid: u32) {
        if self.is_signalled(tid) {
            self.sched.wake(tid, Resume::Interrupted);
        }
    }

    /// Whether the call of the thread that goes on really ends early: the signal may be gone.
    pub(crate) fn is_interrupted(&mut self) -> bool {
        let tid = self.sched.tid();
        self.is_signalled(tid)
    }
}
