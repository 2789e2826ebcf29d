//! Whether what a snapshot file says of its machine can be: everything that the host later uses as an
//! address, a size or a count.
//!
//! Checksums tell a file that was damaged, not one that was made. The plan is the host's own work while
//! a machine boots, and is used without a look afterwards: the windows are slices of a mapping of
//! [`Windows::bytes`](crate::plan::Windows), and must lie inside it. So a plan out of a file is held here
//! to what [`Plan::new`](crate::plan) promises. The guest's memory and registers are not: whatever they
//! are, they are a guest's, and what a guest does is an outcome.

use std::ops::Range;

use unifork_abi::{BATCH_MAX, CONSOLE_BYTES, HOT_MAX, HotPage, RunRecord, SERVICE_BYTES, UNSERVED_SLOTS};

use crate::addr::{Gpa, PAGE_BYTES, page_ceil};
use crate::boot::MachineInfo;
use crate::elf::Counters;
use crate::layout::{LARGE_BYTES, Layout, Mapping, Purpose};
use crate::machine;
use crate::memory::{DOORBELL_GPA, GOLDEN_GPA, WINDOWS_GPA};
use crate::plan::INPUT_BYTES_MAX;
use crate::vcpu::VcpuState;

/// Bytes of the windows' slot at most: golden memory begins behind it.
const WINDOWS_BYTES_MAX: u64 = GOLDEN_GPA.0 - WINDOWS_GPA.0;

/// Checks a machine of `memory_bytes` bytes of RAM.
///
/// # Errors
///
/// What is wrong, in words.
pub(super) fn machine(info: &MachineInfo, vcpu: &VcpuState, memory_bytes: u64) -> Result<(), &'static str> {
    if info.config.memory_bytes != memory_bytes || !(1..=INPUT_BYTES_MAX).contains(&info.config.input_max) {
        return Err("its sizes cannot be");
    }
    layout(&info.layout, memory_bytes, info.windows.bytes)?;
    windows(info)?;
    if !vcpu.is_plausible(memory_bytes) {
        return Err("its virtual CPU is not one of a machine at CPL 3");
    }
    Ok(())
}

/// Every linear address leads to memory that is there, and the one that traps are read from to a window.
fn layout(layout: &Layout, memory_bytes: u64, windows_bytes: u64) -> Result<(), &'static str> {
    let windows_end = windows_bytes.checked_add(WINDOWS_GPA.0).filter(|_| windows_bytes <= WINDOWS_BYTES_MAX);
    let windows = WINDOWS_GPA.0..windows_end.ok_or("its windows are larger than can be")?;
    let golden = GOLDEN_GPA.0..GOLDEN_GPA.0 + memory_bytes.next_multiple_of(LARGE_BYTES);
    let places = [0..memory_bytes, windows.clone(), golden, DOORBELL_GPA.0..DOORBELL_GPA.0 + PAGE_BYTES];
    let placed = |m: &Mapping| places.iter().any(|place| within(place, m.to, m.bytes));
    if !layout.is_sound() || !layout.mappings().iter().all(placed) {
        return Err("its linear addresses lead nowhere");
    }
    let traps = layout.find(machine::TRAP_STACK_VA);
    let traps = traps.filter(|m| m.start.0 == machine::TRAP_STACK_VA && within(&windows, m.to, PAGE_BYTES));
    let ends = layout.mappings().iter().filter(|m| windows.contains(&m.to.0)).map(|m| m.to.0 + m.bytes);
    if traps.is_none() || ends.max() != Some(windows.end) {
        return Err("its windows are not where its linear addresses lead");
    }
    Ok(())
}

/// The windows lie inside their slot and apart from each other, and each holds what it is for.
fn windows(info: &MachineInfo) -> Result<(), &'static str> {
    let w = &info.windows;
    let count = |counters: Option<Counters>| counters.map_or(0, |c| c.count);
    let sane = |counters: Option<Counters>| {
        counters.is_none_or(|c| c.count <= c.page_bytes && page_ceil(c.page_bytes) == Some(c.page_bytes))
    };
    let (app, kernel) = (info.app_counters, info.kernel_counters);
    let counters = count(app).checked_add(count(kernel)).filter(|_| sane(app) && sane(kernel));
    let counters = counters.ok_or("its counters cannot be")?;
    let sized = page_ceil(info.config.input_max) == Some(w.input_bytes)
        && w.ring_bytes >= w.input_bytes
        && w.coverage_stride >= counters
        && (1..=BATCH_MAX as u64).contains(&w.coverage_slots);
    let coverage = w.coverage_stride.checked_mul(w.coverage_slots).filter(|_| sized);
    let coverage = coverage.ok_or("its windows have other sizes than its inputs and counters")?;
    let pages = |counters: Option<Counters>| counters.map_or(0, |c| c.page_bytes);
    let mut all = [
        (w.control, PAGE_BYTES),
        (w.records, (BATCH_MAX * size_of::<RunRecord>()) as u64),
        (w.hot_list, (HOT_MAX * size_of::<HotPage>()) as u64),
        (w.unserved, (UNSERVED_SLOTS * size_of::<u32>()) as u64),
        (w.console, CONSOLE_BYTES),
        (w.service_out, SERVICE_BYTES),
        (w.service_in, SERVICE_BYTES),
        (w.input, w.input_bytes),
        (w.ring, w.ring_bytes),
        (w.coverage, coverage),
        (w.novelty, w.coverage_stride),
        (w.app_counters, pages(app)),
        (w.kernel_counters, pages(kernel)),
    ];
    all.sort_unstable();
    let slot = WINDOWS_GPA.0..WINDOWS_GPA.0 + w.bytes;
    let mut free = WINDOWS_GPA.0;
    for (at, bytes) in all.into_iter().filter(|(_, bytes)| *bytes > 0) {
        if at.0 < free || !at.0.is_multiple_of(PAGE_BYTES) || !within(&slot, at, bytes) {
            return Err("its windows overlap or lie outside of their memory");
        }
        free = at.0 + bytes;
    }
    Ok(())
}

/// Whether `bytes` bytes from `at` on are all in `range`.
fn within(range: &Range<u64>, at: Gpa, bytes: u64) -> bool {
    at.0 >= range.start && at.0.checked_add(bytes).is_some_and(|end| end <= range.end)
}

impl Layout {
    /// Whether the invariant of `mappings` holds, and nothing is empty.
    fn is_sound(&self) -> bool {
        let mappings = self.mappings();
        let sound = |m: &Mapping| {
            m.bytes > 0
                && (m.start.0 | m.bytes | m.to.0).is_multiple_of(PAGE_BYTES)
                && m.start.0.checked_add(m.bytes).is_some_and(|end| end <= 1 << 47)
                && m.to.0.checked_add(m.bytes).is_some()
                && (m.purpose != Purpose::Golden || !m.access.write)
        };
        mappings.iter().all(sound) && mappings.windows(2).all(|pair| pair[0].end() <= pair[1].start.0)
    }
}
