//! The address space: the application's image, its heap, its mappings, its stack.
//!
//! ```text
//!  image      arena: heap ──► brk           ◄── mappings, highest free place first      stack
//!  ├────┤     ├──────────────┤               ├────────┬──────┬─────────┤                 ├────┤
//! ```
//!
//! Page tables never change. So protection is bookkeeping: calls that are handed memory which the
//! program may not use say `EFAULT`, but its own instructions do not fault. New memory reads as zero, as
//! on Linux: what was used before is cleared when it is handed out again, and what was never touched
//! costs nothing.

use core::ops::Range;

use unifork_abi::PAGE_BYTES;
use unifork_hal::clear;

use crate::errno::Errno;
use crate::mm::list::{Backing, List, Mapping, PROT_NONE, PROT_READ, PROT_WRITE};

/// First address that no program can have; Linux `TASK_SIZE`.
pub(crate) const ADDRESSES_END: u64 = (1 << 47) - PAGE_BYTES;

/// The application's address space.
pub(crate) struct Space {
    pub(crate) list: List,
    /// Where `brk` and `mmap` find memory.
    pub(crate) arena: Range<u64>,
    /// End of the heap.
    pub(crate) brk: u64,
    // Everything from the arena's start to here may have been written by the heap.
    brk_used: u64,
    // Everything from here to the arena's end may have been written through mappings.
    maps_used: u64,
}

impl Space {
    pub(crate) const fn new() -> Self {
        Self { list: List::new(), arena: 0..0, brk: 0, brk_used: 0, maps_used: 0 }
    }

    /// Begins with an arena and a stack.
    pub(crate) fn open(&mut self, arena: Range<u64>, stack: Range<u64>) {
        (self.brk, self.brk_used, self.maps_used) = (arena.start, arena.start, arena.end);
        self.arena = arena;
        self.add(stack, PROT_READ | PROT_WRITE, Backing::Stack);
    }

    /// Notes what is there already.
    pub(crate) fn add(&mut self, range: Range<u64>, protection: u8, backing: Backing) {
        let Range { start, end } = range;
        if start < end && self.list.is_free(&(start..end)) {
            self.list.insert(Mapping { start, end, protection, shared: false, backing });
        }
    }

    /// Whether the application may use a range so.
    pub(crate) fn allows(&self, start: u64, bytes: u64, write: bool) -> bool {
        // What can be written or executed can be read, on this CPU.
        let allowed =
            |m: &Mapping| if write { m.protection & PROT_WRITE != 0 } else { m.protection != PROT_NONE };
        start.checked_add(bytes).is_some_and(|end| self.list.covers(&(start..end), allowed))
    }

    /// Bytes that are neither heap nor mapped.
    pub(crate) fn free_bytes(&self) -> u64 {
        let mapped: u64 = self.list.within(&self.arena).iter().map(|m| m.end - m.start).sum();
        (self.arena.end - self.arena.start).saturating_sub(mapped)
    }

    /// Where mappings go.
    pub(crate) fn above_heap(&self) -> Range<u64> {
        self.brk.next_multiple_of(PAGE_BYTES)..self.arena.end
    }

    /// Sets the end of the heap; returns it, unchanged when that cannot be.
    pub(crate) fn set_brk(&mut self, to: u64) -> u64 {
        let heap_end = self.brk.next_multiple_of(PAGE_BYTES);
        let Some(end) = to.checked_next_multiple_of(PAGE_BYTES) else { return self.brk };
        if to < self.arena.start
            || end > self.arena.end
            || end > heap_end && !self.list.is_free(&(heap_end..end))
        {
            return self.brk;
        }
        if end > heap_end {
            if self.list.have_room(1).is_err() || self.clear_used(heap_end..end).is_err() {
                return self.brk;
            }
            self.add(heap_end..end, PROT_READ | PROT_WRITE, Backing::Heap);
        } else if end < heap_end {
            self.list.remove(&(end..heap_end));
        }
        self.brk = to;
        self.brk_used = self.brk_used.max(end);
        to
    }

    /// Maps zeros at `range`, where nothing is mapped.
    pub(crate) fn map(
        &mut self,
        range: Range<u64>,
        protection: u8,
        shared: bool,
        backing: Backing,
    ) -> Result<(), Errno> {
        self.list.have_room(1)?;
        self.clear_used(range.clone())?;
        self.maps_used = self.maps_used.min(range.start);
        let Range { start, end } = range;
        self.list.insert(Mapping { start, end, protection, shared, backing });
        Ok(())
    }

    /// Clears the part of a range in the arena that may have been written before.
    fn clear_used(&self, range: Range<u64>) -> Result<(), Errno> {
        let Range { start, end } = range;
        let by_heap = self.brk_used.min(end);
        if start < by_heap {
            clear(start, by_heap - start)?;
        }
        let by_maps = self.maps_used.max(start).max(by_heap);
        if by_maps < end {
            clear(by_maps, end - by_maps)?;
        }
        Ok(())
    }
}

/// Whole pages; `ENOMEM` when there are not that many.
pub(crate) fn round_up(bytes: u64) -> Result<u64, Errno> {
    bytes.checked_next_multiple_of(PAGE_BYTES).filter(|&bytes| bytes <= ADDRESSES_END).ok_or(Errno::ENOMEM)
}
