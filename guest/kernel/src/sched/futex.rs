//! Futexes: waiting for a word of memory to change. Linux `kernel/futex`; futex(2).

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::pi;
use crate::sched::thread::{Call, Resume, Wait};
use crate::time::clock::read_timespec;
use crate::user::{read_u32, write_u32};

// include/uapi/linux/futex.h
const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const LOCK_PI: u64 = 6;
const UNLOCK_PI: u64 = 7;
const TRYLOCK_PI: u64 = 8;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const LOCK_PI2: u64 = 13;
const PRIVATE_FLAG: u64 = 128;
const CLOCK_REALTIME: u64 = 256;
const ANY: u32 = u32::MAX;

/// `futex`.
pub(crate) fn futex(k: &mut Kernel, args: [u64; 6]) -> Outcome {
    let [at, operation, value, timeout, at2, value3] = args;
    let command = operation & !(PRIVATE_FLAG | CLOCK_REALTIME);
    let wall = operation & CLOCK_REALTIME != 0;
    if wall && !matches!(command, WAIT | WAIT_BITSET | LOCK_PI2) {
        return Err(Errno::ENOSYS);
    }
    let (value, value3) = (value as u32, value3 as u32);
    match command {
        WAIT => wait(k, at, value, ANY, timeout, Timeout::Relative),
        WAIT_BITSET => {
            let timeout_is = if wall { Timeout::Wall } else { Timeout::SinceBoot };
            wait(k, at, value, value3, timeout, timeout_is)
        }
        WAKE => wake(k, at, value, ANY),
        WAKE_BITSET => wake(k, at, value, value3),
        REQUEUE => requeue(k, [at, at2], value, timeout as u32, None),
        CMP_REQUEUE => requeue(k, [at, at2], value, timeout as u32, Some(value3)),
        WAKE_OP => wake_op(k, [at, at2], value, timeout as u32, value3),
        LOCK_PI => pi::lock(k, at, timeout, false),
        LOCK_PI2 => pi::lock(k, at, timeout, !wall),
        TRYLOCK_PI => pi::try_lock(k, at),
        UNLOCK_PI => pi::unlock(k, at),
        _ => Err(Errno::ENOSYS),
    }
}

/// How a timeout is to be read.
enum Timeout {
    Relative,
    SinceBoot,
    Wall,
}

/// Whether a call waits for the futex at `at` with one of these bits.
pub(crate) fn waits_for(call: &Call, at: u64, bits: u32) -> bool {
    matches!(call.wait, Some(Wait::Futex(address, wanted)) if address == at && wanted & bits != 0)
}

/// Wakes up to `max` waiters of the futex at `at`.
pub(crate) fn wake_all_of(k: &mut Kernel, at: u64, max: u64) -> u64 {
    k.sched.wake_where(max, Resume::Return(0), |call| waits_for(call, at, ANY))
}

fn check(at: u64) -> Result<(), Errno> {
    if at.is_multiple_of(4) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn wait(k: &mut Kernel, at: u64, value: u32, bits: u32, timeout: u64, timeout_is: Timeout) -> Outcome {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let again = k.sched.me().call.deadline.is_some();
    let deadline = k.deadline(|k| {
        if timeout == 0 {
            return Ok(None);
        }
        let time = read_timespec(timeout)?;
        Ok(Some(match timeout_is {
            Timeout::Relative => k.clock.now().saturating_add(time),
            Timeout::SinceBoot => time,
            Timeout::Wall => k.clock.at_wall(time),
        }))
    })?;
    check(at)?;
    // A waker makes the call return; so a second attempt means that the time has come.
    if again && k.is_past(deadline) {
        return Err(Errno::ETIMEDOUT);
    }
    if read_u32(at)? != value {
        return Err(Errno::EAGAIN);
    }
    if k.is_past(deadline) {
        return Err(Errno::ETIMEDOUT);
    }
    let error = k.block(Wait::Futex(at, bits));
    k.sched.me().call.restarts = deadline.is_none();
    Err(error)
}

fn wake(k: &mut Kernel, at: u64, max: u32, bits: u32) -> Outcome {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    check(at)?;
    // Linux wakes one when it is asked for none.
    let max = if (max.cast_signed()) <= 0 { 1 } else { u64::from(max) };
    Ok(k.sched.wake_where(max, Resume::Return(0), |call| waits_for(call, at, bits)))
}

fn requeue(k: &mut Kernel, [from, to]: [u64; 2], wakes: u32, moves: u32, expected: Option<u32>) -> Outcome {
    if wakes.cast_signed() < 0 || moves.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    check(from)?;
    check(to)?;
    if let Some(expected) = expected
        && read_u32(from)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let woken = k.sched.wake_where(wakes.into(), Resume::Return(0), |call| waits_for(call, from, ANY));
    let moved = k.sched.rewait(moves.into(), |wait| match wait {
        Wait::Futex(address, _) if *address == from => {
            *address = to;
            true
        }
        _ => false,
    });
    // The manual has FUTEX_REQUEUE report the woken ones alone; Linux counts both in both calls.
    Ok(woken + moved)
}

/// `FUTEX_WAKE_OP`: changes the second word, wakes waiters of the first, and of the second when its
/// old value compares so.
fn wake_op(k: &mut Kernel, [first, second]: [u64; 2], max: u32, max2: u32, operation: u32) -> Outcome {
    check(first)?;
    check(second)?;
    let sign_extended = |bits: u32| ((bits << 20).cast_signed() >> 20).cast_unsigned();
    let argument = sign_extended(operation >> 12 & 0xfff);
    let compared = sign_extended(operation & 0xfff);
    let argument = if operation >> 31 != 0 { 1u32.wrapping_shl(argument) } else { argument };
    let old = read_u32(second)?;
    let new = match operation >> 28 & 7 {
        0 => argument,
        1 => old.wrapping_add(argument),
        2 => old | argument,
        3 => old & !argument,
        4 => old ^ argument,
        _ => return Err(Errno::ENOSYS),
    };
    let (a, b) = (old.cast_signed(), compared.cast_signed());
    let also = match operation >> 24 & 15 {
        0 => a == b,
        1 => a != b,
        2 => a < b,
        3 => a <= b,
        4 => a > b,
        5 => a >= b,
        _ => return Err(Errno::ENOSYS),
    };
    write_u32(second, new)?;
    let mut woken = wake(k, first, max, ANY)?;
    if also {
        woken += wake(k, second, max2, ANY)?;
    }
    Ok(woken)
}

/// `set_robust_list`.
pub(crate) fn set_robust_list(k: &mut Kernel, head: u64, bytes: u64) -> Outcome {
    const HEAD_BYTES: u64 = 24;
    if bytes != HEAD_BYTES {
        return Err(Errno::EINVAL);
    }
    k.sched.me().robust_list = head;
    Ok(0)
}

/// `get_robust_list`.
pub(crate) fn get_robust_list(k: &mut Kernel, tid: u64, head: u64, bytes: u64) -> Outcome {
    let thread = match tid as u32 {
        0 => k.sched.me(),
        tid => k.sched.thread(tid).ok_or(Errno::ESRCH)?,
    };
    let list = thread.robust_list;
    crate::user::write_u64(bytes, 24)?;
    crate::user::write_u64(head, list)?;
    Ok(0)
}
