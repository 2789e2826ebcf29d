//! What a Rust program in a kernel of its own may say to unifork.
//!
//! For applications of Hermit and of other unikernels and for kernels themselves: `no_std`, no allocation,
//! nothing but `core`. Outside a unifork machine, everything here does nothing.
//!
//! ```no_run
//! # fn parse(_: &[u8]) {}
//! # let buffer: &'static mut [u8] = Box::leak(Box::new([0; 4096]));
//! let window = unifork_agent::input_window(buffer).expect("taken once");
//! let input = window.snapshot(); // frozen here: every run begins with the return
//! parse(input);
//! unifork_agent::done(0); // and ends here
//! ```
//!
//! With the feature `coverage` this crate also is what `-sanitizer-coverage` calls; see docs/agent.md for
//! the compiler's flags, which must not be given to this crate itself. It is `unifork.h` in Rust; a program
//! has one of the two.
#![cfg_attr(not(test), no_std)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use unifork_abi::agent as abi;

#[cfg(feature = "coverage")]
pub mod coverage;

const UNKNOWN: u32 = 0;
const ELSEWHERE: u32 = 1;
const HERE: u32 = 2;
static STATE: AtomicU32 = AtomicU32::new(UNKNOWN);

/// Whether this runs in a unifork machine.
pub fn active() -> bool {
    let known = STATE.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known == HERE;
    }
    let here = detect();
    STATE.store(if here { HERE } else { ELSEWHERE }, Ordering::Relaxed);
    here
}

/// Asks CPUID, and then the host.
#[cfg(target_arch = "x86_64")]
fn detect() -> bool {
    use core::arch::x86_64::__cpuid;
    if __cpuid(1).ecx >> 31 == 0 {
        return false;
    }
    let leaf = __cpuid(abi::CPUID_LEAF);
    let mut signature = [0; 12];
    for (bytes, word) in signature.chunks_exact_mut(4).zip([leaf.ebx, leaf.ecx, leaf.edx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    if signature != abi::SIGNATURE || leaf.eax <= abi::CPUID_LEAF {
        return false;
    }
    // SAFETY: CPUID has just said that the machine serves calls; this one touches no memory.
    let greeted = unsafe { call(abi::Call::Hello, [u64::from(abi::VERSION), 0, 0]) };
    greeted == abi::OK
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> bool {
    false
}

/// Rings the bell and returns what the host puts into RAX.
///
/// # Safety
///
/// 1. This is a unifork machine: anywhere else, the port is some device's, or access to it a fault.
/// 2. The host may do to memory what `call` says, at the addresses in `arguments`.
#[cfg(target_arch = "x86_64")]
unsafe fn call(call: abi::Call, arguments: [u64; 3]) -> u64 {
    let mut rax = u64::from(call.eax());
    // SAFETY: the caller's promise is that the port is the host's, which changes RAX and memory only; the
    // compiler takes all memory that it has told anybody of to be changed by this.
    unsafe {
        core::arch::asm!(
            "out {port}, eax",
            port = const abi::PORT,
            inout("rax") rax,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            options(nostack, preserves_flags),
        );
    }
    rax
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn call(_: abi::Call, _: [u64; 3]) -> u64 {
    abi::REFUSED
}

fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<u8>().expose_provenance() as u64
}

/// Where inputs will be.
#[derive(Debug)]
pub struct InputWindow {
    buffer: &'static mut [u8],
}

/// Announces `buffer`, of at most 16 MiB, as the place for inputs. `None` when the host does not take it,
/// or has been given another.
pub fn input_window(buffer: &'static mut [u8]) -> Option<InputWindow> {
    if active() {
        touch(buffer);
        // SAFETY: this is a unifork machine; the host notes a range, which is borrowed for good.
        let taken = unsafe { call(abi::Call::Input, [address(buffer), buffer.len() as u64, 0]) };
        if taken != abi::OK {
            return None;
        }
    }
    Some(InputWindow { buffer })
}

impl InputWindow {
    /// The machine is frozen here. Returns in every run, with its input; outside a unifork machine with
    /// an empty one.
    #[must_use = "the input is what the run is about"]
    pub fn snapshot(self) -> &'static mut [u8] {
        if !active() {
            return &mut [];
        }
        #[cfg(feature = "coverage")]
        coverage::announce();
        // The window's address goes along so that the compiler knows who writes to it.
        let at = address(self.buffer);
        // SAFETY: this is a unifork machine; what the host writes there is an atomic.
        unsafe { call(abi::Call::Again, [address(&raw const AGAIN), 0, 0]) };
        // SAFETY: this is a unifork machine; what the host writes to, besides what the coverage callbacks
        // handed over, is the window, which `self` borrows exclusively.
        let bytes = unsafe { call(abi::Call::Snapshot, [at, 0, 0]) };
        let bytes = usize::try_from(bytes).unwrap_or(0).min(self.buffer.len());
        &mut self.buffer[..bytes]
    }
}

/// Announces counters of one byte each: the host reads them after each run, and begins it with zeros.
/// Those of `-sanitizer-coverage` are known without this. To be done before the snapshot; false when the
/// host does not take them.
pub fn counters(counters: &'static [AtomicCounter]) -> bool {
    // SAFETY: this is a unifork machine; the host zeroes atomics that are shared for good.
    !active()
        || unsafe { call(abi::Call::Counters, [address(counters), counters.len() as u64, 0]) } == abi::OK
}

/// A counter.
pub type AtomicCounter = core::sync::atomic::AtomicU8;

/// Where the host can go on with the next input by itself, it puts the address of what does so here.
static AGAIN: AtomicU64 = AtomicU64::new(0);

/// The run is over. Returns outside a unifork machine alone.
pub fn done(code: i32) {
    if !active() {
        return;
    }
    match AGAIN.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: this is a unifork machine; the call touches no memory.
            unsafe { call(abi::Call::Done, [i64::from(code).cast_unsigned(), 0, 0]) };
        }
        again => {
            let again = core::ptr::with_exposed_provenance::<()>(again as usize);
            // SAFETY: the host put the address of a function there that takes the code, as C would have it, and
            // goes on where the machine was frozen, in the state that it had there.
            let again: extern "C" fn(i64) = unsafe { core::mem::transmute(again) };
            again(i64::from(code));
        }
    }
}

/// Something is wrong: ends the run as a finding with this message. Returns outside a unifork machine
/// alone. Made for a panic handler.
pub fn report(message: &str) {
    if active() {
        // SAFETY: this is a unifork machine; the host reads the message.
        unsafe { call(abi::Call::Report, [address(message), message.len() as u64, 0]) };
    }
}

/// Ends the run as a finding unless the condition holds. The condition is always evaluated.
#[macro_export]
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            $crate::report(concat!(stringify!($condition), " (", file!(), ":", line!(), ")"));
        }
    };
}

/// Writes to each page of `bytes`, so that a kernel that maps memory when it is used maps it now.
fn touch(bytes: &mut [u8]) {
    for page in bytes.chunks_mut(unifork_abi::PAGE_BYTES as usize) {
        let byte = core::hint::black_box(&mut page[0]);
        *byte = core::hint::black_box(*byte);
    }
    // The buffer need not begin with a page.
    if let Some(last) = bytes.last_mut() {
        let byte = core::hint::black_box(last);
        *byte = core::hint::black_box(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNTERS: [AtomicCounter; 4] = [const { AtomicCounter::new(0) }; 4];

    /// The tests run on a host's kernel, where a write to the port would be a fault.
    #[test]
    fn nothing_happens_outside_a_unifork_machine() {
        assert!(!active());
        assert!(counters(&COUNTERS));
        let buffer: &'static mut [u8] = Box::leak(Box::new([7; 64]));
        let at = buffer.as_ptr();
        let window = input_window(buffer).expect("nobody to refuse it");
        assert!(window.snapshot().is_empty());
        // SAFETY: leaked above, and the borrow that `snapshot` returned is gone.
        assert_eq!(unsafe { at.read() }, 7, "the buffer is as it was");
        report("nobody hears this");
        check!(1 + 1 == 3);
        done(3);
    }
}
