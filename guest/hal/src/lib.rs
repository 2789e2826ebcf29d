//! The guest's unsafe code, behind safe types: entry points, the run loop, hypercalls, and access to
//! the application's memory. The libOS proper, which forbids unsafe code, builds on it.
//!
//! This crate is compiled without coverage counters, so that the run loop leaves no trace in them.
#![no_std]

mod cell;
mod console;
mod cpu;
mod entry;
mod fpu;
mod heap;
mod hypercall;
mod mem_functions;
mod memory;
mod run_loop;

pub use cell::KernelCell;
pub use console::write as write_console;
pub use cpu::{fs_base, gs_base, hang, set_fs_base, set_gs_base};
pub use entry::{Entry, Exception, publish_fault_signals};
pub use fpu::Fpu;
pub use heap::free_bytes as heap_free_bytes;
pub use hypercall::{assertion_failed, exit, hello, out_of_memory, panicked, signalled, signalled_by_fault};
pub use memory::{
    Fault, User, boot_info, clear, count_unserved, move_bytes, read_arena, root_image, service_exchange,
    write_arena,
};

/// The system call of the application that is being served: its registers, to read and change.
pub use unifork_abi::SyscallFrame;
