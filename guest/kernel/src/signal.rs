//! Signals: dispositions and masks are kept; a fatal one ends the run as a finding.

use unifork_hal::{SyscallFrame, User, signalled};

use crate::errno::{Errno, Outcome};
use crate::process::PID;

/// Signals are numbered 1 to 64.
const SIGNALS: usize = 64;
const SIGKILL: u64 = 9;
const SIGSTOP: u64 = 19;
/// Ignored unless handled: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
const IGNORED: [u64; 4] = [17, 18, 23, 28];
/// Bytes of `struct kernel_sigaction` and of `sigset_t` as the system call knows it.
const ACTION_BYTES: u64 = 32;
const SET_BYTES: u64 = 8;
const SIG_IGN: u64 = 1;

/// handler, flags, restorer, mask
type Action = [u64; 4];

pub(crate) struct Signals {
    actions: [Action; SIGNALS],
    blocked: u64,
    pending: u64,
    alternate_stack: [u64; 3],
}

impl Signals {
    pub(crate) const fn new() -> Self {
        // SS_DISABLE: no alternate stack.
        Self { actions: [[0; 4]; SIGNALS], blocked: 0, pending: 0, alternate_stack: [0, 2, 0] }
    }

    pub(crate) fn rt_sigaction(&mut self, signal: u64, new: u64, old: u64, set_bytes: u64) -> Outcome {
        let number = number(signal).filter(|_| set_bytes == SET_BYTES).ok_or(Errno::EINVAL)?;
        if new != 0 && matches!(signal, SIGKILL | SIGSTOP) {
            return Err(Errno::EINVAL);
        }
        let action = &mut self.actions[number];
        let before = *action;
        if new != 0 {
            let new = User::readable(new, ACTION_BYTES)?;
            *action = core::array::from_fn(|i| new.word(i as u64 * 8));
        }
        if old != 0 {
            write_words(old, &before)?;
        }
        Ok(0)
    }

    pub(crate) fn rt_sigprocmask(
        &mut self,
        how: u64,
        new: u64,
        old: u64,
        set_bytes: u64,
        frame: &SyscallFrame,
    ) -> Outcome {
        if set_bytes != SET_BYTES {
            return Err(Errno::EINVAL);
        }
        let before = self.blocked;
        if new != 0 {
            let set = User::readable(new, SET_BYTES)?.word(0);
            let blocked = match how {
                0 => before | set,
                1 => before & !set,
                2 => set,
                _ => return Err(Errno::EINVAL),
            };
            self.blocked = blocked & !(1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1));
        }
        if old != 0 {
            write_words(old, &[before])?;
        }
        let ready = self.pending & !self.blocked;
        if ready != 0 {
            self.pending &= !ready;
            signalled(ready.trailing_zeros().cast_signed() + 1, frame);
        }
        Ok(0)
    }

    pub(crate) fn sigaltstack(&mut self, new: u64, old: u64) -> Outcome {
        let before = self.alternate_stack;
        if new != 0 {
            let new = User::readable(new, 24)?;
            self.alternate_stack = core::array::from_fn(|i| new.word(i as u64 * 8));
        }
        if old != 0 {
            write_words(old, &before)?;
        }
        Ok(0)
    }

    /// `kill`, `tkill` and `tgkill` of the only process there is. A signal that would end it ends
    /// the run, at once or when it is unblocked; so does one with a handler, which is not called.
    pub(crate) fn raise(&mut self, target: u64, signal: u64, frame: &SyscallFrame) -> Outcome {
        if target != PID && target != 0 {
            return Err(Errno::ESRCH);
        }
        if signal == 0 {
            return Ok(0);
        }
        let number = number(signal).ok_or(Errno::EINVAL)?;
        let handler = self.actions[number][0];
        if handler == SIG_IGN || handler == 0 && IGNORED.contains(&signal) {
            return Ok(0);
        }
        if self.blocked >> number & 1 == 1 {
            self.pending |= 1 << number;
            return Ok(0);
        }
        signalled(i32::try_from(signal).unwrap_or(0), frame)
    }
}

fn number(signal: u64) -> Option<usize> {
    usize::try_from(signal).ok().filter(|n| (1..=SIGNALS).contains(n)).map(|n| n - 1)
}

fn write_words(to: u64, words: &[u64]) -> Result<(), Errno> {
    for (i, word) in words.iter().enumerate() {
        User::writable(to + i as u64 * 8, 8)?.write(&word.to_le_bytes());
    }
    Ok(())
}
