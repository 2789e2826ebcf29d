//! What a batch of runs is made of.

/// The control page, at [`crate::CONTROL_VA`]. Reset-exempt.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Control {
    /// Runs in this batch, 1 to [`crate::BATCH_MAX`]. The host writes it before the batch.
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
    /// next four, before it continues at [`crate::KernelHeader::fault_entry`].
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

/// One run of a batch, at [`crate::RECORDS_VA`]. Reset-exempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RunRecord {
    /// Where the input begins, in bytes from [`crate::INPUT_RING_VA`]. The host writes it.
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

/// One hot page: where it is and where its snapshot is, at [`crate::HOT_LIST_VA`]. The host writes it.
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

layout!(Control, 120, index @ 8, hot_count @ 16, console_len @ 24, input_extent @ 48, stored @ 64, syscall_frame @ 72,
    fault_vector @ 80, fault_rip @ 104, fault_rflags @ 112);
layout!(RunRecord, 32, input_len @ 8, code @ 16, state @ 24, slot @ 28);
layout!(HotPage, 16, golden @ 8);
layout!(SyscallFrame, 144, rax @ 80, rip @ 120, rflags @ 128, rsp @ 136);
