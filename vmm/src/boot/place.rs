//! Writes a machine's memory, each thing where the plan has put it.

use unifork_abi::{self as abi, ABI_VERSION, AT_UNIFORK, BootInfo};

use super::config::MachineConfig;
use crate::addr::{Gpa, PAGE_BYTES, to_page_end};
use crate::elf::GuestImage;
use crate::layout::Layout;
use crate::machine;
use crate::memory::GuestMemory;
use crate::plan::{Plan, PlanError};
use crate::stack::{self, StackError};
use crate::vcpu::cpuid::CpuModel;
use crate::windows;

/// The clock of every guest starts here: 2026-01-01 00:00:00 UTC, in nanoseconds.
const EPOCH_NS: u64 = 1_767_225_600 * 1_000_000_000;
/// What every guest's randomness starts from.
const RANDOM_SEED: u64 = 0x756e_6966_6f72_6b21;
/// Bytes of a signal's frame at most: with AVX-512 (`guest/kernel/src/signal/frame.rs`), and as Linux has it.
const SIGNAL_FRAME_BYTES: u64 = 3632;

/// Writes the CPU's tables and the page tables.
pub(crate) fn write_tables(memory: &mut GuestMemory, plan: &Plan) -> Result<(), PlanError> {
    let tables = plan.layout.tables(plan.tables, plan.tables_pages)?;
    for (i, table) in tables.iter().enumerate() {
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        write(memory, plan.tables.offset(i as u64 * PAGE_BYTES), &bytes);
    }
    write(memory, plan.machine, &machine::tables());
    Ok(())
}

/// Writes where the plan has put something, which is inside memory by construction.
fn write(memory: &mut GuestMemory, at: Gpa, bytes: &[u8]) {
    memory.write(at, bytes).expect("the plan lies inside guest memory");
}

pub(super) fn write_at(memory: &mut GuestMemory, layout: &Layout, va: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = va + done as u64;
        let count = (bytes.len() - done).min(to_page_end(at) as usize);
        let to = layout.translate(at).expect("the plan maps what is loaded");
        write(memory, to, &bytes[done..done + count]);
        done += count;
    }
}

pub(super) fn write_image(memory: &mut GuestMemory, layout: &Layout, image: &GuestImage) {
    for segment in &image.segments {
        write_at(memory, layout, segment.start, &image.bytes()[segment.file.clone()]);
    }
}

pub(super) fn write_boot_info(
    memory: &mut GuestMemory,
    plan: &Plan,
    config: &MachineConfig,
    image: &GuestImage,
    kernel: &GuestImage,
    [vector, root_bytes, services]: [u64; 3],
) -> Result<(), StackError> {
    // Linux include/uapi/linux/auxvec.h: PHDR PHENT PHNUM PAGESZ BASE FLAGS ENTRY UID EUID GID EGID
    // HWCAP CLKTCK SECURE MINSIGSTKSZ.
    let model = config.cpu_model.unwrap_or_else(CpuModel::of_host);
    let [_, _, _, hwcap] = model.lookup(1, 0);
    let auxv = [
        (3, image.headers.address),
        (4, image.headers.entry_bytes),
        (5, image.headers.count),
        (6, PAGE_BYTES),
        (7, 0),
        (8, 0),
        (9, image.entry),
        (11, 0),
        (12, 0),
        (13, 0),
        (14, 0),
        (16, u64::from(hwcap)),
        (17, 100),
        (23, 0),
        (51, SIGNAL_FRAME_BYTES),
        (AT_UNIFORK, vector),
    ];
    let random = (u128::from(RANDOM_SEED) * 0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let contents = stack::Contents { args: &config.args, env: &config.env, auxv: &auxv, random };
    let (bytes, app_stack) = stack::build(&contents, abi::STACK_TOP_VA)?;
    write_at(memory, &plan.layout, app_stack, &bytes);
    let low = plan.layout.find(abi::STACK_TOP_VA - 1).map_or(0, |m| m.start.0);
    let span = image.span();
    let counters = |image: &GuestImage| image.counters().map_or((0, 0), |c| (c.start, c.count));
    let (app_counters, app_counter_count) = counters(image);
    let (kernel_counters, kernel_counter_count) = counters(kernel);
    let info = BootInfo {
        abi_version: ABI_VERSION,
        reserved: 0,
        memory_bytes: config.memory_bytes,
        arena_start: abi::ARENA_VA,
        arena_bytes: plan.arena_bytes,
        app_entry: image.entry,
        app_stack,
        app_stack_low: low,
        app_start: span.start,
        app_end: span.end,
        app_counters,
        app_counter_count,
        kernel_counters,
        kernel_counter_count,
        input_window_bytes: plan.windows.input_bytes,
        input_max: config.input_max,
        coverage_stride: plan.windows.coverage_stride,
        coverage_slots: plan.windows.coverage_slots,
        epoch_ns: EPOCH_NS,
        random_seed: RANDOM_SEED,
        root_bytes,
        services,
        heap_start: abi::KERNEL_HEAP_VA,
        heap_bytes: plan.heap_bytes,
    };
    write(memory, plan.boot_info, &windows::bytes_of_boot_info(&info));
    Ok(())
}
