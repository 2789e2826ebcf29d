//! Scheduling as programs may ask about it: one CPU, one policy, no priorities.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::PID;
use crate::user::{read_bytes, read_u32, write_bytes, write_u32};

// include/uapi/linux/sched.h
const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;
// include/uapi/linux/membarrier.h
const MEMBARRIER_QUERY: u32 = 0;
const MEMBARRIER_ALL: u32 = 0x1ff;

fn exists(k: &mut Kernel, tid: u64) -> Result<(), Errno> {
    if (tid as u32).cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    if tid as u32 == 0 || k.sched.thread(tid as u32).is_some() { Ok(()) } else { Err(Errno::ESRCH) }
}

/// `sched_getaffinity`: the first CPU.
pub(crate) fn getaffinity(k: &mut Kernel, tid: u64, bytes: u64, to: u64) -> Outcome {
    if bytes < 8 || !bytes.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    exists(k, tid).map_err(|_| Errno::ESRCH)?;
    crate::user::write_u64(to, 1)?;
    Ok(8)
}

/// `sched_setaffinity`: to a set with the first CPU in it.
pub(crate) fn setaffinity(k: &mut Kernel, tid: u64, bytes: u64, from: u64) -> Outcome {
    let first = match bytes {
        0 => 0,
        _ => read_bytes::<1>(from)?[0],
    };
    exists(k, tid).map_err(|_| Errno::ESRCH)?;
    if first & 1 == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// `sched_getscheduler`.
pub(crate) fn getscheduler(k: &mut Kernel, tid: u64) -> Outcome {
    exists(k, tid)?;
    Ok(SCHED_OTHER.into())
}

/// `sched_setscheduler`: to the policies without priorities, which are all one.
pub(crate) fn setscheduler(k: &mut Kernel, tid: u64, policy: u64, parameter: u64) -> Outcome {
    if parameter == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = read_u32(parameter)?;
    exists(k, tid)?;
    match policy as u32 {
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE if priority == 0 => Ok(0),
        SCHED_FIFO | SCHED_RR if (1..=99).contains(&priority) => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_getparam`.
pub(crate) fn getparam(k: &mut Kernel, tid: u64, to: u64) -> Outcome {
    if to == 0 {
        return Err(Errno::EINVAL);
    }
    exists(k, tid)?;
    write_u32(to, 0)?;
    Ok(0)
}

/// `sched_setparam`.
pub(crate) fn setparam(k: &mut Kernel, tid: u64, from: u64) -> Outcome {
    if from == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = read_u32(from)?;
    exists(k, tid)?;
    if priority == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `sched_get_priority_max` and `_min`: of the first for `real_time`.
pub(crate) fn priority_bound(policy: u64, real_time: u64) -> Outcome {
    match policy as u32 {
        SCHED_FIFO | SCHED_RR => Ok(real_time),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether `getpriority` and its like name somebody: a thread, the group, or root.
fn is_somebody(k: &mut Kernel, which: u64, who: u64) -> Result<(), Errno> {
    const PROCESS: u32 = 0;
    const GROUP: u32 = 1;
    const USER: u32 = 2;
    let who = who as u32;
    match which as u32 {
        PROCESS if who == 0 || k.sched.thread(who).is_some() => Ok(()),
        GROUP if who == 0 || who == PID => Ok(()),
        USER if who == 0 => Ok(()),
        PROCESS | GROUP | USER => Err(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

/// `getpriority`: 20 less the nice value.
pub(crate) fn getpriority(k: &mut Kernel, which: u64, who: u64) -> Outcome {
    is_somebody(k, which, who)?;
    Ok(20i64.wrapping_sub(k.settings.nice.into()).cast_unsigned())
}

/// `setpriority`: kept, and makes no difference where threads take turns.
pub(crate) fn setpriority(k: &mut Kernel, which: u64, who: u64, nice: u64) -> Outcome {
    is_somebody(k, which, who)?;
    k.settings.nice = (nice as u32).cast_signed().clamp(-20, 19) as i8;
    Ok(0)
}

/// `sched_rr_get_interval`: what Linux gives a thread that shares a CPU; here it keeps it until it waits.
pub(crate) fn rr_get_interval(k: &mut Kernel, tid: u64, to: u64) -> Outcome {
    const SLICE_NS: u64 = 4_000_000;
    exists(k, tid)?;
    write_bytes(to, &[0u64.to_le_bytes(), SLICE_NS.to_le_bytes()].concat())?;
    Ok(0)
}

/// `membarrier`: with one CPU every system call is one.
pub(crate) fn membarrier(command: u64, flags: u64) -> Outcome {
    if flags as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    match command as u32 {
        MEMBARRIER_QUERY => Ok(MEMBARRIER_ALL.into()),
        one if one & MEMBARRIER_ALL == one && one.is_power_of_two() => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

// include/uapi/linux/rseq.h
const RSEQ_BYTES_MIN: u64 = 32;
const RSEQ_FLAG_UNREGISTER: u64 = 1;

/// `rseq`: registers the area where a thread finds its CPU. Sequences are never interrupted but by
/// signal handlers, which are entered at system calls and exceptions alone.
pub(crate) fn rseq(k: &mut Kernel, at: u64, bytes: u64, flags: u64, signature: u64) -> Outcome {
    let wanted = (at, bytes as u32, signature as u32);
    let me = k.sched.me();
    if flags & RSEQ_FLAG_UNREGISTER != 0 {
        if flags != RSEQ_FLAG_UNREGISTER
            || me.rseq.is_none_or(|(at, bytes, _)| (at, bytes) != (wanted.0, wanted.1))
        {
            return Err(Errno::EINVAL);
        }
        if me.rseq != Some(wanted) {
            return Err(Errno::EPERM);
        }
        me.rseq = None;
        // cpu_id_start and cpu_id: RSEQ_CPU_ID_UNINITIALIZED.
        write_bytes(at, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])?;
        return Ok(0);
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if let Some((there, size, known)) = me.rseq {
        return Err(match (there, size) == (wanted.0, wanted.1) {
            false => Errno::EINVAL,
            true if known != wanted.2 => Errno::EPERM,
            true => Errno::EBUSY,
        });
    }
    if bytes < RSEQ_BYTES_MIN || !at.is_multiple_of(32) {
        return Err(Errno::EINVAL);
    }
    write_bytes(at, &[0; 8])?;
    k.sched.me().rseq = Some(wanted);
    Ok(0)
}
