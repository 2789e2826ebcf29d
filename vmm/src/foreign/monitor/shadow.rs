//! Shadow page tables: what the guest's own tables mean, filled as the guest touches pages.
//!
//! They are a cache. They live in the exempt windows of guest memory, and dropping them at any time
//! only costs faults. A table that KVM may have looked at is never changed in a way that KVM must
//! notice: KVM on a host without nested paging shadows *these* tables in turn, and does not see
//! edits by the host. Adding an entry is fine, and so is allowing more, since both are noticed at the
//! next fault. Taking away is done by new tables in fresh pages; when those run out, the slot that
//! they are in is taken from KVM and given back, which makes it forget.

use std::ops::Range;

use crate::addr::{Gpa, PAGE_BYTES};
use crate::memory::GuestMemory;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 0x60;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a page of the guest's becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub gpa: u64,
    pub write: bool,
    pub execute: bool,
}

/// The arena has no page left: the tables have to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Who a set of tables is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// The guest's CPL 0 to 2.
    Supervisor,
    /// Its CPL 3.
    User,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Pages that tables are made of.
    arena: Range<u64>,
    /// The first page that has not been used.
    next: u64,
    /// Roots, by [`View`].
    roots: [Option<u64>; 2],
    /// An entry that every root has: the monitor's own part of the address space.
    own: (usize, u64),
}

impl Shadow {
    /// Tables in the pages of `arena`, whose roots all have `own`, an index and an entry.
    pub(crate) fn new(arena: Range<u64>, own: (usize, u64)) -> Self {
        Self { next: arena.start, arena, roots: [None; 2], own }
    }

    fn allocate(&mut self, memory: &mut GuestMemory) -> Result<u64, Full> {
        if self.next >= self.arena.end {
            return Err(Full);
        }
        let page = self.next;
        self.next += PAGE_BYTES;
        table(memory, page).fill(0);
        Ok(page)
    }

    /// Physical address of the root for `view`.
    pub(crate) fn root(&mut self, memory: &mut GuestMemory, view: View) -> Result<u64, Full> {
        if let Some(root) = self.roots[view as usize] {
            return Ok(root);
        }
        let root = self.allocate(memory)?;
        put(memory, root, self.own.0, self.own.1);
        self.roots[view as usize] = Some(root);
        Ok(root)
    }

    /// Makes `address` lead to `entry` in `view`.
    pub(crate) fn map(
        &mut self,
        memory: &mut GuestMemory,
        view: View,
        address: u64,
        entry: Entry,
    ) -> Result<(), Full> {
        let mut page = self.root(memory, view)?;
        for shift in [39, 30, 21] {
            let index = (address >> shift & 511) as usize;
            let found = get(memory, page, index);
            page = if found & PRESENT != 0 {
                found & ADDRESS
            } else {
                let new = self.allocate(memory)?;
                put(memory, page, index, new | PRESENT | WRITE | USER | ACCESSED_DIRTY);
                new
            };
        }
        let write = if entry.write { WRITE } else { 0 };
        let execute = if entry.execute { 0 } else { NO_EXECUTE };
        let leaf = entry.gpa & ADDRESS | PRESENT | USER | ACCESSED_DIRTY | write | execute;
        put(memory, page, (address >> 12 & 511) as usize, leaf);
        Ok(())
    }

    /// The entry that `address` has in `view`.
    pub(crate) fn find(&self, memory: &mut GuestMemory, view: View, address: u64) -> Option<Entry> {
        let mut page = self.roots[view as usize]?;
        for shift in [39, 30, 21] {
            let found = get(memory, page, (address >> shift & 511) as usize);
            if found & PRESENT == 0 {
                return None;
            }
            page = found & ADDRESS;
        }
        let leaf = get(memory, page, (address >> 12 & 511) as usize);
        (leaf & PRESENT != 0).then_some(Entry {
            gpa: leaf & ADDRESS,
            write: leaf & WRITE != 0,
            execute: leaf & NO_EXECUTE == 0,
        })
    }

    /// Takes `address` away: the tables on the way to it are copied to fresh pages, without it.
    pub(crate) fn unmap(&mut self, memory: &mut GuestMemory, address: u64) -> Result<(), Full> {
        for view in [View::Supervisor, View::User] {
            if self.find(memory, view, address).is_none() {
                continue;
            }
            let old = self.root(memory, view)?;
            let root = self.copy(memory, old)?;
            let mut page = root;
            for shift in [39, 30, 21] {
                let index = (address >> shift & 511) as usize;
                let found = get(memory, page, index);
                let new = self.copy(memory, found & ADDRESS)?;
                put(memory, page, index, found & !ADDRESS | new);
                page = new;
            }
            put(memory, page, (address >> 12 & 511) as usize, 0);
            self.roots[view as usize] = Some(root);
        }
        Ok(())
    }

    fn copy(&mut self, memory: &mut GuestMemory, page: u64) -> Result<u64, Full> {
        let new = self.allocate(memory)?;
        let bytes = table(memory, page).to_vec();
        table(memory, new).copy_from_slice(&bytes);
        Ok(new)
    }

    /// Takes everything away, without touching a table that KVM may know.
    pub(crate) fn forget(&mut self) {
        self.roots = [None; 2];
    }

    /// Begins anew with all pages free. KVM must have forgotten them.
    pub(crate) fn reclaim(&mut self) {
        self.forget();
        self.next = self.arena.start;
    }
}

fn table(memory: &mut GuestMemory, page: u64) -> &mut [u8] {
    memory.window(Gpa(page), PAGE_BYTES).expect("the arena is part of the windows")
}

fn get(memory: &mut GuestMemory, page: u64, index: usize) -> u64 {
    let bytes = table(memory, page)[index * 8..].first_chunk().expect("an index is below 512");
    u64::from_le_bytes(*bytes)
}

fn put(memory: &mut GuestMemory, page: u64, index: usize, entry: u64) {
    table(memory, page)[index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::WINDOWS_GPA;

    #[test]
    fn what_is_mapped_is_found_until_it_is_taken_away() {
        let pages = 64 * PAGE_BYTES;
        let mut memory = GuestMemory::for_boot(4 << 20, pages).unwrap().0;
        let mut shadow = Shadow::new(WINDOWS_GPA.0..WINDOWS_GPA.0 + pages, (509, 0x77));
        let (low, high) = (0x1234_5000, 0xffff_ffff_8000_0000);
        let entry = Entry { gpa: 0x5000, write: true, execute: false };
        for address in [low, high, low + PAGE_BYTES] {
            shadow.map(&mut memory, View::Supervisor, address, entry).unwrap();
        }
        assert_eq!(shadow.find(&mut memory, View::Supervisor, low), Some(entry));
        assert_eq!(shadow.find(&mut memory, View::User, low), None);
        let before = shadow.root(&mut memory, View::Supervisor).unwrap();
        shadow.unmap(&mut memory, low).unwrap();
        assert_eq!(shadow.find(&mut memory, View::Supervisor, low), None);
        assert_eq!(shadow.find(&mut memory, View::Supervisor, high), Some(entry));
        assert_eq!(shadow.find(&mut memory, View::Supervisor, low + PAGE_BYTES), Some(entry));
        let after = shadow.root(&mut memory, View::Supervisor).unwrap();
        assert_ne!(before, after, "KVM knows the old tables");
        assert_eq!(get(&mut memory, after, 509), 0x77);
    }

    #[test]
    fn an_arena_that_is_full_can_be_used_again() {
        let mut memory = GuestMemory::for_boot(4 << 20, 5 * PAGE_BYTES).unwrap().0;
        let mut shadow = Shadow::new(WINDOWS_GPA.0..WINDOWS_GPA.0 + 5 * PAGE_BYTES, (509, 0));
        let entry = Entry { gpa: 0, write: true, execute: true };
        shadow.map(&mut memory, View::Supervisor, 0, entry).unwrap();
        assert_eq!(shadow.map(&mut memory, View::Supervisor, 1 << 40, entry), Err(Full));
        shadow.reclaim();
        shadow.map(&mut memory, View::User, 1 << 40, entry).unwrap();
        assert_eq!(shadow.find(&mut memory, View::Supervisor, 0), None);
    }
}
