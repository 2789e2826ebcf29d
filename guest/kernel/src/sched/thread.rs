//! One thread of the application.

use alloc::boxed::Box;

use unifork_hal::{Fpu, SyscallFrame, fs_base, gs_base, set_fs_base, set_gs_base};

use crate::signal::pending::Pending;

/// A thread: everything of it that is not in registers while it runs.
pub(crate) struct Thread {
    pub(crate) tid: u32,
    /// Registers and vector state, while it does not run.
    pub(crate) context: Option<Box<Context>>,
    /// The call it is in, as far as it has come.
    pub(crate) call: Call,
    /// What happens when it runs next.
    pub(crate) resume: Resume,
    /// Where `exit` writes 0 and wakes a waiter.
    pub(crate) clear_tid: u64,
    /// Head of the list of robust futexes, and what `set_robust_list` said its length is.
    pub(crate) robust_list: u64,
    /// Restartable sequences: where and how long the registered area is, and its signature.
    pub(crate) rseq: Option<(u64, u32, u32)>,
    /// Signals that it holds off, bit N-1 for signal N.
    pub(crate) blocked: u64,
    /// What `blocked` is once more after `sigsuspend`, `ppoll` and their like.
    pub(crate) blocked_before: Option<u64>,
    /// Signals sent to it alone.
    pub(crate) pending: Pending,
    /// `ss_sp`, `ss_flags`, `ss_size`.
    pub(crate) alternate_stack: [u64; 3],
    /// As `prctl(PR_SET_NAME)` has it.
    pub(crate) name: [u8; 16],
}

/// Registers of a thread that does not run.
pub(crate) struct Context {
    pub(crate) frame: SyscallFrame,
    fs: u64,
    gs: u64,
    fpu: Fpu,
}

/// A call that blocks is served again from its start; what must outlive that is here.
#[derive(Clone, Copy, Default)]
pub(crate) struct Call {
    /// It waits: what for.
    pub(crate) wait: Option<Wait>,
    /// Time since boot at which it gives up. Outer `None`: not asked yet.
    pub(crate) deadline: Option<Option<u64>>,
    /// Time since boot at which what it waits for may have come, by the clock alone.
    pub(crate) alarm: Option<u64>,
    /// Bytes, or whatever else, that earlier attempts have done.
    pub(crate) progress: u64,
    /// Where a sleep that is ended early says how much of it is left.
    pub(crate) left_at: u64,
    /// After a handler with `SA_RESTART` it begins anew.
    pub(crate) restarts: bool,
}

/// What a blocked thread waits for, besides its deadline and signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Anything that may have made a description ready.
    Event,
    /// A futex: its address, and the bits that a waker must have one of.
    Futex(u64, u32),
    /// A signal of this set.
    Signals(u64),
    /// Nothing else.
    Nothing,
}

/// What happens when a thread runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// It goes on with its registers as they are.
    Go,
    /// Its call is served again.
    Retry,
    /// Its call returns this.
    Return(u64),
    /// A signal ended its call early.
    Interrupted,
}

impl Call {
    /// When it is to be served again at the latest.
    pub(crate) fn wakes_at(&self) -> u64 {
        let deadline = self.deadline.flatten().unwrap_or(u64::MAX);
        self.alarm.map_or(deadline, |alarm| alarm.min(deadline))
    }
}

impl Context {
    /// The running thread's context, with `frame` for its registers.
    pub(crate) fn save(frame: &SyscallFrame) -> Box<Self> {
        Box::new(Self { frame: *frame, fs: fs_base(), gs: gs_base(), fpu: Fpu::save() })
    }

    /// The running thread's context with another thread pointer.
    pub(crate) fn set_fs(&mut self, fs: u64) {
        self.fs = fs;
    }

    /// Makes this the running thread's.
    pub(crate) fn load(&self, frame: &mut SyscallFrame) {
        *frame = self.frame;
        set_fs_base(self.fs);
        set_gs_base(self.gs);
        self.fpu.load();
    }
}

impl Thread {
    pub(crate) fn new(tid: u32) -> Self {
        let mut name = [0; 16];
        name[..3].copy_from_slice(b"app");
        Self {
            tid,
            context: None,
            call: Call::default(),
            resume: Resume::Go,
            clear_tid: 0,
            robust_list: 0,
            rseq: None,
            blocked: 0,
            blocked_before: None,
            pending: Pending::new(),
            alternate_stack: [0, 2, 0], // SS_DISABLE
            name,
        }
    }
}
