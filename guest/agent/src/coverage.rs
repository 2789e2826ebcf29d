//! The callbacks of `-sanitizer-coverage`, and what is announced of them at the snapshot.
//!
//! `inline-8bit-counters` and `trace-pc-guard`, with `pc-table`; `trace-compares` is answered and not
//! logged. The constructors that the compiler makes call the two `_init` functions; a kernel that runs no
//! constructors loses nothing, as the linker's symbols say the same.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use super::{abi, address, call};

/// Counters of `trace-pc-guard`.
const EDGES: usize = 65_536;
static EDGE_COUNTERS: [AtomicU8; EDGES] = [const { AtomicU8::new(0) }; EDGES];
static GUARDS: AtomicU32 = AtomicU32::new(0);

// The linker joins the sections of all object files, so one range of each kind is all there is.
static COUNTERS_START: AtomicUsize = AtomicUsize::new(0);
static COUNTERS_STOP: AtomicUsize = AtomicUsize::new(0);
static PCS_START: AtomicUsize = AtomicUsize::new(0);
static PCS_STOP: AtomicUsize = AtomicUsize::new(0);
static ANNOUNCED: AtomicBool = AtomicBool::new(false);

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".weak __start___sancov_cntrs",
    ".weak __stop___sancov_cntrs",
    ".weak __start___sancov_pcs",
    ".weak __stop___sancov_pcs",
    ".weak __start___sancov_guards",
    ".weak __stop___sancov_guards",
);

/// The address of a weak symbol; 0 where it is not defined.
macro_rules! weak {
    ($symbol:literal) => {{
        let at: usize;
        // SAFETY: loads one word of the global offset table, which the linker fills.
        unsafe {
            core::arch::asm!(
                concat!("mov {at}, qword ptr [rip + ", $symbol, "@GOTPCREL]"),
                at = out(reg) at,
                options(nostack, preserves_flags, readonly, pure),
            );
        }
        at
    }};
}

/// Says to the host what there is. Once: a fork does not come here again, but a program may.
pub(super) fn announce() {
    if ANNOUNCED.swap(true, Ordering::Relaxed) {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    {
        remember(
            &COUNTERS_START,
            &COUNTERS_STOP,
            weak!("__start___sancov_cntrs"),
            weak!("__stop___sancov_cntrs"),
        );
        remember(&PCS_START, &PCS_STOP, weak!("__start___sancov_pcs"), weak!("__stop___sancov_pcs"));
        let (start, stop) = (weak!("__start___sancov_guards"), weak!("__stop___sancov_guards"));
        if start != 0 {
            let (start, stop) =
                (core::ptr::with_exposed_provenance_mut(start), core::ptr::with_exposed_provenance_mut(stop));
            // SAFETY: the linker's symbols enclose the guards of the whole program.
            unsafe { __sanitizer_cov_trace_pc_guard_init(start, stop) };
        }
    }
    if GUARDS.load(Ordering::Relaxed) != 0 {
        range(abi::Call::Counters, address(&raw const EDGE_COUNTERS), EDGES as u64);
    }
    let length = |start: &AtomicUsize, stop: &AtomicUsize| {
        let (start, stop) = (start.load(Ordering::Relaxed), stop.load(Ordering::Relaxed));
        (start as u64, stop.saturating_sub(start) as u64)
    };
    let (counters, bytes) = length(&COUNTERS_START, &COUNTERS_STOP);
    if bytes > 0 {
        range(abi::Call::Counters, counters, bytes);
        let (pcs, bytes) = length(&PCS_START, &PCS_STOP);
        if bytes > 0 {
            range(abi::Call::CounterPcs, pcs, bytes);
        }
    }
}

fn range(what: abi::Call, at: u64, bytes: u64) {
    // SAFETY: called by `announce` in a unifork machine only. The host zeroes and reads counters that the
    // instrumented code changes behind the compiler's back, too.
    unsafe { call(what, [at, bytes, 0]) };
}

fn remember(start: &AtomicUsize, stop: &AtomicUsize, from: usize, to: usize) {
    if from < to {
        start.store(from, Ordering::Relaxed);
        stop.store(to, Ordering::Relaxed);
    }
}

/// Called by the constructors of `inline-8bit-counters`.
#[unsafe(no_mangle)]
pub extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    remember(&COUNTERS_START, &COUNTERS_STOP, start.expose_provenance(), stop.expose_provenance());
}

/// Called by the constructors of `pc-table`.
#[unsafe(no_mangle)]
pub extern "C" fn __sanitizer_cov_pcs_init(start: *const usize, stop: *const usize) {
    remember(&PCS_START, &PCS_STOP, start.expose_provenance(), stop.expose_provenance());
}

/// Called by the constructors of `trace-pc-guard`: numbers the guards from 1.
///
/// # Safety
///
/// `start` to `stop` are the guards of instrumented code, which nobody else touches.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_trace_pc_guard_init(start: *mut u32, stop: *mut u32) {
    let mut guard = start;
    while guard < stop {
        // SAFETY: between `start` and `stop`, which enclose guards, as the caller promises.
        let number = unsafe { &mut *guard };
        if *number == 0 {
            *number = GUARDS.fetch_add(1, Ordering::Relaxed) + 1;
        }
        guard = guard.wrapping_add(1);
    }
}

/// Called at each edge with `trace-pc-guard`.
///
/// # Safety
///
/// `guard` is a guard of instrumented code.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_trace_pc_guard(guard: *const u32) {
    // SAFETY: a guard, as the caller promises; written by the initialisation alone.
    let number = unsafe { guard.read() };
    if let Some(edge) = (number as usize).checked_sub(1) {
        EDGE_COUNTERS[edge % EDGES].fetch_add(1, Ordering::Relaxed);
    }
}

/// Callbacks whose operands are not recorded.
macro_rules! unrecorded {
    ($($name:ident($($type:ty),*)),* $(,)?) => {
        $(
            /// Called by instrumented code; does nothing.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($(_: $type),*) {}
        )*
    };
}

unrecorded! {
    __sanitizer_cov_trace_cmp1(u8, u8),
    __sanitizer_cov_trace_cmp2(u16, u16),
    __sanitizer_cov_trace_cmp4(u32, u32),
    __sanitizer_cov_trace_cmp8(u64, u64),
    __sanitizer_cov_trace_const_cmp1(u8, u8),
    __sanitizer_cov_trace_const_cmp2(u16, u16),
    __sanitizer_cov_trace_const_cmp4(u32, u32),
    __sanitizer_cov_trace_const_cmp8(u64, u64),
    __sanitizer_cov_trace_switch(u64, *const u64),
    __sanitizer_cov_trace_pc_indir(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_numbered_once_and_count_their_edges() {
        let mut guards = [0u32; 3];
        let ends = guards.as_mut_ptr_range();
        // SAFETY: the array's own range, twice.
        unsafe { __sanitizer_cov_trace_pc_guard_init(ends.start, ends.end) };
        // SAFETY: as above.
        unsafe { __sanitizer_cov_trace_pc_guard_init(ends.start, ends.end) };
        assert_eq!([guards[1] - guards[0], guards[2] - guards[0]], [1, 2]);
        for _ in 0..2 {
            // SAFETY: a guard that has its number.
            unsafe { __sanitizer_cov_trace_pc_guard(&raw const guards[1]) };
        }
        let counted = EDGE_COUNTERS[guards[1] as usize - 1].load(Ordering::Relaxed);
        assert_eq!(counted, 2);
        let fresh = 0;
        // SAFETY: a guard; 0 is what it is before its constructor has run.
        unsafe { __sanitizer_cov_trace_pc_guard(&raw const fresh) };
    }
}
