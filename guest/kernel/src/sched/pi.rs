//! Futexes that know their owner: `FUTEX_LOCK_PI` and its like. There are no priorities to inherit; what
//! is left is a lock that is handed to the thread that waits longest.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::thread::{Call, Resume, Wait};
use crate::time::clock::read_timespec;
use crate::user::{read_u32, write_u32};

const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;
/// The bits that such waiters wait with: none that `FUTEX_WAKE` could have.
const OWNED: u32 = 0;

/// `FUTEX_LOCK_PI`: until `timeout` on the wall clock, or with `since_boot` on the other.
pub(crate) fn lock(k: &mut Kernel, at: u64, timeout: u64, since_boot: bool) -> Outcome {
    let again = k.sched.me().call.deadline.is_some();
    let deadline = k.deadline(|k| {
        Ok(match timeout {
            0 => None,
            from if since_boot => Some(read_timespec(from)?),
            from => Some(k.clock.at_wall(read_timespec(from)?)),
        })
    })?;
    match try_lock(k, at) {
        Err(Errno::EAGAIN) => {}
        outcome => return outcome,
    }
    if again && k.is_past(deadline) {
        return Err(Errno::ETIMEDOUT);
    }
    let word = read_u32(at)?;
    write_u32(at, word | WAITERS)?;
    let error = k.block(Wait::Futex(at, OWNED));
    k.sched.me().call.restarts = true;
    Err(error)
}

/// `FUTEX_TRYLOCK_PI`.
pub(crate) fn try_lock(k: &mut Kernel, at: u64) -> Outcome {
    if !at.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let (word, me) = (read_u32(at)?, k.sched.tid());
    match word & TID_MASK {
        0 => {
            write_u32(at, word & (WAITERS | OWNER_DIED) | me)?;
            Ok(0)
        }
        owner if owner == me => Err(Errno::EDEADLK),
        owner if k.sched.thread(owner).is_none() => Err(Errno::ESRCH),
        _ => Err(Errno::EAGAIN),
    }
}

/// `FUTEX_UNLOCK_PI`: hands the lock to the thread that waits longest.
pub(crate) fn unlock(k: &mut Kernel, at: u64) -> Outcome {
    if !at.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if read_u32(at)? & TID_MASK != k.sched.tid() {
        return Err(Errno::EPERM);
    }
    let waits = |call: &Call| matches!(call.wait, Some(Wait::Futex(address, OWNED)) if address == at);
    let mut waiting = k.sched.waiting_where(waits);
    let (next, more) = (waiting.next(), waiting.next().is_some());
    drop(waiting);
    let word = next.map_or(0, |tid| tid | if more { WAITERS } else { 0 });
    write_u32(at, word)?;
    if let Some(tid) = next {
        k.sched.wake(tid, Resume::Return(0));
    }
    Ok(0)
}
