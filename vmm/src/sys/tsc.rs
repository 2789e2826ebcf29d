//! The time stamp counter.

/// What `rdtsc` reads.
pub(crate) fn read() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and the kernel lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}
