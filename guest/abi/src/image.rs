//! What an application, the libOS and the VMM tell each other about themselves before anything runs.

/// The auxiliary-vector entry that holds the address of the [`Vector`] ("UNIF").
pub const AT_UNIFORK: u64 = 0x554e_4946;

/// Private system-call number, `(message, bytes)`: report a failed assertion and end the run.
pub const SYS_UNIFORK_ASSERT: u64 = 0x554e_0001;

/// Entry points of the libOS, called directly: the application shares its privilege level.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Vector {
    /// [`crate::ABI_VERSION`].
    pub abi_version: u64,
    /// `struct { const uint8_t *data; size_t size; } input(void)`, in RAX and RDX. Takes the
    /// snapshot; returns once per fork.
    pub input: u64,
    /// `_Noreturn void done(int64_t code)`: the run is over.
    pub done: u64,
    /// `int64_t call(nr, a0, a1, a2, a3, a4, a5)`: a system call without the trap.
    pub call: u64,
}

/// First bytes of the read-only section `.unifork.image`, which the C runtime puts into every
/// image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ImageHeader {
    /// [`IMAGE_MAGIC`].
    pub magic: [u8; 8],
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// None yet: 0.
    pub flags: u32,
    /// 0.
    pub reserved: [u64; 6],
}

/// What [`ImageHeader::magic`] holds.
pub const IMAGE_MAGIC: [u8; 8] = *b"UFIMAGE\0";

/// The first bytes of the kernel's image, at [`crate::KERNEL_VA`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelHeader {
    /// [`KERNEL_MAGIC`].
    pub magic: [u8; 8],
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// 0.
    pub reserved: u32,
    /// Address that the VMM starts the vCPU at.
    pub entry: u64,
    /// Address that `syscall` enters (`LSTAR`).
    pub syscall_entry: u64,
    /// Address of the [`Vector`].
    pub vector: u64,
    /// Address that each fork begins at: the instruction behind the snapshot hypercall.
    pub resume: u64,
    /// Address that a rewritten `syscall` jumps to, with the return address in RCX.
    pub direct: u64,
    /// Address that the VMM continues at, at CPL 3, when the application took an exception whose
    /// signal has a handler. The exception is described in [`crate::Control`]; all registers but RIP and
    /// RFLAGS are as they were.
    pub fault_entry: u64,
    /// Address of a word: bit N-1 is set while signal N, raised by an exception, would run a handler.
    pub fault_signals: u64,
    /// First instruction of the routine that copies from and to the application's memory.
    pub copy_start: u64,
    /// First byte past it.
    pub copy_end: u64,
    /// Where it goes on when a page fault stops it.
    pub copy_fault: u64,
}

/// What [`KernelHeader::magic`] holds.
pub const KERNEL_MAGIC: [u8; 8] = *b"UFKERNEL";

/// What the VMM tells the kernel, read-only at [`crate::BOOT_INFO_VA`]. The host writes all of it before
/// the first instruction; it never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// First byte of the arena.
    pub arena_start: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// First instruction of the application.
    pub app_entry: u64,
    /// Its initial stack pointer; `argc` is there.
    pub app_stack: u64,
    /// Lowest mapped byte of its stack.
    pub app_stack_low: u64,
    /// First byte of the application's image.
    pub app_start: u64,
    /// First byte past it.
    pub app_end: u64,
    /// First coverage counter of the application, 0 if it has none.
    pub app_counters: u64,
    /// How many counters it has.
    pub app_counter_count: u64,
    /// First coverage counter of the libOS, 0 if it has none.
    pub kernel_counters: u64,
    /// How many counters it has.
    pub kernel_counter_count: u64,
    /// Bytes of the input window at [`crate::INPUT_VA`] and [`crate::INPUT_RW_VA`], whole pages.
    pub input_window_bytes: u64,
    /// The longest input, in bytes.
    pub input_max: u64,
    /// Bytes from one run's counters to the next one's at [`crate::COVERAGE_RING_VA`].
    pub coverage_stride: u64,
    /// How many runs fit at [`crate::COVERAGE_RING_VA`].
    pub coverage_slots: u64,
    /// Wall-clock time at boot, in nanoseconds since 1970: a constant, for determinism.
    pub epoch_ns: u64,
    /// What `getrandom` starts from.
    pub random_seed: u64,
    /// Bytes of the root image at [`crate::ROOT_VA`], 0 without one.
    pub root_bytes: u64,
    /// `SERVICES_*` bits.
    pub services: u64,
    /// First byte of the libOS's heap.
    pub heap_start: u64,
    /// Bytes of it.
    pub heap_bytes: u64,
}

layout!(Vector, 32, input @ 8, done @ 16, call @ 24);
layout!(ImageHeader, 64, abi_version @ 8, flags @ 12);
layout!(KernelHeader, 96, entry @ 16, syscall_entry @ 24, vector @ 32, resume @ 40, direct @ 48, fault_entry @ 56,
    fault_signals @ 64, copy_start @ 72, copy_end @ 80, copy_fault @ 88);
layout!(BootInfo, 184, memory_bytes @ 8, app_entry @ 32, app_counters @ 72, input_max @ 112, random_seed @ 144,
    heap_bytes @ 176);
