//! Timers that are read. timerfd_create(2).

use alloc::rc::Rc;
use core::cell::Cell;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::eventfd::anonymous;
use crate::fd::object::{Description, O_CLOEXEC, O_NONBLOCK, O_RDWR, Object, POLLIN, Ready, Stat};
use crate::sched;
use crate::time::clock::{read_interval, write_interval};

const TFD_TIMER_ABSTIME: u64 = 1;
const TFD_TIMER_CANCEL_ON_SET: u64 = 2;

/// A timer.
pub(crate) struct Timer {
    wall: bool,
    // When it next expires, since boot.
    next: Cell<Option<u64>>,
    interval: Cell<u64>,
    // Expirations that were read.
    edges: Cell<u64>,
}

impl Timer {
    /// Expirations by `now`, not read yet.
    fn expired(&self, now: u64) -> u64 {
        match (self.next.get(), self.interval.get()) {
            (Some(next), 0) if next <= now => 1,
            (Some(next), interval) if next <= now => 1 + (now - next) / interval,
            _ => 0,
        }
    }

    /// Time left and interval.
    fn setting(&self, now: u64) -> [u64; 2] {
        let Some(next) = self.next.get() else { return [0, self.interval.get()] };
        let interval = self.interval.get();
        if next > now {
            return [next - now, interval];
        }
        let left = if interval == 0 { 0 } else { interval - (now - next) % interval };
        [left, interval]
    }
}

impl Object for Timer {
    fn ready(&self, now: u64) -> Ready {
        let expired = self.expired(now);
        let next = self.next.get();
        let at = match self.interval.get() {
            0 => next.filter(|&next| next > now),
            interval => next.map(|next| next.saturating_add(expired.saturating_mul(interval))),
        };
        let mask = if expired > 0 { POLLIN } else { 0 };
        Ready { mask, in_edges: self.edges.get() + expired, out_edges: 0, at }
    }

    fn read(&self, k: &mut Kernel, _from: &Description, _at: Option<u64>, to: &mut Buffers) -> Outcome {
        if to.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let expired = self.expired(k.clock.now());
        if expired == 0 {
            return Err(Errno::EAGAIN);
        }
        to.put(&expired.to_le_bytes())?;
        self.edges.set(self.edges.get() + expired);
        self.next.set(match self.interval.get() {
            0 => None,
            interval => self.next.get().map(|next| next.saturating_add(expired.saturating_mul(interval))),
        });
        Ok(8)
    }

    /// Accepted, and without effect.
    fn seek(&self, description: &Description, _offset: i64, _whence: u64) -> Outcome {
        Ok(description.offset.get())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(anonymous())
    }
}

/// `timerfd_create`.
pub(crate) fn create(k: &mut Kernel, clock: u64, flags: u64) -> Outcome {
    let flags = flags as u32;
    let wall = match clock as u32 {
        0 | 8 => true,
        1 | 7 | 9 => false,
        _ => return Err(Errno::EINVAL),
    };
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let (next, interval, edges) = (Cell::new(None), Cell::new(0), Cell::new(0));
    k.files.open(Rc::new(Timer { wall, next, interval, edges }), O_RDWR | flags)
}

/// `timerfd_settime`.
pub(crate) fn settime(k: &mut Kernel, fd: u64, flags: u64, new: u64, old: u64) -> Outcome {
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let [interval, value] = read_interval(new)?;
    let description = k.files.get(fd)?;
    let timer = description.as_a::<Timer>().ok_or(Errno::EINVAL)?;
    let now = k.clock.look();
    let before = timer.setting(now);
    timer.next.set(match value {
        0 => None,
        _ if flags & TFD_TIMER_ABSTIME == 0 => Some(now.saturating_add(value)),
        _ if timer.wall => Some(k.clock.at_wall(value)),
        _ => Some(value),
    });
    timer.interval.set(interval);
    sched::event();
    if old != 0 {
        write_interval(old, before)?;
    }
    Ok(0)
}

/// `timerfd_gettime`.
pub(crate) fn gettime(k: &mut Kernel, fd: u64, to: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let timer = description.as_a::<Timer>().ok_or(Errno::EINVAL)?;
    write_interval(to, timer.setting(k.clock.look()))?;
    Ok(0)
}
