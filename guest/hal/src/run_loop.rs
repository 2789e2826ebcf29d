//! The run loop: next input, run, put the hot pages back, next input, without leaving the guest.
//!
//! It runs on a stack of its own in a reset-exempt window, because it puts back the very pages that
//! all other stacks and variables are on. It keeps nothing in variables: everything it knows is in
//! the control page and the records, and everything is checked before use, for the application may
//! have scribbled over them. One input at a time is a batch of one.
//!
//! The state that a fork begins with is put together here: memory by the host or by the hot list,
//! registers from [`Resume`](crate::entry), the input at the end of its window.

use unifork_abi::{
    BATCH_MAX, CONTROL_VA, COVERAGE_RING_VA, Control, Filter, HOT_LIST_VA, HOT_MAX, HotPage, Hypercall,
    INPUT_ALIGN, INPUT_RING_VA, INPUT_RW_VA, INPUT_VA, NO_SLOT, NOVELTY_VA, PAGE_BYTES, RECORDS_VA,
    RunRecord, RunState,
};

use crate::hypercall;
use crate::memory::boot_info;

/// `struct uf_input`: returned in RAX and RDX.
#[repr(C)]
pub(crate) struct Input {
    data: u64,
    size: u64,
}

/// The control page. Only the host, while the guest is stopped, and this thread touch it.
pub(crate) fn control() -> &'static mut Control {
    // SAFETY: mapped, aligned, and any bit pattern is a valid `Control`; callers hold the result
    // for a few lines only and never two at a time.
    unsafe { &mut *(CONTROL_VA as *mut Control) }
}

fn record(index: u64) -> &'static mut RunRecord {
    let index = (index as usize).min(BATCH_MAX - 1);
    // SAFETY: the window holds BATCH_MAX records, any bit pattern is a valid `RunRecord`, and
    // callers hold one at a time.
    unsafe { &mut *(RECORDS_VA as *mut RunRecord).add(index) }
}

/// Puts the input of the run at hand in place, and clears what the run will write to the windows.
#[unsafe(no_mangle)]
extern "C" fn unifork_begin_run() -> Input {
    let info = boot_info();
    let control = control();
    let record = record(control.index);
    record.state = RunState::Running as u32;
    control.console_len = 0;
    control.console_lost = 0;
    control.syscall_frame = 0;
    let window = info.input_window_bytes;
    let size = record.input_len.min(info.input_max).min(window);
    let room = size.next_multiple_of(INPUT_ALIGN).min(window);
    let before = control.input_extent.min(window);
    control.input_extent = room;
    if before > room {
        zero(INPUT_RW_VA + window - before, before - room);
    }
    let start = window - room;
    copy(INPUT_RW_VA + start, INPUT_RING_VA + record.input_offset, size);
    zero(INPUT_RW_VA + start + size, room - size);
    zero(info.app_counters, info.app_counter_count);
    if with_kernel_counters(control) {
        zero(info.kernel_counters, info.kernel_counter_count);
    }
    Input { data: INPUT_VA + start, size }
}

/// The harness returned `code`. Returns when the next run may begin.
#[unsafe(no_mangle)]
extern "C" fn unifork_end_run(code: i64) {
    let control = control();
    let index = control.index;
    let count = control.count.min(BATCH_MAX as u64);
    let record = record(index);
    record.code = code;
    record.slot = NO_SLOT;
    if count > 1 && (control.filter == 0 || may_be_new()) {
        record.slot = store_counters();
    }
    record.state = RunState::Done as u32;
    if index + 1 >= count {
        hypercall::call_last(Hypercall::Done, [0; 3]);
    }
    let pages = (control.hot_count as usize).min(HOT_MAX);
    for i in 0..pages {
        // SAFETY: the window holds HOT_MAX entries, and `i` is below that. The guest cannot write
        // it.
        let page = unsafe { (HOT_LIST_VA as *const HotPage).add(i).read() };
        copy(page.page, page.golden, PAGE_BYTES);
    }
    control.index = index + 1;
}

/// Whether anybody wants to know what the libOS covers. Zeroing and comparing its counters takes longer
/// than many a run.
fn with_kernel_counters(control: &Control) -> bool {
    control.count == 1 || control.filter != Filter::Application as u64
}

/// Copies the counters to the next free slot; returns its number.
fn store_counters() -> u32 {
    let info = boot_info();
    let control = control();
    let slot = control.stored;
    if slot >= info.coverage_slots {
        return NO_SLOT;
    }
    let at = COVERAGE_RING_VA + slot * info.coverage_stride;
    copy(at, info.app_counters, info.app_counter_count);
    if with_kernel_counters(control) {
        copy(at + info.app_counter_count, info.kernel_counters, info.kernel_counter_count);
    }
    control.stored = slot + 1;
    slot as u32
}

/// Whether any counter is above what the campaign has seen of it. The map holds, for each counter,
/// the largest value that would be no news.
fn may_be_new() -> bool {
    let info = boot_info();
    above(info.app_counters, NOVELTY_VA, info.app_counter_count)
        || with_kernel_counters(control())
            && above(info.kernel_counters, NOVELTY_VA + info.app_counter_count, info.kernel_counter_count)
}

/// Whether any of `count` bytes at `a` is larger than its partner at `b`. Most counters of a run are zero,
/// and a zero is above nothing, so `b` is only looked at where they are not.
fn above(a: u64, b: u64, count: u64) -> bool {
    use core::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_setzero_si128,
        _mm_subs_epu8,
    };
    const BLOCK: usize = 64;
    let (a, b, count) = (a as *const u8, b as *const u8, count as usize);
    let whole = count & !(BLOCK - 1);
    for i in (0..whole).step_by(BLOCK) {
        // SAFETY: 1. SSE2 is part of x86-64. 2. `i + BLOCK` is at most `count`, and both windows have
        // `count` bytes. 3. Unaligned loads are allowed.
        let none_above = unsafe {
            let load = |from: *const u8, n: usize| _mm_loadu_si128(from.add(i + n * 16).cast());
            let is_zero = |x: __m128i| _mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_setzero_si128())) == 0xffff;
            let x = [load(a, 0), load(a, 1), load(a, 2), load(a, 3)];
            let any = _mm_or_si128(_mm_or_si128(x[0], x[1]), _mm_or_si128(x[2], x[3]));
            is_zero(any) || (0..4).all(|n| is_zero(_mm_subs_epu8(x[n], load(b, n))))
        };
        if !none_above {
            return true;
        }
    }
    (whole..count).any(|i| {
        // SAFETY: `i` is below `count`, and both windows have `count` bytes.
        unsafe { a.add(i).read() > b.add(i).read() }
    })
}

fn copy(to: u64, from: u64, bytes: u64) {
    // SAFETY: callers name windows of this size, or a page and its snapshot; they do not overlap,
    // and no Rust reference to them is alive in the run loop.
    unsafe { (to as *mut u8).copy_from_nonoverlapping(from as *const u8, bytes as usize) };
}

fn zero(at: u64, bytes: u64) {
    // SAFETY: callers name part of a window that no Rust reference is alive to.
    unsafe { (at as *mut u8).write_bytes(0, bytes as usize) };
}
