//! Where everything is: the guest's linear mappings, and the page tables made from them.
//!
//! The tables are built once, before the first instruction, and never change: KVM with shadow
//! paging does not see edits by the host. Their accessed and dirty bits are set from the start, so
//! that no CPU writes to them either.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::addr::{Gpa, Gva, PAGE_BYTES};

/// What a range of linear addresses is for; names it in reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The application's image.
    Application,
    /// The libOS's image.
    Kernel,
    /// Memory that `brk` and `mmap` are served from.
    Arena,
    /// The application's stack.
    Stack,
    /// The libOS's stack.
    KernelStack,
    /// The libOS's heap.
    KernelHeap,
    /// A reset-exempt window.
    Window,
    /// The input, as the harness sees it.
    Input,
    /// Descriptor tables, trap stubs and trap stack: supervisor only.
    Machine,
    /// What the VMM tells the libOS.
    BootInfo,
    /// The root image, read-only.
    Root,
    /// The snapshot's memory, read-only.
    Golden,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "application image",
            Self::Kernel => "libOS image",
            Self::Arena => "heap",
            Self::Stack => "stack",
            Self::KernelStack => "libOS stack",
            Self::KernelHeap => "libOS heap",
            Self::Window => "window",
            Self::Input => "input",
            Self::Machine => "machine tables",
            Self::BootInfo => "boot information",
            Self::Root => "root image",
            Self::Golden => "snapshot",
        })
    }
}

/// Who may do what with a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
    /// May be used at CPL 3.
    pub user: bool,
}

impl Access {
    /// Read at CPL 3.
    pub const READ: Self = Self { write: false, execute: false, user: true };
    /// Read and write at CPL 3.
    pub const WRITE: Self = Self { write: true, execute: false, user: true };
    /// Read and execute at CPL 3.
    pub const EXECUTE: Self = Self { write: false, execute: true, user: true };
    /// Read and write at CPL 0.
    pub const SUPERVISOR: Self = Self { write: true, execute: false, user: false };
    /// Read and execute at CPL 0.
    pub const SUPERVISOR_EXECUTE: Self = Self { write: false, execute: true, user: false };

    /// What either allows.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            write: self.write | other.write,
            execute: self.execute | other.execute,
            user: self.user | other.user,
        }
    }
}

/// One range of linear addresses and what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// First linear address, page-aligned.
    pub start: Gva,
    /// Bytes, whole pages.
    pub bytes: u64,
    /// First guest-physical address, page-aligned.
    pub to: Gpa,
    /// Who may use it.
    pub access: Access,
    /// What it is for.
    pub purpose: Purpose,
}

impl Mapping {
    /// First linear address past it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.0 + self.bytes
    }

    /// Whether `address` is in it.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        address >= self.start.0 && address - self.start.0 < self.bytes
    }
}

/// A mapping that cannot be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Two mappings share a linear page.
    #[error("the {first} and the {second} overlap at {at:#x}")]
    Overlap {
        /// The one that was there.
        first: Purpose,
        /// The one that came.
        second: Purpose,
        /// Where they meet.
        at: u64,
    },
    /// The tables do not fit the memory set aside for them.
    #[error("page tables need more than {pages} pages")]
    TablesFull {
        /// What was set aside.
        pages: u64,
    },
}

/// All linear mappings of a machine, in address order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    // Invariant: sorted by `start`; no two overlap; every field is page-aligned and in the lower
    // canonical half.
    mappings: Vec<Mapping>,
}

impl Layout {
    /// Adds a mapping.
    ///
    /// # Errors
    ///
    /// [`LayoutError::Overlap`]; the layout is then as it was.
    ///
    /// # Panics
    ///
    /// When it is not page-aligned or not in the lower half: the caller made a mistake.
    pub fn add(&mut self, mapping: Mapping) -> Result<(), LayoutError> {
        let aligned = (mapping.start.0 | mapping.bytes | mapping.to.0).is_multiple_of(PAGE_BYTES);
        assert!(aligned, "{mapping:x?} is not page-aligned");
        assert!(
            mapping.start.0.checked_add(mapping.bytes).is_some_and(|end| end <= 1 << 47),
            "not in the lower half"
        );
        if mapping.bytes == 0 {
            return Ok(());
        }
        let at = self.mappings.partition_point(|m| m.start < mapping.start);
        let before = at.checked_sub(1).map(|i| self.mappings[i]).filter(|m| m.end() > mapping.start.0);
        let after = self.mappings.get(at).copied().filter(|m| m.start.0 < mapping.end());
        if let Some(other) = before.or(after) {
            let at = other.start.0.max(mapping.start.0);
            return Err(LayoutError::Overlap { first: other.purpose, second: mapping.purpose, at });
        }
        self.mappings.insert(at, mapping);
        Ok(())
    }

    /// The mappings, in address order.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The mapping that `address` is in.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let at = self.mappings.partition_point(|m| m.start.0 <= address);
        at.checked_sub(1).map(|i| &self.mappings[i]).filter(|m| m.contains(address))
    }

    /// Where `address` is in guest-physical memory.
    #[must_use]
    pub fn translate(&self, address: u64) -> Option<Gpa> {
        self.find(address).map(|m| m.to.offset(address - m.start.0))
    }

    /// Where each byte of `bytes`, which begin at `address`, is in guest-physical memory, in pieces that
    /// no page boundary cuts; unmapped ones are left out.
    pub(crate) fn pieces<'a>(
        &self,
        address: u64,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (Gpa, &'a [u8])> + use<'a, '_> {
        let in_first = usize::try_from(PAGE_BYTES - address % PAGE_BYTES).unwrap_or(usize::MAX);
        let (first, rest) = bytes.split_at(in_first.min(bytes.len()));
        let rest = rest.chunks(PAGE_BYTES as usize);
        std::iter::once(first)
            .chain(rest)
            .scan(address, |at, piece| {
                let start = *at;
                *at += piece.len() as u64;
                Some((start, piece))
            })
            .filter_map(|(at, piece)| Some((self.translate(at)?, piece)))
    }

    /// The linear address of the RAM page at `gpa`, for pages that CPL 3 may write.
    #[must_use]
    pub fn writable_alias(&self, gpa: Gpa) -> Option<Gva> {
        let inside =
            |m: &&Mapping| m.access.write && m.access.user && gpa >= m.to && gpa.0 - m.to.0 < m.bytes;
        self.mappings.iter().find(inside).map(|m| Gva(m.start.0 + (gpa.0 - m.to.0)))
    }

    /// Builds four-level page tables for `root` onwards, at most `pages_max` pages of them, as
    /// 512-entry tables in guest-physical order.
    ///
    /// # Errors
    ///
    /// [`LayoutError::TablesFull`].
    pub(crate) fn tables(&self, root: Gpa, pages_max: u64) -> Result<Vec<[u64; 512]>, LayoutError> {
        let mut tables = Tables { root, pages_max, pages: vec![[0; 512]] };
        for mapping in &self.mappings {
            let large = mapping.purpose == Purpose::Golden;
            let step = if large { LARGE_BYTES } else { PAGE_BYTES };
            let mut offset = 0;
            while offset < mapping.bytes {
                tables.map(mapping, offset, large)?;
                offset += step;
            }
        }
        Ok(tables.pages)
    }

    /// Pages that [`Self::tables`] needs at most.
    pub(crate) fn tables_bound(memory_bytes: u64, windows_bytes: u64) -> u64 {
        // One table per 2 MiB of RAM and windows; the same again per GiB; and for each of at most
        // 64 mappings up to three tables at either end.
        let leaves = (memory_bytes + windows_bytes).div_ceil(LARGE_BYTES);
        leaves + leaves.div_ceil(512) + memory_bytes.div_ceil(LARGE_BYTES * 512) + 64 * 6
    }
}

/// Bytes of a large page.
pub(crate) const LARGE_BYTES: u64 = 2 << 20;

// Intel SDM volume 3, 5.5: entries of 4-level paging.
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

struct Tables {
    root: Gpa,
    pages_max: u64,
    pages: Vec<[u64; 512]>,
}

impl Tables {
    fn map(&mut self, mapping: &Mapping, offset: u64, large: bool) -> Result<(), LayoutError> {
        let va = mapping.start.0 + offset;
        let mut table = 0;
        for shift in if large { [39, 30].as_slice() } else { [39, 30, 21].as_slice() } {
            let index = (va >> shift & 511) as usize;
            if self.pages[table][index] == 0 {
                if self.pages.len() as u64 >= self.pages_max {
                    return Err(LayoutError::TablesFull { pages: self.pages_max });
                }
                let at = self.root.0 + self.pages.len() as u64 * PAGE_BYTES;
                self.pages[table][index] = at | PRESENT | WRITE | USER | ACCESSED | DIRTY;
                self.pages.push([0; 512]);
            }
            let entry = self.pages[table][index] & !NO_EXECUTE & !(PAGE_BYTES - 1);
            table = ((entry - self.root.0) / PAGE_BYTES) as usize;
        }
        let index = (va >> if large { 21 } else { 12 } & 511) as usize;
        let mut entry = (mapping.to.0 + offset) | PRESENT | ACCESSED | DIRTY;
        entry |= if mapping.access.write { WRITE } else { 0 };
        entry |= if mapping.access.user { USER } else { 0 };
        entry |= if mapping.access.execute { 0 } else { NO_EXECUTE };
        entry |= if large { LARGE } else { 0 };
        self.pages[table][index] = entry;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, pages: u64, to: u64) -> Mapping {
        let bytes = pages * PAGE_BYTES;
        Mapping { start: Gva(start), bytes, to: Gpa(to), access: Access::WRITE, purpose: Purpose::Arena }
    }

    /// The slow, obvious page walk.
    fn walk(tables: &[[u64; 512]], root: u64, va: u64) -> Option<u64> {
        let mut at = root;
        for shift in [39, 30, 21, 12] {
            let entry = tables[((at - root) / PAGE_BYTES) as usize][(va >> shift & 511) as usize];
            if entry & PRESENT == 0 {
                return None;
            }
            at = entry & 0x000f_ffff_ffff_f000;
        }
        Some(at | va & (PAGE_BYTES - 1))
    }

    #[test]
    fn the_tables_say_what_the_layout_says() {
        let mut layout = Layout::default();
        layout.add(mapping(0x20_0000, 700, 0x1000)).unwrap();
        layout.add(mapping(0x7f00_0000_0000, 3, 0x90_0000)).unwrap();
        layout.add(mapping(0x1_0000, 1, 0xa0_0000)).unwrap();
        let root = 0x100_0000;
        let tables = layout.tables(Gpa(root), 64).unwrap();
        for va in [
            0,
            0xffff,
            0x1_0000,
            0x1_0fff,
            0x1_1000,
            0x20_0000,
            0x4b_bfff,
            0x4b_c000,
            0x7f00_0000_2fff,
            0x7f00_0000_3000,
        ] {
            assert_eq!(walk(&tables, root, va), layout.translate(va).map(|gpa| gpa.0), "{va:#x}");
        }
    }

    #[test]
    fn overlapping_mappings_are_refused_on_either_side() {
        let mut layout = Layout::default();
        layout.add(mapping(0x2000, 2, 0)).unwrap();
        for start in [0x1000, 0x2000, 0x3000] {
            assert!(layout.add(mapping(start, 2, 0)).is_err(), "{start:#x}");
        }
        layout.add(mapping(0x4000, 1, 0)).unwrap();
        layout.add(mapping(0x1000, 1, 0)).unwrap();
        assert_eq!(layout.mappings().len(), 3);
    }

    #[test]
    fn tables_that_do_not_fit_are_an_error() {
        let mut layout = Layout::default();
        layout.add(mapping(0x20_0000, 1, 0)).unwrap();
        assert_eq!(layout.tables(Gpa(0x1000), 3), Err(LayoutError::TablesFull { pages: 3 }));
        assert!(layout.tables(Gpa(0x1000), 4).is_ok());
    }
}
