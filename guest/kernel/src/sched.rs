//! Threads, and which of them runs.
//!
//! There is one CPU and no timer interrupt. Threads switch where a call blocks, yields or ends its
//! thread, and after [`SLICE_CALLS`] calls in a row that did none of it, so that a thread that polls
//! does not starve the others. The next thread is the one that could run first. So the order is a
//! function of what the program does, the same in every run.
//!
//! A call that has to wait says so with [`Errno::BLOCK`], having noted what for. Its thread is set
//! aside with its registers and call number; when something happens that may be it, the call is
//! served again from its start.
//!
//! When nothing can run, the clock jumps to the next deadline. When there is none, nothing will ever
//! happen, and the guest waits for the host to end it.

pub(crate) mod clone;
pub(crate) mod exit;
pub(crate) mod futex;
pub(crate) mod pi;
pub(crate) mod switch;
pub(crate) mod thread;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::errno::Errno;
use thread::{Call, Context, Resume, Thread, Wait};

/// The process, and its first thread.
pub(crate) const PID: u32 = 1000;
/// Calls in a row, while other threads could run.
const SLICE_CALLS: u32 = 1000;
/// Threads at most; on Linux it is a matter of memory, too.
const THREADS_MAX: usize = 4096;

/// All threads.
pub(crate) struct Scheduler {
    // In the order of their ids, which is that of their creation. Invariant: `current` is the place of
    // one of them. Every other one is either in `queue` or in `waiting`.
    threads: Vec<Thread>,
    current: usize,
    // Those that can run, first come first served.
    queue: VecDeque<u32>,
    // Those that wait, in the order they came.
    waiting: VecDeque<u32>,
    // The earliest time at which one of them wants to be woken.
    next_wake: u64,
    next_tid: u32,
    calls: u32,
    yielding: bool,
}

/// Something happened that may have made a description ready. Not part of the kernel's one struct, so
/// that an object can say so when it is dropped; it is only set while a call is served.
static EVENT: AtomicBool = AtomicBool::new(false);

/// Says that a description may have become ready for something.
pub(crate) fn event() {
    EVENT.store(true, Ordering::Relaxed);
}

impl Scheduler {
    pub(crate) fn new() -> Self {
        Self {
            threads: Vec::from([Thread::new(PID)]),
            current: 0,
            queue: VecDeque::new(),
            waiting: VecDeque::new(),
            next_wake: u64::MAX,
            next_tid: PID + 1,
            calls: 0,
            yielding: false,
        }
    }

    /// The thread that runs.
    pub(crate) fn me(&mut self) -> &mut Thread {
        &mut self.threads[self.current]
    }

    /// Its id.
    pub(crate) fn tid(&self) -> u32 {
        self.threads[self.current].tid
    }

    fn find(&self, tid: u32) -> Option<usize> {
        self.threads.binary_search_by_key(&tid, |thread| thread.tid).ok()
    }

    /// The thread that ran is gone; another one is about to.
    pub(crate) fn remove_current(&mut self) {
        self.threads.remove(self.current);
        self.current = 0;
    }

    /// Makes this thread the one that runs.
    fn set_current(&mut self, tid: u32) {
        self.current = self.find(tid).expect("a thread that can run exists");
    }

    /// The thread with this id.
    pub(crate) fn thread(&mut self, tid: u32) -> Option<&mut Thread> {
        self.find(tid).map(|at| &mut self.threads[at])
    }

    /// All threads, by id.
    pub(crate) fn threads(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter()
    }

    pub(crate) fn threads_mut(&mut self) -> impl Iterator<Item = &mut Thread> {
        self.threads.iter_mut()
    }

    /// Adds a thread that can run, with `context`; its id is the next.
    pub(crate) fn add(&mut self, context: Box<Context>) -> Result<&mut Thread, Errno> {
        if self.threads.len() >= THREADS_MAX {
            return Err(Errno::EAGAIN);
        }
        let tid = self.next_tid;
        self.next_tid += 1;
        let mut thread = Thread::new(tid);
        thread.context = Some(context);
        self.queue.push_back(tid);
        let at = self.threads.len();
        self.threads.push(thread);
        Ok(&mut self.threads[at])
    }

    /// Lets the next thread run when the call at hand is over.
    pub(crate) fn yield_now(&mut self) {
        self.yielding = true;
    }

    /// Makes a thread that waits able to run.
    pub(crate) fn wake(&mut self, tid: u32, how: Resume) {
        let Some(at) = self.waiting.iter().position(|&other| other == tid) else { return };
        self.waiting.remove(at);
        self.queue.push_back(tid);
        if let Some(thread) = self.thread(tid) {
            thread.call.wait = None;
            thread.resume = how;
        }
    }

    /// Wakes the threads that wait for something that `which` names, at most `max`, in the order they
    /// came; returns how many.
    pub(crate) fn wake_where(&mut self, max: u64, how: Resume, which: impl Fn(&Call) -> bool) -> u64 {
        let mut woken = 0;
        let mut at = 0;
        while at < self.waiting.len() && woken < max {
            let tid = self.waiting[at];
            if self.find(tid).is_some_and(|i| which(&self.threads[i].call)) {
                self.wake(tid, how);
                woken += 1;
            } else {
                at += 1;
            }
        }
        woken
    }

    /// Those that wait for something that `which` names, in the order they came.
    pub(crate) fn waiting_where(&self, which: impl Fn(&Call) -> bool) -> impl Iterator<Item = u32> {
        let waits = move |tid: &&u32| self.find(**tid).is_some_and(|at| which(&self.threads[at].call));
        self.waiting.iter().filter(waits).copied()
    }

    /// Changes what waiting threads wait for; returns how many `f` has changed, at most `max`.
    pub(crate) fn rewait(&mut self, max: u64, mut f: impl FnMut(&mut Wait) -> bool) -> u64 {
        let mut changed = 0;
        for i in 0..self.waiting.len() {
            if changed >= max {
                break;
            }
            let tid = self.waiting[i];
            let wait = self.thread(tid).and_then(|thread| thread.call.wait.as_mut());
            changed += u64::from(wait.is_some_and(&mut f));
        }
        changed
    }

    fn find_next_wake(&mut self) {
        let times =
            self.waiting.iter().filter_map(|&tid| self.find(tid)).map(|at| self.threads[at].call.wakes_at());
        self.next_wake = times.min().unwrap_or(u64::MAX);
    }
}
