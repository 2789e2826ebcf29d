//! Making sockets, naming and connecting them.

use alloc::rc::Rc;

use unifork_fs::NodeKind;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::{Description, O_NONBLOCK, O_RDWR};
use crate::fs;
use crate::net::address::{AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, Address, Ip};
use crate::net::half::Half;
use crate::net::options::timeout;
use crate::net::socket::{Pending, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, Socket, State, ip_key};
use crate::net::{Key, bind as register, find, free_port, listens};
use crate::user::{have_room, write_bytes};

const SOCK_NONBLOCK: u32 = 0o4000;
const SOCK_CLOEXEC: u32 = 0o200_0000;
const SOMAXCONN: usize = 4096;

/// The socket behind a description.
pub(crate) fn socket_of(description: &Description) -> Result<&Socket, Errno> {
    if description.has(crate::fd::object::O_PATH) {
        return Err(Errno::EBADF);
    }
    description.as_a::<Socket>().ok_or(Errno::ENOTSOCK)
}

fn open(k: &mut Kernel, socket: Rc<Socket>, flags: u32) -> Outcome {
    k.files.open(socket, O_RDWR | flags & (SOCK_NONBLOCK | SOCK_CLOEXEC))
}

/// Checks what a socket is asked to be.
fn check(family: u64, kind: u64, protocol: u64) -> Result<(u16, u32, u32), Errno> {
    let protocol = protocol as u32;
    let flags = kind as u32 & !0xf;
    let kind = kind as u32 & 0xf;
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 || kind > 10 {
        return Err(Errno::EINVAL);
    }
    let family = u16::try_from(family as u32).map_err(|_| Errno::EAFNOSUPPORT)?;
    match (family, kind, protocol) {
        (AF_UNIX, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET, 0 | 1) => Ok((family, kind, 0)),
        (AF_UNIX, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET, _) => Err(Errno::EPROTONOSUPPORT),
        (AF_INET | AF_INET6, SOCK_STREAM, 0 | 6) => Ok((family, kind, 6)),
        (AF_INET | AF_INET6, SOCK_DGRAM, 0 | 17) => Ok((family, kind, 17)),
        (AF_INET | AF_INET6, SOCK_STREAM | SOCK_DGRAM, _) => Err(Errno::EPROTONOSUPPORT),
        (AF_UNIX | AF_INET | AF_INET6, _, _) => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// `socket`.
pub(crate) fn socket(k: &mut Kernel, family: u64, kind: u64, protocol: u64) -> Outcome {
    let flags = kind as u32;
    let (family, kind, protocol) = check(family, kind, protocol)?;
    have_room(8192)?;
    open(k, Socket::new(family, kind, protocol), flags)
}

/// `socketpair`.
pub(crate) fn socketpair(k: &mut Kernel, [family, kind, protocol, to, ..]: [u64; 6]) -> Outcome {
    let flags = kind as u32;
    let (family, kind, protocol) = check(family, kind, protocol)?;
    if family != AF_UNIX {
        return Err(Errno::EOPNOTSUPP);
    }
    have_room(16 << 10)?;
    let [a, b] = [(); 2].map(|()| Socket::new(family, kind, protocol));
    let none = || Address::Unix(alloc::vec::Vec::new());
    if kind == SOCK_DGRAM {
        for (one, other) in [(&a, &b), (&b, &a)] {
            *one.peer.borrow_mut() = Some(none());
            *one.partner.borrow_mut() = Rc::downgrade(other);
        }
    } else {
        let (there, back) = (Rc::new(Half::new()), Rc::new(Half::new()));
        a.connect_to(Rc::clone(&back), Rc::clone(&there), none());
        b.connect_to(there, back, none());
    }
    let first = open(k, a, flags)?;
    let second = open(k, b, flags);
    let written = second.and_then(|second| {
        let mut numbers = [0; 8];
        numbers[..4].copy_from_slice(&(first as u32).to_le_bytes());
        numbers[4..].copy_from_slice(&(second as u32).to_le_bytes());
        write_bytes(to, &numbers).map_err(|fault| {
            let _open = k.files.close(second);
            fault.into()
        })
    });
    if let Err(error) = written {
        let _open = k.files.close(first);
        return Err(error);
    }
    Ok(0)
}

/// Whether an address can be one of this socket.
fn check_family(socket: &Socket, address: &Address) -> Result<(), Errno> {
    if address.family() == socket.family { Ok(()) } else { Err(Errno::EAFNOSUPPORT) }
}

/// `bind`.
pub(crate) fn bind(k: &mut Kernel, fd: u64, at: u64, bytes: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    let mut address = Address::read(at, bytes)?;
    if let (Address::Unix(_), false) = (&address, socket.family == AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if socket.family == AF_UNIX && !matches!(address, Address::Unix(_)) {
        return Err(Errno::EINVAL);
    }
    check_family(socket, &address)?;
    if socket.bound.get() {
        // Linux makes the name before it looks.
        return Err(match &address {
            Address::Unix(name) if name.first().is_some_and(|&b| b != 0) => {
                let start = if name[0] == b'/' { fs::with(k, |fs| fs.root()) } else { k.place.directory };
                let there = fs::with(k, |fs| fs.lookup(start, name, false)).is_ok();
                if there { Errno::EADDRINUSE } else { Errno::EINVAL }
            }
            _ => Errno::EINVAL,
        });
    }
    let key = match &mut address {
        Address::Ip { ip, port, .. } => {
            if !ip.is_local() {
                return Err(Errno::EADDRNOTAVAIL);
            }
            if *port == 0 {
                *port = free_port(socket.is_stream())?;
            }
            ip_key(socket, &address)
        }
        Address::Unix(name) if name.is_empty() => {
            // A name is given: five hexadecimal digits. unix(7), autobind.
            let number = free_port(false)?;
            *name = alloc::format!("\0{number:05x}").into_bytes();
            Some(Key::Abstract(name.clone()))
        }
        Address::Unix(name) if name[0] == 0 => Some(Key::Abstract(name.clone())),
        Address::Unix(name) => {
            let start = if name[0] == b'/' { fs::with(k, |fs| fs.root()) } else { k.place.directory };
            let mode = 0o777 & !k.place.umask;
            let made = fs::with(k, |fs| fs.make_node(start, name, NodeKind::Socket, mode));
            match made {
                Ok(node) => Some(Key::Node(node)),
                Err(unifork_fs::Errno::EEXIST) => return Err(Errno::EADDRINUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Address::None => None,
    };
    register(key.ok_or(Errno::EAFNOSUPPORT)?, &socket.me, socket.reuses())?;
    socket.bound.set(true);
    *socket.local.borrow_mut() = address;
    Ok(0)
}

/// Gives a socket a port of its own, if it has none.
pub(crate) fn ensure_bound(socket: &Socket, ip: Ip) -> Result<(), Errno> {
    if socket.bound.get() || socket.family == AF_UNIX {
        return Ok(());
    }
    let port = free_port(socket.is_stream())?;
    let address = Address::Ip { v6: socket.is_v6(), ip, port };
    if let Some(key) = ip_key(socket, &address) {
        register(key, &socket.me, false)?;
    }
    socket.bound.set(true);
    *socket.local.borrow_mut() = address;
    Ok(())
}

/// `listen`.
pub(crate) fn listen(k: &mut Kernel, fd: u64, backlog: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    if !socket.is_stream() {
        return Err(Errno::EOPNOTSUPP);
    }
    if socket.halves().is_some() || socket.family == AF_UNIX && !socket.bound.get() {
        return Err(Errno::EINVAL);
    }
    ensure_bound(socket, if socket.is_v6() { Ip::ANY_V6 } else { Ip::ANY_V4 })?;
    let new = (backlog as u32 as usize).min(SOMAXCONN);
    let before = core::mem::replace(&mut *socket.state.borrow_mut(), State::Idle);
    let (queue, fresh) = match before {
        State::Listening { queue, .. } => (queue, false),
        _ => (alloc::collections::VecDeque::new(), true),
    };
    *socket.state.borrow_mut() = State::Listening { queue, backlog: new };
    if let (true, Some(port)) = (fresh, socket.port()) {
        listens(port, true);
    }
    Ok(0)
}

/// `accept4`.
pub(crate) fn accept(k: &mut Kernel, fd: u64, at: u64, length: u64, flags: u64) -> Outcome {
    let flags = flags as u32;
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    if !socket.is_stream() {
        return Err(Errno::EOPNOTSUPP);
    }
    have_room(16 << 10)?;
    let pending = match socket.accept() {
        Err(Errno::EAGAIN) => return Err(wait(k, &description, true)),
        pending => pending?,
    };
    let new = Socket::new(socket.family, socket.kind, socket.protocol);
    new.bound.set(true);
    *new.local.borrow_mut() = pending.local;
    let peer = pending.peer.clone();
    new.connect_to(pending.rx, pending.tx, pending.peer);
    let fd = open(k, new, flags)?;
    if at != 0
        && let Err(error) = peer.write(at, length)
    {
        let _open = k.files.close(fd);
        return Err(error);
    }
    Ok(fd)
}

/// `EAGAIN`, or waiting for a change, as the description and its timeout say.
pub(crate) fn wait(k: &mut Kernel, description: &Description, receive: bool) -> Errno {
    if description.has(O_NONBLOCK) {
        return Errno::EAGAIN;
    }
    let timeout = timeout(description, receive);
    let deadline = k.deadline(|k| Ok(timeout.map(|time| k.clock.now().saturating_add(time))));
    match deadline {
        Ok(deadline) if k.is_past(deadline) => Errno::EAGAIN,
        _ => k.block_for_event(None),
    }
}

/// The socket that an address names, for `socket` to reach.
pub(crate) fn reach(k: &mut Kernel, socket: &Socket, address: &Address) -> Result<Rc<Socket>, Errno> {
    let found = match address {
        Address::Ip { ip, .. } => {
            if !ip.is_local() {
                return Err(Errno::ENETUNREACH);
            }
            let reached = match address.clone() {
                Address::Ip { v6, ip, port } => Address::Ip { v6, ip: ip.reached(), port },
                other => other,
            };
            ip_key(socket, &reached).and_then(|key| find(&key))
        }
        Address::Unix(name) if name.first().is_some_and(|&b| b != 0) => {
            let start = if name[0] == b'/' { fs::with(k, |fs| fs.root()) } else { k.place.directory };
            let (node, kind) = fs::with(k, |fs| {
                let node = fs.lookup(start, name, true)?;
                Ok::<_, unifork_fs::Errno>((node, fs.kind(node)?))
            })?;
            if kind != NodeKind::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            find(&Key::Node(node))
        }
        Address::Unix(name) => find(&Key::Abstract(name.clone())),
        Address::None => None,
    };
    let found = found.ok_or(Errno::ECONNREFUSED)?;
    if found.is_stream() != socket.is_stream() || found.kind != socket.kind {
        return Err(Errno::EPROTOTYPE);
    }
    Ok(found)
}

/// `connect`.
pub(crate) fn connect(k: &mut Kernel, fd: u64, at: u64, bytes: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    let address = Address::read(at, bytes)?;
    if address.family() == AF_UNSPEC && (!socket.is_stream()) {
        *socket.peer.borrow_mut() = None;
        return Ok(0);
    }
    check_family(socket, &address)
        .map_err(|error| if socket.family == AF_UNIX { Errno::EINVAL } else { error })?;
    let loopback = if socket.is_v6() { Ip::LOOPBACK_V6 } else { Ip::LOOPBACK_V4 };
    if !socket.is_stream() {
        let partner = match reach(k, socket, &address) {
            Ok(partner) => Rc::downgrade(&partner),
            // A datagram to nobody is found out when it is sent.
            Err(Errno::ECONNREFUSED) if socket.family != AF_UNIX => alloc::rc::Weak::new(),
            Err(error) => return Err(error),
        };
        ensure_bound(socket, loopback)?;
        *socket.partner.borrow_mut() = partner;
        *socket.peer.borrow_mut() = Some(address);
        return Ok(0);
    }
    if socket.connecting.take() {
        return match socket.error.take() {
            Some(error) => Err(error),
            None => Ok(0),
        };
    }
    if socket.halves().is_some() || socket.is_listening() {
        let unix_listener = socket.is_listening() && socket.family == AF_UNIX;
        return Err(if unix_listener { Errno::EINVAL } else { Errno::EISCONN });
    }
    let later = description.has(O_NONBLOCK) && socket.family != AF_UNIX;
    have_room(16 << 10)?;
    let listener = match reach(k, socket, &address) {
        Ok(listener) if listener.is_listening() => listener,
        Err(Errno::ENETUNREACH) => return Err(Errno::ENETUNREACH),
        Ok(_) | Err(Errno::ECONNREFUSED) if later => {
            socket.error.set(Some(Errno::ECONNREFUSED));
            socket.connecting.set(true);
            return Err(Errno::EINPROGRESS);
        }
        Ok(_) => return Err(Errno::ECONNREFUSED),
        Err(error) => return Err(error),
    };
    if !listener.has_backlog() {
        return Err(wait(k, &description, false));
    }
    ensure_bound(socket, loopback)?;
    let (there, back) = (Rc::new(Half::new()), Rc::new(Half::new()));
    let here = socket.local.borrow().clone();
    let local = match address.clone() {
        Address::Ip { v6, ip, port } => Address::Ip { v6, ip: ip.reached(), port },
        other => other,
    };
    socket.connect_to(Rc::clone(&back), Rc::clone(&there), local.clone());
    listener.come(Pending { rx: there, tx: back, local, peer: here });
    if later {
        socket.connecting.set(true);
        return Err(Errno::EINPROGRESS);
    }
    Ok(0)
}

/// `getsockname`, `getpeername`.
pub(crate) fn name(k: &mut Kernel, fd: u64, at: u64, length: u64, peer: bool) -> Outcome {
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    let address = if peer {
        socket.peer.borrow().clone().ok_or(Errno::ENOTCONN)?
    } else {
        socket.local.borrow().clone()
    };
    address.write(at, length)?;
    Ok(0)
}

/// `shutdown`.
pub(crate) fn shutdown(k: &mut Kernel, fd: u64, how: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let socket = socket_of(&description)?;
    let which = match how as u32 {
        0 => 1,
        1 => 2,
        2 => 3,
        _ => return Err(Errno::EINVAL),
    };
    if socket.peer.borrow().is_none() && !socket.is_listening() {
        return Err(Errno::ENOTCONN);
    }
    socket.shut_down(which);
    Ok(0)
}
