//! The libOS's heap, in a part of guest memory of its own: what `alloc` is served from.
//!
//! Pages that were never handed out cost nothing. An allocation that fails ends the run as a panic
//! of the libOS, so whoever allocates on the application's behalf asks [`free_bytes`] first, or
//! uses `try_reserve`, and says `ENOMEM`.

use core::alloc::{GlobalAlloc, Layout};

use talc::TalcCell;
use talc::source::Manual;

use crate::memory::boot_info;

struct Heap(TalcCell<Manual>);

// SAFETY: the guest has one CPU, nothing preempts the libOS, and exceptions do not enter it while it
// runs; so no two calls of the allocator are ever under way.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(Manual));

// SAFETY: passed on unchanged to an allocator that upholds the contract.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.realloc(at, layout, bytes) }
    }
}

/// Gives the allocator its memory. Once, before anything allocates.
pub(crate) fn open() {
    let info = boot_info();
    // SAFETY: the VMM mapped this range for the heap, writable and zeroed; nothing else uses it.
    unsafe { HEAP.0.claim(info.heap_start as *mut u8, info.heap_bytes as usize) };
}

/// Bytes that are free, in pieces.
#[must_use]
pub fn free_bytes() -> usize {
    HEAP.0.counters().available_bytes
}
