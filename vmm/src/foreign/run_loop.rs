//! The part of a fork's windows in which a batch runs: code, what it reads, what it writes, and the fork's own
//! memory and its frozen machine's once more, so that the code can copy pages between them.
//!
//! ```text
//! LOOP_VA              read-only: code, plan, x87 to AVX state, lists (crate::sys::run_loop::at)
//!         + 2 MiB      control words, records, novelty map, inputs, stored counters
//! RAM_VA               all of RAM
//! GOLDEN_VA            all of it as it was frozen, read-only
//! ```
//!
//! All of that is in the monitor's part of the address space, which no image maps; its page tables are never
//! written again.

use serde::{Deserialize, Serialize};
use unifork_abi::HOT_MAX;

use super::monitor::state::Virtual;
use super::monitor::tables;
use crate::addr::{Gpa, PAGE_BYTES};
use crate::agent::{Pieces, Placement};
use crate::memory::{GOLDEN_GPA, GuestMemory, WINDOWS_GPA};
use crate::sys::run_loop::{self, RECORDS, at, plan, record};
use crate::vcpu::VcpuState;

const LARGE: u64 = 2 << 20;
/// Where the windows of a batch begin.
const BASE: Gpa = Gpa(WINDOWS_GPA.0 + super::monitor::WINDOWS_BYTES);
/// Entries of the monitor's second level, 1 GiB each, and what is there.
const RAM_INDEX: u64 = 1;
const GOLDEN_INDEX: u64 = 16;
const LOOP_INDEX: u64 = 32;
/// Page directories for them, in pages behind the read-only part's lists.
const DIRECTORIES: u64 = 0x10_0000;
/// Directories for RAM, for golden memory each.
const RAM_DIRECTORIES: u64 = 4;

pub(super) const LOOP_VA: u64 = tables::MONITOR_VA + (LOOP_INDEX << 30);
const RAM_VA: u64 = tables::MONITOR_VA + (RAM_INDEX << 30);
const GOLDEN_VA: u64 = tables::MONITOR_VA + (GOLDEN_INDEX << 30);

/// Bytes of inputs in a batch, at most; more only for a longer window.
const RING_BYTES: u64 = 4 << 20;
/// Bytes of stored counters, about.
const COVERAGE_BYTES: u64 = 16 << 20;
/// Inputs of a batch begin at a multiple of this in the ring: a cache line.
const RING_ALIGN: u64 = 64;

/// Where a run of an image ends.
pub(super) fn done_va() -> u64 {
    LOOP_VA + run_loop::done_offset()
}

/// Whether an instruction at `rip` is the loop's.
pub(crate) fn is_inside(rip: u64) -> bool {
    (LOOP_VA..LOOP_VA + at::PLAN).contains(&rip)
}

/// Sizes of the windows, and where in them everything is that is not always at one place. Offsets from
/// [`BASE`], which is [`LOOP_VA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    counters: u64,
    novelty: u64,
    ring: u64,
    ring_bytes: u64,
    coverage: u64,
    stride: u64,
    slots: u64,
    end: u64,
}

impl Layout {
    /// For an image that announced `placement`, on a CPU with `xsave_bytes` of x87 to AVX state; `None` where it
    /// cannot have batches.
    pub(super) fn new(placement: &Placement, xsave_bytes: usize) -> Option<Self> {
        let list = |pieces: &Pieces| 16 * (pieces.iter().count() as u64 + 1);
        let fits = list(&placement.input) <= at::COUNTERS - at::INPUT
            && list(&placement.counters) <= at::COUNTERS_END - at::COUNTERS
            && xsave_bytes as u64 <= at::XSAVE_END - at::XSAVE;
        if placement.again.len() != 8 || !fits {
            return None;
        }
        let counters = placement.counters.len();
        let novelty = at::RECORDS_END;
        let ring = (novelty + counters).next_multiple_of(PAGE_BYTES);
        let ring_bytes = RING_BYTES.max(placement.input.len().next_multiple_of(PAGE_BYTES));
        let stride = counters.next_multiple_of(RING_ALIGN).max(RING_ALIGN);
        let slots = (COVERAGE_BYTES / stride).clamp(2, RECORDS as u64);
        let coverage = ring + ring_bytes;
        let end = (coverage + slots * stride).next_multiple_of(LARGE);
        Some(Self { counters, novelty, ring, ring_bytes, coverage, stride, slots, end })
    }

    /// Bytes of windows.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Runs of a batch, at most.
    pub(super) fn runs_max(&self) -> usize {
        usize::try_from(self.slots).unwrap_or(RECORDS).min(RECORDS)
    }

    /// Fills the windows of a new fork, whose state is `state` and `cpu`.
    pub(super) fn install(
        &self,
        memory: &mut GuestMemory,
        placement: &Placement,
        state: &VcpuState,
        cpu: &Virtual,
    ) {
        let code = run_loop::code();
        bytes(memory, 0, code.len() as u64).copy_from_slice(code);
        let regs = &state.core.regs;
        let mut words = [0; plan::WORDS];
        words[plan::RIP] = regs.rip;
        words[plan::RSP] = regs.rsp;
        words[plan::RFLAGS] = cpu.real_flags(regs.rflags);
        words[plan::FS_BASE] = state.core.sregs.fs.base;
        words[plan::GS_BASE] = state.core.sregs.gs.base;
        words[plan::RBX] = regs.rbx;
        words[plan::RCX] = regs.rcx;
        words[plan::RDX] = regs.rdx;
        words[plan::RSI] = regs.rsi;
        words[plan::RDI] = regs.rdi;
        words[plan::RBP] = regs.rbp;
        words[plan::R8..plan::R8 + 8]
            .copy_from_slice(&[regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15]);
        words[plan::RING] = LOOP_VA + self.ring;
        words[plan::NOVELTY] = LOOP_VA + self.novelty;
        words[plan::COVERAGE] = LOOP_VA + self.coverage;
        words[plan::STRIDE] = self.stride;
        put(memory, at::PLAN, words);
        put(
            memory,
            at::XSAVE,
            state
                .xsave
                .chunks(2)
                .map(|pair| u64::from(pair[0]) | pair.get(1).map_or(0, |&high| u64::from(high) << 32)),
        );
        for (list, pieces) in [(at::INPUT, &placement.input), (at::COUNTERS, &placement.counters)] {
            put(memory, list, pieces.iter().flat_map(|(gpa, length)| [RAM_VA + gpa.0, length]));
        }
        self.map(memory);
    }

    /// Writes the page tables of the windows.
    fn map(&self, memory: &mut GuestMemory) {
        const PRESENT_WRITE_USER: u64 = 0x67;
        const PRESENT_USER: u64 = 0x65;
        const PAGE_SIZE: u64 = 0x80;
        const NO_EXECUTE: u64 = 1 << 63;
        let ram = memory.len();
        let mut directory = DIRECTORIES;
        for (index, gpa, length, flags) in [
            (RAM_INDEX, 0, ram, PRESENT_WRITE_USER | NO_EXECUTE),
            (GOLDEN_INDEX, GOLDEN_GPA.0, ram, PRESENT_USER | NO_EXECUTE),
            (LOOP_INDEX, BASE.0, self.end, PRESENT_WRITE_USER | NO_EXECUTE),
        ] {
            let large = length.div_ceil(LARGE);
            put(memory, directory, (0..large).map(|page| (gpa + page * LARGE) | PAGE_SIZE | flags));
            for gib in 0..length.div_ceil(1 << 30) {
                let entry = (BASE.0 + directory + gib * PAGE_BYTES) | PRESENT_WRITE_USER;
                tables::set_second_level(memory, index + gib, entry);
            }
            if index == LOOP_INDEX {
                put(memory, directory, [BASE.0 | PAGE_SIZE | PRESENT_USER]);
            }
            directory += RAM_DIRECTORIES * PAGE_BYTES;
        }
    }

    /// Sets up one run by itself: the loop only tells the host that it is over.
    pub(super) fn set_single(memory: &mut GuestMemory) {
        put(memory, at::PLAN + 8 * plan::SLOTS as u64, [0]);
        put(memory, at::CONTROL, [0, 1, 0]);
    }

    /// Sets up a batch of the first `count` records.
    pub(super) fn set_batch(&self, memory: &mut GuestMemory, count: usize, filter: bool, hot: u64) {
        put(memory, at::PLAN + 8 * plan::SLOTS as u64, [self.slots, u64::from(filter), hot]);
        put(memory, at::CONTROL, [0, count as u64, 0]);
    }

    /// Puts `input` into the ring from `offset` on, as record `number`; where the next may begin. `None` when
    /// there is no room.
    pub(super) fn push(
        &self,
        memory: &mut GuestMemory,
        number: usize,
        offset: u64,
        input: &[u8],
    ) -> Option<u64> {
        let length = input.len() as u64;
        if offset + length > self.ring_bytes {
            return None;
        }
        bytes(memory, self.ring + offset, length).copy_from_slice(input);
        let at = at::RECORDS + number as u64 * record::BYTES;
        put(memory, at, [offset, length, 0, u64::MAX, 0]);
        Some((offset + length).next_multiple_of(RING_ALIGN))
    }

    /// The counters of a run of the last batch.
    pub(super) fn stored<'a>(&self, memory: &'a GuestMemory, slot: u32) -> &'a [u8] {
        let slot = u64::from(slot).min(self.slots - 1);
        bytes_ref(memory, self.coverage + slot * self.stride, self.counters)
    }

    /// Whether a record's slot can be one.
    pub(super) fn slot_of(&self, slot: u64, stored: u64) -> Option<u32> {
        u32::try_from(slot).ok().filter(|_| slot < stored && stored <= self.slots)
    }

    pub(super) fn novelty<'a>(&self, memory: &'a GuestMemory) -> &'a [u8] {
        bytes_ref(memory, self.novelty, self.counters)
    }

    pub(super) fn novelty_mut<'a>(&self, memory: &'a mut GuestMemory) -> &'a mut [u8] {
        bytes(memory, self.novelty, self.counters)
    }
}

/// The control words: which run is at hand, how many there are, and how many have stored their counters. A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) index: u64,
    pub(super) count: u64,
    pub(super) stored: u64,
}

pub(super) fn control(memory: &GuestMemory) -> Control {
    let [index, count, stored] = get(memory, at::CONTROL);
    Control { index, count, stored }
}

/// Makes the run at hand the last of its batch.
pub(super) fn stop_behind(memory: &mut GuestMemory, index: u64) {
    put(memory, at::CONTROL + 8, [index.saturating_add(1)]);
}

/// A record, as the guest left it: offset, length, code, slot, state. A claim.
pub(super) fn record_of(memory: &GuestMemory, number: usize) -> [u64; 5] {
    get(memory, at::RECORDS + number.min(RECORDS - 1) as u64 * record::BYTES)
}

/// Tells the loop to put back `pages`, numbers of pages.
pub(super) fn set_hot(memory: &mut GuestMemory, pages: &[u32]) {
    let page = |&page: &u32| {
        let offset = u64::from(page) * PAGE_BYTES;
        [RAM_VA + offset, GOLDEN_VA + offset]
    };
    put(memory, at::HOT, pages.iter().take(HOT_MAX).flat_map(page));
}

fn bytes(memory: &mut GuestMemory, offset: u64, length: u64) -> &mut [u8] {
    memory.window(BASE.offset(offset), length).expect("the layout is inside the windows")
}

fn bytes_ref(memory: &GuestMemory, offset: u64, length: u64) -> &[u8] {
    memory.window_ref(BASE.offset(offset), length).expect("the layout is inside the windows")
}

fn put(memory: &mut GuestMemory, offset: u64, words: impl IntoIterator<Item = u64>) {
    let mut at = offset;
    for word in words {
        bytes(memory, at, 8).copy_from_slice(&word.to_le_bytes());
        at += 8;
    }
}

fn get<const WORDS: usize>(memory: &GuestMemory, offset: u64) -> [u64; WORDS] {
    let all = bytes_ref(memory, offset, 8 * WORDS as u64);
    std::array::from_fn(|word| all[word * 8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}
