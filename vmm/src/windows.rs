//! Reading and writing the reset-exempt windows. What the guest left there is never trusted: every
//! count is cut to the size of what it counts.

use std::mem::offset_of;

use unifork_abi::{BootInfo, CONSOLE_BYTES, Control, HotPage, RunRecord, RunState, UNSERVED_SLOTS};

use crate::addr::{Gpa, PAGE_BYTES};
use crate::memory::GuestMemory;
use crate::plan::Windows;

const CONTROL_WORDS: usize = size_of::<Control>() / 8;

/// The bytes of a window that the plan made; it is there by construction.
pub(crate) fn slice(memory: &mut GuestMemory, at: Gpa, bytes: u64) -> &mut [u8] {
    memory.window(at, bytes).expect("the plan's windows are inside the slot")
}

pub(crate) fn slice_ref(memory: &GuestMemory, at: Gpa, bytes: u64) -> &[u8] {
    memory.window_ref(at, bytes).expect("the plan's windows are inside the slot")
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Writes the control page. On the data plane.
pub(crate) fn set_control(memory: &mut GuestMemory, windows: &Windows, control: &Control) {
    let words: [u64; CONTROL_WORDS] = [
        control.count,
        control.index,
        control.hot_count,
        control.console_len,
        control.console_lost,
        control.console_flush,
        control.input_extent,
        control.filter,
        control.stored,
        control.syscall_frame,
        control.fault_vector,
        control.fault_error,
        control.fault_address,
        control.fault_rip,
        control.fault_rflags,
    ];
    let page = slice(memory, windows.control, size_of::<Control>() as u64);
    for (bytes, word) in page.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

/// Reads the control page: claims, all of it. On the data plane.
pub(crate) fn control(memory: &GuestMemory, windows: &Windows) -> Control {
    let page = slice_ref(memory, windows.control, size_of::<Control>() as u64);
    let word = |i: usize| word(page, i * 8);
    Control {
        count: word(0),
        index: word(1),
        hot_count: word(2),
        console_len: word(3),
        console_lost: word(4),
        console_flush: word(5),
        input_extent: word(6),
        filter: word(7),
        stored: word(8),
        syscall_frame: word(9),
        fault_vector: word(10),
        fault_error: word(11),
        fault_address: word(12),
        fault_rip: word(13),
        fault_rflags: word(14),
    }
}

/// Describes an exception that the libOS is to turn into a signal.
pub(crate) fn set_fault(memory: &mut GuestMemory, control: Gpa, fault: [u64; 5]) {
    let at = control.offset(offset_of!(Control, fault_vector) as u64);
    for (bytes, word) in slice(memory, at, 40).chunks_exact_mut(8).zip(fault) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
}

/// The exception described last: a claim.
pub(crate) fn fault(memory: &GuestMemory, control: Gpa) -> [u64; 5] {
    let at = control.offset(offset_of!(Control, fault_vector) as u64);
    let bytes = slice_ref(memory, at, 40);
    std::array::from_fn(|i| word(bytes, i * 8))
}

const RECORD_BYTES: usize = size_of::<RunRecord>();

/// Writes the record of run `index`, waiting, with its input. On the data plane.
pub(crate) fn set_record(memory: &mut GuestMemory, windows: &Windows, index: usize, offset: u64, len: u64) {
    let at = windows.records.offset((index * RECORD_BYTES) as u64);
    let bytes = slice(memory, at, RECORD_BYTES as u64);
    bytes[..8].copy_from_slice(&offset.to_le_bytes());
    bytes[8..16].copy_from_slice(&len.to_le_bytes());
    bytes[16..24].fill(0);
    bytes[24..28].copy_from_slice(&(RunState::Waiting as u32).to_le_bytes());
    bytes[28..32].copy_from_slice(&unifork_abi::NO_SLOT.to_le_bytes());
}

/// Reads the record of run `index`. On the data plane.
pub(crate) fn record(memory: &GuestMemory, windows: &Windows, index: usize) -> RunRecord {
    let at = windows.records.offset((index * RECORD_BYTES) as u64);
    let bytes = slice_ref(memory, at, RECORD_BYTES as u64);
    let half = |at: usize| bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk));
    RunRecord {
        input_offset: word(bytes, 0),
        input_len: word(bytes, 8),
        code: word(bytes, 16).cast_signed(),
        state: half(24),
        slot: half(28),
    }
}

/// Writes entry `index` of the hot list.
pub(crate) fn set_hot(memory: &mut GuestMemory, windows: &Windows, index: usize, page: HotPage) {
    let at = windows.hot_list.offset((index * size_of::<HotPage>()) as u64);
    let bytes = slice(memory, at, size_of::<HotPage>() as u64);
    bytes[..8].copy_from_slice(&page.page.to_le_bytes());
    bytes[8..].copy_from_slice(&page.golden.to_le_bytes());
}

/// Says whether a full console is flushed by hypercall.
pub(crate) fn flush_console(memory: &mut GuestMemory, windows: &Windows, flush: bool) {
    let control = Control { console_flush: flush.into(), ..Control::default() };
    set_control(memory, windows, &control);
}

/// The console's bytes, as many as the guest says and as there can be.
pub(crate) fn console<'a>(memory: &'a GuestMemory, windows: &Windows) -> &'a [u8] {
    let len = control(memory, windows).console_len.min(CONSOLE_BYTES);
    slice_ref(memory, windows.console, len)
}

/// The console's bytes, taken: it is empty afterwards.
pub(crate) fn take_console(memory: &mut GuestMemory, windows: &Windows) -> Vec<u8> {
    let bytes = console(memory, windows).to_vec();
    let mut control = control(memory, windows);
    control.console_len = 0;
    set_control(memory, windows, &control);
    bytes
}

/// System calls that were not served: number and how often, those above 0.
pub(crate) fn unserved(memory: &GuestMemory, windows: &Windows) -> Vec<(u64, u32)> {
    let counts = slice_ref(memory, windows.unserved, (UNSERVED_SLOTS * 4) as u64);
    let count = |chunk: &[u8]| chunk.first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk));
    let all = counts.chunks_exact(4).map(count).enumerate();
    all.filter(|&(_, count)| count > 0).map(|(number, count)| (number as u64, count)).collect()
}

/// [`BootInfo`] as it lies in memory.
pub(crate) fn bytes_of_boot_info(info: &BootInfo) -> Vec<u8> {
    let words = [
        u64::from(info.abi_version) | u64::from(info.reserved) << 32,
        info.memory_bytes,
        info.arena_start,
        info.arena_bytes,
        info.app_entry,
        info.app_stack,
        info.app_stack_low,
        info.app_start,
        info.app_end,
        info.app_counters,
        info.app_counter_count,
        info.kernel_counters,
        info.kernel_counter_count,
        info.input_window_bytes,
        info.input_max,
        info.coverage_stride,
        info.coverage_slots,
        info.epoch_ns,
        info.random_seed,
        info.root_bytes,
        info.services,
        info.heap_start,
        info.heap_bytes,
    ];
    const _: () = assert!(size_of::<BootInfo>() == 23 * 8 && size_of::<BootInfo>() as u64 <= PAGE_BYTES);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
