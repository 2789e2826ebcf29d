//! What this process has used so far.

use std::time::Duration;

/// Processor time of all threads, the guest's included.
pub(crate) fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Memory in use, pages of files that it maps included; zero where the kernel does not say.
pub(crate) fn resident_bytes() -> u64 {
    let pages = || -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    };
    pages().unwrap_or(0) * rustix::param::page_size() as u64
}

/// Gives memory that is free back to the kernel. The allocator keeps what many small and short-lived blocks leave
/// behind (a traced run has thousands), so that a campaign would seem to grow for hours.
pub(crate) fn trim() {
    // SAFETY: glibc's `malloc_trim` is thread-safe and touches free memory only.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_goes_back() {
        // Small enough to come from the heap, and all but the last freed, so that the end of the heap stays.
        let mut blocks: Vec<Vec<u8>> = (0..20_000).map(|_| vec![1; 4096]).collect();
        let last = blocks.pop();
        drop(blocks);
        let before = resident_bytes();
        trim();
        assert!(resident_bytes() + (40 << 20) < before, "{before}, and now {}", resident_bytes());
        drop(std::hint::black_box(last));
    }

    #[test]
    fn work_takes_time_and_memory() {
        let (before, start) = (resident_bytes(), cpu());
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(resident_bytes() >= before + (32 << 20), "{before}");
        while cpu() == start {}
        drop(block);
    }
}
