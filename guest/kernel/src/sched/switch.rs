//! From one system call to the next: serve it, see what it has set off, and go on with the thread
//! whose turn it is.

use core::sync::atomic::Ordering;

use unifork_hal::{Entry, SyscallFrame, publish_fault_signals};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::thread::{Call, Context, Resume, Wait};
use crate::sched::{EVENT, SLICE_CALLS};
use crate::signal::deliver;
use crate::syscall;

impl Kernel {
    /// Serves what the libOS was entered for. When it returns, `frame` holds the registers of the
    /// thread whose turn it is.
    pub(crate) fn serve(&mut self, entry: Entry, frame: &mut SyscallFrame) {
        let mut outcome = match entry {
            Entry::Syscall => syscall::dispatch(self, frame),
            Entry::Exception(exception) => deliver::exception(self, exception, frame),
        };
        loop {
            self.settle();
            if matches!(outcome, Err(Errno::BLOCK)) {
                self.set_aside(frame, Resume::Retry);
                outcome = self.next_thread(frame);
            } else if matches!(outcome, Err(Errno::GONE)) {
                outcome = self.next_thread(frame);
            } else {
                deliver::finish_call(self, outcome, frame);
                if !self.turn_is_over() {
                    break;
                }
                self.set_aside(frame, Resume::Go);
                outcome = self.next_thread(frame);
            }
        }
        publish_fault_signals(self.fault_signals());
    }

    /// Notes that the call at hand waits for `wait`, and ends this attempt of it.
    pub(crate) fn block(&mut self, wait: Wait) -> Errno {
        let call = &mut self.sched.me().call;
        call.wait = Some(wait);
        call.alarm = None;
        call.deadline.get_or_insert(None);
        Errno::BLOCK
    }

    /// [`Self::block`] until some description changes, or the clock has come to `alarm`. The call
    /// begins anew after a signal handler with `SA_RESTART`.
    pub(crate) fn block_for_event(&mut self, alarm: Option<u64>) -> Errno {
        let error = self.block(Wait::Event);
        let call = &mut self.sched.me().call;
        call.alarm = alarm;
        call.restarts = true;
        error
    }

    /// When the call at hand gives up: what `find` says when it is first asked, and the same in every
    /// later attempt.
    pub(crate) fn deadline(
        &mut self,
        find: impl FnOnce(&mut Self) -> Result<Option<u64>, Errno>,
    ) -> Result<Option<u64>, Errno> {
        if let Some(known) = self.sched.me().call.deadline {
            return Ok(known);
        }
        let found = find(self)?;
        self.sched.me().call.deadline = Some(found);
        Ok(found)
    }

    /// Whether that time has come.
    pub(crate) fn is_past(&self, deadline: Option<u64>) -> bool {
        deadline.is_some_and(|at| self.clock.now() >= at)
    }

    /// Wakes whoever waits for what has happened.
    fn settle(&mut self) {
        // Not a swap: that is a locked instruction, in every call.
        if EVENT.load(Ordering::Relaxed) {
            EVENT.store(false, Ordering::Relaxed);
            self.sched.wake_where(u64::MAX, Resume::Retry, |call| call.wait == Some(Wait::Event));
        }
        self.ring_alarms();
    }

    /// Wakes whoever waits for the time that it is, and sends the signals of timers.
    fn ring_alarms(&mut self) {
        let now = self.clock.now();
        if now >= self.next_timer {
            self.expire_timers();
            self.find_next_timer();
        }
        if now >= self.sched.next_wake {
            self.sched.wake_where(u64::MAX, Resume::Retry, |call| call.wakes_at() <= now);
            self.sched.find_next_wake();
        }
    }

    /// Notes when the next timer rings: after every change of one.
    pub(crate) fn find_next_timer(&mut self) {
        self.next_timer = self.timers.next().min(self.posix_timers.next());
    }

    fn turn_is_over(&mut self) -> bool {
        self.sched.calls += 1;
        let wanted = core::mem::take(&mut self.sched.yielding) || self.sched.calls >= SLICE_CALLS;
        wanted && !self.sched.queue.is_empty()
    }

    /// Keeps the running thread for later.
    fn set_aside(&mut self, frame: &SyscallFrame, resume: Resume) {
        let context = Context::save(frame);
        let sched = &mut self.sched;
        let tid = sched.tid();
        let thread = sched.me();
        thread.context = Some(context);
        thread.resume = resume;
        if resume == Resume::Go {
            sched.queue.push_back(tid);
            return;
        }
        let wakes_at = thread.call.wakes_at();
        sched.waiting.push_back(tid);
        sched.next_wake = sched.next_wake.min(wakes_at);
        // What it waits for may be there already.
        self.interrupt_if_signalled(tid);
    }

    /// Goes on with the thread whose turn it is.
    fn next_thread(&mut self, frame: &mut SyscallFrame) -> Outcome {
        self.sched.calls = 0;
        self.sched.yielding = false;
        let tid = loop {
            self.ring_alarms();
            if let Some(signal) = self.signals.fatal {
                unifork_hal::signalled(signal.cast_signed(), frame);
            }
            match self.sched.queue.pop_front() {
                Some(tid) => break tid,
                None => self.idle(),
            }
        };
        self.sched.set_current(tid);
        let thread = self.sched.me();
        if let Some(context) = thread.context.take() {
            context.load(frame);
        }
        let resume = core::mem::replace(&mut thread.resume, Resume::Go);
        match resume {
            Resume::Go => Err(Errno::AS_IS),
            Resume::Retry => syscall::dispatch(self, frame),
            Resume::Return(value) => Ok(value),
            Resume::Interrupted if self.is_interrupted() => Err(Errno::EINTR),
            Resume::Interrupted => syscall::dispatch(self, frame),
        }
    }

    /// Nothing can run: lets time pass.
    fn idle(&mut self) {
        self.sched.find_next_wake();
        let next = self.sched.next_wake.min(self.next_timer);
        if crate::host::is_awaited() {
            let now = self.clock.now();
            let elapsed = crate::host::exchange(if next == u64::MAX { next } else { next - now.min(next) });
            self.clock.advance_to(now.saturating_add(elapsed));
            return self.settle();
        }
        if next == u64::MAX {
            unifork_hal::hang();
        }
        self.clock.advance_to(next);
    }
}

/// Forgets a call that is over.
pub(crate) fn forget(call: &mut Call) {
    if call.deadline.is_some() || call.progress != 0 {
        *call = Call::default();
    }
}
