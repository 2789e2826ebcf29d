//! Shadow page tables: what the guest's own tables mean, filled as the guest touches pages.
//!
//! They are a cache. They live in the exempt windows of guest memory, and dropping them at any time
//! only costs faults. Each root of the guest's has one for its CPL 0 to 2 and one for its CPL 3, and below the
//! roots, what different roots of the guest's have in common is there once: entries of a root are known by what
//! the guest's own root has there.
//!
//! KVM on a host without nested paging shadows *these* tables in turn, and does not see edits by the host.
//! Adding an entry is fine, and so is allowing more, since both are noticed at the next fault. Where something is
//! taken away, the entry is remembered ([`Shadow::take_changed`]), and code at CPL 0 of the vCPU writes it
//! once more before the guest goes on, which KVM does see ([`super::edit`]). When the pages run out, the slot that
//! they are in is taken from KVM and given back, which makes it forget.

use std::collections::HashMap;
use std::ops::Range;

use super::walk::{Above, Paging};
use crate::addr::{Gpa, PAGE_BYTES};
use crate::memory::GuestMemory;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 0x60;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Roots, at most: a guest that makes new ones all the time leaves old ones behind.
const ROOTS_MAX: usize = 64;

/// What a page of the guest's becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub gpa: u64,
    pub write: bool,
    pub execute: bool,
}

impl Entry {
    fn of(leaf: u64) -> Option<Self> {
        (leaf & PRESENT != 0).then_some(Self {
            gpa: leaf & ADDRESS,
            write: leaf & WRITE != 0,
            execute: leaf & NO_EXECUTE == 0,
        })
    }

    fn leaf(self) -> u64 {
        let write = if self.write { WRITE } else { 0 };
        let execute = if self.execute { 0 } else { NO_EXECUTE };
        self.gpa & ADDRESS | PRESENT | USER | ACCESSED_DIRTY | write | execute
    }
}

/// The arena has no page left: the tables have to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Who a set of tables is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum View {
    /// The guest's CPL 0 to 2.
    Supervisor,
    /// Its CPL 3.
    User,
}

/// A root: the guest's CR3, and who it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Root {
    pub view: View,
    pub cr3: u64,
}

/// Where an entry is, and the address that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Guest-physical, of the entry itself.
    pub at: u64,
    pub view: View,
    pub address: u64,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Pages that tables are made of.
    arena: Range<u64>,
    /// The first page that has not been used.
    next: u64,
    roots: HashMap<Root, u64>,
    /// What is below entries of roots: by view, index, and the guest's own entry.
    halves: HashMap<(View, usize, u64), u64>,
    /// Where each page of the guest's is mapped.
    mapped: HashMap<u64, Vec<Place>>,
    /// What was found, when a table of last entries was last looked through, in the guest's own.
    checked: HashMap<u64, (Above, Vec<u8>)>,
    /// Entries that say less than KVM may know.
    changed: Vec<u64>,
    /// An entry that every root has: the monitor's own part of the address space.
    own: (usize, u64),
}

impl Shadow {
    /// Tables in the pages of `arena`, whose roots all have `own`, an index and an entry.
    pub(crate) fn new(arena: Range<u64>, own: (usize, u64)) -> Self {
        let (roots, halves, mapped, checked) = Default::default();
        Self { next: arena.start, arena, roots, halves, mapped, checked, changed: Vec::new(), own }
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

    /// Physical address of the table for `root`.
    pub(crate) fn root(&mut self, memory: &mut GuestMemory, root: Root) -> Result<u64, Full> {
        if let Some(&page) = self.roots.get(&root) {
            return Ok(page);
        }
        if self.roots.len() >= ROOTS_MAX {
            return Err(Full);
        }
        let page = self.allocate(memory)?;
        put(memory, page, self.own.0, self.own.1);
        self.roots.insert(root, page);
        Ok(page)
    }

    /// Makes `address` lead to `entry` from `root`, where the guest's own root has `top`.
    pub(crate) fn map(
        &mut self,
        memory: &mut GuestMemory,
        root: Root,
        top: u64,
        address: u64,
        entry: Entry,
    ) -> Result<Place, Full> {
        let mut page = self.half(memory, root, top, address)?;
        for shift in [30, 21] {
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
        let index = (address >> 12 & 511) as usize;
        let place =
            Place { at: page + index as u64 * 8, view: root.view, address: address & !(PAGE_BYTES - 1) };
        self.set(memory, place, Some(entry));
        Ok(place)
    }

    /// The table below the root's entry for `address`.
    fn half(&mut self, memory: &mut GuestMemory, root: Root, top: u64, address: u64) -> Result<u64, Full> {
        let table = self.root(memory, root)?;
        let index = (address >> 39 & 511) as usize;
        let key = (root.view, index, top);
        let half = match self.halves.get(&key) {
            Some(&half) => half,
            None => {
                let new = self.allocate(memory)?;
                self.halves.insert(key, new);
                new
            }
        };
        let (found, wanted) = (get(memory, table, index), half | PRESENT | WRITE | USER | ACCESSED_DIRTY);
        if found != wanted {
            put(memory, table, index, wanted);
            if found & PRESENT != 0 {
                self.changed.push(table + index as u64 * 8);
            }
        }
        Ok(half)
    }

    /// Puts `entry` into its place.
    fn set(&mut self, memory: &mut GuestMemory, place: Place, entry: Option<Entry>) {
        let (page, index) = (place.at & !(PAGE_BYTES - 1), (place.at % PAGE_BYTES / 8) as usize);
        let before = Entry::of(get(memory, page, index));
        if before == entry {
            return;
        }
        put(memory, page, index, entry.map_or(0, Entry::leaf));
        if entry.is_some() {
            self.checked.remove(&page);
        }
        if let Some(before) = before {
            let more = entry.is_some_and(|now| {
                now.gpa == before.gpa && now.write >= before.write && now.execute >= before.execute
            });
            if !more {
                self.changed.push(place.at);
            }
            if entry.is_none_or(|now| now.gpa != before.gpa)
                && let Some(places) = self.mapped.get_mut(&before.gpa)
            {
                places.retain(|one| one.at != place.at);
            }
        }
        if let Some(now) = entry
            && before.is_none_or(|before| before.gpa != now.gpa)
        {
            self.mapped.entry(now.gpa).or_default().push(place);
        }
    }

    /// The place that `address` has below `root`, if there are tables for it.
    fn place(&self, memory: &GuestMemory, root: Root, address: u64) -> Option<Place> {
        let mut page = *self.roots.get(&root)?;
        for shift in [39, 30, 21] {
            let found = get(memory, page, (address >> shift & 511) as usize);
            if found & PRESENT == 0 {
                return None;
            }
            page = found & ADDRESS;
        }
        let at = page + (address >> 12 & 511) * 8;
        Some(Place { at, view: root.view, address: address & !(PAGE_BYTES - 1) })
    }

    /// The entry in a place.
    pub(crate) fn at(&self, memory: &GuestMemory, place: Place) -> Option<Entry> {
        let (page, index) = (place.at & !(PAGE_BYTES - 1), (place.at % PAGE_BYTES / 8) as usize);
        Entry::of(get(memory, page, index))
    }

    /// The entry that `address` has below `root`.
    pub(crate) fn find(&self, memory: &GuestMemory, root: Root, address: u64) -> Option<Entry> {
        self.at(memory, self.place(memory, root, address)?)
    }

    /// Takes away what is in a place.
    pub(crate) fn clear(&mut self, memory: &mut GuestMemory, place: Place) {
        self.set(memory, place, None);
    }

    /// Takes `address` away from `root`.
    pub(crate) fn unmap(&mut self, memory: &mut GuestMemory, root: Root, address: u64) {
        if let Some(place) = self.place(memory, root, address) {
            self.clear(memory, place);
        }
    }

    /// Takes the right to write to the page at `gpa`, or to execute it, from all that lead there.
    pub(crate) fn restrict(&mut self, memory: &mut GuestMemory, gpa: u64, write: bool, execute: bool) {
        for i in 0..self.mapped.get(&gpa).map_or(0, Vec::len) {
            let Some(&place) = self.mapped.get(&gpa).and_then(|places| places.get(i)) else { break };
            if let Some(entry) = self.at(memory, place) {
                let entry = Entry { write: entry.write && write, execute: entry.execute && execute, ..entry };
                self.set(memory, place, Some(entry));
            }
        }
    }

    /// Takes away what does not fit any more below `root`: of its own entries, where the guest's has changed, and of
    /// pages what `fits` does not want. Where the guest's tables of `paging` are as they were last time, there is
    /// nothing to be asked.
    pub(crate) fn keep(
        &mut self,
        memory: &mut GuestMemory,
        root: Root,
        paging: &Paging,
        mut fits: impl FnMut(&GuestMemory, Place, Entry) -> bool,
    ) {
        let Some(&table) = self.roots.get(&root) else { return };
        let own = self.own.0;
        for i in (0..512usize).filter(|&i| i != own) {
            let found = get(memory, table, i);
            if found & PRESENT == 0 {
                continue;
            }
            let high = if i >= 256 { 0xffff << 48 } else { 0 };
            let address = high | (i as u64) << 39;
            if self.halves.get(&(root.view, i, paging.top(memory, address))) != Some(&(found & ADDRESS)) {
                put(memory, table, i, 0);
                self.changed.push(table + i as u64 * 8);
                continue;
            }
            for (second, address) in below(memory, found, address, 30) {
                for (third, address) in below(memory, second, address, 21) {
                    let (above, last) = paging.above(memory, address);
                    let last = last.and_then(|gpa| memory.page(gpa / PAGE_BYTES)).unwrap_or_default();
                    let table = third & ADDRESS;
                    if self.checked.get(&table).is_some_and(|was| was.0 == above && was.1 == last) {
                        continue;
                    }
                    if above.is_known() {
                        self.checked.insert(table, (above, last.to_vec()));
                    }
                    for (leaf, address, at) in leaves(memory, third, address) {
                        let place = Place { at, view: root.view, address };
                        if Entry::of(leaf).is_some_and(|entry| !fits(memory, place, entry)) {
                            self.clear(memory, place);
                        }
                    }
                }
            }
        }
    }

    /// Entries that KVM has to be told of, at most `count`: where they are.
    pub(crate) fn take_changed(&mut self, count: usize) -> Vec<u64> {
        self.changed.split_off(self.changed.len().saturating_sub(count))
    }

    /// Whether there are any.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Begins anew with all pages free. KVM must have forgotten them.
    pub(crate) fn reclaim(&mut self) {
        self.roots.clear();
        self.halves.clear();
        self.mapped.clear();
        self.checked.clear();
        self.changed.clear();
        self.next = self.arena.start;
    }
}

/// The entries of the table that `entry` leads to, which are tables themselves, with the address that each is for.
fn below(memory: &GuestMemory, entry: u64, address: u64, shift: u32) -> Vec<(u64, u64)> {
    leaves(memory, entry, address)
        .into_iter()
        .map(|(found, at_12, _)| (found, address | (at_12 - address) << (shift - 12)))
        .collect()
}

/// The entries of the table that `entry` leads to, with the page that each is for, and where it is.
fn leaves(memory: &GuestMemory, entry: u64, address: u64) -> Vec<(u64, u64, u64)> {
    let page = entry & ADDRESS;
    let words = words(memory, page);
    let all = words.iter().zip(0u64..).map(|(&found, i)| (found, address | i << 12, page + i * 8));
    all.filter(|(found, ..)| found & PRESENT != 0).collect()
}

fn words(memory: &GuestMemory, page: u64) -> [u64; 512] {
    let bytes = memory.window_ref(Gpa(page), PAGE_BYTES).expect("the arena is part of the windows");
    std::array::from_fn(|i| u64::from_le_bytes(*bytes[i * 8..].first_chunk().expect("an index is below 512")))
}

fn table(memory: &mut GuestMemory, page: u64) -> &mut [u8] {
    memory.window(Gpa(page), PAGE_BYTES).expect("the arena is part of the windows")
}

fn get(memory: &GuestMemory, page: u64, index: usize) -> u64 {
    let at = Gpa(page + index as u64 * 8);
    let bytes = memory.window_ref(at, 8).expect("the arena is part of the windows");
    u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"))
}

fn put(memory: &mut GuestMemory, page: u64, index: usize, entry: u64) {
    table(memory, page)[index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::WINDOWS_GPA;

    const ONE: Root = Root { view: View::Supervisor, cr3: 0x1000 };
    const OTHER: Root = Root { view: View::Supervisor, cr3: 0x2000 };
    const USER_ONE: Root = Root { view: View::User, cr3: 0x1000 };

    fn shadow(pages: u64) -> (GuestMemory, Shadow) {
        let bytes = pages * PAGE_BYTES;
        let memory = GuestMemory::for_boot(4 << 20, bytes).unwrap().0;
        (memory, Shadow::new(WINDOWS_GPA.0..WINDOWS_GPA.0 + bytes, (509, 0x77)))
    }

    #[test]
    fn what_is_mapped_is_found_until_it_is_taken_away() {
        let (mut memory, mut shadow) = shadow(64);
        let (low, high) = (0x1234_5000, 0xffff_ffff_8000_0000);
        let entry = Entry { gpa: 0x5000, write: true, execute: false };
        for address in [low, high, low + PAGE_BYTES] {
            shadow.map(&mut memory, ONE, 7, address, entry).unwrap();
        }
        assert_eq!(shadow.find(&memory, ONE, low), Some(entry));
        assert_eq!(shadow.find(&memory, USER_ONE, low), None);
        assert!(!shadow.has_changed(), "KVM notices what is new");
        shadow.unmap(&mut memory, ONE, low);
        assert_eq!(shadow.find(&memory, ONE, low), None);
        assert_eq!(shadow.find(&memory, ONE, high), Some(entry));
        assert_eq!(shadow.find(&memory, ONE, low + PAGE_BYTES), Some(entry));
        let changed = shadow.take_changed(10);
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0] % PAGE_BYTES / 8, low >> 12 & 511);
        let root = shadow.root(&mut memory, ONE).unwrap();
        assert_eq!(get(&memory, root, 509), 0x77);
    }

    #[test]
    fn roots_share_what_the_guests_roots_share() {
        let (mut memory, mut shadow) = shadow(64);
        let high = 0xffff_8880_0000_0000;
        let entry = Entry { gpa: 0x5000, write: true, execute: true };
        shadow.map(&mut memory, ONE, 7, high, entry).unwrap();
        shadow.map(&mut memory, OTHER, 7, high + PAGE_BYTES, entry).unwrap();
        assert_eq!(shadow.find(&memory, OTHER, high), Some(entry));
        shadow.map(&mut memory, OTHER, 8, high, Entry { gpa: 0x6000, ..entry }).unwrap();
        assert_eq!(shadow.find(&memory, ONE, high), Some(entry), "another entry is another table");
        assert_eq!(shadow.find(&memory, OTHER, high + PAGE_BYTES), None);
        assert!(shadow.has_changed(), "the root's entry led elsewhere");
    }

    #[test]
    fn rights_are_taken_from_all_that_lead_to_a_page() {
        let (mut memory, mut shadow) = shadow(64);
        let entry = Entry { gpa: 0x5000, write: true, execute: true };
        for (root, address) in [(ONE, 0x1000), (ONE, 0x40_0000), (USER_ONE, 0x1000)] {
            shadow.map(&mut memory, root, 7, address, entry).unwrap();
        }
        shadow.restrict(&mut memory, 0x5000, false, true);
        let read_only = Some(Entry { write: false, ..entry });
        assert_eq!(shadow.find(&memory, ONE, 0x40_0000), read_only);
        assert_eq!(shadow.find(&memory, USER_ONE, 0x1000), read_only);
        assert_eq!(shadow.take_changed(10).len(), 3);
        shadow.map(&mut memory, ONE, 7, 0x1000, entry).unwrap();
        assert!(!shadow.has_changed(), "more rights are noticed by themselves");
    }

    #[test]
    fn only_what_fits_is_kept_and_only_what_has_changed_is_looked_at() {
        let (mut memory, mut shadow) = shadow(64);
        let cr4 = super::super::walk::CR4_PAE;
        let paging = Paging { cr0: 1 << 31, cr3: ONE.cr3, cr4, efer: super::super::walk::EFER_LMA };
        // Two last tables below the first entry, one below the last.
        let tables = [
            (0x1000, 0x2003u64),
            (0x1ff8, 0x6003),
            (0x2000, 0x3003),
            (0x3000, 0x4003),
            (0x3008, 0x5003),
            (0x4018, 0x3003),
            (0x5020, 0x4003),
        ];
        for (at, entry) in tables {
            memory.write(Gpa(at), &entry.to_le_bytes()).unwrap();
        }
        let entry = |gpa| Entry { gpa, write: true, execute: true };
        let high = 0xffff_ffff_8000_0000;
        for address in [0x3000, 0x20_4000, high] {
            let top = if address == high { 9 } else { paging.top(&memory, address) };
            shadow.map(&mut memory, ONE, top, address, entry(address & 0xffff)).unwrap();
        }
        let seen = |memory: &mut GuestMemory, shadow: &mut Shadow| {
            let mut seen = Vec::new();
            shadow.keep(memory, ONE, &paging, |_, place, entry| {
                seen.push((place.address, entry.gpa));
                place.address == 0x3000
            });
            seen
        };
        let first = seen(&mut memory, &mut shadow);
        assert_eq!(first, [(0x3000, 0x3000), (0x20_4000, 0x4000)], "the third is below another entry");
        assert_eq!(shadow.find(&memory, ONE, 0x3000), Some(entry(0x3000)));
        assert_eq!(shadow.find(&memory, ONE, 0x20_4000), None);
        assert_eq!(shadow.find(&memory, ONE, high), None);
        assert_eq!(shadow.take_changed(10).len(), 2);
        assert_eq!(seen(&mut memory, &mut shadow), [], "nothing has changed");
        memory.write(Gpa(0x4ff8), &[0x20]).unwrap();
        assert_eq!(seen(&mut memory, &mut shadow), [(0x3000, 0x3000)], "its table has");
        let top = paging.top(&memory, 0);
        shadow.map(&mut memory, ONE, top, 0x3000, entry(0x7000)).unwrap();
        assert_eq!(seen(&mut memory, &mut shadow), [(0x3000, 0x7000)], "it is new itself");
        memory.write(Gpa(0x3000), &0x5003u64.to_le_bytes()).unwrap();
        assert_eq!(seen(&mut memory, &mut shadow), [(0x3000, 0x7000)], "another table is in its place");
    }

    #[test]
    fn an_arena_that_is_full_can_be_used_again() {
        let (mut memory, mut shadow) = shadow(5);
        let entry = Entry { gpa: 0, write: true, execute: true };
        shadow.map(&mut memory, ONE, 7, 0, entry).unwrap();
        assert_eq!(shadow.map(&mut memory, ONE, 7, 1 << 40, entry), Err(Full));
        shadow.reclaim();
        shadow.map(&mut memory, USER_ONE, 7, 1 << 40, entry).unwrap();
        assert_eq!(shadow.find(&memory, ONE, 0), None);
    }
}
