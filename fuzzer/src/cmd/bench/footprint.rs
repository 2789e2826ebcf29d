//! Host memory that this process takes, its own and the kernel's for it.

use std::fs;

/// What this process's pages and the kernel's structures take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Footprint {
    /// Pages that are this process's alone: `Private_*` of `/proc/self/smaps_rollup`.
    pub(crate) private: f64,
    /// The kernel's: what the memory cgroup counts as such, or else the sum of `/proc/meminfo`'s lines
    /// for slabs, page tables, stacks, per-CPU and vmalloc memory. Of the whole cgroup or machine, so only
    /// differences mean anything.
    pub(crate) kernel: f64,
    /// `MemAvailable`, of the whole machine.
    pub(crate) available: f64,
}

/// Lines of `/proc/meminfo` that are the kernel's own.
const KERNEL_LINES: [&str; 6] =
    ["Slab", "KernelStack", "PageTables", "SecPageTables", "Percpu", "VmallocUsed"];

impl Footprint {
    /// As it is now.
    pub(crate) fn now() -> Self {
        let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let all: f64 = KERNEL_LINES.iter().map(|name| line(&meminfo, name)).sum();
        Self {
            private: ["Private_Clean", "Private_Dirty", "Private_Hugetlb"]
                .iter()
                .map(|name| line(&rollup, name))
                .sum(),
            kernel: cgroup().unwrap_or(all),
            available: line(&meminfo, "MemAvailable"),
        }
    }

    /// What came since `before`, for each of `count`.
    pub(crate) fn since(self, before: Self, count: usize) -> Self {
        let each = |now: f64, then: f64| (now - then).max(0.0) / count.max(1) as f64;
        Self {
            private: each(self.private, before.private),
            kernel: each(self.kernel, before.kernel),
            available: each(before.available, self.available),
        }
    }

    /// Pages and kernel together.
    pub(crate) fn total(self) -> f64 {
        self.private + self.kernel
    }
}

/// Where [`Footprint::kernel`] is from, for a report.
pub(crate) fn source() -> &'static str {
    if cgroup().is_some() {
        "the memory cgroup's kernel memory"
    } else {
        "slabs, page tables, stacks, per-CPU and vmalloc memory of /proc/meminfo"
    }
}

/// Bytes of kernel memory that this process's memory cgroup is charged for, if that can be read.
fn cgroup() -> Option<f64> {
    let of = fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in of.lines() {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            let stat = fs::read_to_string(format!("/sys/fs/cgroup/{path}/memory.stat")).ok();
            let kernel = stat
                .and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("kernel ")?.parse().ok()));
            if kernel.is_some() {
                return kernel;
            }
        } else if controllers == "memory" {
            let file = format!("/sys/fs/cgroup/memory/{path}/memory.kmem.usage_in_bytes");
            let usage = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
            if usage.is_some() {
                return usage;
            }
        }
    }
    None
}

/// The bytes that a line like `Slab:  388336 kB` says.
fn line(text: &str, name: &str) -> f64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = rest.and_then(|rest| rest.trim().trim_end_matches("kB").trim_end().parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "SlabFoo:      9 kB\nSlab:       2 kB\n";
        assert_eq!(line(text, "Slab"), 2048.0);
        assert_eq!(line(text, "Sla"), 0.0);
    }

    #[test]
    fn memory_that_is_touched_is_seen() {
        let before = Footprint::now();
        let bytes = vec![1u8; 64 << 20];
        let grown = Footprint::now().since(before, 1);
        assert!(grown.private > (60 << 20) as f64, "{grown:?}, {} bytes", bytes.len());
    }
}
