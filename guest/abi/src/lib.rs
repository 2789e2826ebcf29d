//! What the host and the guest agree on: where everything is, the hypercalls, the shared structs.
//!
//! This is the only crate that both sides use. Everything in it is plain data with a fixed layout,
//! asserted at compile time; nothing in it does anything. What the guest puts into these structs is
//! a *claim* for the host, which checks it.
//!
//! # Linear addresses of the guest
//!
//! One address space, everything at CPL 3 but the trap stubs.
//!
//! ```text
//! 0x00_0000_0000  never mapped below 64 KiB
//! 0x00_0020_0000  application (wherever its program headers say)
//! 0x00_6000_0000  libOS kernel                                  KERNEL_VA
//! 0x00_6800_0000  code of rewritten system calls                DIRECT_VA
//! 0x10_0000_0000  arena: brk from below, mmap from above        ARENA_VA
//! 0x20_0000_0000  windows: reset-exempt, mapped by the host     WINDOWS_VA ...
//! 0x30_0000_0000  GDT, IDT, TSS, trap stubs and stack (CPL 0)   MACHINE_VA
//! 0x31_0000_0000  top of the libOS stack                        KERNEL_STACK_TOP_VA
//! 0x32_0000_0000  boot information, read-only                   BOOT_INFO_VA
//! 0x33_0000_0000  the libOS's heap                              KERNEL_HEAP_VA
//! 0x40_0000_0000  top of the application's stack                STACK_TOP_VA
//! 0x50_0000_0000  root image, read-only                         ROOT_VA
//! 0x80_0000_0000  the snapshot's memory again, read-only        GOLDEN_VA
//! ```
#![no_std]

/// Asserts how many bytes a struct has, and at which offsets fields of it are.
macro_rules! layout {
    ($type:ty, $bytes:expr, $($field:ident @ $offset:expr),*) => {
        const _: () = {
            assert!(size_of::<$type>() == $bytes);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

pub mod agent;
mod batch;
mod comparisons;
mod hypercall;
mod image;
mod layout;
mod root;
mod services;

pub use batch::*;
pub use comparisons::*;
pub use hypercall::*;
pub use image::*;
pub use layout::*;
pub use root::*;
pub use services::*;

/// Version of everything in this crate. The kernel's first hypercall and the image header carry it.
pub const ABI_VERSION: u32 = 1;

/// Bytes in a page. The guest maps nothing else.
pub const PAGE_BYTES: u64 = 4096;

const _: () = {
    assert!(size_of::<BootInfo>() as u64 <= PAGE_BYTES);
    assert!(RECORDS_VA + (BATCH_MAX * size_of::<RunRecord>()) as u64 <= HOT_LIST_VA);
    assert!(HOT_LIST_VA + (HOT_MAX * size_of::<HotPage>()) as u64 <= UNSERVED_VA);
    assert!(UNSERVED_VA + (UNSERVED_SLOTS * 4) as u64 <= LOOP_STACK_TOP_VA - LOOP_STACK_BYTES - PAGE_BYTES);
    assert!(LOOP_STACK_TOP_VA <= DOORBELL_VA && DOORBELL_VA < CONSOLE_VA);
};
