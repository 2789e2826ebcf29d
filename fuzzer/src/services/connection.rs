//! One connection that was accepted for the guest.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use rustix::event::{PollFd, PollFlags};
use unifork_abi::ToGuest;
use unifork_vmm::services::push;

use super::header;

/// Bytes reported at a time, at most, so that every connection gets its turn.
const PIECE_BYTES: usize = 16 << 10;

/// A connection of the host, and what is under way on it.
pub(super) struct Connection {
    stream: TcpStream,
    /// Bytes that the guest can still take.
    pub(super) credit: usize,
    to_send: VecDeque<u8>,
    // Bytes that have gone and that the guest has not been told of.
    sent: u32,
    // Nothing more will be sent.
    shut: bool,
    shut_done: bool,
    // The peer sends nothing more, and the guest has been told.
    ended: bool,
    broken: bool,
    closed: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        // What the guest sends leaves at once: it has been held back long enough.
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            credit: 0,
            to_send: VecDeque::new(),
            sent: 0,
            shut: false,
            shut_done: false,
            ended: false,
            broken: false,
            closed: false,
        })
    }

    pub(super) fn send(&mut self, data: &[u8]) {
        self.to_send.extend(data);
        self.flush();
    }

    pub(super) fn shutdown(&mut self) {
        self.shut = true;
        self.flush();
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.shutdown();
    }

    /// Nothing is left to be done with it.
    pub(super) fn is_over(&self) -> bool {
        self.closed && (self.broken || self.to_send.is_empty())
    }

    /// Sends what can be sent now.
    pub(super) fn flush(&mut self) {
        while !self.broken && !self.to_send.is_empty() {
            match self.stream.write(self.to_send.as_slices().0) {
                Ok(count) => {
                    self.to_send.drain(..count);
                    self.sent += count as u32;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.broken = true,
            }
        }
        if self.shut && !self.shut_done && !self.broken {
            self.shut_done = true;
            // Fails when the peer is gone already, which reading tells.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Says what is new.
    pub(super) fn report(&mut self, handle: u32, room: usize, answer: &mut Vec<u8>) {
        self.flush();
        if self.closed || answer.len() + 256 > room {
            return;
        }
        if self.sent > 0 {
            push(answer, header(ToGuest::Sent, handle, std::mem::take(&mut self.sent)), &[]);
        }
        let count = self.credit.min(PIECE_BYTES).min(room - answer.len() - 64);
        if !self.ended && !self.broken && count > 0 {
            let mut data = vec![0; count];
            match self.stream.read(&mut data) {
                Ok(0) => {
                    self.ended = true;
                    push(answer, header(ToGuest::End, handle, 0), &[]);
                }
                Ok(count) => {
                    self.credit -= count;
                    push(answer, header(ToGuest::Data, handle, 0), &data[..count]);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => self.broken = true,
            }
        }
        if self.broken {
            self.closed = true;
            push(answer, header(ToGuest::Reset, handle, 0), &[]);
        }
    }

    /// What to wait for.
    pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
        let mut flags = PollFlags::empty();
        if !self.ended && !self.closed && self.credit > 0 {
            flags |= PollFlags::IN;
        }
        if !self.to_send.is_empty() {
            flags |= PollFlags::OUT;
        }
        (!flags.is_empty()).then(|| PollFd::new(&self.stream, flags))
    }
}
