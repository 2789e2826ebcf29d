//! Sleeping.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::thread::Wait;
use crate::time::clock::{is_wall, read_timespec, write_timespec};

const TIMER_ABSTIME: u64 = 1;

/// `nanosleep`.
pub(crate) fn nanosleep(k: &mut Kernel, request: u64, left: u64) -> Outcome {
    clock_nanosleep(k, 1, 0, request, left)
}

/// `clock_nanosleep`.
pub(crate) fn clock_nanosleep(k: &mut Kernel, clock: u64, flags: u64, request: u64, left: u64) -> Outcome {
    /// Sleeping on the time that a thread has used is refused by Linux.
    const THREAD_CPUTIME: u32 = 3;
    let wall = is_wall(clock)?;
    if clock as u32 == THREAD_CPUTIME {
        return Err(Errno::EINVAL);
    }
    let absolute = flags & TIMER_ABSTIME != 0;
    let deadline = k.deadline(|k| {
        let time = read_timespec(request)?;
        let now = k.clock.look();
        Ok(Some(match (absolute, wall) {
            (false, _) => now.saturating_add(time),
            (true, true) => k.clock.at_wall(time),
            (true, false) => time,
        }))
    })?;
    if k.is_past(deadline) {
        return Ok(0);
    }
    if !absolute && left != 0 {
        // For the case that a signal ends it: `write_left`.
        k.sched.me().call.left_at = left;
    }
    Err(k.block(Wait::Nothing))
}

/// A signal has ended a sleep early: says how much of it is left.
pub(crate) fn write_left(k: &mut Kernel) {
    let call = k.sched.me().call;
    if let (at @ 1.., Some(Some(deadline))) = (call.left_at, call.deadline) {
        let left = deadline.saturating_sub(k.clock.now());
        let _fault = write_timespec(at, left);
    }
}
