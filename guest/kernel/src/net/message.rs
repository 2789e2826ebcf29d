//! Sending and receiving: `sendto`, `recvfrom`, `sendmsg`, `recvmsg` and their many.

use alloc::rc::Rc;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, O_NONBLOCK};
use crate::net::address::{AF_UNIX, Address, Ip};
use crate::net::calls::{ensure_bound, reach, socket_of, wait};
use crate::net::half::Passed;
use crate::net::socket::Received;
use crate::signal::{SIGPIPE, send};
use crate::user::{read_u32, read_u64, write_u32, write_u64};

const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
const MSG_CTRUNC: u32 = 8;
const MSG_CMSG_CLOEXEC: u32 = 0x4000_0000;
/// Level and type of a control message: `SOL_SOCKET` and `SCM_*`.
const SCM_RIGHTS: u64 = 1 << 32 | 1;
const SCM_CREDENTIALS: u64 = 2 << 32 | 1;
/// Descriptors in one message, at most.
const SCM_MAX_FD: u64 = 253;
/// Bytes of `struct cmsghdr`.
const CONTROL_HEADER: u64 = 16;
// `struct msghdr`
const NAME: u64 = 0;
const NAME_BYTES: u64 = 8;
const VECTOR: u64 = 16;
const VECTOR_COUNT: u64 = 24;
const CONTROL: u64 = 32;
const CONTROL_BYTES: u64 = 40;
const FLAGS: u64 = 48;
/// Bytes of `struct mmsghdr`.
const MANY_BYTES: u64 = 64;

/// `EAGAIN`, or waiting.
fn later(k: &mut Kernel, description: &Description, flags: u32, receive: bool) -> Errno {
    if flags & MSG_DONTWAIT != 0 { Errno::EAGAIN } else { wait(k, description, receive) }
}

/// Sends; `name` and its length may say to whom.
fn send_to(
    k: &mut Kernel,
    description: &Rc<Description>,
    from: &mut Buffers,
    flags: u32,
    (name, bytes): (u64, u64),
    passed: Passed,
) -> Outcome {
    let socket = socket_of(description)?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let to = if name == 0 || socket.is_stream() {
        None
    } else {
        let address = Address::read(name, bytes)?;
        let target = reach(k, socket, &address);
        ensure_bound(socket, if socket.is_v6() { Ip::LOOPBACK_V6 } else { Ip::LOOPBACK_V4 })?;
        match target {
            Ok(target) => Some(target),
            // Nobody is there: the datagram is lost.
            Err(Errno::ECONNREFUSED) if socket.family != 1 => {
                let all = from.left();
                from.skip(all);
                return Ok(all);
            }
            Err(error) => return Err(error),
        }
    };
    let before = k.sched.me().call.progress;
    from.skip(before);
    let waits = flags & MSG_DONTWAIT == 0 && !description.has(O_NONBLOCK);
    // Descriptors have gone with the first part.
    let passed = if before == 0 { passed } else { Passed::new() };
    match socket.send(from, to, passed) {
        Ok(bytes) if waits && from.left() > 0 && bytes > 0 && socket.is_stream() => {
            let error = wait(k, description, false);
            if error == Errno::EAGAIN {
                return Ok(before + bytes);
            }
            k.sched.me().call.progress = before + bytes;
            Err(error)
        }
        Ok(bytes) => Ok(before + bytes),
        Err(Errno::EAGAIN) => match later(k, description, flags, false) {
            Errno::EAGAIN if before > 0 => Ok(before),
            error => Err(error),
        },
        Err(Errno::EPIPE) if before == 0 => {
            if flags & MSG_NOSIGNAL == 0 && socket.is_stream() {
                send::to_me(k, SIGPIPE);
            }
            Err(Errno::EPIPE)
        }
        Err(_) if before > 0 => Ok(before),
        Err(error) => Err(error),
    }
}

/// Bytes, and nothing else to tell.
fn plain(bytes: u64) -> Received {
    Received { bytes, whole: bytes, ..Received::default() }
}

/// What a receive returns: with `MSG_TRUNC` the length of the whole datagram.
fn told(received: &Received, flags: u64) -> u64 {
    if flags as u32 & MSG_TRUNC != 0 { received.whole.max(received.bytes) } else { received.bytes }
}

fn receive(
    k: &mut Kernel,
    description: &Rc<Description>,
    to: &mut Buffers,
    flags: u32,
) -> Result<Received, Errno> {
    let socket = socket_of(description)?;
    if flags & MSG_OOB != 0 {
        return Err(if socket.family == 1 { Errno::EOPNOTSUPP } else { Errno::EINVAL });
    }
    let peek = flags & MSG_PEEK != 0;
    let before = k.sched.me().call.progress;
    to.skip(before);
    if to.left() == 0 && before > 0 {
        return Ok(plain(before));
    }
    match socket.receive(to, peek) {
        Ok(Received { bytes, .. })
            if bytes > 0 && to.left() > 0 && flags & MSG_WAITALL != 0 && !peek && socket.more_may_come() =>
        {
            match later(k, description, flags, true) {
                Errno::EAGAIN => Ok(plain(before + bytes)),
                error => {
                    k.sched.me().call.progress = before + bytes;
                    Err(error)
                }
            }
        }
        Ok(received) => Ok(Received { bytes: before + received.bytes, ..received }),
        Err(Errno::EAGAIN) => match later(k, description, flags, true) {
            Errno::EAGAIN if before > 0 => Ok(plain(before)),
            error => Err(error),
        },
        Err(_) if before > 0 => Ok(plain(before)),
        Err(error) => Err(error),
    }
}

/// `sendto`.
pub(crate) fn sendto(k: &mut Kernel, [fd, from, bytes, flags, name, name_bytes]: [u64; 6]) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    send_to(k, &description, &mut Buffers::one(from, bytes), flags as u32, (name, name_bytes), Passed::new())
}

/// `recvfrom`.
pub(crate) fn recvfrom(k: &mut Kernel, [fd, to, bytes, flags, name, length]: [u64; 6]) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    let received = receive(k, &description, &mut Buffers::one(to, bytes), flags as u32)?;
    let told = told(&received, flags);
    match received.from {
        Some(Address::Unix(none)) if name != 0 && none.is_empty() => write_u32(length, 0)?,
        Some(from) if name != 0 => from.write(name, length)?,
        // Of a stream nothing is told.
        None if name != 0 && length != 0 => write_u32(length, 0)?,
        _ => {}
    }
    Ok(told)
}

/// The descriptions that a control message passes on; credentials are the only process's anyway.
fn control(k: &Kernel, at: u64, bytes: u64) -> Result<Passed, Errno> {
    let mut passed = Passed::new();
    let mut offset = 0;
    while at != 0 && offset + CONTROL_HEADER <= bytes {
        let length = read_u64(at.wrapping_add(offset))?;
        let kind = read_u64(at.wrapping_add(offset + 8))?;
        if length < CONTROL_HEADER || length > bytes - offset {
            return Err(Errno::EINVAL);
        }
        match kind {
            SCM_RIGHTS => {
                let count = (length - CONTROL_HEADER) / 4;
                if passed.len() as u64 + count > SCM_MAX_FD {
                    return Err(Errno::EINVAL);
                }
                for i in 0..count {
                    let fd = read_u32(at.wrapping_add(offset + CONTROL_HEADER + i * 4))?;
                    passed.push(k.files.get(fd.into())?);
                }
            }
            SCM_CREDENTIALS => {}
            _ => return Err(Errno::EINVAL),
        }
        offset += length.next_multiple_of(8);
    }
    Ok(passed)
}

/// Gives received descriptions numbers, and says which, as far as there is room. Returns the length of
/// the control message and whether something was left out.
fn hand_out(k: &mut Kernel, passed: Passed, at: u64, room: u64, flags: u64) -> Result<(u64, bool), Errno> {
    if passed.is_empty() {
        return Ok((0, false));
    }
    let fits = if at == 0 { 0 } else { room.saturating_sub(CONTROL_HEADER) / 4 };
    let mut count = 0;
    let all = passed.len() as u64;
    for description in passed.into_iter().take(fits as usize) {
        let Ok(fd) = k.files.add(description, flags as u32 & MSG_CMSG_CLOEXEC != 0, 0) else { break };
        write_u32(at.wrapping_add(CONTROL_HEADER + count * 4), fd as u32)?;
        count += 1;
    }
    if count == 0 {
        return Ok((0, true));
    }
    write_u64(at, CONTROL_HEADER + count * 4)?;
    write_u64(at.wrapping_add(8), SCM_RIGHTS)?;
    Ok(((CONTROL_HEADER + count * 4).next_multiple_of(8).min(room), count < all))
}

/// The buffers of a message.
fn parts(vector: u64, count: u64) -> Result<Buffers, Errno> {
    if count > 1024 { Err(Errno::EMSGSIZE) } else { Buffers::many(vector, count) }
}

/// `sendmsg`.
pub(crate) fn sendmsg(k: &mut Kernel, fd: u64, header: u64, flags: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let unix = socket_of(&description)?.family == AF_UNIX;
    let word = |offset: u64| read_u64(header.wrapping_add(offset));
    let name_bytes = u64::from(read_u32(header.wrapping_add(NAME_BYTES))?);
    let mut from = parts(word(VECTOR)?, word(VECTOR_COUNT)?)?;
    let passed = if unix { control(k, word(CONTROL)?, word(CONTROL_BYTES)?)? } else { Passed::new() };
    send_to(k, &description, &mut from, flags as u32, (word(NAME)?, name_bytes), passed)
}

/// `recvmsg`.
pub(crate) fn recvmsg(k: &mut Kernel, fd: u64, header: u64, flags: u64) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    let word = |offset: u64| read_u64(header.wrapping_add(offset));
    let mut to = parts(word(VECTOR)?, word(VECTOR_COUNT)?)?;
    let (name, control, room) = (word(NAME)?, word(CONTROL)?, word(CONTROL_BYTES)?);
    let received = receive(k, &description, &mut to, flags as u32)?;
    let (told, cut) = (told(&received, flags), received.whole > received.bytes);
    let length = header.wrapping_add(NAME_BYTES);
    match received.from {
        Some(Address::Unix(none)) if name != 0 && none.is_empty() => write_u32(length, 0)?,
        Some(from) if name != 0 => from.write(name, length)?,
        _ if name != 0 => write_u32(length, 0)?,
        _ => {}
    }
    let (used, lost) = hand_out(k, received.passed, control, room, flags)?;
    write_u64(header.wrapping_add(CONTROL_BYTES), used)?;
    let bits = if cut { MSG_TRUNC } else { 0 } | if lost { MSG_CTRUNC } else { 0 };
    write_u32(header.wrapping_add(FLAGS), bits | flags as u32 & MSG_CMSG_CLOEXEC)?;
    Ok(told)
}

/// `sendmmsg`.
pub(crate) fn sendmmsg(k: &mut Kernel, fd: u64, headers: u64, count: u64, flags: u64) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    for i in 0..u64::from(count as u32).min(1024) {
        let header = headers.wrapping_add(i * MANY_BYTES);
        // Only the first may wait: a call that waits is served again from its start.
        let now = if i == 0 { flags } else { flags | u64::from(MSG_DONTWAIT) };
        match sendmsg(k, fd, header, now) {
            Ok(bytes) => write_u32(header.wrapping_add(56), bytes as u32)?,
            Err(error) if i == 0 => return Err(error),
            Err(_) => return Ok(i),
        }
    }
    Ok(u64::from(count as u32).min(1024))
}

/// `recvmmsg`.
pub(crate) fn recvmmsg(k: &mut Kernel, fd: u64, headers: u64, count: u64, flags: u64) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    for i in 0..u64::from(count as u32).min(1024) {
        let header = headers.wrapping_add(i * MANY_BYTES);
        let now = if i == 0 { flags } else { flags | u64::from(MSG_DONTWAIT) };
        match recvmsg(k, fd, header, now) {
            Ok(bytes) => write_u32(header.wrapping_add(56), bytes as u32)?,
            Err(error) if i == 0 => return Err(error),
            Err(_) => return Ok(i),
        }
    }
    Ok(u64::from(count as u32).min(1024))
}
