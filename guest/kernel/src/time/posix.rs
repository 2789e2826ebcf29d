//! Timers with numbers: `timer_create` and its like.

use alloc::vec::Vec;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::PID;
use crate::signal::pending::{Info, SI_TIMER};
use crate::signal::{number, send};
use crate::time::clock::{is_wall, read_interval, write_interval};
use crate::user::{have_room, read_words, write_u32};

// include/uapi/asm-generic/siginfo.h
const SIGEV_SIGNAL: u32 = 0;
const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD_ID: u32 = 4;
const SIGALRM: u32 = 14;
const TIMER_ABSTIME: u64 = 1;
const TIMERS_MAX: usize = 4096;

/// Whom a timer signals: the signal, the thread or the process, and the value that goes along.
#[derive(Clone, Copy)]
struct Notice {
    signal: u32,
    tid: Option<u32>,
    value: u64,
}

#[derive(Clone, Copy)]
struct Timer {
    wall: bool,
    notice: Option<Notice>,
    next: Option<u64>,
    interval: u64,
    overrun: u64,
}

/// The process's timers, by number.
#[derive(Default)]
pub(crate) struct PosixTimers(Vec<Option<Timer>>);

impl PosixTimers {
    /// When the next of them expires.
    pub(crate) fn next(&self) -> u64 {
        self.0.iter().flatten().filter_map(|timer| timer.next).min().unwrap_or(u64::MAX)
    }

    fn get(&mut self, id: u64) -> Result<&mut Timer, Errno> {
        self.0.get_mut(id as u32 as usize).and_then(Option::as_mut).ok_or(Errno::EINVAL)
    }
}

impl Timer {
    fn setting(&self, now: u64) -> [u64; 2] {
        // A timer that runs never says 0.
        [self.next.map_or(0, |next| next.saturating_sub(now).max(1)), self.interval]
    }
}

impl Kernel {
    /// Sends the signals of those that have expired.
    pub(crate) fn expire_posix_timers(&mut self) {
        let now = self.clock.now();
        for id in 0..self.posix_timers.0.len() {
            let Some(timer) = &mut self.posix_timers.0[id] else { continue };
            let Some(next) = timer.next.filter(|&next| next <= now) else { continue };
            let missed = (now - next).checked_div(timer.interval).unwrap_or(0);
            timer.next = match timer.interval {
                0 => None,
                interval => Some(next.saturating_add((missed + 1).saturating_mul(interval))),
            };
            let Some(notice) = timer.notice else { continue };
            let pending = match notice.tid {
                Some(tid) => self.sched.thread(tid).map(|thread| &mut thread.pending),
                None => Some(&mut self.signals.pending),
            };
            // A signal that is still on its way is not sent again: it tells how often it should have been.
            if let Some(sent) = pending.and_then(|pending| pending.of_timer(id as u32)) {
                timer.overrun = timer.overrun.saturating_add(missed + 1);
                sent.words[0] = about(id, timer.overrun);
                continue;
            }
            timer.overrun = missed;
            let about = about(id, missed);
            let info = Info { signal: notice.signal, code: SI_TIMER, words: [about, notice.value] };
            let _full = match notice.tid {
                Some(tid) => send::to_thread(self, tid, info),
                None => send::to_any(self, info),
            };
        }
    }
}

/// What `si_timerid` and `si_overrun` are made of.
fn about(id: usize, overrun: u64) -> u64 {
    overrun.min(i32::MAX as u64) << 32 | id as u64
}

/// `timer_create`.
pub(crate) fn create(k: &mut Kernel, clock: u64, event: u64, to: u64) -> Outcome {
    let wall = is_wall(clock)?;
    have_room(4096)?;
    let timers = &mut k.posix_timers.0;
    let id = timers.iter().position(Option::is_none).unwrap_or(timers.len());
    if id >= TIMERS_MAX {
        return Err(Errno::EAGAIN);
    }
    let notice = match event {
        0 => Some(Notice { signal: SIGALRM, tid: None, value: id as u64 }),
        at => {
            let [value, how, tid] = read_words(at)?;
            let (signal, tid) = (how as u32, tid as u32);
            match (how >> 32) as u32 {
                SIGEV_NONE => None,
                kind @ (SIGEV_SIGNAL | SIGEV_THREAD_ID) => {
                    let signal = number(signal.into()).ok_or(Errno::EINVAL)?;
                    let tid = (kind == SIGEV_THREAD_ID).then_some(tid);
                    if tid.is_some_and(|tid| k.sched.thread(tid).is_none()) {
                        return Err(Errno::EINVAL);
                    }
                    Some(Notice { signal, tid, value })
                }
                _ => return Err(Errno::EINVAL),
            }
        }
    };
    write_u32(to, id as u32)?;
    let timer = Timer { wall, notice, next: None, interval: 0, overrun: 0 };
    let timers = &mut k.posix_timers.0;
    if id == timers.len() {
        timers.push(Some(timer));
    } else {
        timers[id] = Some(timer);
    }
    Ok(0)
}

/// `timer_settime`.
pub(crate) fn settime(k: &mut Kernel, id: u64, flags: u64, new: u64, old: u64) -> Outcome {
    if new == 0 {
        return Err(Errno::EINVAL);
    }
    let [interval, value] = read_interval(new)?;
    let now = k.clock.look();
    let wall = k.posix_timers.get(id)?.wall;
    let at = match flags & TIMER_ABSTIME != 0 {
        true if wall => k.clock.at_wall(value),
        true => value,
        false => now.saturating_add(value),
    };
    let timer = k.posix_timers.get(id)?;
    let before = timer.setting(now);
    timer.next = (value > 0).then_some(at);
    timer.interval = interval;
    timer.overrun = 0;
    k.find_next_timer();
    if old != 0 {
        write_interval(old, before)?;
    }
    Ok(0)
}

/// `timer_gettime`.
pub(crate) fn gettime(k: &mut Kernel, id: u64, to: u64) -> Outcome {
    let now = k.clock.look();
    let setting = k.posix_timers.get(id)?.setting(now);
    write_interval(to, setting)?;
    Ok(0)
}

/// `timer_getoverrun`.
pub(crate) fn getoverrun(k: &mut Kernel, id: u64) -> Outcome {
    Ok(k.posix_timers.get(id)?.overrun.min(i32::MAX as u64))
}

/// `timer_delete`.
pub(crate) fn delete(k: &mut Kernel, id: u64) -> Outcome {
    k.posix_timers.get(id)?;
    k.posix_timers.0[id as u32 as usize] = None;
    k.find_next_timer();
    Ok(0)
}

/// The process a clock of `clock_getcpuclockid` is of.
pub(crate) fn is_own_clock(clock: u32) -> bool {
    const CLOCK_OF_FILE: u32 = 3;
    let pid = !(clock.cast_signed() >> 3);
    clock & 3 != CLOCK_OF_FILE
        && (pid == 0 || pid == PID.cast_signed() || clock & 4 != 0 && pid > PID.cast_signed())
}
