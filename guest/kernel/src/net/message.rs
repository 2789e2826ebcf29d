//! Sending and receiving: `sendto`, `recvfrom`, `sendmsg`, `recvmsg` and their many.

use alloc::rc::Rc;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, O_NONBLOCK};
use crate::net::address::{Address, Ip};
use crate::net::calls::{ensure_bound, reach, socket_of, wait};
use crate::signal::{SIGPIPE, send};
use crate::user::{read_u32, read_u64, write_u32, write_u64};

const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_WAITALL: u32 = 0x100;
const MSG_NOSIGNAL: u32 = 0x4000;
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
    match socket.send(from, to) {
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

/// What a receive has to tell besides its bytes.
struct Received {
    bytes: u64,
    from: Option<Address>,
    truncated: bool,
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
        return Ok(Received { bytes: before, from: None, truncated: false });
    }
    match socket.receive(to, peek) {
        Ok((bytes, _, _))
            if bytes > 0 && to.left() > 0 && flags & MSG_WAITALL != 0 && socket.is_stream() && !peek =>
        {
            match later(k, description, flags, true) {
                Errno::EAGAIN => Ok(Received { bytes: before + bytes, from: None, truncated: false }),
                error => {
                    k.sched.me().call.progress = before + bytes;
                    Err(error)
                }
            }
        }
        Ok((bytes, whole, from)) => {
            let told = if flags & MSG_TRUNC != 0 && !socket.is_stream() { whole } else { bytes };
            Ok(Received { bytes: before + told, from, truncated: whole > bytes })
        }
        Err(Errno::EAGAIN) => match later(k, description, flags, true) {
            Errno::EAGAIN if before > 0 => Ok(Received { bytes: before, from: None, truncated: false }),
            error => Err(error),
        },
        Err(_) if before > 0 => Ok(Received { bytes: before, from: None, truncated: false }),
        Err(error) => Err(error),
    }
}

/// `sendto`.
pub(crate) fn sendto(k: &mut Kernel, [fd, from, bytes, flags, name, name_bytes]: [u64; 6]) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    send_to(k, &description, &mut Buffers::one(from, bytes), flags as u32, (name, name_bytes))
}

/// `recvfrom`.
pub(crate) fn recvfrom(k: &mut Kernel, [fd, to, bytes, flags, name, length]: [u64; 6]) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    let received = receive(k, &description, &mut Buffers::one(to, bytes), flags as u32)?;
    match received.from {
        Some(from) if name != 0 => from.write(name, length)?,
        // Of a stream nothing is told.
        None if name != 0 && length != 0 => write_u32(length, 0)?,
        _ => {}
    }
    Ok(received.bytes)
}

/// `sendmsg`. Descriptors and credentials are not passed on.
pub(crate) fn sendmsg(k: &mut Kernel, fd: u64, header: u64, flags: u64) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    let word = |offset: u64| read_u64(header.wrapping_add(offset));
    if word(CONTROL_BYTES)? != 0 && word(CONTROL)? != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let name_bytes = u64::from(read_u32(header.wrapping_add(NAME_BYTES))?);
    let mut from = Buffers::many(word(VECTOR)?, word(VECTOR_COUNT)?)?;
    send_to(k, &description, &mut from, flags as u32, (word(NAME)?, name_bytes))
}

/// `recvmsg`.
pub(crate) fn recvmsg(k: &mut Kernel, fd: u64, header: u64, flags: u64) -> Outcome {
    let description = k.files.get(fd)?;
    socket_of(&description)?;
    let word = |offset: u64| read_u64(header.wrapping_add(offset));
    let mut to = Buffers::many(word(VECTOR)?, word(VECTOR_COUNT)?)?;
    let name = word(NAME)?;
    let received = receive(k, &description, &mut to, flags as u32)?;
    let length = header.wrapping_add(NAME_BYTES);
    match received.from {
        Some(from) if name != 0 => from.write(name, length)?,
        _ => write_u32(length, 0)?,
    }
    write_u64(header.wrapping_add(CONTROL_BYTES), 0)?;
    write_u32(header.wrapping_add(FLAGS), if received.truncated { MSG_TRUNC } else { 0 })?;
    Ok(received.bytes)
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
