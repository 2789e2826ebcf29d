//! Options of sockets. socket(7), tcp(7), ip(7), ipv6(7).

use alloc::collections::BTreeMap;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::Description;
use crate::net::calls::socket_of;
use crate::net::socket::Socket;
use crate::time::clock::{MICROSECOND_NS, SECOND_NS};
use crate::user::{have_room, read_u32, read_words, write_bytes, write_u32};

// include/uapi/asm-generic/socket.h, and of the protocols
const SOL_SOCKET: u32 = 1;
const IPPROTO_IP: u32 = 0;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_IPV6: u32 = 41;
const SO_REUSEADDR: u32 = 2;
const SO_TYPE: u32 = 3;
const SO_ERROR: u32 = 4;
const SO_SNDBUF: u32 = 7;
const SO_RCVBUF: u32 = 8;
const SO_LINGER: u32 = 13;
const SO_REUSEPORT: u32 = 15;
const SO_PEERCRED: u32 = 17;
const SO_RCVTIMEO: u32 = 20;
const SO_SNDTIMEO: u32 = 21;
const SO_ACCEPTCONN: u32 = 30;
const SO_PROTOCOL: u32 = 38;
const SO_DOMAIN: u32 = 39;
const IPV6_V6ONLY: u32 = 26;
const TCP_INFO: u32 = 11;
/// Twice what was asked for is set aside, and no less than this. socket(7).
const BUFFER_MIN: u32 = 2304;
const BUFFER_BYTES: u32 = 212_992;

/// What has been set; what has not is as at the start.
#[derive(Debug, Default)]
pub(crate) struct Options {
    set: BTreeMap<(u32, u32), u32>,
    linger: [u8; 8],
    pub(crate) receive_timeout: u64,
    pub(crate) send_timeout: u64,
}

impl Options {
    fn get(&self, level: u32, name: u32) -> u32 {
        self.set.get(&(level, name)).copied().unwrap_or(0)
    }

    pub(crate) fn reuses(&self) -> bool {
        self.get(SOL_SOCKET, SO_REUSEADDR) != 0 || self.get(SOL_SOCKET, SO_REUSEPORT) != 0
    }

    pub(crate) fn only_v6(&self) -> bool {
        self.get(IPPROTO_IPV6, IPV6_V6ONLY) != 0
    }
}

/// Integer options that are kept and given back. Those of buffers and of the wire change nothing, since
/// nothing is lost or slow here.
fn is_kept(level: u32, name: u32) -> bool {
    match level {
        // REUSEADDR DONTROUTE BROADCAST KEEPALIVE OOBINLINE PRIORITY REUSEPORT PASSCRED RCVLOWAT TIMESTAMP
        // MARK BUSY_POLL INCOMING_CPU ZEROCOPY
        SOL_SOCKET => matches!(name, 2 | 5 | 6 | 9 | 10 | 12 | 15 | 16 | 18 | 29 | 36 | 46 | 49 | 60),
        // TOS TTL RECVTOS PKTINFO MTU_DISCOVER RECVERR FREEBIND BIND_ADDRESS_NO_PORT
        IPPROTO_IP => matches!(name, 1 | 2 | 8 | 10 | 11 | 13 | 15 | 24),
        // NODELAY MAXSEG CORK KEEPIDLE KEEPINTVL KEEPCNT SYNCNT LINGER2 DEFER_ACCEPT WINDOW_CLAMP QUICKACK
        // USER_TIMEOUT FASTOPEN FASTOPEN_CONNECT NOTSENT_LOWAT
        IPPROTO_TCP => matches!(name, 1..=10 | 12 | 18 | 23 | 25 | 30),
        // UNICAST_HOPS MULTICAST_* V6ONLY RECVPKTINFO RECVERR TCLASS
        IPPROTO_IPV6 => matches!(name, 16..=19 | 25 | 26 | 49 | 66 | 67),
        _ => false,
    }
}

fn applies(socket: &Socket, level: u32) -> bool {
    use crate::net::address::{AF_INET6, AF_UNIX};
    match level {
        SOL_SOCKET => true,
        IPPROTO_TCP => socket.family != AF_UNIX && socket.is_stream(),
        IPPROTO_IP => socket.family != AF_UNIX,
        IPPROTO_IPV6 => socket.family == AF_INET6,
        _ => false,
    }
}

/// `setsockopt`.
pub(crate) fn set(k: &mut Kernel, [fd, level, name, at, bytes, _]: [u64; 6]) -> Outcome {
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    let (level, name) = (level as u32, name as u32);
    if !applies(socket, level) {
        return Err(if level == SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP });
    }
    if (bytes as u32) < 4 {
        return Err(Errno::EINVAL);
    }
    let mut options = socket.options.borrow_mut();
    if level == SOL_SOCKET {
        match name {
            SO_LINGER if (bytes as u32) < 8 => return Err(Errno::EINVAL),
            SO_LINGER => {
                options.linger = crate::user::read_bytes(at)?;
                return Ok(0);
            }
            SO_RCVTIMEO | SO_SNDTIMEO => {
                let [seconds, micros] = read_words(at)?;
                if micros >= 1_000_000 {
                    return Err(Errno::EDOM);
                }
                let time = seconds.saturating_mul(SECOND_NS).saturating_add(micros * MICROSECOND_NS);
                *(if name == SO_RCVTIMEO {
                    &mut options.receive_timeout
                } else {
                    &mut options.send_timeout
                }) = time;
                return Ok(0);
            }
            SO_TYPE | SO_ERROR | SO_ACCEPTCONN | SO_PROTOCOL | SO_DOMAIN | SO_PEERCRED => {
                return Err(Errno::ENOPROTOOPT);
            }
            _ => {}
        }
    }
    let mut value = read_u32(at)?;
    match (level, name) {
        (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF) => {
            value = value.min(BUFFER_BYTES).saturating_mul(2).max(BUFFER_MIN)
        }
        // Switches: 1 for whatever is not 0.
        (SOL_SOCKET, 2 | 5 | 6 | 9 | 10 | 15 | 16) | (IPPROTO_TCP, 1 | 3) | (IPPROTO_IPV6, IPV6_V6ONLY) => {
            value = u32::from(value != 0);
        }
        _ if is_kept(level, name) => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    have_room(4096)?;
    options.set.insert((level, name), value);
    Ok(0)
}

/// `getsockopt`.
pub(crate) fn get(k: &mut Kernel, [fd, level, name, at, length, _]: [u64; 6]) -> Outcome {
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    let (level, name) = (level as u32, name as u32);
    let room = read_u32(length)?.cast_signed();
    if room < 0 {
        return Err(Errno::EINVAL);
    }
    if !applies(socket, level) {
        return Err(if level == SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP });
    }
    let options = socket.options.borrow();
    let time = |time: u64| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(time / SECOND_NS).to_le_bytes());
        bytes[8..].copy_from_slice(&(time % SECOND_NS / MICROSECOND_NS).to_le_bytes());
        bytes
    };
    let put = |bytes: &[u8]| -> Outcome {
        let count = bytes.len().min(room as usize);
        write_bytes(at, &bytes[..count])?;
        write_u32(length, count as u32)?;
        Ok(0)
    };
    let value = match (level, name) {
        (SOL_SOCKET, SO_LINGER) => return put(&options.linger),
        (SOL_SOCKET, SO_RCVTIMEO) => return put(&time(options.receive_timeout)),
        (SOL_SOCKET, SO_SNDTIMEO) => return put(&time(options.send_timeout)),
        (SOL_SOCKET, SO_PEERCRED) => {
            let mut credentials = [0; 12];
            let pid = if socket.peer.borrow().is_some() { crate::sched::PID } else { 0 };
            credentials[..4].copy_from_slice(&pid.to_le_bytes());
            return put(&credentials);
        }
        (IPPROTO_TCP, TCP_INFO) => return put(&[u8::from(socket.halves().is_some())]),
        (SOL_SOCKET, SO_TYPE) => socket.kind,
        (SOL_SOCKET, SO_ERROR) => {
            socket.error.take().map_or(0, |error| error.as_result().wrapping_neg() as u32)
        }
        (SOL_SOCKET, SO_ACCEPTCONN) => socket.is_listening().into(),
        (SOL_SOCKET, SO_PROTOCOL) => socket.protocol,
        (SOL_SOCKET, SO_DOMAIN) => socket.family.into(),
        (SOL_SOCKET, SO_SNDBUF | SO_RCVBUF) => match options.get(level, name) {
            0 => BUFFER_BYTES,
            set => set,
        },
        (IPPROTO_IP, 2) if options.get(level, name) == 0 => 64,
        (IPPROTO_TCP, 2) if options.get(level, name) == 0 => 536,
        (IPPROTO_TCP, 4) if options.get(level, name) == 0 => 7200,
        (IPPROTO_TCP, 5) if options.get(level, name) == 0 => 75,
        (IPPROTO_TCP, 6) if options.get(level, name) == 0 => 9,
        _ if is_kept(level, name) => options.get(level, name),
        _ => return Err(Errno::ENOPROTOOPT),
    };
    put(&value.to_le_bytes())
}

/// The time after which a call on this socket gives up.
pub(crate) fn timeout(description: &Description, receive: bool) -> Option<u64> {
    let socket = description.as_a::<Socket>()?;
    let options = socket.options.borrow();
    Some(if receive { options.receive_timeout } else { options.send_timeout }).filter(|&time| time > 0)
}
