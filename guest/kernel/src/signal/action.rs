//! What a process does about each signal.

use alloc::boxed::Box;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::signal::pending::Pending;
use crate::signal::{IGNORED, NEVER_BLOCKED, OF_EXCEPTIONS, SET_BYTES, SIGNALS, bit, number};
use crate::user::{read_words, write_words};

const SIG_DFL: u64 = 0;
const SIG_IGN: u64 = 1;

// include/uapi/asm-generic/signal-defs.h
pub(crate) const SA_SIGINFO: u64 = 4;
pub(crate) const SA_RESTORER: u64 = 0x400_0000;
pub(crate) const SA_ONSTACK: u64 = 0x800_0000;
pub(crate) const SA_RESTART: u64 = 0x1000_0000;
pub(crate) const SA_NODEFER: u64 = 0x4000_0000;
pub(crate) const SA_RESETHAND: u64 = 0x8000_0000;
/// Flags that Linux 6.1 keeps: those above, NOCLDSTOP, NOCLDWAIT, EXPOSE_TAGBITS.
const SA_KNOWN: u64 =
    SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_RESTART | SA_NODEFER | SA_RESETHAND | 1 | 2 | 0x800;

/// `struct kernel_sigaction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Nothing,
    EndsProcess,
    CallsHandler,
}

/// The process's part of signals; the rest is each thread's.
pub(crate) struct Signals {
    // Apart from the rest: they are hardly ever written.
    actions: Box<[Action; SIGNALS]>,
    // Those with a handler.
    handled: u64,
    /// Sent to the process, for any thread that does not hold them off.
    pub(crate) pending: Pending,
    /// One that ends the process, as soon as the libOS has the registers of a thread at hand.
    pub(crate) fatal: Option<u32>,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            actions: Box::new([Action::default(); SIGNALS]),
            handled: 0,
            pending: Pending::new(),
            fatal: None,
        }
    }

    pub(crate) fn action(&self, signal: u32) -> Action {
        self.actions[signal as usize - 1]
    }

    pub(crate) fn set_action(&mut self, signal: u32, action: Action) {
        self.actions[signal as usize - 1] = action;
        if matches!(action.handler, SIG_DFL | SIG_IGN) {
            self.handled &= !bit(signal);
        } else {
            self.handled |= bit(signal);
        }
    }

    pub(crate) fn does(&self, signal: u32) -> Does {
        match self.action(signal).handler {
            SIG_IGN => Does::Nothing,
            SIG_DFL if IGNORED & bit(signal) != 0 => Does::Nothing,
            SIG_DFL => Does::EndsProcess,
            _ => Does::CallsHandler,
        }
    }
}

impl Kernel {
    /// Signals that an exception in the running thread raises and that would then call a handler.
    pub(crate) fn fault_signals(&mut self) -> u64 {
        self.signals.handled & OF_EXCEPTIONS & !self.sched.me().blocked
    }
}

/// `rt_sigaction`.
pub(crate) fn rt_sigaction(k: &mut Kernel, signal: u64, new: u64, old: u64, set_bytes: u64) -> Outcome {
    let signal = number(signal).filter(|_| set_bytes == SET_BYTES).ok_or(Errno::EINVAL)?;
    let read = |at| {
        let [handler, flags, restorer, mask] = read_words(at)?;
        Ok::<_, Errno>(Action { handler, flags: flags & SA_KNOWN, restorer, mask: mask & !NEVER_BLOCKED })
    };
    let wanted = if new == 0 { None } else { Some(read(new)?) };
    if wanted.is_some() && NEVER_BLOCKED & bit(signal) != 0 {
        return Err(Errno::EINVAL);
    }
    let before = k.signals.action(signal);
    if let Some(action) = wanted {
        k.signals.set_action(signal, action);
        if k.signals.does(signal) == Does::Nothing {
            // POSIX: what is pending is dropped, even when it is held off.
            k.signals.pending.drop_all(bit(signal));
            k.sched.threads_mut().for_each(|thread| thread.pending.drop_all(bit(signal)));
        }
    }
    if old != 0 {
        write_words(old, &[before.handler, before.flags, before.restorer, before.mask])?;
    }
    Ok(0)
}
