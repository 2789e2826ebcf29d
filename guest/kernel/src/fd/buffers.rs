//! The application's buffers of one read or write: one, or the many of `readv` and `writev`.

use alloc::vec::Vec;

use unifork_hal::{Fault, User};

use crate::errno::Errno;
use crate::user::read_words;

/// Buffers per call; Linux `UIO_MAXIOV`.
const IOV_MAX: u64 = 1024;
/// Bytes per call, as on Linux (`MAX_RW_COUNT`).
const BYTES_MAX: u64 = 0x7fff_f000;

/// What is left of them.
pub(crate) struct Buffers {
    // The one that is being used.
    at: u64,
    bytes: u64,
    // Those behind it, last one first.
    rest: Vec<(u64, u64)>,
    total: u64,
    done: u64,
    // Bytes of the libOS instead, to be taken.
    own: Option<Vec<u8>>,
}

impl Buffers {
    /// One buffer. Whether it can be used shows when it is.
    pub(crate) fn one(at: u64, bytes: u64) -> Self {
        let bytes = bytes.min(BYTES_MAX);
        Self { at, bytes, rest: Vec::new(), total: bytes, done: 0, own: None }
    }

    /// Bytes of the libOS, to be taken.
    pub(crate) fn own(data: Vec<u8>) -> Self {
        let bytes = data.len() as u64;
        Self { own: Some(data), ..Self::one(0, bytes) }
    }

    /// The buffers of a vector of `count`.
    pub(crate) fn many(vector: u64, count: u64) -> Result<Self, Errno> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut all = Self::one(0, 0);
        for i in 0..count {
            let [at, bytes] = read_words(vector.wrapping_add(i * 16))?;
            if bytes > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            let bytes = bytes.min(BYTES_MAX - all.total);
            all.total += bytes;
            if bytes > 0 {
                all.rest.push((at, bytes));
            }
        }
        all.rest.reverse();
        Ok(all)
    }

    /// Bytes not used yet.
    pub(crate) fn left(&self) -> u64 {
        self.total - self.done
    }

    /// Bytes used.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Passes over bytes that an earlier attempt has used.
    pub(crate) fn skip(&mut self, bytes: u64) {
        let mut bytes = bytes.min(self.left());
        while bytes > 0 {
            let (_, room) = self.next_piece(bytes);
            self.advance(room);
            bytes -= room;
        }
    }

    /// Fills the buffers' next bytes with `bytes`, as many as fit; returns how many.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut put = 0;
        while put < bytes.len() && self.left() > 0 {
            let (at, room) = self.next_piece((bytes.len() - put) as u64);
            let piece = &bytes[put..put + room as usize];
            User::writable(at, room)?.write(0, piece)?;
            self.advance(room);
            put += room as usize;
        }
        Ok(put)
    }

    /// Moves the buffers' next bytes to `out`, as many as there are; returns how many.
    pub(crate) fn take(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < out.len() && self.left() > 0 {
            let (at, room) = self.next_piece((out.len() - taken) as u64);
            let piece = &mut out[taken..taken + room as usize];
            match &self.own {
                Some(own) => piece.copy_from_slice(&own[at as usize..at as usize + room as usize]),
                None => User::readable(at, room)?.read(0, piece)?,
            }
            self.advance(room);
            taken += room as usize;
        }
        Ok(taken)
    }

    /// Fails when the next byte could not be written to: what a call finds out before it waits.
    pub(crate) fn check_writable(&mut self) -> Result<(), Fault> {
        if self.left() > 0 {
            let (at, bytes) = self.next_piece(u64::MAX);
            User::writable(at, bytes)?;
        }
        Ok(())
    }

    // The address of the next byte, and how many follow in the same buffer, at most `max`. There is
    // one: the caller has looked.
    fn next_piece(&mut self, max: u64) -> (u64, u64) {
        while self.bytes == 0 {
            let Some((at, bytes)) = self.rest.pop() else { return (self.at, 0) };
            (self.at, self.bytes) = (at, bytes);
        }
        (self.at, self.bytes.min(max))
    }

    fn advance(&mut self, bytes: u64) {
        self.at += bytes;
        self.bytes -= bytes;
        self.done += bytes;
    }
}
