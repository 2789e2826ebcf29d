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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_and_memory() {
        let (before, start) = (resident_bytes(), cpu());
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(resident_bytes() >= before + (32 << 20), "{before}");
        while cpu() == start {}
        drop(block);
    }
}
