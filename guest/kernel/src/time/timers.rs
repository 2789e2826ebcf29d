//! Timers that send signals: `alarm`, `setitimer`.
//!
//! All three clocks of `setitimer` are the machine's one: time passes while the program computes or
//! waits, by what it asks for. They ring in the next system call; a program that makes none is never
//! interrupted.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::signal::send;
use crate::time::clock::{MICROSECOND_NS, SECOND_NS};
use crate::user::{read_words, write_words};

/// SIGALRM, SIGVTALRM, SIGPROF: of ITIMER_REAL, ITIMER_VIRTUAL and ITIMER_PROF.
const SIGNALS: [u32; 3] = [14, 26, 27];

#[derive(Clone, Copy, Default)]
struct Timer {
    next: Option<u64>,
    interval: u64,
}

/// The process's interval timers.
#[derive(Default)]
pub(crate) struct Timers {
    timers: [Timer; 3],
}

impl Timers {
    /// When the next of them expires.
    pub(crate) fn next(&self) -> u64 {
        self.timers.iter().filter_map(|timer| timer.next).min().unwrap_or(u64::MAX)
    }

    fn setting(&self, which: usize, now: u64) -> [u64; 2] {
        let timer = self.timers[which];
        // A timer that runs never says 0.
        [timer.interval, timer.next.map_or(0, |next| next.saturating_sub(now).max(MICROSECOND_NS))]
    }
}

impl Kernel {
    /// Sends the signals of timers that have expired.
    pub(crate) fn expire_timers(&mut self) {
        let now = self.clock.now();
        for (which, signal) in SIGNALS.into_iter().enumerate() {
            let timer = &mut self.timers.timers[which];
            let Some(next) = timer.next.filter(|&next| next <= now) else { continue };
            timer.next = match timer.interval {
                0 => None,
                interval => Some(next.saturating_add(((now - next) / interval + 1).saturating_mul(interval))),
            };
            send::to_process(self, signal, send::SI_KERNEL);
        }
        self.expire_posix_timers();
    }
}

/// `setitimer`.
pub(crate) fn setitimer(k: &mut Kernel, which: u64, new: u64, old: u64) -> Outcome {
    let which = timer(which)?;
    let [interval, value] = match new {
        0 => [0, 0],
        at => {
            let [a, b, c, d] = read_words(at)?;
            [nanos(a, b)?, nanos(c, d)?]
        }
    };
    let now = k.clock.look();
    let before = k.timers.setting(which, now);
    k.timers.timers[which] = Timer { next: (value > 0).then(|| now.saturating_add(value)), interval };
    k.find_next_timer();
    if old != 0 {
        write_setting(old, before)?;
    }
    Ok(0)
}

/// `getitimer`.
pub(crate) fn getitimer(k: &mut Kernel, which: u64, to: u64) -> Outcome {
    let which = timer(which)?;
    let now = k.clock.look();
    write_setting(to, k.timers.setting(which, now))
}

/// `alarm`.
pub(crate) fn alarm(k: &mut Kernel, seconds: u64) -> Outcome {
    let now = k.clock.look();
    let [_, left] = k.timers.setting(0, now);
    let value = u64::from(seconds as u32).saturating_mul(SECOND_NS);
    k.timers.timers[0] = Timer { next: (value > 0).then(|| now.saturating_add(value)), interval: 0 };
    k.find_next_timer();
    // To the nearest second, but never 0 while it ran.
    let rounded = (left + SECOND_NS / 2) / SECOND_NS;
    Ok(if left > 0 { rounded.max(1) } else { 0 })
}

fn timer(which: u64) -> Result<usize, Errno> {
    usize::try_from(which as u32).ok().filter(|&which| which < 3).ok_or(Errno::EINVAL)
}

fn nanos(seconds: u64, micros: u64) -> Result<u64, Errno> {
    if micros >= 1_000_000 || seconds > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND_NS).saturating_add(micros * MICROSECOND_NS))
}

fn write_setting(to: u64, [interval, left]: [u64; 2]) -> Outcome {
    let pair = |time: u64| [time / SECOND_NS, time % SECOND_NS / MICROSECOND_NS];
    let ([a, b], [c, d]) = (pair(interval), pair(left));
    write_words(to, &[a, b, c, d])?;
    Ok(0)
}
