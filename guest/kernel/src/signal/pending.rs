//! Signals that were sent and not delivered yet.

use alloc::vec::Vec;

use crate::signal::bit;

/// `si_code` of a signal that a timer sent. include/uapi/asm-generic/siginfo.h
pub(crate) const SI_TIMER: i32 = -2;

/// First real-time signal: from here on each one sent is delivered.
const SIGRTMIN: u32 = 32;
/// Pending ones at most, as Linux's `RLIMIT_SIGPENDING`.
const PENDING_MAX: usize = 4096;

/// What a handler is told of its signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) signal: u32,
    pub(crate) code: i32,
    /// Who sent it, or what was touched: two words behind the code.
    pub(crate) words: [u64; 2],
}

impl Info {
    /// As `siginfo_t` begins; the rest is zero.
    pub(crate) fn bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..4].copy_from_slice(&self.signal.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.words[0].to_le_bytes());
        bytes[24..32].copy_from_slice(&self.words[1].to_le_bytes());
        bytes
    }
}

/// A list of them.
#[derive(Default)]
pub(crate) struct Pending {
    // In the order they were sent.
    list: Vec<Info>,
    set: u64,
}

impl Pending {
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new(), set: 0 }
    }

    /// Which signals are in it.
    pub(crate) fn set(&self) -> u64 {
        self.set
    }

    /// Adds one; false when there are too many. Of the classic signals one is enough.
    pub(crate) fn add(&mut self, info: Info) -> bool {
        if info.signal < SIGRTMIN && self.set & bit(info.signal) != 0 {
            return true;
        }
        if self.list.len() >= PENDING_MAX || self.list.try_reserve(1).is_err() {
            return false;
        }
        self.list.push(info);
        self.set |= bit(info.signal);
        true
    }

    /// The signal of timer `id`, if it has not been delivered yet.
    pub(crate) fn of_timer(&mut self, id: u32) -> Option<&mut Info> {
        self.list.iter_mut().find(|info| info.code == SI_TIMER && info.words[0] as u32 == id)
    }

    /// Takes the one of `wanted` that is delivered first: those of exceptions, then the lowest
    /// number, and of one number the one sent first.
    pub(crate) fn take(&mut self, wanted: u64) -> Option<Info> {
        let ready = self.set & wanted;
        if ready == 0 {
            return None;
        }
        let first = if ready & super::OF_EXCEPTIONS != 0 { ready & super::OF_EXCEPTIONS } else { ready };
        let signal = first.trailing_zeros() + 1;
        let at = self.list.iter().position(|info| info.signal == signal)?;
        let info = self.list.remove(at);
        if !self.list.iter().any(|info| info.signal == signal) {
            self.set &= !bit(signal);
        }
        Some(info)
    }

    /// Forgets those of `which`.
    pub(crate) fn drop_all(&mut self, which: u64) {
        if self.set & which != 0 {
            self.list.retain(|info| bit(info.signal) & which == 0);
            self.set &= !which;
        }
    }
}
