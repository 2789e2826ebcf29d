//! The library OS: serves the Linux system-call ABI in the application's own address space and at
//! its own privilege level (CPL 3).
//!
//! Everything it knows lies in one struct, [`Kernel`], in guest memory, so that a snapshot holds it
//! and a reset puts it back. Time, randomness and process ids are its own and deterministic. A call
//! that it does not serve returns `ENOSYS` and is counted for the host to report; none is faked.
//!
//! ```text
//!  serve ─► syscall (table) ─► fd · sched · signal · time · process · mm
//!    │                            each: the calls of one family
//!    └────► sched/switch: what the call has set off, whose turn it is, signals
//! ```
//!
//! Unsafe code lives in `unifork-hal` alone.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod errno;
mod fd;
mod fs;
mod host;
mod mm;
mod net;
mod process;
mod sched;
mod signal;
mod syscall;
mod text;
mod time;
mod user;

use unifork_hal::{Entry, KernelCell, SyscallFrame, boot_info, hello};

pub use mm::allows;
pub use text::Text;

/// All that the libOS remembers, but for the application's memory ([`mm::MM`]).
struct Kernel {
    clock: time::clock::Clock,
    timers: time::timers::Timers,
    posix_timers: time::posix::PosixTimers,
    // When the next of both rings.
    next_timer: u64,
    random: process::random::Random,
    signals: signal::action::Signals,
    sched: sched::Scheduler,
    files: fd::Files,
    place: fs::Place,
    limits: process::limits::Limits,
    settings: process::prctl::Settings,
}

static KERNEL: KernelCell<Option<Kernel>> = KernelCell::new(None);

/// Prepares the libOS; returns the application's entry point and its stack pointer.
pub fn start() -> (u64, u64) {
    hello();
    let info = boot_info();
    mm::start();
    KERNEL.with(|kernel| {
        *kernel = Some(Kernel {
            clock: time::clock::Clock::new(info.epoch_ns),
            timers: time::timers::Timers::default(),
            posix_timers: time::posix::PosixTimers::default(),
            next_timer: u64::MAX,
            random: process::random::Random::new(info.random_seed),
            signals: signal::action::Signals::new(),
            sched: sched::Scheduler::new(),
            files: fd::Files::new(),
            place: fs::setup::open(),
            limits: process::limits::Limits::new(unifork_abi::STACK_TOP_VA - info.app_stack_low),
            settings: process::prctl::Settings::default(),
        });
    });
    (info.app_entry, info.app_stack)
}

/// Serves one system call or exception.
///
/// # Panics
///
/// Before [`start`].
pub fn serve(entry: Entry, frame: &mut SyscallFrame) {
    KERNEL.with(|kernel| kernel.as_mut().expect("the libOS is up").serve(entry, frame));
}
