//! A socket, and what can be done with it in each of its states.

use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{
    Description, Object, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM, Ready, Stat,
};
use crate::net::address::{AF_INET6, AF_UNIX, Address};
use crate::net::half::{Half, Passed};
use crate::net::options::Options;
use crate::net::{self, Key};
use crate::sched;
use crate::user::{have_room, write_u32};

pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const SOCK_DGRAM: u32 = 2;
pub(crate) const SOCK_SEQPACKET: u32 = 5;
/// Bytes of datagrams that wait, at most.
const MAILBOX_BYTES: usize = 208 << 10;
const FIONREAD: u64 = 0x541b;
/// sockfs's device number.
const DEVICE: u64 = 8;

/// A connection that nobody has accepted yet.
pub(crate) struct Pending {
    pub(crate) rx: Rc<Half>,
    pub(crate) tx: Rc<Half>,
    pub(crate) local: Address,
    pub(crate) peer: Address,
}

/// A datagram.
pub(crate) struct Datagram {
    pub(crate) from: Address,
    pub(crate) data: Vec<u8>,
    pub(crate) passed: Passed,
}

/// What was received, besides its bytes.
#[derive(Default)]
pub(crate) struct Received {
    /// Bytes that were put into the buffers.
    pub(crate) bytes: u64,
    /// Bytes that the datagram had.
    pub(crate) whole: u64,
    pub(crate) from: Option<Address>,
    pub(crate) passed: Passed,
}

pub(crate) enum State {
    /// New, or bound.
    Idle,
    Listening {
        queue: VecDeque<Pending>,
        backlog: usize,
    },
    /// A stream.
    Connected {
        rx: Rc<Half>,
        tx: Rc<Half>,
    },
}

pub(crate) struct Socket {
    pub(crate) family: u16,
    pub(crate) kind: u32,
    pub(crate) protocol: u32,
    pub(crate) me: Weak<Self>,
    pub(crate) state: RefCell<State>,
    pub(crate) local: RefCell<Address>,
    /// Whom it is connected to.
    pub(crate) peer: RefCell<Option<Address>>,
    /// Of datagrams: the socket that `peer` named when it was connected.
    pub(crate) partner: RefCell<Weak<Self>>,
    pub(crate) mailbox: RefCell<VecDeque<Datagram>>,
    pub(crate) options: RefCell<Options>,
    /// `SO_ERROR`.
    pub(crate) error: Cell<Option<Errno>>,
    /// A connection that was begun without waiting has not been asked about.
    pub(crate) connecting: Cell<bool>,
    pub(crate) bound: Cell<bool>,
    pub(crate) shut: Cell<u8>,
    inode: u64,
    in_edges: Cell<u64>,
}

/// Numbers of sockets so far. In guest memory, so the same in every fork.
static INODES: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(1000);

impl Socket {
    pub(crate) fn new(family: u16, kind: u32, protocol: u32) -> Rc<Self> {
        let none = match family {
            AF_UNIX => Address::Unix(Vec::new()),
            family => Address::any(family == AF_INET6, 0),
        };
        Rc::new_cyclic(|me| Self {
            family,
            kind,
            protocol,
            me: Weak::clone(me),
            state: RefCell::new(State::Idle),
            local: RefCell::new(none),
            peer: RefCell::new(None),
            partner: RefCell::default(),
            mailbox: RefCell::default(),
            options: RefCell::default(),
            error: Cell::new(None),
            connecting: Cell::new(false),
            bound: Cell::new(false),
            shut: Cell::new(0),
            inode: INODES.fetch_add(1, core::sync::atomic::Ordering::Relaxed),
            in_edges: Cell::new(1),
        })
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.family == AF_INET6
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.kind != SOCK_DGRAM
    }

    pub(crate) fn is_listening(&self) -> bool {
        matches!(*self.state.borrow(), State::Listening { .. })
    }

    pub(crate) fn reuses(&self) -> bool {
        self.options.borrow().reuses()
    }

    /// A connection has come.
    pub(crate) fn come(&self, pending: Pending) {
        if let State::Listening { queue, .. } = &mut *self.state.borrow_mut() {
            queue.push_back(pending);
        }
        self.in_edges.set(self.in_edges.get() + 1);
        sched::event();
    }

    /// The next connection that nobody has accepted: every connection is accepted here.
    pub(crate) fn accept(&self) -> Result<Pending, Errno> {
        match &mut *self.state.borrow_mut() {
            State::Listening { queue, .. } => queue.pop_front().ok_or(Errno::EAGAIN),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether another connection fits the queue.
    pub(crate) fn has_backlog(&self) -> bool {
        matches!(&*self.state.borrow(), State::Listening { queue, backlog } if queue.len() <= *backlog)
    }

    /// Becomes one end of a stream.
    pub(crate) fn connect_to(&self, rx: Rc<Half>, tx: Rc<Half>, peer: Address) {
        *self.state.borrow_mut() = State::Connected { rx, tx };
        *self.peer.borrow_mut() = Some(peer);
    }

    pub(crate) fn halves(&self) -> Option<(Rc<Half>, Rc<Half>)> {
        match &*self.state.borrow() {
            State::Connected { rx, tx } => Some((Rc::clone(rx), Rc::clone(tx))),
            _ => None,
        }
    }

    /// A stream that the other side has not ended.
    pub(crate) fn more_may_come(&self) -> bool {
        self.halves().is_some_and(|(rx, _)| !rx.is_ended())
    }

    /// Receives: bytes of a stream, or a datagram, which is cut to what fits.
    pub(crate) fn receive(&self, to: &mut Buffers, peek: bool) -> Result<Received, Errno> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.is_stream() {
            let Some((rx, _)) = self.halves() else {
                return Err(if self.family == AF_UNIX { Errno::EINVAL } else { Errno::ENOTCONN });
            };
            let mut passed = Passed::new();
            let bytes = rx.read(to, peek, &mut passed)?;
            return Ok(Received { bytes, whole: bytes, from: None, passed });
        }
        let mut mailbox = self.mailbox.borrow_mut();
        let Some(datagram) = mailbox.front() else {
            return if self.shut.get() & 1 != 0 { Ok(Received::default()) } else { Err(Errno::EAGAIN) };
        };
        let whole = datagram.data.len() as u64;
        let count = datagram.data.len().min(usize::try_from(to.left()).unwrap_or(usize::MAX));
        to.put(&datagram.data[..count])?;
        let from = datagram.from.clone();
        let mut passed = Passed::new();
        if !peek {
            passed = mailbox.pop_front().map(|datagram| datagram.passed).unwrap_or_default();
            sched::event();
        }
        Ok(Received { bytes: count as u64, whole, from: Some(from), passed })
    }

    /// Sends on a stream, or a datagram to `to` or whom it is connected to.
    pub(crate) fn send(&self, from: &mut Buffers, to: Option<Rc<Self>>, passed: Passed) -> Outcome {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.shut.get() & 2 != 0 {
            return Err(Errno::EPIPE);
        }
        if self.is_stream() {
            let Some((_, tx)) = self.halves() else {
                return Err(if self.family == AF_UNIX { Errno::ENOTCONN } else { Errno::EPIPE });
            };
            return tx.write(from, passed);
        }
        let target = match to {
            Some(target) => target,
            None => match (&*self.peer.borrow(), self.partner.borrow().upgrade()) {
                (None, _) if self.family == AF_UNIX => return Err(Errno::ENOTCONN),
                (None, _) => return Err(Errno::EDESTADDRREQ),
                (Some(_), Some(target)) => target,
                (Some(_), None) => return Err(Errno::ECONNREFUSED),
            },
        };
        let bytes = from.left();
        if bytes > if self.family == AF_UNIX { MAILBOX_BYTES as u64 } else { 65_507 } {
            return Err(Errno::EMSGSIZE);
        }
        let held: usize = target.mailbox.borrow().iter().map(|datagram| datagram.data.len() + 64).sum();
        if held + bytes as usize > MAILBOX_BYTES && held > 0 {
            // UDP loses what does not fit; a Unix socket waits.
            if self.family == AF_UNIX {
                return Err(Errno::EAGAIN);
            }
            from.skip(bytes);
            return Ok(bytes);
        }
        have_room(bytes as usize + 4096)?;
        let mut data = alloc::vec![0; bytes as usize];
        from.take(&mut data)?;
        let from = self.local.borrow().clone();
        target.mailbox.borrow_mut().push_back(Datagram { from, data, passed });
        target.in_edges.set(target.in_edges.get() + 1);
        sched::event();
        Ok(bytes)
    }

    /// `shutdown`: 1 for reading, 2 for writing.
    pub(crate) fn shut_down(&self, which: u8) {
        self.shut.set(self.shut.get() | which);
        if let Some((rx, tx)) = self.halves() {
            if which & 2 != 0 {
                tx.end();
            }
            if which & 1 != 0 {
                rx.end();
            }
        }
        sched::event();
    }

    /// What it is found by when it is bound to `address`.
    pub(crate) fn port(&self) -> Option<u16> {
        match &*self.local.borrow() {
            Address::Ip { port, .. } => Some(*port),
            _ => None,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let port = self.port();
        match &mut *self.state.borrow_mut() {
            State::Idle => {}
            State::Listening { queue, .. } => {
                if let Some(port) = port {
                    net::listens(port, false);
                }
                for pending in queue.drain(..) {
                    pending.tx.reset();
                    pending.rx.close();
                    pending.rx.tell_closed();
                }
            }
            State::Connected { rx, tx } => {
                if rx.len() > 0 {
                    tx.reset();
                } else {
                    tx.end();
                }
                rx.close();
                rx.tell_closed();
            }
        }
        sched::event();
    }
}

impl Object for Socket {
    fn ready(&self, _now: u64) -> Ready {
        let mut ready = Ready { in_edges: self.in_edges.get(), out_edges: 1, ..Ready::default() };
        if self.error.get().is_some() {
            ready.mask |= POLLERR | POLLIN | POLLOUT | POLLHUP;
        }
        let (input, output) = (POLLIN | POLLRDNORM, POLLOUT | POLLWRNORM);
        match &*self.state.borrow() {
            State::Listening { queue, .. } => ready.mask |= if queue.is_empty() { 0 } else { input },
            State::Connected { rx, tx } => {
                ready.mask |= if rx.len() > 0 || rx.is_ended() { input } else { 0 };
                ready.mask |= if rx.is_reset() { POLLERR } else { 0 };
                ready.mask |= if rx.is_ended() { POLLRDHUP } else { 0 };
                ready.mask |= if rx.is_ended() && (tx.is_ended() || tx.is_closed()) { POLLHUP } else { 0 };
                // Linux: when a third of the buffer is free.
                ready.mask |= if tx.room() >= Half::CAPACITY / 3 || tx.is_closed() { output } else { 0 };
                ready.in_edges += rx.in_edges();
                ready.out_edges += tx.out_edges();
            }
            State::Idle if self.is_stream() => ready.mask |= output | POLLHUP,
            State::Idle => {
                ready.mask |= output;
                ready.mask |= if self.mailbox.borrow().is_empty() { 0 } else { input };
            }
        }
        ready
    }

    fn read(&self, _k: &mut Kernel, _from: &Description, _at: Option<u64>, to: &mut Buffers) -> Outcome {
        if to.left() == 0 && self.is_stream() {
            return Ok(0);
        }
        self.receive(to, false).map(|received| received.bytes)
    }

    fn write(&self, _k: &mut Kernel, _to: &Description, _at: Option<u64>, from: &mut Buffers) -> Outcome {
        self.send(from, None, Passed::new())
    }

    fn writes_all(&self) -> bool {
        self.is_stream()
    }

    fn ioctl(&self, _k: &mut Kernel, request: u64, argument: u64) -> Outcome {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = match self.halves() {
            Some((rx, _)) => rx.len(),
            None if self.is_listening() => return Err(Errno::EINVAL),
            None => self.mailbox.borrow().front().map_or(0, |datagram| datagram.data.len()),
        };
        write_u32(argument, bytes as u32)?;
        Ok(0)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        let inode = self.inode;
        Ok(Stat { device: DEVICE, inode, mode: 0o140_777, links: 1, block_bytes: 4096, ..Stat::default() })
    }
}

/// The key of an IP address for this socket.
pub(crate) fn ip_key(socket: &Socket, address: &Address) -> Option<Key> {
    match address {
        Address::Ip { ip, port, .. } => Some(Key::Ip {
            stream: socket.is_stream(),
            ip: *ip,
            port: *port,
            only_v6: socket.options.borrow().only_v6(),
        }),
        _ => None,
    }
}
