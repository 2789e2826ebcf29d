//! Sockets: of the Unix family, and of TCP and UDP between programs' own ends on the loopback device.
//!
//! ```text
//!  calls ─► Socket (an Object) ─► Half ⇄ Half   a stream: one for each direction
//!              │                   └─ host       … or the host, for a connection to a published port
//!              └► registry: who listens and receives where
//! ```
//!
//! There is no network: every address but the machine's own is unreachable, nothing is lost, and a
//! connection is there at once.

pub(crate) mod address;
pub(crate) mod calls;
pub(crate) mod half;
pub(crate) mod message;
pub(crate) mod options;
pub(crate) mod socket;

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;

use unifork_abi::{ToGuest, ToHost};
use unifork_fs::NodeId;
use unifork_hal::KernelCell;

use crate::errno::Errno;
use crate::host;
use crate::user::have_room;
use address::{Address, Ip};
use half::Half;
use socket::{Pending, Socket};

/// First port that is given to a socket that asks for none. ip(7).
const EPHEMERAL_FIRST: u16 = 32_768;
const EPHEMERAL_LAST: u16 = 60_999;
/// Bytes of a connection that the host may send before they are read.
pub(crate) const HOST_CREDIT: u32 = 64 << 10;

/// What a socket is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// An IP address and port, of streams or datagrams.
    Ip { stream: bool, ip: Ip, port: u16, only_v6: bool },
    /// A node of the file system.
    Node(NodeId),
    /// An abstract name.
    Abstract(Vec<u8>),
}

struct Bound {
    key: Key,
    socket: Weak<Socket>,
}

struct Registry {
    bound: Vec<Bound>,
    next_port: u16,
    // What has come from the host: where its data goes, and where the guest's goes out.
    connections: BTreeMap<u32, (Weak<Half>, Weak<Half>)>,
    // Listening sockets of TCP.
    listeners: usize,
}

static REGISTRY: KernelCell<Registry> = KernelCell::new(Registry {
    bound: Vec::new(),
    next_port: EPHEMERAL_FIRST,
    connections: BTreeMap::new(),
    listeners: 0,
});

/// Notes that `socket` is found by `key`.
pub(crate) fn bind(key: Key, socket: &Weak<Socket>, reuse: bool) -> Result<(), Errno> {
    have_room(4096)?;
    REGISTRY.with(|registry| {
        registry.bound.retain(|bound| bound.socket.strong_count() > 0);
        let taken = registry.bound.iter().any(|bound| {
            conflicts(&bound.key, &key)
                && !(reuse
                    && bound.socket.upgrade().is_some_and(|other| other.reuses() && !other.is_listening()))
        });
        if taken {
            return Err(Errno::EADDRINUSE);
        }
        registry.bound.push(Bound { key, socket: Weak::clone(socket) });
        Ok(())
    })
}

fn conflicts(a: &Key, b: &Key) -> bool {
    match (a, b) {
        (
            Key::Ip { stream, ip, port, only_v6 },
            Key::Ip { stream: stream_b, ip: ip_b, port: port_b, only_v6: only_b },
        ) => {
            let covers = |any: &Ip, only: bool, other: &Ip| {
                any.is_any() && (any.is_v4() == other.is_v4() || !any.is_v4() && !only)
            };
            stream == stream_b
                && port == port_b
                && (ip == ip_b || covers(ip, *only_v6, ip_b) || covers(ip_b, *only_b, ip))
        }
        _ => a == b,
    }
}

/// A free port.
pub(crate) fn free_port(stream: bool) -> Result<u16, Errno> {
    REGISTRY.with(|registry| {
        for _ in EPHEMERAL_FIRST..=EPHEMERAL_LAST {
            let port = registry.next_port;
            registry.next_port = if port == EPHEMERAL_LAST { EPHEMERAL_FIRST } else { port + 1 };
            let used = |bound: &Bound| matches!(bound.key, Key::Ip { stream: s, port: p, .. } if s == stream && p == port);
            if !registry.bound.iter().any(|bound| used(bound) && bound.socket.strong_count() > 0) {
                return Ok(port);
            }
        }
        Err(Errno::EADDRINUSE)
    })
}

/// The socket that is found by `key`.
pub(crate) fn find(key: &Key) -> Option<Rc<Socket>> {
    REGISTRY.with(|registry| {
        let same = registry.bound.iter().filter(|bound| conflicts(&bound.key, key));
        let alive: Vec<Rc<Socket>> = same.filter_map(|bound| bound.socket.upgrade()).collect();
        let listening = alive.iter().position(|socket| socket.is_listening()).unwrap_or(0);
        alive.into_iter().nth(listening)
    })
}

/// A socket of TCP listens on `port`, or does so no more.
pub(crate) fn listens(port: u16, on: bool) {
    REGISTRY.with(|registry| {
        registry.listeners = if on { registry.listeners + 1 } else { registry.listeners.saturating_sub(1) };
    });
    host::tell(if on { ToHost::Listen } else { ToHost::Unlisten }, 0, port.into(), &[]);
}

/// Whether connections may come from the host, or something on those that have.
pub(crate) fn host_is_awaited() -> bool {
    REGISTRY.with(|registry| {
        registry.connections.retain(|_, (rx, tx)| rx.strong_count() > 0 || tx.strong_count() > 0);
        registry.listeners > 0 || !registry.connections.is_empty()
    })
}

/// Something has come from the host.
pub(crate) fn from_host(kind: ToGuest, handle: u32, value: u32, data: &[u8]) {
    if kind == ToGuest::Accepted {
        accepted(handle, value as u16, data);
        return;
    }
    let halves = REGISTRY
        .with(|registry| registry.connections.get(&handle).map(|(rx, tx)| (rx.upgrade(), tx.upgrade())));
    let Some((rx, tx)) = halves else { return };
    match kind {
        ToGuest::Data => rx.iter().for_each(|rx| rx.arrive(data)),
        ToGuest::End => rx.iter().for_each(|rx| rx.end()),
        ToGuest::Sent => tx.iter().for_each(|tx| tx.gone(value as usize)),
        ToGuest::Reset => {
            rx.iter().for_each(|rx| rx.reset());
            tx.iter().for_each(|tx| tx.close());
        }
        ToGuest::Accepted => {}
    }
}

/// A connection has come to a published port.
fn accepted(handle: u32, port: u16, data: &[u8]) {
    let v6 = data.len() == 18;
    let ip = if v6 { Ip::LOOPBACK_V6 } else { Ip::LOOPBACK_V4 };
    let key = Key::Ip { stream: true, ip, port, only_v6: false };
    let other = if v6 { Ip::LOOPBACK_V4 } else { Ip::LOOPBACK_V6 };
    let listener = find(&key).or_else(|| find(&Key::Ip { stream: true, ip: other, port, only_v6: false }));
    let listener = listener.filter(|socket| socket.is_listening());
    let Some(listener) = listener.filter(|_| have_room(Half::CAPACITY * 2).is_ok()) else {
        host::tell(ToHost::Close, handle, 0, &[]);
        return;
    };
    let (rx, tx) = (Rc::new(Half::from_host(handle)), Rc::new(Half::to_host(handle)));
    REGISTRY.with(|registry| registry.connections.insert(handle, (Rc::downgrade(&rx), Rc::downgrade(&tx))));
    let peer_port = data.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    let peer_ip = data.get(2..).and_then(Ip::from_bytes).unwrap_or(ip);
    let v6 = listener.is_v6();
    let local = Address::Ip { v6, ip, port };
    let peer = Address::Ip { v6, ip: peer_ip, port: peer_port };
    host::tell(ToHost::Credit, handle, HOST_CREDIT, &[]);
    listener.come(Pending { rx, tx, local, peer });
}
