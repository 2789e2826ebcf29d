//! Which signals a thread holds off, and its alternate stack.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::signal::{NEVER_BLOCKED, SET_BYTES};
use crate::user::{read_u64, read_words, write_u64, write_words};

/// `rt_sigprocmask`.
pub(crate) fn rt_sigprocmask(k: &mut Kernel, how: u64, new: u64, old: u64, set_bytes: u64) -> Outcome {
    if set_bytes != SET_BYTES {
        return Err(Errno::EINVAL);
    }
    let me = k.sched.me();
    let before = me.blocked;
    if new != 0 {
        let set = read_u64(new)?;
        let blocked = match how as u32 {
            0 => before | set,
            1 => before & !set,
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        me.blocked = blocked & !NEVER_BLOCKED;
    }
    if old != 0 {
        write_u64(old, before)?;
    }
    Ok(0)
}

impl Kernel {
    /// Holds off what the set at `at` names, instead of what the thread does now, until the call at
    /// hand is over. Nothing for a null pointer.
    pub(crate) fn hold_off_for_this_call(&mut self, at: u64, set_bytes: u64) -> Result<(), Errno> {
        if at == 0 {
            return Ok(());
        }
        if set_bytes != SET_BYTES {
            return Err(Errno::EINVAL);
        }
        let set = read_u64(at)?;
        let me = self.sched.me();
        me.blocked_before.get_or_insert(me.blocked);
        me.blocked = set & !NEVER_BLOCKED;
        Ok(())
    }
}

// include/uapi/linux/signal.h
const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;
/// `MINSIGSTKSZ`, as the kernel has it.
const STACK_BYTES_MIN: u64 = 2048;

/// Whether a stack pointer is on an alternate stack.
pub(crate) fn is_on([start, _, bytes]: [u64; 3], rsp: u64) -> bool {
    rsp > start && rsp - start <= bytes
}

/// `sigaltstack`, of a thread whose stack pointer is `rsp`.
pub(crate) fn sigaltstack(k: &mut Kernel, new: u64, old: u64, rsp: u64) -> Outcome {
    let me = k.sched.me();
    let before = me.alternate_stack;
    let in_use = is_on(before, rsp);
    if new != 0 {
        let stack: [u64; 3] = read_words(new)?;
        set_stack(k, stack, rsp)?;
    }
    if old != 0 {
        let flags = if in_use { u64::from(SS_ONSTACK) } else { before[1] };
        write_words(old, &[before[0], flags, before[2]])?;
    }
    Ok(0)
}

/// Sets the alternate stack to what a `stack_t` says.
pub(crate) fn set_stack(k: &mut Kernel, [start, flags, bytes]: [u64; 3], rsp: u64) -> Result<(), Errno> {
    let me = k.sched.me();
    if is_on(me.alternate_stack, rsp) {
        return Err(Errno::EPERM);
    }
    let flags = flags as u32;
    me.alternate_stack = match flags & !SS_AUTODISARM {
        SS_DISABLE => [0, SS_DISABLE.into(), 0],
        0 | SS_ONSTACK if bytes < STACK_BYTES_MIN => return Err(Errno::ENOMEM),
        0 | SS_ONSTACK => [start, (flags & SS_AUTODISARM).into(), bytes],
        _ => return Err(Errno::EINVAL),
    };
    Ok(())
}

/// Whether the alternate stack is forgotten while it is in use.
pub(crate) fn disarms(stack: [u64; 3]) -> bool {
    stack[1] as u32 & SS_AUTODISARM != 0
}
