//! The list of mappings: what is where, and with which protection.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::errno::Errno;
use crate::fd::object::Description;

pub(crate) const PROT_NONE: u8 = 0;
pub(crate) const PROT_READ: u8 = 1;
pub(crate) const PROT_WRITE: u8 = 2;
pub(crate) const PROT_EXEC: u8 = 4;

/// What is behind a mapping.
#[derive(Clone)]
pub(crate) enum Backing {
    /// Nothing: it begins as zeros.
    Anonymous,
    /// The part of the application's file that is loaded there.
    Image,
    /// The heap that `brk` moves the end of.
    Heap,
    /// The first thread's stack.
    Stack,
    /// A file, from the offset in it that belongs to the mapping's first byte.
    File(Rc<Description>, u64),
}

/// One mapping.
#[derive(Clone)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `PROT_*` bits.
    pub(crate) protection: u8,
    /// What is written is meant for others, too: the file's other readers.
    pub(crate) shared: bool,
    pub(crate) backing: Backing,
}

/// Mappings at most; Linux `sysctl vm.max_map_count`.
const MAPPINGS_MAX: usize = 65_530;

/// All of them.
#[derive(Default)]
pub(crate) struct List {
    // Invariant: sorted by address, whole pages, none empty, no two overlap.
    all: Vec<Mapping>,
}

impl Mapping {
    /// The part of it inside `range`, which it overlaps.
    fn cut(&self, range: &Range<u64>) -> Self {
        let (start, end) = (self.start.max(range.start), self.end.min(range.end));
        let mut cut = self.clone();
        if let Backing::File(_, offset) = &mut cut.backing {
            *offset += start - self.start;
        }
        (cut.start, cut.end) = (start, end);
        cut
    }

    /// Whether `next` goes on where this ends, in every respect.
    fn joins(&self, next: &Self) -> bool {
        self.end == next.start
            && (self.protection, self.shared) == (next.protection, next.shared)
            && match (&self.backing, &next.backing) {
                (Backing::Anonymous, Backing::Anonymous)
                | (Backing::Image, Backing::Image)
                | (Backing::Heap, Backing::Heap)
                | (Backing::Stack, Backing::Stack) => true,
                (Backing::File(a, from), Backing::File(b, to)) => {
                    a.id == b.id && from + (self.end - self.start) == *to
                }
                _ => false,
            }
    }
}

impl List {
    pub(crate) const fn new() -> Self {
        Self { all: Vec::new() }
    }

    /// All mappings, in address order, for `/proc/self/maps`.
    pub(crate) fn all(&self) -> &[Mapping] {
        &self.all
    }

    /// The mappings that overlap `range`.
    pub(crate) fn within(&self, range: &Range<u64>) -> &[Mapping] {
        let first = self.all.partition_point(|m| m.end <= range.start);
        let count = self.all[first..].partition_point(|m| m.start < range.end);
        &self.all[first..first + count]
    }

    /// Whether every byte of `range` is in a mapping that `allowed` says yes to.
    pub(crate) fn covers(&self, range: &Range<u64>, allowed: impl Fn(&Mapping) -> bool) -> bool {
        let mut at = range.start;
        for mapping in self.within(range) {
            if mapping.start > at || !allowed(mapping) {
                return false;
            }
            at = mapping.end;
        }
        at >= range.end
    }

    /// Fails when there is no room for `more` mappings.
    pub(crate) fn have_room(&mut self, more: usize) -> Result<(), Errno> {
        if self.all.len() + more > MAPPINGS_MAX || self.all.try_reserve(more).is_err() {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Adds a mapping where there is none.
    pub(crate) fn insert(&mut self, mapping: Mapping) {
        let at = self.all.partition_point(|m| m.start < mapping.start);
        self.all.insert(at, mapping);
        self.join_around(at..at + 1);
    }

    /// Takes out what is mapped of `range`. In place, without allocating: what is mapped and unmapped in
    /// every run should not dirty more pages than it must.
    pub(crate) fn remove(&mut self, range: &Range<u64>) {
        let mut at = self.all.partition_point(|m| m.end <= range.start);
        while let Some(mapping) = self.all.get_mut(at).filter(|m| m.start < range.end) {
            match (mapping.start < range.start, mapping.end > range.end) {
                (true, true) => {
                    let behind = mapping.cut(&(range.end..mapping.end));
                    mapping.end = range.start;
                    self.all.insert(at + 1, behind);
                    return;
                }
                (true, false) => {
                    mapping.end = range.start;
                    at += 1;
                }
                (false, true) => {
                    *mapping = mapping.cut(&(range.end..mapping.end));
                    return;
                }
                (false, false) => {
                    self.all.remove(at);
                }
            }
        }
    }

    /// Changes what is mapped of `range`: `f` makes of each piece what it is from now on, or nothing.
    pub(crate) fn change(&mut self, range: &Range<u64>, mut f: impl FnMut(&Mapping) -> Option<Mapping>) {
        let first = self.all.partition_point(|m| m.end <= range.start);
        let count = self.all[first..].partition_point(|m| m.start < range.end);
        let mut new = Vec::new();
        for mapping in &self.all[first..first + count] {
            if mapping.start < range.start {
                new.push(mapping.cut(&(mapping.start..range.start)));
            }
            new.extend(f(&mapping.cut(range)));
            if mapping.end > range.end {
                new.push(mapping.cut(&(range.end..mapping.end)));
            }
        }
        let changed = first..first + new.len();
        self.all.splice(first..first + count, new);
        self.join_around(changed);
    }

    /// Joins the mappings at these places with each other and with their neighbours.
    fn join_around(&mut self, places: Range<usize>) {
        let first = places.start.saturating_sub(1);
        let mut at = (places.end + 1).min(self.all.len());
        while at > first + 1 {
            at -= 1;
            if self.all[at - 1].joins(&self.all[at]) {
                self.all[at - 1].end = self.all[at].end;
                self.all.remove(at);
            }
        }
    }

    /// Whether nothing is mapped in `range`.
    pub(crate) fn is_free(&self, range: &Range<u64>) -> bool {
        self.within(range).is_empty()
    }

    /// The highest free place of `bytes` inside `area`.
    pub(crate) fn find(&self, bytes: u64, area: &Range<u64>) -> Option<u64> {
        let mut top = area.end;
        for mapping in self.within(area).iter().rev() {
            if top.saturating_sub(mapping.end) >= bytes {
                return Some(top - bytes);
            }
            top = mapping.start;
        }
        (top >= area.start && top - area.start >= bytes).then(|| top - bytes)
    }
}
