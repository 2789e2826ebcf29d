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
    /// Clocks that Linux does not sleep on: THREAD_CPUTIME, MONOTONIC_RAW, both coarse ones.
    const NOT_FOR_SLEEP: [u32; 4] = [3, 4, 5, 6];
    let wall = is_wall(clock)?;
    if NOT_FOR_SLEEP.contains(&(clock as u32)) {
        return Err(Errno::EOPNOTSUPP);
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
