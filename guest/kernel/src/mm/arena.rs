//! Memory: `brk` and `mmap` out of the arena, which is mapped once and for all.
//!
//! ```text
//!  start          brk →                    ← lowest mapping ever      end
//!  ├──────────────┤                         ├────────┬──────┬─────────┤
//!      heap               never touched         maps   free    maps
//! ```
//!
//! Page tables never change, so protection is not enforced and unmapped memory stays accessible:
//! `mprotect` is accepted and `munmap` only gives the range back. New memory reads as zero, as on
//! Linux: what was used before is cleared when it is handed out again, and what was never touched
//! costs nothing.

use unifork_abi::PAGE_BYTES;
use unifork_hal::{SyscallFrame, clear, move_bytes, out_of_memory};

use crate::errno::{Errno, Outcome};

/// Mappings at most; Linux allows 65,530.
const MAPS_MAX: usize = 2048;

const PROT_NONE: u64 = 0;
const PROT_WRITE: u64 = 2;
/// Number of the call.
const MPROTECT: u64 = 10;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MREMAP_MAYMOVE: u64 = 1;
const MADV_DONTNEED: u64 = 4;
/// The largest `madvise` advice that Linux 6.1 knows, but for the two of hardware poisoning.
const MADV_MAX: u64 = 25;

#[derive(Clone, Copy)]
struct Map {
    start: u64,
    end: u64,
}

/// The arena and what is in it.
pub(crate) struct Arena {
    start: u64,
    end: u64,
    brk: u64,
    // Everything from `start` to here may have been written by the heap.
    brk_used: u64,
    // Everything from here to `end` may have been written through mappings.
    maps_used: u64,
    // Invariant: the first `count` are sorted by address, whole pages, inside the arena above `brk`,
    // not empty, and no two overlap.
    maps: [Map; MAPS_MAX],
    count: usize,
}

impl Arena {
    pub(crate) const fn new() -> Self {
        let maps = [Map { start: 0, end: 0 }; MAPS_MAX];
        Self { start: 0, end: 0, brk: 0, brk_used: 0, maps_used: 0, maps, count: 0 }
    }

    pub(crate) fn open(&mut self, start: u64, bytes: u64) {
        self.start = start;
        self.end = start + bytes;
        self.brk = start;
        self.brk_used = start;
        self.maps_used = self.end;
    }

    /// The heap, and what is mapped.
    pub(crate) fn ranges(&self) -> alloc::vec::Vec<(u64, u64)> {
        let heap = (self.start, self.brk.next_multiple_of(PAGE_BYTES));
        core::iter::once(heap).chain(self.maps().iter().map(|map| (map.start, map.end))).collect()
    }

    /// Bytes that are neither heap nor mapped.
    pub(crate) fn free_bytes(&self) -> u64 {
        let mapped: u64 = self.maps().iter().map(|m| m.end - m.start).sum();
        (self.end - self.brk).saturating_sub(mapped)
    }

    /// Whether a range is heap or mapped.
    pub(crate) fn allows(&self, start: u64, bytes: u64, _write: bool) -> bool {
        let end = start + bytes;
        let heap_end = self.brk.next_multiple_of(PAGE_BYTES);
        let at = self.maps().partition_point(|m| m.end <= start);
        end <= heap_end || self.maps().get(at).is_some_and(|m| m.start <= start && end <= m.end)
    }

    fn maps(&self) -> &[Map] {
        &self.maps[..self.count]
    }

    /// First byte of the lowest mapping: the heap ends below it.
    fn heap_limit(&self) -> u64 {
        self.maps().first().map_or(self.end, |m| m.start)
    }

    /// Sets the end of the heap; returns it, unchanged when that cannot be.
    pub(crate) fn brk(&mut self, to: u64) -> Outcome {
        if to < self.start || to > self.heap_limit() {
            return Ok(self.brk);
        }
        if to > self.brk {
            // Linux gives whole pages: the rest of the old last page is as the program left it.
            let page_end = self.brk.next_multiple_of(PAGE_BYTES);
            let end = to.next_multiple_of(PAGE_BYTES).max(page_end);
            self.clear_used(page_end, end)?;
        }
        self.brk = to;
        self.brk_used = self.brk_used.max(to.next_multiple_of(PAGE_BYTES));
        Ok(to)
    }

    pub(crate) fn mmap(
        &mut self,
        address: u64,
        bytes: u64,
        protection: u64,
        flags: u64,
        offset: u64,
        frame: &SyscallFrame,
    ) -> Outcome {
        if bytes == 0
            || !offset.is_multiple_of(PAGE_BYTES)
            || !matches!(flags & MAP_TYPE, MAP_SHARED | MAP_PRIVATE | 3)
        {
            return Err(Errno::EINVAL);
        }
        if flags & MAP_ANONYMOUS == 0 {
            return Err(Errno::EBADF);
        }
        let bytes = round_up(bytes)?;
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            return self.map_fixed(address, bytes, flags);
        }
        let hint = address & !(PAGE_BYTES - 1);
        let start = if hint != 0 && self.is_free(hint, bytes) { Some(hint) } else { self.find(bytes) };
        let Some(start) = start else {
            let reserved = protection == PROT_NONE || flags & MAP_NORESERVE != 0;
            if bytes > self.end - self.start || reserved {
                return Err(Errno::ENOMEM);
            }
            // The machine is full. On Linux the process would be killed sooner or later.
            out_of_memory(bytes, frame);
        };
        self.insert(Map { start, end: start + bytes })?;
        self.hand_out(start, start + bytes)?;
        Ok(start)
    }

    fn map_fixed(&mut self, start: u64, bytes: u64, flags: u64) -> Outcome {
        if !start.is_multiple_of(PAGE_BYTES) {
            return Err(Errno::EINVAL);
        }
        let end = start.checked_add(bytes).ok_or(Errno::ENOMEM)?;
        let lowest = self.brk.next_multiple_of(PAGE_BYTES);
        if start < lowest || end > self.end {
            return Err(Errno::ENOMEM);
        }
        if flags & MAP_FIXED_NOREPLACE != 0 && !self.is_free(start, bytes) {
            return Err(Errno::EEXIST);
        }
        self.remove(start, end)?;
        self.insert(Map { start, end })?;
        self.hand_out(start, end)?;
        Ok(start)
    }

    pub(crate) fn munmap(&mut self, start: u64, bytes: u64) -> Outcome {
        if !start.is_multiple_of(PAGE_BYTES) || bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let end = start.checked_add(round_up(bytes)?).ok_or(Errno::EINVAL)?;
        self.remove(start, end)?;
        Ok(0)
    }

    /// Accepted for memory that the application has; not enforced.
    pub(crate) fn mprotect(&self, start: u64, bytes: u64, protection: u64) -> Outcome {
        if !start.is_multiple_of(PAGE_BYTES) || protection & !0x0300_000f != 0 {
            return Err(Errno::EINVAL);
        }
        let bytes = round_up(bytes)?;
        let inside = start >= self.start && start < self.end;
        // Elsewhere it is the caller who has looked.
        if inside && !self.allows(start, bytes, false) {
            return Err(Errno::ENOMEM);
        }
        if inside && protection & PROT_WRITE == 0 {
            // Accepted, for a program that cannot do without, and named in the run's report.
            unifork_hal::count_unserved(MPROTECT);
        }
        Ok(0)
    }

    pub(crate) fn mremap(
        &mut self,
        start: u64,
        old: u64,
        new: u64,
        flags: u64,
        frame: &SyscallFrame,
    ) -> Outcome {
        if !start.is_multiple_of(PAGE_BYTES) || new == 0 || old == 0 || flags & !MREMAP_MAYMOVE != 0 {
            return Err(Errno::EINVAL);
        }
        let (old, new) = (round_up(old)?, round_up(new)?);
        let end = start.checked_add(old).ok_or(Errno::EINVAL)?;
        if !self.maps().iter().any(|m| m.start <= start && end <= m.end) {
            return Err(Errno::EFAULT);
        }
        if new <= old {
            self.remove(start + new, end)?;
            return Ok(start);
        }
        if self.is_free(end, new - old) {
            self.insert(Map { start: end, end: start + new })?;
            self.hand_out(end, start + new)?;
            return Ok(start);
        }
        if flags & MREMAP_MAYMOVE == 0 {
            return Err(Errno::ENOMEM);
        }
        let to = self.mmap(0, new, 3, MAP_PRIVATE | MAP_ANONYMOUS, 0, frame)?;
        move_bytes(to, start, old)?;
        self.remove(start, end)?;
        Ok(to)
    }

    pub(crate) fn madvise(&self, start: u64, bytes: u64, advice: u64) -> Outcome {
        if !start.is_multiple_of(PAGE_BYTES) || advice > MADV_MAX {
            return Err(Errno::EINVAL);
        }
        let end = start.checked_add(round_up(bytes)?).ok_or(Errno::EINVAL)?;
        if advice == MADV_DONTNEED {
            let (low, high) = (start.max(self.start), end.min(self.end));
            if low < high {
                clear(low, high - low)?;
            }
        }
        Ok(0)
    }

    /// Clears the part of `start..end` that may have been written before.
    fn clear_used(&self, start: u64, end: u64) -> Result<(), Errno> {
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

    /// Hands `start..end` out as a mapping.
    fn hand_out(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        self.clear_used(start, end)?;
        self.maps_used = self.maps_used.min(start);
        Ok(())
    }

    fn is_free(&self, start: u64, bytes: u64) -> bool {
        let Some(end) = start.checked_add(bytes) else { return false };
        let lowest = self.brk.next_multiple_of(PAGE_BYTES);
        start >= lowest && end <= self.end && !self.maps().iter().any(|m| m.start < end && start < m.end)
    }

    /// The highest free range of `bytes`.
    fn find(&self, bytes: u64) -> Option<u64> {
        let mut top = self.end;
        for map in self.maps().iter().rev() {
            if top - map.end >= bytes {
                return Some(top - bytes);
            }
            top = map.start;
        }
        let lowest = self.brk.next_multiple_of(PAGE_BYTES);
        (top >= lowest && top - lowest >= bytes).then(|| top - bytes)
    }

    /// Adds a mapping where nothing is, joined with its neighbours.
    fn insert(&mut self, new: Map) -> Result<(), Errno> {
        let at = self.maps().partition_point(|m| m.start < new.start);
        let joins_below = at > 0 && self.maps[at - 1].end == new.start;
        let joins_above = at < self.count && self.maps[at].start == new.end;
        match (joins_below, joins_above) {
            (true, true) => {
                self.maps[at - 1].end = self.maps[at].end;
                self.close_gap(at);
            }
            (true, false) => self.maps[at - 1].end = new.end,
            (false, true) => self.maps[at].start = new.start,
            (false, false) => {
                if self.count == MAPS_MAX {
                    return Err(Errno::ENOMEM);
                }
                self.maps.copy_within(at..self.count, at + 1);
                self.maps[at] = new;
                self.count += 1;
            }
        }
        Ok(())
    }

    /// Gives back whatever is mapped of `start..end`.
    fn remove(&mut self, start: u64, end: u64) -> Result<(), Errno> {
        let mut i = self.maps().partition_point(|m| m.end <= start);
        while i < self.count && self.maps[i].start < end {
            let map = self.maps[i];
            match (map.start < start, map.end > end) {
                (true, true) => {
                    if self.count == MAPS_MAX {
                        return Err(Errno::ENOMEM);
                    }
                    self.maps.copy_within(i..self.count, i + 1);
                    self.maps[i].end = start;
                    self.maps[i + 1].start = end;
                    self.count += 1;
                    return Ok(());
                }
                (true, false) => {
                    self.maps[i].end = start;
                    i += 1;
                }
                (false, true) => {
                    self.maps[i].start = end;
                    return Ok(());
                }
                (false, false) => self.close_gap(i),
            }
        }
        Ok(())
    }

    fn close_gap(&mut self, at: usize) {
        self.maps.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }
}

fn round_up(bytes: u64) -> Result<u64, Errno> {
    bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(Errno::ENOMEM)
}
