//! `epoll`. epoll(7); Linux `fs/eventpoll.c`.
//!
//! Nothing is queued when a description becomes ready: each look asks all descriptions in the set,
//! in the order they were added, going round from where the last look ended. Edge-triggered entries
//! remember how often their description had become ready when they were last reported.

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::eventfd::anonymous;
use crate::fd::object::{
    Description, O_CLOEXEC, O_RDWR, Object, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDBAND,
    POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM, Ready, Stat,
};
use crate::fd::poll::{earlier, nothing_ready, set_deadline};
use crate::sched;
use crate::time::clock::MILLISECOND_NS;
use crate::user::{have_room, read_bytes, write_bytes};

// include/uapi/linux/eventpoll.h
const CTL_ADD: u64 = 1;
const CTL_DEL: u64 = 2;
const CTL_MOD: u64 = 3;
const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
/// Bits that are not events.
const PRIVATE: u32 = EXCLUSIVE | WAKEUP | ONESHOT | EDGE;
const IN_EVENTS: u32 = POLLIN | POLLPRI | POLLRDNORM | POLLRDBAND | POLLRDHUP | POLLERR | POLLHUP;
const OUT_EVENTS: u32 = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR | POLLHUP;
/// `struct epoll_event` is packed on x86-64.
const EVENT_BYTES: u64 = 12;
/// Sets within sets.
const DEPTH_MAX: usize = 5;

struct Entry {
    fd: u32,
    description: Weak<Description>,
    id: u64,
    events: u32,
    data: u64,
    // In and out edges at the last report; edge-triggered entries are silent until they change.
    seen: Option<(u64, u64)>,
}

/// An `epoll` set.
pub(crate) struct Epoll {
    entries: RefCell<Vec<Entry>>,
    // Where the next look begins.
    next: Cell<usize>,
    edges: Cell<u64>,
}

impl Entry {
    /// What it has to report; and when the clock alone changes that.
    fn ready(&self, now: u64) -> (u32, Ready) {
        let Some(description) = self.description.upgrade() else { return Default::default() };
        let ready = description.object.ready(now);
        let wanted = self.events & !PRIVATE;
        if wanted == 0 && self.events & ONESHOT != 0 {
            return (0, ready);
        }
        let mut mask = ready.mask & (wanted | POLLERR | POLLHUP);
        if self.events & EDGE != 0
            && let Some((ins, outs)) = self.seen
        {
            let came_in = ready.in_edges != ins
                && (self.events & IN_EVENTS != 0 || ready.mask & (POLLERR | POLLHUP) != 0);
            let came_out =
                ready.out_edges != outs && (self.events & OUT_EVENTS != 0 || ready.mask & POLLERR != 0);
            if !came_in && !came_out {
                mask = 0;
            }
        }
        (mask, ready)
    }
}

impl Object for Epoll {
    fn ready(&self, now: u64) -> Ready {
        let mut all = Ready { in_edges: self.edges.get(), ..Ready::default() };
        // A set that contains itself is refused; one that is being changed is not looked at.
        let Ok(entries) = self.entries.try_borrow() else { return all };
        for entry in entries.iter() {
            let (mask, ready) = entry.ready(now);
            all.mask |= if mask != 0 { POLLIN | POLLRDNORM } else { 0 };
            all.at = earlier(all.at, ready.at);
            all.in_edges = all.in_edges.wrapping_add(ready.in_edges).wrapping_add(ready.out_edges);
        }
        all
    }

    /// Accepted, and without effect.
    fn seek(&self, description: &Description, _offset: i64, _whence: u64) -> Outcome {
        Ok(description.offset.get())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(anonymous())
    }
}

impl Epoll {
    /// How deep the sets within it go, itself included.
    fn depth(&self, left: usize) -> usize {
        if left == 0 {
            return 1;
        }
        let entries = self.entries.borrow();
        let inner = entries.iter().filter_map(|entry| entry.description.upgrade());
        1 + inner.filter_map(|d| d.as_a::<Self>().map(|set| set.depth(left - 1))).max().unwrap_or(0)
    }

    fn contains(&self, id: u64, left: usize) -> bool {
        left > 0
            && self.entries.borrow().iter().any(|entry| {
                entry.id == id
                    || entry
                        .description
                        .upgrade()
                        .is_some_and(|d| d.as_a::<Self>().is_some_and(|set| set.contains(id, left - 1)))
            })
    }

    /// Reports up to `max` events to `to`; returns how many, and when the clock alone brings one.
    fn collect(&self, now: u64, to: u64, max: u64) -> Result<(u64, Option<u64>), Errno> {
        let mut entries = self.entries.borrow_mut();
        entries.retain(|entry| entry.description.strong_count() > 0);
        let count = entries.len();
        let (mut reported, mut alarm) = (0, None);
        let first = self.next.get();
        for i in 0..count {
            let at = (first + i) % count;
            let entry = &mut entries[at];
            let (mask, ready) = entry.ready(now);
            alarm = earlier(alarm, ready.at);
            if mask == 0 {
                continue;
            }
            if reported == max {
                self.next.set(at);
                break;
            }
            let mut event = [0; EVENT_BYTES as usize];
            event[..4].copy_from_slice(&mask.to_le_bytes());
            event[4..].copy_from_slice(&entry.data.to_le_bytes());
            write_bytes(to.wrapping_add(reported * EVENT_BYTES), &event)?;
            reported += 1;
            entry.seen = Some((ready.in_edges, ready.out_edges));
            if entry.events & ONESHOT != 0 {
                entry.events &= PRIVATE;
            }
        }
        Ok((reported, alarm))
    }
}

/// `epoll_create`.
pub(crate) fn create(k: &mut Kernel, size: u64) -> Outcome {
    if (size as u32).cast_signed() <= 0 { Err(Errno::EINVAL) } else { create1(k, 0) }
}

/// `epoll_create1`.
pub(crate) fn create1(k: &mut Kernel, flags: u64) -> Outcome {
    let flags = flags as u32;
    if flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let set = Epoll { entries: RefCell::default(), next: Cell::new(0), edges: Cell::new(0) };
    k.files.open(Rc::new(set), O_RDWR | flags)
}

/// `epoll_ctl`.
pub(crate) fn ctl(k: &mut Kernel, set: u64, operation: u64, fd: u64, event: u64) -> Outcome {
    let (mut events, mut data) = (0, 0);
    let operation = u64::from(operation as u32);
    if operation != CTL_DEL {
        let event: [u8; EVENT_BYTES as usize] = read_bytes(event)?;
        events = event.first_chunk().map_or(0, |c| u32::from_le_bytes(*c));
        data = event.last_chunk().map_or(0, |c| u64::from_le_bytes(*c));
    }
    let holder = k.files.get(set)?;
    let target = k.files.get(fd)?;
    // Regular files and directories are always ready, and refused.
    if target.object.has_positions() && target.as_a::<Epoll>().is_none() {
        return Err(Errno::EPERM);
    }
    let set = holder.as_a::<Epoll>().filter(|_| holder.id != target.id).ok_or(Errno::EINVAL)?;
    let inner = target.as_a::<Epoll>();
    if events & EXCLUSIVE != 0 && (operation == CTL_MOD || events & ONESHOT != 0 || inner.is_some()) {
        return Err(Errno::EINVAL);
    }
    let key = (fd as u32, target.id);
    let found = set.entries.borrow().iter().position(|entry| (entry.fd, entry.id) == key);
    match (operation, found) {
        (CTL_ADD, None) => {
            if let Some(inner) = inner
                && (inner.contains(holder.id, DEPTH_MAX) || inner.depth(DEPTH_MAX) >= DEPTH_MAX)
            {
                return Err(Errno::ELOOP);
            }
            have_room(1024)?;
            let (fd, id) = key;
            let description = Rc::downgrade(&target);
            set.entries.borrow_mut().push(Entry { fd, description, id, events, data, seen: None });
        }
        (CTL_ADD, Some(_)) => return Err(Errno::EEXIST),
        (CTL_MOD, Some(at)) => {
            let mut entries = set.entries.borrow_mut();
            let entry = &mut entries[at];
            (entry.events, entry.data, entry.seen) = (events, data, None);
        }
        (CTL_DEL, Some(at)) => {
            set.entries.borrow_mut().remove(at);
        }
        (CTL_MOD | CTL_DEL, None) => return Err(Errno::ENOENT),
        _ => return Err(Errno::EINVAL),
    }
    set.edges.set(set.edges.get() + 1);
    sched::event();
    Ok(0)
}

/// `epoll_wait`.
pub(crate) fn wait(k: &mut Kernel, set: u64, to: u64, max: u64, timeout: u64) -> Outcome {
    let millis = timeout as u32;
    k.deadline(|k| {
        let wait = u64::from(millis) * MILLISECOND_NS;
        Ok((millis.cast_signed() >= 0).then(|| k.clock.now().saturating_add(wait)))
    })?;
    look(k, set, to, max)
}

/// `epoll_pwait`.
pub(crate) fn pwait(k: &mut Kernel, args: [u64; 6]) -> Outcome {
    let [set, to, max, timeout, mask, mask_bytes] = args;
    k.hold_off_for_this_call(mask, mask_bytes)?;
    wait(k, set, to, max, timeout)
}

/// `epoll_pwait2`.
pub(crate) fn pwait2(k: &mut Kernel, args: [u64; 6]) -> Outcome {
    let [set, to, max, timeout, mask, mask_bytes] = args;
    set_deadline(k, timeout)?;
    k.hold_off_for_this_call(mask, mask_bytes)?;
    look(k, set, to, max)
}

fn look(k: &mut Kernel, set: u64, to: u64, max: u64) -> Outcome {
    let max = max as u32;
    if max.cast_signed() <= 0 || u64::from(max) > i32::MAX as u64 / EVENT_BYTES {
        return Err(Errno::EINVAL);
    }
    let holder = k.files.get(set)?;
    let set = holder.as_a::<Epoll>().ok_or(Errno::EINVAL)?;
    match set.collect(k.clock.now(), to, max.into())? {
        (0, alarm) => nothing_ready(k, alarm),
        (reported, _) => Ok(reported),
    }
}
