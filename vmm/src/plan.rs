//! What goes where in a machine's memory, decided before anything is written.
//!
//! RAM, from guest-physical 0: a page that is never used, the machine's tables, boot information,
//! both images, both stacks, the page tables, and all the rest is the arena. The windows slot holds
//! what is exempt from reset. Everything here is arithmetic, so that it can be tested without KVM.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use unifork_abi::{self as abi, BATCH_MAX, HOT_MAX, HotPage, RunRecord, UNSERVED_SLOTS};

use crate::addr::{Gpa, Gva, PAGE_BYTES, page_ceil, page_floor};
use crate::comparisons;
use crate::elf::{Counters, GuestImage};
use crate::layout::{Access, LARGE_BYTES, Layout, LayoutError, Mapping, Purpose};
use crate::machine;
use crate::memory::{DOORBELL_GPA, GOLDEN_GPA, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, WINDOWS_GPA};

/// The arena holds at least this much, or the machine is too small to start.
const ARENA_BYTES_MIN: u64 = 1 << 20;
/// The libOS's heap is this part of memory. Pages that it never touches cost nothing.
const HEAP_PART: u64 = 4;
/// It holds at least this much, but never more than half of what is left for it and the arena.
const HEAP_BYTES_MIN: u64 = 4 << 20;
/// The longest input that may be configured.
pub const INPUT_BYTES_MAX: u64 = 256 << 20;
/// The input ring holds at least this much, so that batches of short inputs fit.
const RING_BYTES_MIN: u64 = 1 << 20;
/// The coverage ring holds about this much.
const COVERAGE_RING_BYTES: u64 = 16 << 20;

/// Sizes of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// RAM.
    pub memory_bytes: u64,
    /// The application's stack.
    pub stack_bytes: u64,
    /// The longest input.
    pub input_max: u64,
    /// The root image.
    pub root_bytes: u64,
}

/// Sizes that cannot be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Guest memory out of range or not whole pages.
    #[error(
        "{bytes} bytes of guest memory: give a multiple of 4 KiB from {} MiB to {} GiB",
        MEMORY_BYTES_MIN >> 20, MEMORY_BYTES_MAX >> 30
    )]
    Memory {
        /// What was asked for.
        bytes: u64,
    },
    /// The longest input is out of range.
    #[error("a longest input of {bytes} bytes: give 1 byte to {} MiB", INPUT_BYTES_MAX >> 20)]
    Input {
        /// What was asked for.
        bytes: u64,
    },
    /// Everything together does not fit.
    #[error("{memory_bytes} bytes of guest memory are too few: {needed} are needed at least; give more")]
    TooSmall {
        /// What was asked for.
        memory_bytes: u64,
        /// What it takes.
        needed: u64,
    },
    /// Two parts want the same addresses.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Where the windows are, in guest-physical memory, and how large the variable ones are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Bytes of the whole slot.
    pub bytes: u64,
    pub(crate) control: Gpa,
    pub(crate) records: Gpa,
    pub(crate) hot_list: Gpa,
    pub(crate) unserved: Gpa,
    pub(crate) console: Gpa,
    pub(crate) service_out: Gpa,
    pub(crate) service_in: Gpa,
    pub(crate) input: Gpa,
    pub(crate) input_bytes: u64,
    pub(crate) ring: Gpa,
    pub(crate) ring_bytes: u64,
    pub(crate) coverage: Gpa,
    pub(crate) coverage_stride: u64,
    pub(crate) coverage_slots: u64,
    pub(crate) novelty: Gpa,
    // Where there is none: 0 bytes.
    pub(crate) comparisons: Gpa,
    pub(crate) comparisons_bytes: u64,
    pub(crate) app_counters: Gpa,
    pub(crate) kernel_counters: Gpa,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub layout: Layout,
    pub windows: Windows,
    pub tables: Gpa,
    pub tables_pages: u64,
    pub machine: Gpa,
    pub boot_info: Gpa,
    pub arena_bytes: u64,
    pub heap_bytes: u64,
}

/// Hands out whole pages.
#[derive(Clone, Copy, Debug)]
struct Bump {
    next: u64,
}

impl Bump {
    fn take(&mut self, bytes: u64) -> Gpa {
        let at = self.next;
        self.next += page_ceil(bytes).expect("sizes were bounded above");
        Gpa(at)
    }
}

impl Plan {
    /// Plans a machine for `kernel` and `app`, with room for `direct_bytes` of code that rewritten
    /// system calls go through. Without a kernel: a bare machine, for tests.
    pub(crate) fn new(
        sizes: Sizes,
        kernel: Option<&GuestImage>,
        app: Option<&GuestImage>,
        direct_bytes: u64,
    ) -> Result<Self, PlanError> {
        let memory_bytes = sizes.memory_bytes;
        if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory_bytes)
            || !memory_bytes.is_multiple_of(PAGE_BYTES)
        {
            return Err(PlanError::Memory { bytes: memory_bytes });
        }
        if !(1..=INPUT_BYTES_MAX).contains(&sizes.input_max) {
            return Err(PlanError::Input { bytes: sizes.input_max });
        }
        let mut planner = Planner {
            layout: Layout::default(),
            ram: Bump { next: PAGE_BYTES },
            windows: Bump { next: WINDOWS_GPA.0 },
        };
        let machine = planner.ram(abi::MACHINE_VA, machine::TABLE_PAGES * PAGE_BYTES, Purpose::Machine)?;
        let boot_info = planner.ram(abi::BOOT_INFO_VA, PAGE_BYTES, Purpose::BootInfo)?;
        let kernel_stack = abi::KERNEL_STACK_TOP_VA - abi::KERNEL_STACK_BYTES;
        planner.ram(kernel_stack, abi::KERNEL_STACK_BYTES, Purpose::KernelStack)?;
        let mut windows = planner.windows(sizes, kernel, app)?;
        if let Some(kernel) = kernel {
            windows.kernel_counters = planner.image(kernel, Purpose::Kernel)?;
        }
        if let Some(app) = app {
            windows.app_counters = planner.image(app, Purpose::Application)?;
        }
        let direct_bytes = page_ceil(direct_bytes).unwrap_or(0);
        let direct = planner.ram.take(direct_bytes);
        planner.map(abi::DIRECT_VA, direct_bytes, direct, Access::EXECUTE, Purpose::Kernel)?;
        windows.bytes = planner.windows.next - WINDOWS_GPA.0;
        let stack = page_floor(sizes.stack_bytes.clamp(PAGE_BYTES, memory_bytes));
        planner.ram(abi::STACK_TOP_VA - stack, stack, Purpose::Stack)?;
        if sizes.root_bytes > memory_bytes {
            let needed = planner.ram.next.saturating_add(sizes.root_bytes).saturating_add(ARENA_BYTES_MIN);
            return Err(Self::too_small(sizes, kernel, app, direct_bytes, needed));
        }
        planner.ram(abi::ROOT_VA, sizes.root_bytes, Purpose::Root)?;
        let tables_pages = Layout::tables_bound(memory_bytes, windows.bytes);
        let tables = planner.ram.take(tables_pages * PAGE_BYTES);
        let needed = planner.ram.next + ARENA_BYTES_MIN;
        if needed > memory_bytes {
            return Err(Self::too_small(sizes, kernel, app, direct_bytes, needed));
        }
        let left = memory_bytes - planner.ram.next;
        let heap_bytes = match kernel {
            Some(_) => page_floor((memory_bytes / HEAP_PART).max(HEAP_BYTES_MIN).min(left / 2)),
            None => 0,
        };
        planner.ram(abi::KERNEL_HEAP_VA, heap_bytes, Purpose::KernelHeap)?;
        let arena_bytes = left - heap_bytes;
        planner.ram(abi::ARENA_VA, arena_bytes, Purpose::Arena)?;
        planner.map(abi::DOORBELL_VA, PAGE_BYTES, DOORBELL_GPA, Access::WRITE, Purpose::Window)?;
        planner.layout.add(Mapping {
            start: Gva(abi::GOLDEN_VA),
            bytes: memory_bytes.next_multiple_of(LARGE_BYTES),
            to: GOLDEN_GPA,
            access: Access::READ,
            purpose: Purpose::Golden,
        })?;
        Ok(Self {
            layout: planner.layout,
            windows,
            tables,
            tables_pages,
            machine,
            boot_info,
            arena_bytes,
            heap_bytes,
        })
    }
}

impl Plan {
    /// What to say when at least `needed` bytes are needed: the stack and the page tables grow with the
    /// memory, so that more may be.
    fn too_small(
        sizes: Sizes,
        kernel: Option<&GuestImage>,
        app: Option<&GuestImage>,
        direct_bytes: u64,
        needed: u64,
    ) -> PlanError {
        let memory_bytes = sizes.memory_bytes;
        let larger = page_ceil(needed.max(sizes.stack_bytes)).unwrap_or(u64::MAX);
        let larger = Sizes { memory_bytes: larger, ..sizes };
        match Self::new(larger, kernel, app, direct_bytes) {
            Err(PlanError::TooSmall { needed, .. }) => PlanError::TooSmall { memory_bytes, needed },
            _ => PlanError::TooSmall { memory_bytes, needed: larger.memory_bytes },
        }
    }
}

struct Planner {
    layout: Layout,
    ram: Bump,
    windows: Bump,
}

impl Planner {
    /// RAM at a fixed place, with the access that its purpose needs.
    fn ram(&mut self, va: u64, bytes: u64, purpose: Purpose) -> Result<Gpa, LayoutError> {
        let to = self.ram.take(bytes);
        match purpose {
            Purpose::Machine => {
                let stubs = bytes - PAGE_BYTES;
                self.map(va, stubs, to, Access::SUPERVISOR, purpose)?;
                self.map(va + stubs, PAGE_BYTES, to.offset(stubs), Access::SUPERVISOR_EXECUTE, purpose)?;
            }
            Purpose::BootInfo | Purpose::Root => {
                let bytes = page_ceil(bytes).expect("sizes were bounded above");
                self.map(va, bytes, to, Access::READ, purpose)?;
            }
            _ => self.map(va, bytes, to, Access::WRITE, purpose)?,
        }
        Ok(to)
    }

    fn map(
        &mut self,
        va: u64,
        bytes: u64,
        to: Gpa,
        access: Access,
        purpose: Purpose,
    ) -> Result<(), LayoutError> {
        self.layout.add(Mapping { start: Gva(va), bytes, to, access, purpose })
    }

    fn window(&mut self, va: u64, bytes: u64, access: Access) -> Result<Gpa, LayoutError> {
        let bytes = page_ceil(bytes).expect("sizes were bounded above");
        let to = self.windows.take(bytes);
        let purpose = if access.user { Purpose::Window } else { Purpose::Machine };
        self.map(va, bytes, to, access, purpose)?;
        Ok(to)
    }

    /// All windows but the counters, which are part of the images.
    fn windows(
        &mut self,
        sizes: Sizes,
        kernel: Option<&GuestImage>,
        app: Option<&GuestImage>,
    ) -> Result<Windows, LayoutError> {
        let count = |image: Option<&GuestImage>| image.and_then(GuestImage::counters).map_or(0, |c| c.count);
        let coverage_stride = (count(app) + count(kernel)).next_multiple_of(64).max(64);
        let coverage_slots = (COVERAGE_RING_BYTES / coverage_stride).clamp(16, BATCH_MAX as u64);
        let input_bytes = page_ceil(sizes.input_max).expect("sizes were bounded above");
        let ring_bytes = (input_bytes + PAGE_BYTES).max(RING_BYTES_MIN);
        let write = Access::WRITE;
        let comparisons_bytes =
            if app.is_some_and(comparisons::logged_by) { comparisons::WINDOW_BYTES } else { 0 };
        let windows = Windows {
            bytes: 0,
            control: self.window(abi::CONTROL_VA, PAGE_BYTES, write)?,
            records: self.window(abi::RECORDS_VA, (BATCH_MAX * size_of::<RunRecord>()) as u64, write)?,
            hot_list: self.window(abi::HOT_LIST_VA, (HOT_MAX * size_of::<HotPage>()) as u64, Access::READ)?,
            unserved: self.window(abi::UNSERVED_VA, (UNSERVED_SLOTS * size_of::<u32>()) as u64, write)?,
            console: self.window(abi::CONSOLE_VA, abi::CONSOLE_BYTES, write)?,
            service_out: self.window(abi::SERVICE_OUT_VA, abi::SERVICE_BYTES, write)?,
            service_in: self.window(abi::SERVICE_IN_VA, abi::SERVICE_BYTES, write)?,
            input: self.window(abi::INPUT_RW_VA, input_bytes, write)?,
            input_bytes,
            ring: self.window(abi::INPUT_RING_VA, ring_bytes, Access::READ)?,
            ring_bytes,
            coverage: self.window(abi::COVERAGE_RING_VA, coverage_stride * coverage_slots, write)?,
            coverage_stride,
            coverage_slots,
            novelty: self.window(abi::NOVELTY_VA, coverage_stride, Access::READ)?,
            comparisons: self.window(abi::COMPARISONS_VA, comparisons_bytes, write)?,
            comparisons_bytes,
            app_counters: Gpa(0),
            kernel_counters: Gpa(0),
        };
        self.window(abi::LOOP_STACK_TOP_VA - abi::LOOP_STACK_BYTES, abi::LOOP_STACK_BYTES, write)?;
        self.window(machine::TRAP_STACK_VA, PAGE_BYTES, Access::SUPERVISOR)?;
        self.map(abi::INPUT_VA, input_bytes, windows.input, Access::READ, Purpose::Input)?;
        Ok(windows)
    }

    /// Maps an image; its counters go to the windows. Returns where they are.
    fn image(&mut self, image: &GuestImage, purpose: Purpose) -> Result<Gpa, LayoutError> {
        let mut pages: BTreeMap<u64, Access> = BTreeMap::new();
        for segment in &image.segments {
            let end = page_ceil(segment.start + segment.bytes).expect("segments end far below the top");
            for page in (page_floor(segment.start)..end).step_by(PAGE_BYTES as usize) {
                let access = pages.entry(page).or_default();
                *access = access.union(segment.access);
            }
        }
        let exempt: Range<u64> =
            image.counters().map_or(0..0, |Counters { start, page_bytes, .. }| start..start + page_bytes);
        let mut counters = Gpa(0);
        let mut pages = pages.into_iter().peekable();
        while let Some((start, access)) = pages.next() {
            let window = exempt.contains(&start);
            let mut bytes = PAGE_BYTES;
            while pages
                .next_if(|&(page, other)| {
                    page == start + bytes && other == access && exempt.contains(&page) == window
                })
                .is_some()
            {
                bytes += PAGE_BYTES;
            }
            let to = if window { self.windows.take(bytes) } else { self.ram.take(bytes) };
            if window && start == exempt.start {
                counters = to;
            }
            self.map(start, bytes, to, access, if window { Purpose::Window } else { purpose })?;
        }
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes =
        Sizes { memory_bytes: 64 << 20, stack_bytes: 1 << 20, input_max: 1 << 20, root_bytes: 0 };

    #[test]
    fn every_page_of_memory_has_at_most_one_writable_place() {
        let plan = Plan::new(SIZES, None, None, 0).unwrap();
        let mut ram: Vec<(u64, u64)> = plan
            .layout
            .mappings()
            .iter()
            .filter(|m| m.to < WINDOWS_GPA)
            .map(|m| (m.to.0, m.to.0 + m.bytes))
            .collect();
        ram.push((plan.tables.0, plan.tables.0 + plan.tables_pages * PAGE_BYTES));
        ram.sort_unstable();
        assert!(ram.windows(2).all(|w| w[0].1 <= w[1].0), "{ram:x?}");
        assert_eq!(ram.last().unwrap().1, SIZES.memory_bytes);
        let inside = |m: &&Mapping| m.to >= WINDOWS_GPA && m.to < GOLDEN_GPA;
        let end = plan.layout.mappings().iter().filter(inside).map(|m| m.to.0 + m.bytes).max().unwrap();
        assert_eq!(end, WINDOWS_GPA.0 + plan.windows.bytes);
    }

    #[test]
    fn tables_are_out_of_the_guests_reach_and_fit() {
        for memory_bytes in [MEMORY_BYTES_MIN, 64 << 20, 1 << 30, MEMORY_BYTES_MAX] {
            let plan = Plan::new(Sizes { memory_bytes, ..SIZES }, None, None, 0).unwrap();
            let inside = |m: &Mapping| m.to < plan.tables && plan.tables.0 < m.to.0 + m.bytes;
            assert!(!plan.layout.mappings().iter().any(inside));
            if memory_bytes <= 1 << 30 {
                plan.layout.tables(plan.tables, plan.tables_pages).unwrap();
            }
        }
    }

    #[test]
    fn sizes_out_of_range_are_refused_in_words() {
        for memory_bytes in [0, 4096, MEMORY_BYTES_MIN + 1, MEMORY_BYTES_MAX + 4096] {
            assert!(matches!(
                Plan::new(Sizes { memory_bytes, ..SIZES }, None, None, 0),
                Err(PlanError::Memory { .. })
            ));
        }
        for input_max in [0, INPUT_BYTES_MAX + 1] {
            assert!(matches!(
                Plan::new(Sizes { input_max, ..SIZES }, None, None, 0),
                Err(PlanError::Input { .. })
            ));
        }
        let stack_bytes = SIZES.memory_bytes;
        assert!(matches!(
            Plan::new(Sizes { stack_bytes, ..SIZES }, None, None, 0),
            Err(PlanError::TooSmall { .. })
        ));
    }

    #[test]
    fn what_is_said_to_be_needed_is_enough_and_not_more() {
        for (memory_bytes, stack_bytes, root_bytes) in [
            (4 << 20, 8 << 20, 0),
            (8 << 20, 8 << 20, 0),
            (64 << 20, 64 << 20, 0),
            (16 << 20, 8 << 20, 1 << 30),
        ] {
            let with = |memory_bytes| {
                Plan::new(Sizes { memory_bytes, stack_bytes, root_bytes, ..SIZES }, None, None, 0)
            };
            let Err(PlanError::TooSmall { memory_bytes: asked, needed }) = with(memory_bytes) else {
                panic!("{memory_bytes} bytes are enough")
            };
            assert_eq!(asked, memory_bytes);
            assert!(with(needed).is_ok(), "{needed}");
            assert!(matches!(with(needed - PAGE_BYTES), Err(PlanError::TooSmall { .. })), "{needed}");
        }
    }
}
