//! The application's memory.
//!
//! It has a cell of its own, beside that of the rest: whoever looks at the application's memory on its
//! behalf asks here first, in the middle of a call.

pub(crate) mod arena;

use unifork_hal::KernelCell;

use arena::Arena;

pub(crate) static MM: KernelCell<Arena> = KernelCell::new(Arena::new());

/// Whether the application may use a range of the arena so.
pub fn allows(start: u64, bytes: u64, write: bool) -> bool {
    MM.with(|mm| mm.allows(start, bytes, write))
}
