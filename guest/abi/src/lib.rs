//! What the host and the guest agree on: where everything is, the hypercalls, the shared structs.
//!
//! This is the only crate that both sides use. Everything in it is plain data with a fixed layout,
//! asserted at compile time; nothing in it does anything. What the guest puts into these structs is
//! a *claim* for the host, which checks it.
//!
//! # Linear addresses of the guest
//!
//! One address space, everything at CPL 3 but the trap stubs.
//!
//! ```text
//! 0x00_0000_0000  never mapped below 64 KiB
//! 0x00_0020_0000  application (wherever its program headers say)
//! 0x00_6000_0000  libOS kernel                                  KERNEL_VA
//! 0x00_6800_0000  code of rewritten system calls                DIRECT_VA
//! 0x10_0000_0000  arena: brk from below, mmap from above        ARENA_VA
//! 0x20_0000_0000  windows: reset-exempt, mapped by the host     WINDOWS_VA ...
//! 0x30_0000_0000  GDT, IDT, TSS, trap stubs and stack (CPL 0)   MACHINE_VA
//! 0x31_0000_0000  top of the libOS stack                        KERNEL_STACK_TOP_VA
//! 0x32_0000_0000  boot information, read-only                   BOOT_INFO_VA
//! 0x33_0000_0000  the libOS's heap                              KERNEL_HEAP_VA
//! 0x40_0000_0000  top of the application's stack                STACK_TOP_VA
//! 0x50_0000_0000  root image, read-only                         ROOT_VA
//! 0x80_0000_0000  the snapshot's memory again, read-only        GOLDEN_VA
//! ```
#![no_std]

pub mod agent;

/// Version of everything in this crate. The kernel's first hypercall and the image header carry it.
pub const ABI_VERSION: u32 = 1;

/// Bytes in a page. The guest maps nothing else.
pub const PAGE_BYTES: u64 = 4096;

// ---------------------------------------------------------------------------------------------
// Linear addresses

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
/// The control page ([`Control`]).
pub const CONTROL_VA: u64 = 0x20_0000_0000;
/// [`BATCH_MAX`] times [`RunRecord`].
pub const RECORDS_VA: u64 = CONTROL_VA + 0x1_0000;
/// [`HOT_MAX`] times [`HotPage`].
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
/// Comparisons of a traced run: a [`ComparisonLog`], then [`COMPARISONS_MAX`] times [`Comparison`].
/// Mapped when the application was built to log them.
pub const COMPARISONS_VA: u64 = 0x26_0000_0000;
/// GDT, IDT, TSS and trap stubs. Supervisor only.
pub const MACHINE_VA: u64 = 0x30_0000_0000;
/// First byte past the libOS's own stack.
pub const KERNEL_STACK_TOP_VA: u64 = 0x31_0000_0000;
/// Bytes of the libOS's stack; the page below it is unmapped.
pub const KERNEL_STACK_BYTES: u64 = 0x1_0000;
/// [`BootInfo`], read-only.
pub const BOOT_INFO_VA: u64 = 0x32_0000_0000;
/// First byte of the libOS's heap; [`BootInfo::heap_bytes`] long.
pub const KERNEL_HEAP_VA: u64 = 0x33_0000_0000;
/// First byte past the application's stack.
pub const STACK_TOP_VA: u64 = 0x40_0000_0000;
/// The root image ([`RootHeader`]), read-only.
pub const ROOT_VA: u64 = 0x50_0000_0000;
/// The snapshot's memory, read-only, at `GOLDEN_VA + guest-physical address`. Before the snapshot
/// nothing may read it.
pub const GOLDEN_VA: u64 = 0x80_0000_0000;

// ---------------------------------------------------------------------------------------------
// Sizes

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

// ---------------------------------------------------------------------------------------------
// Hypercalls

/// A hypercall is a 64-bit store of its number, from RAX, to this address, where there is no memory:
/// KVM exits, with the instruction completed and all registers as they are. Arguments are in RDI,
/// RSI and RDX; the result comes back in RAX.
///
/// A store leaves the guest at CPL 3 and takes no trap, so it is the cheapest exit there is under
/// software KVM, and costs no more than any other on VT-x and AMD-V. (`int N` is no alternative:
/// software KVM delivers it as #UD.)
pub const DOORBELL_VA: u64 = CONTROL_VA + 0x8_0000;
/// The port that a trap stub writes to, which is what makes KVM exit.
pub const TRAP_PORT: u16 = 0xf5;
/// Bytes of one trap stub: `out 0xf5, al`, then `hlt`s that are never reached.
pub const STUB_BYTES: u64 = 16;

/// What the guest asks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Hypercall {
    /// `(abi_version)`: the first one. Any other version ends the boot.
    Hello = 1,
    /// `()`: freeze the machine here. Returns once in each fork.
    Snapshot = 2,
    /// `()`: the batch is over; [`Control`] and the records say how it went.
    Done = 3,
    /// `(code)`: the application called `exit`.
    Exit = 4,
    /// `(signal, frame, fault)`: a signal that nothing handles ended the application. `frame` is the
    /// linear address of the [`SyscallFrame`] of the call that raised it, or 0. With `fault` = 1 it
    /// is the signal of the exception that [`Control`] describes, which the host had handed over.
    Signal = 5,
    /// `(message, bytes)`: the libOS panicked.
    Panic = 6,
    /// `()`: the console is full; the host takes it and the guest goes on. Only while
    /// [`Control::console_flush`] is set.
    Console = 7,
    /// `(bytes)`: the arena is used up by a request that would have fitted an empty one.
    OutOfMemory = 8,
    /// `(message, bytes, frame)`: the application says that something is wrong.
    Assert = 9,
    /// `(bytes, wait)`: says what is in the first `bytes` bytes at [`SERVICE_OUT_VA`], waits up to
    /// `wait` nanoseconds for something to be said, and returns how many bytes of messages there are at
    /// [`SERVICE_IN_VA`] + 8. Only with [`BootInfo::services`].
    Service = 10,
}

impl Hypercall {
    /// The hypercall with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Snapshot,
            3 => Self::Done,
            4 => Self::Exit,
            5 => Self::Signal,
            6 => Self::Panic,
            7 => Self::Console,
            8 => Self::OutOfMemory,
            9 => Self::Assert,
            10 => Self::Service,
            _ => return None,
        })
    }
}

// ---------------------------------------------------------------------------------------------
// The application's door to the libOS

/// The auxiliary-vector entry that holds the address of the [`Vector`] ("UNIF").
pub const AT_UNIFORK: u64 = 0x554e_4946;

/// Private system-call number, `(message, bytes)`: report a failed assertion and end the run.
pub const SYS_UNIFORK_ASSERT: u64 = 0x554e_0001;

/// Entry points of the libOS, called directly: the application shares its privilege level.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Vector {
    /// [`ABI_VERSION`].
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
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// None yet: 0.
    pub flags: u32,
    /// 0.
    pub reserved: [u64; 6],
}

/// What [`ImageHeader::magic`] holds.
pub const IMAGE_MAGIC: [u8; 8] = *b"UFIMAGE\0";

/// The first bytes of the kernel's image, at [`KERNEL_VA`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KernelHeader {
    /// [`KERNEL_MAGIC`].
    pub magic: [u8; 8],
    /// [`ABI_VERSION`].
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
    /// signal has a handler. The exception is described in [`Control`]; all registers but RIP and
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

// ---------------------------------------------------------------------------------------------
// Shared structs

/// What the VMM tells the kernel, read-only at [`BOOT_INFO_VA`]. The host writes all of it before
/// the first instruction; it never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// [`ABI_VERSION`].
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
    /// Bytes of the input window at [`INPUT_VA`] and [`INPUT_RW_VA`], whole pages.
    pub input_window_bytes: u64,
    /// The longest input, in bytes.
    pub input_max: u64,
    /// Bytes from one run's counters to the next one's at [`COVERAGE_RING_VA`].
    pub coverage_stride: u64,
    /// How many runs fit at [`COVERAGE_RING_VA`].
    pub coverage_slots: u64,
    /// Wall-clock time at boot, in nanoseconds since 1970: a constant, for determinism.
    pub epoch_ns: u64,
    /// What `getrandom` starts from.
    pub random_seed: u64,
    /// Bytes of the root image at [`ROOT_VA`], 0 without one.
    pub root_bytes: u64,
    /// `SERVICES_*` bits.
    pub services: u64,
    /// First byte of the libOS's heap.
    pub heap_start: u64,
    /// Bytes of it.
    pub heap_bytes: u64,
}

/// First bytes of the root image at [`ROOT_VA`]: the files that the guest starts with. The host packs
/// it, the guest reads it in place. [`RootEntry`] number 0 follows it and is the root directory; names
/// and data follow the entries, at the offsets that these give. Little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RootHeader {
    /// [`ROOT_MAGIC`].
    pub magic: [u8; 8],
    /// [`ROOT_VERSION`].
    pub version: u32,
    /// How many entries there are.
    pub entries: u32,
    /// Bytes of the whole image.
    pub bytes: u64,
    /// 0.
    pub reserved: u64,
}

/// What [`RootHeader::magic`] holds.
pub const ROOT_MAGIC: [u8; 8] = *b"UFROOT\0\0";
/// What [`RootHeader::version`] holds.
pub const ROOT_VERSION: u32 = 1;

/// One name in the root image. Entries come in the order in which their directories list them, and
/// after their directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RootEntry {
    /// Number of the entry that is its directory.
    pub parent: u32,
    /// Type and permissions, as in `struct stat`: a directory, regular file, symbolic link or FIFO.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modified, seconds from 1970.
    pub mtime_seconds: i64,
    /// Number of an earlier entry that this is another name of, or [`NO_LINK`].
    pub link: u32,
    /// Nanoseconds of the time.
    pub mtime_nanos: u32,
    /// Where its name is, in bytes from the image's beginning.
    pub name_offset: u64,
    /// Bytes of its name.
    pub name_bytes: u64,
    /// Where its contents are, or a symbolic link's target.
    pub data_offset: u64,
    /// Bytes of them.
    pub data_bytes: u64,
}

/// [`RootEntry::link`] of an entry that is a node of its own.
pub const NO_LINK: u32 = u32::MAX;

/// [`BootInfo::services`]: there is a host that exchanges messages.
pub const SERVICES_ON: u64 = 1;
/// [`BootInfo::services`]: standard input is a terminal.
pub const SERVICES_INPUT_TERMINAL: u64 = 2;
/// [`BootInfo::services`]: standard output is a terminal.
pub const SERVICES_OUTPUT_TERMINAL: u64 = 4;

/// What a message of an exchange begins with. `bytes` bytes of data follow, padded to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceHeader {
    /// A [`ToHost`] or [`ToGuest`].
    pub kind: u32,
    /// Which connection; [`STDIN_HANDLE`] is standard input.
    pub handle: u32,
    /// Bytes of data.
    pub bytes: u32,
    /// What the kind says it is.
    pub value: u32,
}

/// Bytes of a [`ServiceHeader`].
pub const SERVICE_HEADER_BYTES: usize = size_of::<ServiceHeader>();
/// The handle of standard input; connections have others.
pub const STDIN_HANDLE: u32 = 0;

/// What the guest says in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ToHost {
    /// A program listens on TCP port `value`.
    Listen = 1,
    /// It does so no more.
    Unlisten = 2,
    /// Data for a connection. The guest has at most [`SEND_BYTES_MAX`] of them under way.
    Send = 3,
    /// Nothing more will be sent on it.
    Shutdown = 4,
    /// It is closed.
    Close = 5,
    /// `value` more bytes of it can be taken.
    Credit = 6,
}

/// Bytes that the guest may have sent on a connection without being told that they have gone.
pub const SEND_BYTES_MAX: usize = 256 << 10;

impl ToHost {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Listen,
            2 => Self::Unlisten,
            3 => Self::Send,
            4 => Self::Shutdown,
            5 => Self::Close,
            6 => Self::Credit,
            _ => return None,
        })
    }
}

/// What the host says in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ToGuest {
    /// A connection has come to TCP port `value`; the data are its peer's port, as two bytes in network
    /// order, and its IP address of 4 or 16 bytes.
    Accepted = 1,
    /// Data from a connection or standard input, never more than there is credit for.
    Data = 2,
    /// There will be no more data.
    End = 3,
    /// The connection is broken.
    Reset = 4,
    /// `value` bytes that were under way have gone.
    Sent = 5,
}

impl ToGuest {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Accepted,
            2 => Self::Data,
            3 => Self::End,
            4 => Self::Reset,
            5 => Self::Sent,
            _ => return None,
        })
    }
}

/// The control page, at [`CONTROL_VA`]. Reset-exempt.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Control {
    /// Runs in this batch, 1 to [`BATCH_MAX`]. The host writes it before the batch.
    pub count: u64,
    /// The run at hand. The host writes 0; the guest counts.
    pub index: u64,
    /// Entries of the hot list. The host writes it.
    pub hot_count: u64,
    /// Bytes in the console. The guest writes it; 0 at the start of each run.
    pub console_len: u64,
    /// Console bytes that did not fit. The guest writes it; 0 at the start of each run.
    pub console_lost: u64,
    /// 1: flush a full console by hypercall instead of losing bytes. The host writes it.
    pub console_flush: u64,
    /// Bytes at the end of the input window that the previous input may have left. Both write it.
    pub input_extent: u64,
    /// A [`Filter`]. The host writes it.
    pub filter: u64,
    /// Runs whose counters are stored in the coverage ring. The guest counts.
    pub stored: u64,
    /// Address of the libOS's saved application registers ([`SyscallFrame`]) while a system call
    /// is being served, else 0. The guest writes it.
    pub syscall_frame: u64,
    /// Vector of the exception that the libOS is to turn into a signal. The host writes it, and the
    /// next four, before it continues at [`KernelHeader::fault_entry`].
    pub fault_vector: u64,
    /// Its error code.
    pub fault_error: u64,
    /// CR2 at the exception.
    pub fault_address: u64,
    /// Address of the instruction.
    pub fault_rip: u64,
    /// Flags at the instruction.
    pub fault_rflags: u64,
}

/// Which coverage of a batch is stored, in [`Control::filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Filter {
    /// That of every run.
    Off = 0,
    /// That of runs in which a counter is above the novelty map.
    All = 1,
    /// The same, but the libOS's counters are neither zeroed nor compared nor stored.
    Application = 2,
}

/// One run of a batch, at [`RECORDS_VA`]. Reset-exempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RunRecord {
    /// Where the input begins, in bytes from [`INPUT_RING_VA`]. The host writes it.
    pub input_offset: u64,
    /// Its length in bytes. The host writes it.
    pub input_len: u64,
    /// What the harness returned. The guest writes it.
    pub code: i64,
    /// A [`RunState`]. The host writes [`RunState::Waiting`].
    pub state: u32,
    /// Slot in the coverage ring, or [`NO_SLOT`]. The guest writes it.
    pub slot: u32,
}

/// [`RunRecord::slot`] of a run whose counters were not stored.
pub const NO_SLOT: u32 = u32::MAX;

/// How far a run of a batch has come, in [`RunRecord::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RunState {
    /// Not begun.
    Waiting = 0,
    /// Begun.
    Running = 1,
    /// The harness returned.
    Done = 2,
}

/// One hot page: where it is and where its snapshot is, at [`HOT_LIST_VA`]. The host writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HotPage {
    /// Linear address of the page.
    pub page: u64,
    /// Linear address of its content in the snapshot.
    pub golden: u64,
}

/// The application's registers at a system call, as the libOS saves them on its stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "register names")]
pub struct SyscallFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
}

/// The head of the comparison log, at [`COMPARISONS_VA`]. Reset-exempt; the host clears it before a
/// traced run, the application's runtime writes it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ComparisonLog {
    /// Comparisons that were logged.
    pub count: u64,
    /// Comparisons that were not, for want of room or because their place had its share.
    pub lost: u64,
    /// Fills the page.
    pub reserved: [u64; 510],
    /// How many were logged of each place, by a hash of its address.
    pub sites: [u8; COMPARISON_SITES],
}

/// One comparison of a traced run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Comparison {
    /// Where in the code: the address behind the call that logged it.
    pub site: u64,
    /// Address of the first operand when it is a string of bytes, else 0.
    pub left_at: u64,
    /// Address of the second.
    pub right_at: u64,
    /// A [`ComparisonKind`].
    pub kind: u32,
    /// Bytes of the first operand: 1, 2, 4 or 8 of a number, up to [`COMPARISON_BYTES`] of a string.
    pub left_len: u16,
    /// Bytes of the second.
    pub right_len: u16,
    /// The first operand; a number is little-endian.
    pub left: [u8; COMPARISON_BYTES],
    /// The second.
    pub right: [u8; COMPARISON_BYTES],
}

/// What was compared with what, in [`Comparison::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ComparisonKind {
    /// Two numbers.
    Numbers = 0,
    /// A number with a constant, which is the first operand.
    Constant = 1,
    /// Two strings of bytes.
    Bytes = 2,
}

macro_rules! layout {
    ($type:ty, $bytes:expr, $($field:ident @ $offset:expr),*) => {
        const _: () = {
            assert!(size_of::<$type>() == $bytes);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}
layout!(Vector, 32, input @ 8, done @ 16, call @ 24);
layout!(ImageHeader, 64, abi_version @ 8, flags @ 12);
layout!(ServiceHeader, 16, handle @ 4, bytes @ 8, value @ 12);
layout!(RootHeader, 32, version @ 8, entries @ 12, bytes @ 16);
layout!(RootEntry, 64, mode @ 4, mtime_seconds @ 16, link @ 24, name_offset @ 32, data_bytes @ 56);
layout!(KernelHeader, 96, entry @ 16, syscall_entry @ 24, vector @ 32, resume @ 40, direct @ 48, fault_entry @ 56,
    fault_signals @ 64, copy_start @ 72, copy_end @ 80, copy_fault @ 88);
layout!(BootInfo, 184, memory_bytes @ 8, app_entry @ 32, app_counters @ 72, input_max @ 112, random_seed @ 144,
    heap_bytes @ 176);
layout!(Control, 120, index @ 8, hot_count @ 16, console_len @ 24, input_extent @ 48, stored @ 64, syscall_frame @ 72,
    fault_vector @ 80, fault_rip @ 104, fault_rflags @ 112);
layout!(RunRecord, 32, input_len @ 8, code @ 16, state @ 24, slot @ 28);
layout!(HotPage, 16, golden @ 8);
layout!(ComparisonLog, 8192, lost @ 8, sites @ 4096);
layout!(Comparison, 96, left_at @ 8, kind @ 24, left_len @ 28, right_len @ 30, left @ 32, right @ 64);
layout!(SyscallFrame, 144, rax @ 80, rip @ 120, rflags @ 128, rsp @ 136);
const _: () = {
    assert!(size_of::<BootInfo>() as u64 <= PAGE_BYTES);
    assert!(RECORDS_VA + (BATCH_MAX * size_of::<RunRecord>()) as u64 <= HOT_LIST_VA);
    assert!(HOT_LIST_VA + (HOT_MAX * size_of::<HotPage>()) as u64 <= UNSERVED_VA);
    assert!(UNSERVED_VA + (UNSERVED_SLOTS * 4) as u64 <= LOOP_STACK_TOP_VA - LOOP_STACK_BYTES - PAGE_BYTES);
    assert!(LOOP_STACK_TOP_VA <= DOORBELL_VA && DOORBELL_VA < CONSOLE_VA);
};
