//! Exceptions that the guest deals with itself: those whose signal has a handler in the application,
//! and page faults of the libOS's copies from and to the application's memory.
//!
//! Every exception stops the guest, and the host decides. It hands one over by describing it in the
//! control page and going on, at CPL 3, at an entry point of the libOS; the libOS then builds a signal
//! frame. Which signals it wants so is a word in guest memory. What stands there is a claim, and
//! trusting it is harmless: the worst that a guest which overwrote it can do is to be sent to the
//! libOS's entry, where it could have jumped by itself.

use serde::{Deserialize, Serialize};
use unifork_abi::{KERNEL_END_VA, KERNEL_VA, KernelHeader};

/// Vector of a page fault.
const PAGE_FAULT: u8 = 14;

/// Where the libOS wants exceptions, from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FaultDoors {
    pub entry: u64,
    pub signals: u64,
    copy_start: u64,
    copy_end: u64,
    copy_fault: u64,
}

impl FaultDoors {
    pub(crate) fn of(header: &KernelHeader) -> Self {
        Self {
            entry: header.fault_entry,
            signals: header.fault_signals,
            copy_start: header.copy_start,
            copy_end: header.copy_end,
            copy_fault: header.copy_fault,
        }
    }

    /// Where a copy of the libOS's that an exception stopped goes on.
    pub(crate) fn copy_fixup(&self, vector: u8, rip: u64) -> Option<u64> {
        let stopped = vector == PAGE_FAULT && (self.copy_start..self.copy_end).contains(&rip);
        stopped.then_some(self.copy_fault)
    }

    /// The bit of [`KernelHeader::fault_signals`] that hands over an exception at `rip`; none for one
    /// of the libOS's own.
    pub(crate) fn bit(vector: u8, rip: u64) -> Option<u64> {
        if (KERNEL_VA..KERNEL_END_VA).contains(&rip) {
            return None;
        }
        signal_of(vector).map(|signal| 1 << (signal - 1))
    }
}

/// The signal that Linux turns an exception into (`arch/x86/kernel/traps.c`).
#[must_use]
pub(crate) const fn signal_of(vector: u8) -> Option<u8> {
    Some(match vector {
        0 | 16 | 19 => 8,      // SIGFPE
        1 | 3 => 5,            // SIGTRAP
        6 => 4,                // SIGILL
        11 | 12 | 17 => 7,     // SIGBUS
        4 | 5 | 13 | 14 => 11, // SIGSEGV
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOORS: FaultDoors =
        FaultDoors { entry: 1, signals: 2, copy_start: 0x6000_1000, copy_end: 0x6000_1008, copy_fault: 9 };

    #[test]
    fn only_a_page_fault_inside_the_copy_is_put_right() {
        assert_eq!(DOORS.copy_fixup(14, 0x6000_1003), Some(9));
        assert_eq!(DOORS.copy_fixup(13, 0x6000_1003), None);
        assert_eq!(DOORS.copy_fixup(14, 0x6000_1008), None);
    }

    #[test]
    fn the_libos_own_exceptions_are_never_handed_over() {
        assert_eq!(FaultDoors::bit(14, 0x20_0000), Some(1 << 10));
        assert_eq!(FaultDoors::bit(14, 0), Some(1 << 10), "a call of a null pointer is the application's");
        assert_eq!(FaultDoors::bit(0, 0x20_0000), Some(1 << 7));
        assert_eq!(FaultDoors::bit(14, KERNEL_VA), None);
        assert_eq!(FaultDoors::bit(18, 0x20_0000), None);
    }
}
