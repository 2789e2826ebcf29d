//! The guest's code: looked through for what does not trap, before it runs, and again when it has changed.
//!
//! A page that has been looked through is executable and not writable. The first writes to it are emulated, and what
//! was written is looked through; where there are more of them, or longer ones, the page becomes writable and not
//! executable, and is as the guest wrote it, until it is jumped into again. Pages that are written to all the time,
//! and those that the image's file says are only partly code, are both, and looked through once
//! ([`Virtual::mixed`](super::state::Virtual::mixed)).

use std::ops::Range;

use super::emulate::Done;
use super::{Monitor, guest, patch};
use crate::addr::PAGE_BYTES;
use crate::foreign::bus::Bus;
use crate::memory::GuestMemory;

/// Bytes of code that are looked through before it runs, at most; the rest is when it is run.
const CODE_BYTES_MAX: u64 = 64 << 20;
/// Bytes behind a change that decide about the last instruction in it.
const BEHIND: u64 = 16;
/// Bytes that are taken for one change, though they are written one after the other.
const TOGETHER_MAX: u64 = 256;
/// Writes to a page of code, a trap each, before it becomes writable and is code no more.
const WRITES_MAX: u32 = 16;
/// And before it is both for good.
const CHANGES_MAX: u32 = 512;

impl Monitor {
    /// Looks through code that is known to be code.
    pub(crate) fn prepare_code(&mut self, memory: &mut GuestMemory, code: &[Range<u64>]) {
        let mut left = CODE_BYTES_MAX;
        for range in code {
            let bytes = range.end.saturating_sub(range.start).min(left);
            left -= bytes;
            let range = range.start..range.start + bytes;
            let mut copy = vec![0; usize::try_from(bytes).unwrap_or(0)];
            guest::read_physical(memory, range.start, &mut copy);
            self.patch(memory, range.start, &patch::find(&copy, range.start, self.wanted(64)));
            // Pages that have nothing but code in them need not be looked through again.
            let mut page = range.start & !(PAGE_BYTES - 1);
            while page < range.end {
                if is_code_alone(memory, page, &range) {
                    self.cpu.scanned.insert(page);
                }
                if page < range.start || page + PAGE_BYTES > range.end {
                    self.cpu.mixed.insert(page);
                }
                page += PAGE_BYTES;
            }
        }
    }

    fn wanted(&self, bits: u32) -> patch::Wanted {
        patch::Wanted { bits, xstate: self.cpuid.hides_xstate() }
    }

    fn patch(&mut self, memory: &mut GuestMemory, from: u64, offsets: &[usize]) {
        for &offset in offsets {
            let at = from + offset as u64;
            let mut byte = [0];
            guest::read_physical(memory, at, &mut byte);
            if byte[0] != patch::HLT {
                self.cpu.patches.insert(at, byte[0]);
                guest::write_physical(memory, at, &[patch::HLT]);
            }
        }
    }

    /// Looks through the page around `gpa`, which `address` leads to and where 64-bit code is.
    pub(crate) fn scan_code(&mut self, memory: &mut GuestMemory, gpa: u64, address: u64) {
        self.scan_page(memory, gpa & !(PAGE_BYTES - 1), address, 64);
    }

    /// Looks through the page at `gpa`, into which the guest jumped at `address`.
    pub(super) fn scan_page(&mut self, memory: &mut GuestMemory, gpa: u64, address: u64, bits: u32) {
        if !self.cpu.scanned.insert(gpa) {
            return;
        }
        if self.cpu.is_code(gpa) {
            self.shadow.restrict(memory, gpa, false, true);
        }
        let mut page = vec![0; PAGE_BYTES as usize];
        guest::read_physical(memory, gpa, &mut page);
        // What was replaced before it was written to, and is still there.
        let lifted: Vec<(u64, u8)> =
            self.cpu.lifted.range(gpa..gpa + PAGE_BYTES).map(|(&at, &b)| (at, b)).collect();
        for (at, byte) in lifted {
            self.cpu.lifted.remove(&at);
            if page[(at - gpa) as usize] == byte {
                self.patch(memory, at, &[0]);
            }
        }
        let copied =
            patch::copied(&self.cpu.patches, &page, gpa, |at, out| guest::read_physical(memory, at, out));
        self.cpu.patches.extend(copied.iter().map(|&(offset, byte)| (gpa + offset as u64, byte)));
        // It is looked through as the guest wrote it.
        for (&at, &byte) in self.cpu.patches.range(gpa..gpa + PAGE_BYTES) {
            page[(at - gpa) as usize] = byte;
        }
        let into = (address % PAGE_BYTES) as usize;
        let mut offsets = patch::find(&page, gpa, self.wanted(bits));
        offsets.retain(|&offset| offset < into);
        offsets.extend(patch::find(&page[into..], gpa, self.wanted(bits)).iter().map(|offset| into + offset));
        self.patch(memory, gpa, &offsets);
    }

    /// The guest writes to the page of code at `gpa`: whether the instruction that does was done for it. If not, it may
    /// do that itself from now on.
    pub(super) fn write_code(&mut self, memory: &mut GuestMemory, bus: &mut Bus, gpa: u64) -> bool {
        let page = gpa & !(PAGE_BYTES - 1);
        let writes = self.cpu.writes.entry(page).or_default();
        *writes += 1;
        if *writes > CHANGES_MAX {
            self.cpu.mixed.insert(page);
            return false;
        }
        if !writes.is_multiple_of(WRITES_MAX) && self.cpu.mode().bits() == 64 {
            let mut guest = self.guest(memory, bus);
            let done = guest.decode().and_then(|i| guest.ordinary(&i));
            if done == Ok(Done::Jumped) {
                return true;
            }
        }
        self.cpu.scanned.remove(&page);
        let patches: Vec<(u64, u8)> =
            self.cpu.patches.range(page..page + PAGE_BYTES).map(|(&at, &b)| (at, b)).collect();
        for (at, byte) in patches {
            self.cpu.patches.remove(&at);
            let mut now = [0];
            guest::read_physical(memory, at, &mut now);
            if now[0] == patch::HLT {
                guest::write_physical(memory, at, &[byte]);
                self.cpu.lifted.insert(at, byte);
            }
        }
        self.shadow.restrict(memory, page, true, false);
        false
    }

    /// Looks through code that was written by the monitor for the guest.
    pub(super) fn scan_rewritten(&mut self, memory: &mut GuestMemory) {
        for (from, to) in std::mem::take(&mut self.cpu.rewritten) {
            if !self.cpu.is_code(from) {
                continue;
            }
            let before = self.cpu.rewritten_before;
            let goes_on = before.1 == from && to - before.0 <= TOGETHER_MAX && from % PAGE_BYTES != 0;
            let from = if goes_on { before.0 } else { from };
            self.cpu.rewritten_before = (from, to);
            let end = (to + BEHIND).min((from & !(PAGE_BYTES - 1)) + PAGE_BYTES);
            let mut bytes = vec![0; (end - from) as usize];
            guest::read_physical(memory, from, &mut bytes);
            for (&at, &byte) in self.cpu.patches.range(from..end) {
                bytes[(at - from) as usize] = byte;
            }
            let mut offsets = patch::find(&bytes, from, self.wanted(self.cpu.mode().bits()));
            offsets.retain(|&offset| from + (offset as u64) < to);
            self.patch(memory, from, &offsets);
        }
    }
}

/// Whether the page at `page` is zero where it is not part of `code`.
fn is_code_alone(memory: &GuestMemory, page: u64, code: &Range<u64>) -> bool {
    let mut bytes = [0; PAGE_BYTES as usize];
    guest::read_physical(memory, page, &mut bytes);
    bytes.iter().zip(page..).all(|(&byte, at)| byte == 0 || code.contains(&at))
}
