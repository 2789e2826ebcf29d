//! One direction of a stream: bytes between a writer and a reader, either of which may be the host.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use unifork_abi::{SEND_BYTES_MAX, ToHost};

use crate::errno::Errno;
use crate::fd::buffers::Buffers;
use crate::fd::object::Description;
use crate::host;
use crate::sched;
use crate::user::have_room;

/// Descriptions on their way to another descriptor.
pub(crate) type Passed = Vec<Rc<Description>>;

/// The direction.
pub(crate) struct Half {
    bytes: RefCell<VecDeque<u8>>,
    /// Descriptors that come with a byte: which one, counted from the first ever.
    passed: RefCell<VecDeque<(u64, Passed)>>,
    written: Cell<u64>,
    taken: Cell<u64>,
    /// The writer writes no more.
    ended: Cell<bool>,
    /// The reader reads no more.
    closed: Cell<bool>,
    /// The writer has gone and left something unread: reading fails, once.
    reset: Cell<bool>,
    /// The host's name for the connection, when the writer or reader is the host.
    handle: u32,
    to_host: bool,
    /// Bytes that the host has and has not sent.
    under_way: Cell<usize>,
    /// Bytes that were read since the host was last told.
    read: Cell<u32>,
    in_edges: Cell<u64>,
    out_edges: Cell<u64>,
}

impl Half {
    /// Bytes it holds.
    pub(crate) const CAPACITY: usize = 208 << 10;

    fn make(handle: u32, to_host: bool) -> Self {
        Self {
            bytes: RefCell::default(),
            passed: RefCell::default(),
            written: Cell::new(0),
            taken: Cell::new(0),
            ended: Cell::new(false),
            closed: Cell::new(false),
            reset: Cell::new(false),
            handle,
            to_host,
            under_way: Cell::new(0),
            read: Cell::new(0),
            in_edges: Cell::new(1),
            out_edges: Cell::new(1),
        }
    }

    pub(crate) fn new() -> Self {
        Self::make(0, false)
    }

    pub(crate) fn from_host(handle: u32) -> Self {
        Self::make(handle, false)
    }

    pub(crate) fn to_host(handle: u32) -> Self {
        Self::make(handle, true)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.get() || self.reset.get()
    }

    /// Reading it will fail, once.
    pub(crate) fn is_reset(&self) -> bool {
        self.reset.get()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn room(&self) -> usize {
        if self.to_host {
            SEND_BYTES_MAX - self.under_way.get().min(SEND_BYTES_MAX)
        } else {
            Self::CAPACITY - self.len().min(Self::CAPACITY)
        }
    }

    pub(crate) fn in_edges(&self) -> u64 {
        self.in_edges.get()
    }

    pub(crate) fn out_edges(&self) -> u64 {
        self.out_edges.get()
    }

    fn changed(edges: &Cell<u64>) {
        edges.set(edges.get() + 1);
        sched::event();
    }

    /// Bytes from the host.
    pub(crate) fn arrive(&self, data: &[u8]) {
        // The host keeps to its credit, so this is bounded; without memory the connection is lost.
        if have_room(data.len()).is_err() {
            return self.reset();
        }
        self.bytes.borrow_mut().extend(data);
        self.written.set(self.written.get() + data.len() as u64);
        Self::changed(&self.in_edges);
    }

    /// The host has sent so much.
    pub(crate) fn gone(&self, bytes: usize) {
        self.under_way.set(self.under_way.get().saturating_sub(bytes));
        Self::changed(&self.out_edges);
    }

    /// The writer ends it.
    pub(crate) fn end(&self) {
        if !self.ended.replace(true) {
            if self.to_host {
                host::tell(ToHost::Shutdown, self.handle, 0, &[]);
            }
            Self::changed(&self.in_edges);
        }
    }

    /// The writer has gone without reading what was for it.
    pub(crate) fn reset(&self) {
        self.ended.set(true);
        self.reset.set(true);
        Self::changed(&self.in_edges);
    }

    /// The reader closes it.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.bytes.borrow_mut().clear();
        let _closed = self.passed.take();
        Self::changed(&self.out_edges);
    }

    /// Both directions of a connection are over on this side.
    pub(crate) fn tell_closed(&self) {
        if self.handle != 0 {
            host::tell(ToHost::Close, self.handle, 0, &[]);
        }
    }

    /// Puts bytes into `to`, and descriptors that come with the first of them into `passed`; `peek` leaves
    /// them there. 0 at the end.
    pub(crate) fn read(&self, to: &mut Buffers, peek: bool, passed: &mut Passed) -> Result<u64, Errno> {
        let mut bytes = self.bytes.borrow_mut();
        if bytes.is_empty() {
            if self.reset.replace(false) {
                return Err(Errno::ECONNRESET);
            }
            return if self.ended.get() || self.closed.get() { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let mut wanted = usize::try_from(to.left()).unwrap_or(usize::MAX).min(bytes.len());
        let at = self.taken.get();
        for (with, _) in self.passed.borrow().iter() {
            // Bytes with descriptors are not read together with those before them.
            if *with > at {
                wanted = wanted.min((*with - at) as usize);
                break;
            }
        }
        let (front, back) = bytes.as_slices();
        let first = wanted.min(front.len());
        to.put(&front[..first])?;
        to.put(&back[..wanted - first])?;
        if !peek {
            bytes.drain(..wanted);
            drop(bytes);
            self.taken.set(at + wanted as u64);
            while self.passed.borrow().front().is_some_and(|(with, _)| *with < at + wanted as u64) {
                let next = self.passed.borrow_mut().pop_front();
                passed.extend(next.into_iter().flat_map(|(_, passed)| passed));
            }
            self.give_credit(wanted);
            Self::changed(&self.out_edges);
        }
        Ok(wanted as u64)
    }

    fn give_credit(&self, bytes: usize) {
        if self.handle == 0 {
            return;
        }
        self.read.set(self.read.get() + bytes as u32);
        if self.len() == 0 || self.read.get() >= super::HOST_CREDIT / 2 {
            host::tell(ToHost::Credit, self.handle, self.read.take(), &[]);
        }
    }

    /// Takes bytes out of `from`, as many as there is room for; `passed` comes with the first.
    pub(crate) fn write(&self, from: &mut Buffers, passed: Passed) -> Result<u64, Errno> {
        if self.closed.get() || self.ended.get() {
            return Err(Errno::EPIPE);
        }
        if from.left() == 0 {
            return Ok(0);
        }
        let room = self.room().min(usize::try_from(from.left()).unwrap_or(usize::MAX));
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        have_room(if self.to_host { 64 << 10 } else { room })?;
        let start = self.written.get();
        let mut piece = [0; 4096];
        let mut done = 0;
        while done < room {
            let count = (room - done).min(piece.len());
            let count = match from.take(&mut piece[..count]) {
                Ok(count) => count,
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            };
            if self.to_host {
                self.under_way.set(self.under_way.get() + count);
                host::tell(ToHost::Send, self.handle, 0, &piece[..count]);
            } else {
                self.bytes.borrow_mut().extend(&piece[..count]);
            }
            done += count;
        }
        self.written.set(start + done as u64);
        if !passed.is_empty() && !self.to_host {
            self.passed.borrow_mut().push_back((start, passed));
        }
        Self::changed(&self.in_edges);
        Ok(done as u64)
    }
}
