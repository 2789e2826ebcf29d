//! Reading and writing: the one way in for what the application reads, and the one way out.

use alloc::rc::Rc;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, O_NONBLOCK};
use crate::signal::{SIGPIPE, send};

/// `read`.
pub(crate) fn read(k: &mut Kernel, fd: u64, to: u64, bytes: u64) -> Outcome {
    let from = k.files.get(fd)?;
    read_from(k, &from, None, &mut Buffers::one(to, bytes))
}

/// `readv`.
pub(crate) fn readv(k: &mut Kernel, fd: u64, vector: u64, count: u64) -> Outcome {
    let from = k.files.get(fd)?;
    may(from.may_read())?;
    read_from(k, &from, None, &mut Buffers::many(vector, count)?)
}

/// `pread64`.
pub(crate) fn pread(k: &mut Kernel, fd: u64, to: u64, bytes: u64, at: u64) -> Outcome {
    let (from, at) = positioned(k, fd, at)?;
    read_from(k, &from, Some(at), &mut Buffers::one(to, bytes))
}

/// `preadv`, and `preadv2` without flags.
pub(crate) fn preadv(k: &mut Kernel, fd: u64, vector: u64, count: u64, at: u64) -> Outcome {
    let (from, at) = positioned(k, fd, at)?;
    may(from.may_read())?;
    read_from(k, &from, Some(at), &mut Buffers::many(vector, count)?)
}

/// `write`.
pub(crate) fn write(k: &mut Kernel, fd: u64, from: u64, bytes: u64) -> Outcome {
    let to = k.files.get(fd)?;
    write_to(k, &to, None, &mut Buffers::one(from, bytes))
}

/// `writev`.
pub(crate) fn writev(k: &mut Kernel, fd: u64, vector: u64, count: u64) -> Outcome {
    let to = k.files.get(fd)?;
    may(to.may_write())?;
    write_to(k, &to, None, &mut Buffers::many(vector, count)?)
}

/// `pwrite64`.
pub(crate) fn pwrite(k: &mut Kernel, fd: u64, from: u64, bytes: u64, at: u64) -> Outcome {
    let (to, at) = positioned(k, fd, at)?;
    write_to(k, &to, Some(at), &mut Buffers::one(from, bytes))
}

/// `pwritev`, and `pwritev2` without flags.
pub(crate) fn pwritev(k: &mut Kernel, fd: u64, vector: u64, count: u64, at: u64) -> Outcome {
    let (to, at) = positioned(k, fd, at)?;
    may(to.may_write())?;
    write_to(k, &to, Some(at), &mut Buffers::many(vector, count)?)
}

/// `preadv2`: at -1 it is `readv`.
pub(crate) fn preadv2(k: &mut Kernel, fd: u64, vector: u64, count: u64, at: u64, flags: u64) -> Outcome {
    if flags != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if at == u64::MAX { readv(k, fd, vector, count) } else { preadv(k, fd, vector, count, at) }
}

/// `pwritev2`: at -1 it is `writev`.
pub(crate) fn pwritev2(k: &mut Kernel, fd: u64, vector: u64, count: u64, at: u64, flags: u64) -> Outcome {
    if flags != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if at == u64::MAX { writev(k, fd, vector, count) } else { pwritev(k, fd, vector, count, at) }
}

/// A description with positions, and one of them. A negative one is found out first, as on Linux.
fn positioned(k: &mut Kernel, fd: u64, at: u64) -> Result<(Rc<Description>, u64), Errno> {
    if at > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let description = k.files.get(fd)?;
    if description.object.has_positions() { Ok((description, at)) } else { Err(Errno::ESPIPE) }
}

fn may(allowed: bool) -> Result<(), Errno> {
    if allowed { Ok(()) } else { Err(Errno::EBADF) }
}

/// Reads from a description: every byte that the application reads comes this way.
pub(crate) fn read_from(
    k: &mut Kernel,
    from: &Rc<Description>,
    at: Option<u64>,
    to: &mut Buffers,
) -> Outcome {
    may(from.may_read())?;
    to.check_writable()?;
    match from.object.read(k, from, at, to) {
        Err(Errno::EAGAIN) if !from.has(O_NONBLOCK) => Err(wait_for(k, from)),
        outcome => outcome,
    }
}

/// Writes to a description.
pub(crate) fn write_to(k: &mut Kernel, to: &Rc<Description>, at: Option<u64>, from: &mut Buffers) -> Outcome {
    may(to.may_write())?;
    let before = k.sched.me().call.progress;
    from.skip(before);
    let waits = !to.has(O_NONBLOCK);
    match to.object.write(k, to, at, from) {
        Ok(bytes) if waits && from.left() > 0 && bytes > 0 && to.object.writes_all() => {
            let error = wait_for(k, to);
            k.sched.me().call.progress = before + bytes;
            Err(error)
        }
        Ok(bytes) => Ok(before + bytes),
        Err(Errno::EAGAIN) if waits => Err(wait_for(k, to)),
        Err(Errno::EPIPE) if before == 0 => {
            send::to_me(k, SIGPIPE);
            Err(Errno::EPIPE)
        }
        Err(_) if before > 0 => Ok(before),
        Err(error) => Err(error),
    }
}

/// Waits for a change of `description`.
pub(crate) fn wait_for(k: &mut Kernel, description: &Description) -> Errno {
    let alarm = description.object.ready(k.clock.now()).at;
    k.block_for_event(alarm)
}
