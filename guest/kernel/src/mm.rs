//! The application's memory.
//!
//! It has a cell of its own, beside that of the rest: whoever looks at the application's memory on its
//! behalf asks here first, in the middle of a call. So nothing here looks at that memory while it
//! holds the cell.

pub(crate) mod advice;
pub(crate) mod image;
pub(crate) mod list;
pub(crate) mod map;
pub(crate) mod space;

use unifork_abi::STACK_TOP_VA;
use unifork_hal::{KernelCell, boot_info};

use space::Space;

pub(crate) static MM: KernelCell<Space> = KernelCell::new(Space::new());

/// Whether the application may use a range of the arena so.
pub fn allows(start: u64, bytes: u64, write: bool) -> bool {
    MM.with(|mm| mm.allows(start, bytes, write))
}

/// Begins with what the VMM has loaded.
pub(crate) fn start() {
    let info = boot_info();
    let arena = info.arena_start..info.arena_start + info.arena_bytes;
    MM.with(|mm| mm.open(arena, info.app_stack_low..STACK_TOP_VA));
    for (range, protection) in image::segments() {
        MM.with(|mm| mm.add(range, protection, list::Backing::Image));
    }
}
