//! Where everything is in the guest, and how large.

/// Nothing is mapped below this, so that a null pointer with an offset faults.
pub const LOWEST_VA: u64 = 0x1_0000;
/// Where a position-independent application is put.
pub const PIE_VA: u64 = 0x1000_0000;
/// First byte of the libOS kernel; the application ends below it.
pub const KERNEL_VA: u64 = 0x6000_0000;
/// The kernel ends below this.
pub const KERNEL_END_VA: u64 = 0x6800_0000;
/// Where the code is that rewritten system calls go through; see `vmm/src/direct.rs`.
pub const DIRECT_VA: u64 = KERNEL_END_VA;
/// First byte of the arena that `brk` and `mmap` are served from.
pub const ARENA_VA: u64 = 0x10_0000_0000;
/// The control page ([`crate::Control`]).
pub const CONTROL_VA: u64 = 0x20_0000_0000;
/// [`BATCH_MAX`] times [`crate::RunRecord`].
pub const RECORDS_VA: u64 = CONTROL_VA + 0x1_0000;
/// [`HOT_MAX`] times [`crate::HotPage`].
pub const HOT_LIST_VA: u64 = CONTROL_VA + 0x2_0000;
/// Calls that the libOS does not serve, counted: [`UNSERVED_SLOTS`] times `u32`.
pub const UNSERVED_VA: u64 = CONTROL_VA + 0x4_0000;
/// First byte past the stack of the run loop, which must not be reset while it resets.
pub const LOOP_STACK_TOP_VA: u64 = CONTROL_VA + 0x6_0000;
/// Bytes of the run loop's stack; the page below it is unmapped.
pub const LOOP_STACK_BYTES: u64 = 0x8000;
/// Console bytes of the current run, [`CONSOLE_BYTES`] of them.
pub const CONSOLE_VA: u64 = CONTROL_VA + 0x10_0000;
/// What the guest says to the host's services, [`SERVICE_BYTES`] of it: messages.
pub const SERVICE_OUT_VA: u64 = CONTROL_VA + 0x20_0000;
/// What they say to it: the nanoseconds that the exchange waited, then messages.
pub const SERVICE_IN_VA: u64 = CONTROL_VA + 0x30_0000;
/// The input, writable: only the run loop uses this address.
pub const INPUT_RW_VA: u64 = 0x21_0000_0000;
/// The input, read-only: what the harness is given. Unmapped behind its last page.
pub const INPUT_VA: u64 = 0x22_0000_0000;
/// Inputs of the batch, as the host packed them, read-only.
pub const INPUT_RING_VA: u64 = 0x23_0000_0000;
/// Counters of each run of a batch, one stride apart.
pub const COVERAGE_RING_VA: u64 = 0x24_0000_0000;
/// The campaign's novelty map, read-only.
pub const NOVELTY_VA: u64 = 0x25_0000_0000;
/// Comparisons of a traced run: a [`crate::ComparisonLog`], then [`COMPARISONS_MAX`] times [`crate::Comparison`].
/// Mapped when the application was built to log them.
pub const COMPARISONS_VA: u64 = 0x26_0000_0000;
/// GDT, IDT, TSS and trap stubs. Supervisor only.
pub const MACHINE_VA: u64 = 0x30_0000_0000;
/// First byte past the libOS's own stack.
pub const KERNEL_STACK_TOP_VA: u64 = 0x31_0000_0000;
/// Bytes of the libOS's stack; the page below it is unmapped.
pub const KERNEL_STACK_BYTES: u64 = 0x1_0000;
/// [`crate::BootInfo`], read-only.
pub const BOOT_INFO_VA: u64 = 0x32_0000_0000;
/// First byte of the libOS's heap; [`crate::BootInfo::heap_bytes`] long.
pub const KERNEL_HEAP_VA: u64 = 0x33_0000_0000;
/// First byte past the application's stack.
pub const STACK_TOP_VA: u64 = 0x40_0000_0000;
/// The root image ([`crate::RootHeader`]), read-only.
pub const ROOT_VA: u64 = 0x50_0000_0000;
/// The snapshot's memory, read-only, at `GOLDEN_VA + guest-physical address`. Before the snapshot
/// nothing may read it.
pub const GOLDEN_VA: u64 = 0x80_0000_0000;

/// Runs in one batch at most.
pub const BATCH_MAX: usize = 1024;
/// Hot pages at most; a run that dirties more is put back by the host alone.
pub const HOT_MAX: usize = 4096;
/// Console bytes kept of one run. What comes after them is counted, not kept.
pub const CONSOLE_BYTES: u64 = 0x1_0000;
/// Bytes of either window of the host's services.
pub const SERVICE_BYTES: u64 = 0x1_0000;
/// Comparisons logged of one run at most.
pub const COMPARISONS_MAX: usize = 16_384;
/// Comparisons logged of one place in the code at most: a loop must not fill the log.
pub const COMPARISONS_PER_SITE_MAX: u8 = 32;
/// Places in the code that are counted apart; others share a count.
pub const COMPARISON_SITES: usize = 4096;
/// Bytes kept of each operand.
pub const COMPARISON_BYTES: usize = 32;
/// System-call numbers counted one by one when unserved; larger ones share the last slot.
pub const UNSERVED_SLOTS: usize = 1024;
/// An input begins at a multiple of this, and ends less than this before the unmapped page.
pub const INPUT_ALIGN: u64 = 16;
