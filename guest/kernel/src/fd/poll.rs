//! `poll` and `ppoll`. poll(2); Linux `fs/select.c`.

use alloc::vec::Vec;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::{POLLERR, POLLHUP, POLLNVAL, Ready};
use crate::time::clock::{MILLISECOND_NS, read_timespec};
use crate::user::{have_room, read_bytes, write_bytes};

/// `poll`.
pub(crate) fn poll(k: &mut Kernel, entries: u64, count: u64, timeout: u64) -> Outcome {
    let millis = timeout as u32;
    k.deadline(|k| {
        let wait = u64::from(millis) * MILLISECOND_NS;
        Ok((millis.cast_signed() >= 0).then(|| k.clock.now().saturating_add(wait)))
    })?;
    wait(k, entries, count)
}

/// `ppoll`.
pub(crate) fn ppoll(k: &mut Kernel, args: [u64; 6]) -> Outcome {
    let [entries, count, timeout, mask, mask_bytes, _] = args;
    set_deadline(k, timeout)?;
    k.hold_off_for_this_call(mask, mask_bytes)?;
    wait(k, entries, count)
}

/// The deadline that a pointer to a `struct timespec` means; none for a null pointer.
pub(crate) fn set_deadline(k: &mut Kernel, timeout: u64) -> Result<(), Errno> {
    k.deadline(|k| {
        Ok(match timeout {
            0 => None,
            at => Some(read_timespec(at)?.saturating_add(k.clock.now())),
        })
    })?;
    Ok(())
}

/// What descriptor `fd` is ready for.
pub(crate) fn ready(k: &Kernel, fd: u64) -> Ready {
    let now = k.clock.now();
    match k.files.get(fd) {
        Ok(description) => description.object.ready(now),
        Err(_) => Ready { mask: POLLNVAL, ..Ready::default() },
    }
}

/// The end of an attempt that found nothing: the time is over, or it waits. The call does not begin
/// anew after a signal handler, whatever its flags: signal(7).
pub(crate) fn nothing_ready(k: &mut Kernel, alarm: Option<u64>) -> Outcome {
    let deadline = k.deadline(|_| Ok(None))?;
    if k.is_past(deadline) {
        // A program that only ever looks: what has come is there at its next look.
        crate::host::glance();
        return Ok(0);
    }
    let error = k.block_for_event(alarm);
    k.sched.me().call.restarts = false;
    Err(error)
}

/// The earlier of two times.
pub(crate) fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.map_or(b, |a| Some(b.map_or(a, |b| a.min(b))))
}

fn wait(k: &mut Kernel, entries: u64, count: u64) -> Outcome {
    let count = u64::from(count as u32);
    if count > k.files.limit {
        return Err(Errno::EINVAL);
    }
    have_room(count as usize * 2)?;
    let mut found = Vec::with_capacity(count as usize);
    let mut alarm = None;
    for i in 0..count {
        let entry = u64::from_le_bytes(read_bytes(entries.wrapping_add(i * 8))?);
        let (fd, wanted) = (entry as u32, (entry >> 32) as u16);
        let got = if fd.cast_signed() < 0 {
            0
        } else {
            let ready = ready(k, fd.into());
            alarm = earlier(alarm, ready.at);
            ready.mask & (u32::from(wanted) | POLLERR | POLLHUP | POLLNVAL)
        };
        found.push(got as u16);
    }
    for (i, got) in found.iter().enumerate() {
        write_bytes(entries.wrapping_add(i as u64 * 8 + 6), &got.to_le_bytes())?;
    }
    match found.iter().filter(|&&got| got != 0).count() {
        0 => nothing_ready(k, alarm),
        ready => Ok(ready as u64),
    }
}
