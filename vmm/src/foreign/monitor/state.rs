//! What the monitor knows of the guest's CPU that the real one does not hold: the control registers,
//! segments and tables that the guest believes in. Plain data, to be copied and written down.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::guest::{FLAG_AC, FLAG_NT};
use super::walk::{EFER_LMA, Paging};
use crate::addr::PAGE_BYTES;
use crate::foreign::cpu::Raised;

/// Indices of segment registers, as x86 encodes them.
pub(crate) const ES: usize = 0;
pub(crate) const CS: usize = 1;
pub(crate) const SS: usize = 2;
pub(crate) const DS: usize = 3;
pub(crate) const FS: usize = 4;
pub(crate) const GS: usize = 5;

/// A segment register with what it has cached of its descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub selector: u16,
    pub base: u64,
    pub limit: u32,
    /// Bits 40 to 55 of the descriptor: type, S, DPL, P, (limit,) AVL, L, D/B, G.
    pub attributes: u16,
}

impl Segment {
    /// What a descriptor says; for a system segment in long mode with its `high` half.
    pub(crate) fn of(selector: u16, low: u64, high: u64) -> Self {
        let limit = (low & 0xffff | low >> 32 & 0xf_0000) as u32;
        let attributes = (low >> 40) as u16 & 0xf0ff;
        let pages = attributes & 0x8000 != 0;
        Self {
            selector,
            base: low >> 16 & 0xff_ffff | low >> 56 << 24 | high << 32,
            limit: if pages { limit << 12 | 0xfff } else { limit },
            attributes,
        }
    }

    /// A flat segment of the kind that boot protocols promise.
    pub(crate) const fn flat(selector: u16, attributes: u16) -> Self {
        Self { selector, base: 0, limit: u32::MAX, attributes }
    }

    pub(crate) fn is_present(&self) -> bool {
        self.attributes & 0x80 != 0
    }

    pub(crate) fn is_code(&self) -> bool {
        self.attributes & 0x18 == 0x18
    }

    pub(crate) fn is_system(&self) -> bool {
        self.attributes & 0x10 == 0
    }

    pub(crate) fn is_long(&self) -> bool {
        self.attributes & 0x2000 != 0
    }

    pub(crate) fn is_big(&self) -> bool {
        self.attributes & 0x4000 != 0
    }

    pub(crate) fn is_conforming(&self) -> bool {
        self.attributes & 0x1c == 0x1c
    }

    /// For code.
    pub(crate) fn is_readable(&self) -> bool {
        !self.is_code() || self.attributes & 2 != 0
    }

    /// For data.
    pub(crate) fn is_writable(&self) -> bool {
        !self.is_code() && self.attributes & 2 != 0
    }

    pub(crate) fn dpl(&self) -> u16 {
        self.attributes >> 5 & 3
    }
}

/// 32-bit code, data and a busy TSS, as [`Segment::attributes`] has them.
pub(crate) const CODE32: u16 = 0xc09b;
pub(crate) const CODE64: u16 = 0xa09b;
pub(crate) const DATA: u16 = 0xc093;
pub(crate) const TASK: u16 = 0x008b;

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub base: u64,
    pub limit: u16,
}

/// What the guest was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Bits16,
    Bits32,
    Bits64,
}

impl Mode {
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// MSRs that the guest may write, at most this many different ones; the others it writes are gone.
const MSRS_MAX: usize = 256;

/// The guest's CPU, as far as the real one does not hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Virtual {
    pub(crate) paging: Paging,
    pub(crate) cr2: u64,
    /// I/O privilege level; the real one is 0, so that everything that depends on it traps.
    pub(crate) iopl: u64,
    pub(crate) gdt: Table,
    pub(crate) idt: Table,
    /// By [`ES`] to [`GS`]. The bases of FS and GS are the real CPU's.
    pub(crate) segments: [Segment; 6],
    pub(crate) ldt: Segment,
    pub(crate) task: Segment,
    pub(crate) kernel_gs_base: u64,
    pub(crate) msrs: BTreeMap<u32, u64>,
    pub(crate) xcr0: u64,
    pub(crate) debug: [u64; 8],
    /// Instructions that do not trap by themselves and were replaced by `hlt`: guest-physical
    /// address of each, and the byte that was there.
    pub(crate) patches: BTreeMap<u64, u8>,
    /// Guest-physical pages that were searched for such instructions. The guest cannot write to them without
    /// the monitor, but to those that are [`Self::mixed`].
    pub(crate) scanned: BTreeSet<u64>,
    /// Of those, pages that the guest writes to so often, or of which so little is code, that it may.
    pub(crate) mixed: BTreeSet<u64>,
    /// How often pages of code were written to.
    pub(crate) writes: BTreeMap<u64, u32>,
    /// Replaced instructions that became the guest's own again, because it wrote to their page.
    pub(crate) lifted: BTreeMap<u64, u8>,
    /// Code that the monitor wrote for the guest and has not looked through yet: beginnings and ends.
    pub(crate) rewritten: Vec<(u64, u64)>,
    /// What was looked through last of that: what comes next may be the rest of an instruction.
    pub(crate) rewritten_before: (u64, u64),
    /// Where the guest's hardware randomness comes from.
    pub(crate) random: u64,
    /// The exception that the guest is handling: the last one that was delivered and not returned from.
    pub(crate) raised: Option<Raised>,
    /// RIP, if an `sti` was the last thing that trapped and a `hlt` comes next.
    pub(crate) sti_before_hlt: Option<u64>,
}

impl Virtual {
    pub(crate) fn cpl(&self) -> u16 {
        self.segments[CS].selector & 3
    }

    /// Whether the page at `gpa` is code, and must be looked through again when it changes.
    pub(crate) fn is_code(&self, gpa: u64) -> bool {
        let page = gpa & !(PAGE_BYTES - 1);
        self.scanned.contains(&page) && !self.mixed.contains(&page)
    }

    /// Takes note that the guest has written to `from..to`, which is in RAM and in one page.
    pub(crate) fn note_written(&mut self, from: u64, to: u64) {
        if !self.is_code(from) {
            return;
        }
        while let Some((&at, _)) = self.patches.range(from..to).next() {
            self.patches.remove(&at);
        }
        match self.rewritten.last_mut() {
            Some(last) if from <= last.1 && to >= last.0 => *last = (last.0.min(from), last.1.max(to)),
            _ => self.rewritten.push((from, to)),
        }
    }

    pub(crate) fn is_long(&self) -> bool {
        self.paging.efer & EFER_LMA != 0
    }

    pub(crate) fn mode(&self) -> Mode {
        let cs = &self.segments[CS];
        if self.is_long() && cs.is_long() {
            Mode::Bits64
        } else if cs.is_big() {
            Mode::Bits32
        } else {
            Mode::Bits16
        }
    }

    /// Of the guest's RFLAGS, those that the real CPU has while it runs the guest. Alignment is checked at CPL 3
    /// alone, so a guest that is not there must not feel it; NT gets lost on the way through software KVM, and
    /// matters to no instruction that does not trap.
    pub(crate) fn real_flags(&self, flags: u64) -> u64 {
        let alignment = if self.cpl() == 3 { 0 } else { FLAG_AC };
        flags & !(0x3000 | alignment | FLAG_NT) | 2
    }

    /// RFLAGS as the guest would see them.
    pub(crate) fn flags(&self, real: u64) -> u64 {
        real & !0x3000 | self.iopl << 12 | 2
    }

    pub(crate) fn set_msr(&mut self, index: u32, value: u64) {
        if self.msrs.len() < MSRS_MAX || self.msrs.contains_key(&index) {
            self.msrs.insert(index, value);
        }
    }

    pub(crate) fn msr(&self, index: u32) -> Option<u64> {
        self.msrs.get(&index).copied()
    }

    /// The next hardware random number: the same for every run of one state. SplitMix64.
    pub(crate) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_as_the_sdm_draws_them() {
        let code = Segment::of(8, 0x00af_9b00_0000_ffff, 0);
        assert_eq!((code.base, code.limit, code.attributes), (0, u32::MAX, CODE64));
        assert!(code.is_code() && code.is_long() && !code.is_big() && code.is_present() && !code.is_system());
        let task = Segment::of(0x28, 0x1200_8956_7834_0067, 0xffff_8000);
        assert_eq!((task.base, task.limit), (0xffff_8000_1256_7834, 0x67));
        assert!(task.is_system() && !task.is_code());
        assert_eq!(Segment::of(0x23, 0x00cf_f300_0000_ffff, 0).dpl(), 3);
    }

    #[test]
    fn randomness_is_a_function_of_the_state() {
        let (mut one, mut other) = (Virtual::default(), Virtual::default());
        assert_eq!(one.next_random(), other.next_random());
        assert_ne!(one.next_random(), one.next_random());
    }
}
