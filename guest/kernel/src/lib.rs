//! The library OS: serves the Linux system-call ABI in the application's own address space and at
//! its own privilege level (CPL 3).
//!
//! Everything it knows lies in one struct, [`Kernel`], in guest memory, so that a snapshot holds it
//! and a reset puts it back. Time, randomness and process ids are its own and deterministic. A call
//! that it does not serve returns `ENOSYS` and is counted for the host to report; none is faked.
//!
//! Unsafe code lives in `unifork-hal` alone.
#![no_std]
#![forbid(unsafe_code)]

mod clock;
mod errno;
mod files;
mod mm;
mod process;
mod random;
mod signal;
mod syscall;
mod text;

use unifork_hal::{KernelCell, SyscallFrame, boot_info, hello};

pub use text::Text;

/// All that the libOS remembers.
struct Kernel {
    mm: mm::Arena,
    clock: clock::Clock,
    random: random::Random,
    signals: signal::Signals,
    files: files::Files,
}

static KERNEL: KernelCell<Kernel> = KernelCell::new(Kernel {
    mm: mm::Arena::new(),
    clock: clock::Clock::new(),
    random: random::Random::new(),
    signals: signal::Signals::new(),
    files: files::Files::new(),
});

/// Prepares the libOS; returns the application's entry point and its stack pointer.
pub fn start() -> (u64, u64) {
    hello();
    let info = boot_info();
    KERNEL.with(|kernel| {
        kernel.mm.open(info.arena_start, info.arena_bytes);
        kernel.clock.start(info.epoch_ns);
        kernel.random.start(info.random_seed);
    });
    (info.app_entry, info.app_stack)
}

/// Serves one system call.
pub fn serve(frame: &mut SyscallFrame) {
    let result = KERNEL.with(|kernel| syscall::dispatch(kernel, frame));
    frame.rax = match result {
        Ok(value) => value,
        Err(errno) => errno.as_result(),
    };
}
