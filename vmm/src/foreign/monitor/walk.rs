//! The guest's own page tables, walked as its CPU would: without paging, with two, three and four
//! levels.
//!
//! Source: Intel SDM volume 3, chapter 5.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::addr::{Gpa, PAGE_BYTES};
use crate::memory::GuestMemory;

/// The control registers that decide how addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paging {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

pub(crate) const CR0_PE: u64 = 1;
/// What x87 and vector instructions are let do.
pub(crate) const CR0_MP: u64 = 2;
pub(crate) const CR0_EM: u64 = 4;
pub(crate) const CR0_TS: u64 = 8;
pub(crate) const CR0_WP: u64 = 1 << 16;
pub(crate) const CR0_PG: u64 = 1 << 31;
pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;
pub(crate) const EFER_NXE: u64 = 1 << 11;

/// How a page is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    pub write: bool,
    pub execute: bool,
    /// At the guest's CPL 3.
    pub user: bool,
}

/// Where an address leads and what may be done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub gpa: u64,
    pub write: bool,
    pub execute: bool,
    /// Bytes of the page it is in.
    pub page_bytes: u64,
}

/// What decides about a whole last table: see [`Paging::above`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Above {
    paging: Paging,
    entries: [u64; 3],
}

impl Above {
    /// Whether it says all about itself.
    pub(crate) fn is_known(&self) -> bool {
        self.entries[0] != u64::MAX
    }
}

/// A #PF: its error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageFault(pub u32);

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl Paging {
    /// Whether addresses are translated at all.
    pub(crate) fn is_on(&self) -> bool {
        self.cr0 & CR0_PG != 0
    }

    /// The levels: how far the index of each is shifted, from the root on.
    fn levels(&self) -> &'static [u32] {
        if self.efer & EFER_LMA != 0 {
            &[39, 30, 21, 12]
        } else if self.cr4 & CR4_PAE != 0 {
            &[30, 21, 12]
        } else {
            &[22, 12]
        }
    }

    /// Sets the accessed bit of all entries that can be reached from the root, and the dirty bit of all pages that
    /// may be written: what a CPU may do at any time, and what spares each run a trap for each page that it is the
    /// first to use. Of four levels only: an agent's image is in long mode.
    pub(crate) fn mark_all(&self, memory: &mut GuestMemory) {
        if !self.is_on() || self.efer & EFER_LMA == 0 {
            return;
        }
        // Tables that lead to themselves are met at most once at each level.
        let mut met = BTreeSet::new();
        let mut next = vec![(self.cr3 & ADDRESS, 39u32)];
        while let Some((table, shift)) = next.pop() {
            let inside = table.checked_add(PAGE_BYTES).is_some_and(|end| end <= memory.len());
            if !inside || !met.insert((table, shift)) {
                continue;
            }
            for at in (table..table + PAGE_BYTES).step_by(8) {
                let mut bytes = [0; 8];
                if memory.read(Gpa(at), &mut bytes).is_err() {
                    continue;
                }
                let entry = u64::from_le_bytes(bytes);
                if entry & PRESENT == 0 {
                    continue;
                }
                let leaf = shift == 12 || entry & LARGE != 0 && shift <= 30;
                let written = leaf && (entry & WRITE != 0 || self.cr0 & CR0_WP == 0);
                set_bits(memory, Gpa(at), entry, ACCESSED | if written { DIRTY } else { 0 }, 8);
                if !leaf {
                    next.push((entry & ADDRESS, shift - 9));
                }
            }
        }
    }

    /// What decides about the 2 MiB around `address`, but for the last table's entries: the entries on the way to it,
    /// and where it is, if there is one.
    pub(crate) fn above(&self, memory: &GuestMemory, address: u64) -> (Above, Option<u64>) {
        let long = self.efer & EFER_LMA != 0;
        let mut above = Above { paging: Self { cr3: 0, ..*self }, entries: [0; 3] };
        let mut table = self.cr3 & ADDRESS;
        if !self.is_on() || !long {
            // Of other tables nothing is remembered.
            above.entries[0] = u64::MAX;
            return (above, None);
        }
        for (entry, shift) in above.entries.iter_mut().zip([39, 30, 21]) {
            let mut bytes = [0; 8];
            let index = address >> shift & 511;
            if memory.read(Gpa(table + index * 8), &mut bytes).is_err() {
                return (above, None);
            }
            *entry = u64::from_le_bytes(bytes);
            if *entry & PRESENT == 0 || *entry & LARGE != 0 {
                return (above, None);
            }
            table = *entry & ADDRESS;
        }
        (above, Some(table))
    }

    /// What decides, in the root, about `address` and all addresses near it: different for different entries there.
    pub(crate) fn top(&self, memory: &GuestMemory, address: u64) -> u64 {
        if !self.is_on() {
            return u64::MAX;
        }
        if self.efer & EFER_LMA == 0 {
            return self.cr3 | 1 << 62;
        }
        let mut bytes = [0; 8];
        let at = (self.cr3 & ADDRESS) + (address >> 39 & 511) * 8;
        // A root that is nowhere has nothing.
        let _in_bounds = memory.read(Gpa(at), &mut bytes);
        u64::from_le_bytes(bytes) & !(ACCESSED | 1 << 62)
    }

    /// Where `address` leads for someone who only looks, a supervisor or a `user`: no bit is set on the way. With it,
    /// what a CPU that has been there before would still know: whether the page is accessed already, and dirty if it
    /// can be written.
    pub(crate) fn look(&self, memory: &GuestMemory, address: u64, user: bool) -> Option<(Translation, bool)> {
        if !self.is_on() {
            let here = Translation { gpa: address, write: true, execute: true, page_bytes: PAGE_BYTES };
            return Some((here, true));
        }
        let long = self.efer & EFER_LMA != 0;
        let wide = long || self.cr4 & CR4_PAE != 0;
        let (entry_bytes, index_mask): (u64, u64) = if wide { (8, 511) } else { (4, 1023) };
        let mut table = self.cr3 & if long { ADDRESS } else { 0xffff_ffe0 };
        let (mut write, mut execute, mut seen) = (true, true, true);
        for &shift in self.levels() {
            let root_of_pae = wide && !long && shift == 30;
            let index = address >> shift & if root_of_pae { 3 } else { index_mask };
            let mut bytes = [0; 8];
            memory.read(Gpa(table + index * entry_bytes), &mut bytes[..entry_bytes as usize]).ok()?;
            let entry = u64::from_le_bytes(bytes);
            if entry & PRESENT == 0 {
                return None;
            }
            if !root_of_pae {
                write &= entry & WRITE != 0;
                execute &= self.efer & EFER_NXE == 0 || !wide || entry & NO_EXECUTE == 0;
                seen &= entry & ACCESSED != 0;
                if user && entry & USER == 0 {
                    return None;
                }
            }
            let large = entry & LARGE != 0 && (21..=30).contains(&shift) && !root_of_pae;
            if shift > 12 && !(large && (wide || self.cr4 & CR4_PSE != 0)) {
                table = entry & if wide { ADDRESS } else { 0xffff_f000 };
                continue;
            }
            let page_bytes = 1u64 << shift;
            let base = entry & if wide { ADDRESS } else { 0xffff_f000 } & !(page_bytes - 1);
            let write = write || !user && self.cr0 & CR0_WP == 0;
            let seen = seen && (!write || entry & DIRTY != 0);
            return Some((
                Translation { gpa: base | address & (page_bytes - 1), write, execute, page_bytes },
                seen,
            ));
        }
        None
    }

    /// Translates `address` for `wanted`, and sets accessed and dirty bits on the way.
    ///
    /// # Errors
    ///
    /// [`PageFault`] with the error code that the CPU would push.
    pub(crate) fn translate(
        &self,
        memory: &mut GuestMemory,
        address: u64,
        wanted: Use,
    ) -> Result<Translation, PageFault> {
        if !self.is_on() {
            return Ok(Translation { gpa: address, write: true, execute: true, page_bytes: PAGE_BYTES });
        }
        let long = self.efer & EFER_LMA != 0;
        let wide = long || self.cr4 & CR4_PAE != 0;
        let no_execute = self.efer & EFER_NXE != 0 && wide;
        let fault = |present: bool| {
            let bits =
                [(present, 1), (wanted.write, 2), (wanted.user, 4), (wanted.execute && no_execute, 16)];
            PageFault(bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum())
        };
        let entry_bytes: u64 = if wide { 8 } else { 4 };
        let index_mask: u64 = if wide { 511 } else { 1023 };
        let mut table = self.cr3 & if long { ADDRESS } else { 0xffff_ffe0 };
        let (mut may_write, mut may_user, mut may_execute) = (true, true, true);
        let levels = self.levels();
        for &shift in levels {
            // The four entries of a PAE root have no permissions.
            let root_of_pae = wide && !long && shift == 30;
            let index = address >> shift & if root_of_pae { 3 } else { index_mask };
            let at = Gpa(table + index * entry_bytes);
            let mut bytes = [0; 8];
            // Tables are in RAM: the windows are the monitor's.
            let inside = at.0.checked_add(entry_bytes).is_some_and(|end| end <= memory.len());
            if !inside || memory.read(at, &mut bytes[..entry_bytes as usize]).is_err() {
                return Err(fault(false));
            }
            let entry = u64::from_le_bytes(bytes);
            if entry & PRESENT == 0 {
                return Err(fault(false));
            }
            if !root_of_pae {
                may_write &= entry & WRITE != 0;
                may_user &= entry & USER != 0;
                may_execute &= !no_execute || entry & NO_EXECUTE == 0;
            }
            let large = shift > 12
                && entry & LARGE != 0
                && shift <= 30
                && (wide || self.cr4 & CR4_PSE != 0)
                && !root_of_pae;
            if shift > 12 && !large {
                if !root_of_pae {
                    set_bits(memory, at, entry, ACCESSED, entry_bytes);
                }
                table = entry & if wide { ADDRESS } else { 0xffff_f000 };
                continue;
            }
            let page_bytes = 1u64 << shift;
            // A supervisor may write to read-only pages while CR0.WP is off.
            let writable = may_write || (!wanted.user && self.cr0 & CR0_WP == 0);
            if wanted.user && !may_user || wanted.write && !writable || wanted.execute && !may_execute {
                return Err(fault(true));
            }
            // Set as soon as a page may be written: that it is set without a write is a deviation, and one
            // fault less for every page.
            set_bits(memory, at, entry, ACCESSED | if writable { DIRTY } else { 0 }, entry_bytes);
            let base = entry & if wide { ADDRESS } else { 0xffff_f000 } & !(page_bytes - 1);
            let gpa = base | address & (page_bytes - 1);
            return Ok(Translation { gpa, write: writable, execute: may_execute, page_bytes });
        }
        Err(fault(false))
    }
}

fn set_bits(memory: &mut GuestMemory, at: Gpa, entry: u64, bits: u64, entry_bytes: u64) {
    if entry & bits != bits {
        let bytes = (entry | bits).to_le_bytes();
        // It was read from there, so it can be written there.
        let _in_bounds = memory.write(at, &bytes[..entry_bytes as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(entries: &[(u64, u64)], entry_bytes: usize) -> GuestMemory {
        let mut memory = GuestMemory::for_boot(4 << 20, PAGE_BYTES).unwrap().0;
        for (at, entry) in entries {
            memory.write(Gpa(*at), &entry.to_le_bytes()[..entry_bytes]).unwrap();
        }
        memory
    }

    const WRITING: Use = Use { write: true, execute: false, user: false };

    #[test]
    fn four_levels_with_a_small_and_a_large_page() {
        let paging = Paging { cr0: CR0_PG | CR0_WP, cr3: 0x1000, cr4: CR4_PAE, efer: EFER_LMA | EFER_NXE };
        let high = 0xffff_ffff_8000_0000u64;
        let mut memory = memory(
            &[
                (0x1ff8, 0x2003),
                (0x2ff0, 0x3003),
                (0x3000, 0x4003),
                (0x3008, 0x20_0000 | LARGE | 1),
                (0x4008, 0x5003 | NO_EXECUTE),
            ],
            8,
        );
        let small = paging.translate(&mut memory, high + 0x1234, WRITING).unwrap();
        assert_eq!(small, Translation { gpa: 0x5234, write: true, execute: false, page_bytes: 4096 });
        let mut entry = [0; 8];
        memory.read(Gpa(0x4008), &mut entry).unwrap();
        assert_eq!(u64::from_le_bytes(entry), 0x5003 | NO_EXECUTE | ACCESSED | DIRTY);
        let large = paging.translate(&mut memory, high + 0x20_1234, Use::default()).unwrap();
        assert_eq!(large, Translation { gpa: 0x20_1234, write: false, execute: true, page_bytes: 2 << 20 });
        for (address, wanted, code) in [
            (high + 0x20_0000, WRITING, 3),
            (high + 0x2000, WRITING, 2),
            (0x1000, Use::default(), 0),
            (high + 0x1000, Use { execute: true, ..Use::default() }, 0x11),
            (high + 0x1000, Use { user: true, ..Use::default() }, 5),
        ] {
            assert_eq!(paging.translate(&mut memory, address, wanted), Err(PageFault(code)), "{address:#x}");
        }
    }

    #[test]
    fn two_and_three_levels() {
        let legacy = Paging { cr0: CR0_PG, cr3: 0x1000, cr4: CR4_PSE, efer: 0 };
        let mut two = memory(&[(0x1000, 0x2007), (0x2004, 0x3001), (0x1004, LARGE | 3)], 4);
        assert_eq!(legacy.translate(&mut two, 0x1010, WRITING).unwrap().gpa, 0x3010, "WP is off");
        assert_eq!(legacy.translate(&mut two, 0x40_0010, WRITING).unwrap().gpa, 0x10);
        let pae = Paging { cr0: CR0_PG, cr3: 0x1020, cr4: CR4_PAE, efer: 0 };
        let mut three = memory(&[(0x1020, 0x2001), (0x2000, 0x3003), (0x3000, 0x4003)], 8);
        assert_eq!(pae.translate(&mut three, 0xff0, WRITING).unwrap().gpa, 0x4ff0);
    }

    #[test]
    fn tables_outside_of_memory_are_a_fault_and_not_a_panic() {
        let paging = Paging { cr0: CR0_PG, cr3: ADDRESS, cr4: CR4_PAE, efer: EFER_LMA };
        let mut memory = memory(&[], 8);
        assert_eq!(paging.translate(&mut memory, u64::MAX, WRITING), Err(PageFault(2)));
    }
}
