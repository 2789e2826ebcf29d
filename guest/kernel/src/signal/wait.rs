//! Waiting for signals, and looking at those that are pending.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::thread::Wait;
use crate::signal::{NEVER_BLOCKED, SET_BYTES};
use crate::time::clock::read_timespec;
use crate::user::{read_u64, write_bytes};

/// `pause`.
pub(crate) fn pause(k: &mut Kernel) -> Outcome {
    Err(k.block(Wait::Nothing))
}

/// `rt_sigsuspend`.
pub(crate) fn rt_sigsuspend(k: &mut Kernel, mask: u64, set_bytes: u64) -> Outcome {
    if set_bytes != SET_BYTES {
        return Err(Errno::EINVAL);
    }
    if mask == 0 {
        return Err(Errno::EFAULT);
    }
    k.hold_off_for_this_call(mask, set_bytes)?;
    Err(k.block(Wait::Nothing))
}

/// `rt_sigpending`.
pub(crate) fn rt_sigpending(k: &mut Kernel, to: u64, set_bytes: u64) -> Outcome {
    if set_bytes > SET_BYTES {
        return Err(Errno::EINVAL);
    }
    let shared = k.signals.pending.set();
    let me = k.sched.me();
    let set = (me.pending.set() | shared) & me.blocked;
    write_bytes(to, &set.to_le_bytes()[..set_bytes as usize])?;
    Ok(0)
}

/// `rt_sigtimedwait`.
pub(crate) fn rt_sigtimedwait(k: &mut Kernel, set: u64, info: u64, timeout: u64, set_bytes: u64) -> Outcome {
    if set_bytes != SET_BYTES {
        return Err(Errno::EINVAL);
    }
    let wanted = read_u64(set)? & !NEVER_BLOCKED;
    let deadline = k.deadline(|k| {
        Ok(match timeout {
            0 => None,
            at => Some(read_timespec(at)?.saturating_add(k.clock.now())),
        })
    })?;
    let taken = k.sched.me().pending.take(wanted);
    if let Some(found) = taken.or_else(|| k.signals.pending.take(wanted)) {
        if info != 0 {
            write_bytes(info, &found.bytes())?;
        }
        return Ok(found.signal.into());
    }
    if k.is_past(deadline) {
        return Err(Errno::EAGAIN);
    }
    Err(k.block(Wait::Signals(wanted)))
}
