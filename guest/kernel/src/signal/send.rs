//! Sending.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::PID;
use crate::sched::thread::{Resume, Wait};
use crate::signal::action::Does;
use crate::signal::pending::Info;
use crate::signal::{bit, number};
use crate::user::{read_u32, read_words};

// include/uapi/asm-generic/siginfo.h
pub(crate) const SI_USER: i32 = 0;
pub(crate) const SI_KERNEL: i32 = 0x80;
const SI_TKILL: i32 = -6;

/// Sends to the thread that runs, as the kernel does on its behalf.
pub(crate) fn to_me(k: &mut Kernel, signal: u32) {
    let tid = k.sched.tid();
    let _full = to_thread(k, tid, Info { signal, code: SI_USER, words: [PID.into(), 0] });
}

/// Sends to the process.
pub(crate) fn to_process(k: &mut Kernel, signal: u32, code: i32) {
    let _full = to_any(k, Info { signal, code, words: [0, 0] });
}

/// To any thread that does not hold it off: the first one, as on Linux. When all do, it waits for
/// one that stops doing so.
pub(crate) fn to_any(k: &mut Kernel, info: Info) -> Outcome {
    let signal = bit(info.signal);
    let wants = |blocked: u64, wait: Option<Wait>| {
        blocked & signal == 0 || matches!(wait, Some(Wait::Signals(set)) if set & signal != 0)
    };
    let target = k.sched.threads().find(|t| wants(t.blocked, t.call.wait)).map(|t| t.tid);
    match target {
        Some(tid) => to_thread(k, tid, info),
        None => queue(k, None, info),
    }
}

pub(crate) fn to_thread(k: &mut Kernel, tid: u32, info: Info) -> Outcome {
    let signal = bit(info.signal);
    let thread = k.sched.thread(tid).ok_or(Errno::ESRCH)?;
    let (blocked, wait) = (thread.blocked & signal != 0, thread.call.wait);
    let waited_for = matches!(wait, Some(Wait::Signals(set)) if set & signal != 0);
    if !blocked && !waited_for {
        match k.signals.does(info.signal) {
            Does::Nothing => return Ok(0),
            // Whatever the thread is doing.
            Does::EndsProcess => {
                k.signals.fatal.get_or_insert(info.signal);
                return Ok(0);
            }
            Does::CallsHandler => {}
        }
    }
    queue(k, Some(tid), info)?;
    if waited_for {
        k.sched.wake(tid, Resume::Retry);
    } else if wait.is_some() {
        k.interrupt_if_signalled(tid);
    }
    // A description may be waiting for it: signalfd.
    crate::sched::event();
    Ok(0)
}

fn queue(k: &mut Kernel, tid: Option<u32>, info: Info) -> Outcome {
    let pending = match tid {
        Some(tid) => &mut k.sched.thread(tid).ok_or(Errno::ESRCH)?.pending,
        None => &mut k.signals.pending,
    };
    if pending.add(info) { Ok(0) } else { Err(Errno::EAGAIN) }
}

/// `kill`. There is one process, and it is a group of its own.
pub(crate) fn kill(k: &mut Kernel, pid: u64, signal: u64) -> Outcome {
    let pid = (pid as u32).cast_signed();
    let wanted = checked(signal)?;
    if pid != 0 && pid.unsigned_abs() != PID {
        return Err(Errno::ESRCH);
    }
    match wanted {
        Some(signal) => to_any(k, Info { signal, code: SI_USER, words: [PID.into(), 0] }),
        None => Ok(0),
    }
}

/// `tkill`.
pub(crate) fn tkill(k: &mut Kernel, tid: u64, signal: u64) -> Outcome {
    if (tid as u32).cast_signed() <= 0 {
        return Err(Errno::EINVAL);
    }
    let wanted = checked(signal)?;
    let tid = tid as u32;
    k.sched.thread(tid).ok_or(Errno::ESRCH)?;
    match wanted {
        Some(signal) => to_thread(k, tid, Info { signal, code: SI_TKILL, words: [PID.into(), 0] }),
        None => Ok(0),
    }
}

/// `tgkill`.
pub(crate) fn tgkill(k: &mut Kernel, pid: u64, tid: u64, signal: u64) -> Outcome {
    if (pid as u32).cast_signed() <= 0 {
        return Err(Errno::EINVAL);
    }
    if pid as u32 != PID && (tid as u32).cast_signed() > 0 {
        return Err(Errno::ESRCH);
    }
    tkill(k, tid, signal)
}

/// `rt_sigqueueinfo`.
pub(crate) fn rt_sigqueueinfo(k: &mut Kernel, pid: u64, signal: u64, info: u64) -> Outcome {
    let info = read_info(signal, info)?;
    if pid as u32 != PID {
        return Err(Errno::ESRCH);
    }
    match info {
        Some(info) => to_any(k, info),
        None => Ok(0),
    }
}

/// `rt_tgsigqueueinfo`.
pub(crate) fn rt_tgsigqueueinfo(k: &mut Kernel, args: [u64; 6]) -> Outcome {
    let [pid, tid, signal, info, ..] = args;
    if (pid as u32).cast_signed() <= 0 || (tid as u32).cast_signed() <= 0 {
        return Err(Errno::EINVAL);
    }
    let info = read_info(signal, info)?;
    if pid as u32 != PID || k.sched.thread(tid as u32).is_none() {
        return Err(Errno::ESRCH);
    }
    match info {
        Some(info) => to_thread(k, tid as u32, info),
        None => Ok(0),
    }
}

fn read_info(signal: u64, at: u64) -> Result<Option<Info>, Errno> {
    let code = read_u32(at.wrapping_add(8))?.cast_signed();
    let words = read_words(at.wrapping_add(16))?;
    Ok(checked(signal)?.map(|signal| Info { signal, code, words }))
}

/// A signal's number; none for 0, which only asks.
fn checked(signal: u64) -> Result<Option<u32>, Errno> {
    if signal as u32 == 0 { Ok(None) } else { number(signal).map(Some).ok_or(Errno::EINVAL) }
}
