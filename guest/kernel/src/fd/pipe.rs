//! Pipes. pipe(7); Linux `fs/pipe.c`.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{
    Description, O_CLOEXEC, O_NONBLOCK, O_RDONLY, O_WRONLY, Object, POLLERR, POLLHUP, POLLIN, POLLOUT,
    POLLRDNORM, POLLWRNORM, Ready, Stat,
};
use crate::sched;
use crate::user::{have_room, write_bytes, write_u32};

/// Bytes a new pipe holds.
const CAPACITY: usize = 0x1_0000;
/// Bytes a pipe holds at most, for root too.
const CAPACITY_MAX: usize = 1 << 20;
/// A write of this much or less is never split.
const PIPE_BUF: u64 = 4096;
const PAGE_BYTES: usize = 4096;
const O_DIRECT: u32 = 0o4_0000;
const FIONREAD: u64 = 0x541b;
/// pipefs' device number, and the first inode of its own.
const DEVICE: u64 = 15;

/// What both ends share.
struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    capacity: Cell<usize>,
    reader: Cell<bool>,
    writer: Cell<bool>,
    in_edges: Cell<u64>,
    out_edges: Cell<u64>,
}

/// One end of a pipe.
pub(crate) struct PipeEnd {
    pipe: Rc<Pipe>,
    writes: bool,
}

impl PipeEnd {
    fn new() -> (Self, Self) {
        let pipe = Rc::new(Pipe {
            bytes: RefCell::default(),
            capacity: Cell::new(CAPACITY),
            reader: Cell::new(true),
            writer: Cell::new(true),
            in_edges: Cell::new(0),
            out_edges: Cell::new(1),
        });
        (Self { pipe: Rc::clone(&pipe), writes: false }, Self { pipe, writes: true })
    }

    /// `F_GETPIPE_SZ`.
    pub(crate) fn capacity(&self) -> u64 {
        self.pipe.capacity.get() as u64
    }

    /// `F_SETPIPE_SZ`.
    pub(crate) fn set_capacity(&self, bytes: u64) -> Outcome {
        let bytes = usize::try_from(bytes as u32).unwrap_or(usize::MAX).max(PAGE_BYTES);
        let bytes = bytes.checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        if bytes > CAPACITY_MAX {
            return Err(Errno::EPERM);
        }
        if bytes < self.pipe.bytes.borrow().len() {
            return Err(Errno::EBUSY);
        }
        self.pipe.capacity.set(bytes);
        sched::event();
        Ok(bytes as u64)
    }
}

impl Object for PipeEnd {
    fn ready(&self, _now: u64) -> Ready {
        let pipe = &self.pipe;
        let len = pipe.bytes.borrow().len();
        let mut mask = 0;
        if self.writes {
            // Linux: room for a page.
            if len + PAGE_BYTES <= pipe.capacity.get() {
                mask |= POLLOUT | POLLWRNORM;
            }
            mask |= if pipe.reader.get() { 0 } else { POLLERR };
        } else {
            mask |= if len > 0 { POLLIN | POLLRDNORM } else { 0 };
            mask |= if pipe.writer.get() { 0 } else { POLLHUP };
        }
        Ready { mask, in_edges: pipe.in_edges.get(), out_edges: pipe.out_edges.get(), at: None }
    }

    fn read(&self, _k: &mut Kernel, _from: &Description, _at: Option<u64>, to: &mut Buffers) -> Outcome {
        if to.left() == 0 {
            return Ok(0);
        }
        let mut bytes = self.pipe.bytes.borrow_mut();
        if bytes.is_empty() {
            return if self.pipe.writer.get() { Err(Errno::EAGAIN) } else { Ok(0) };
        }
        let wanted = usize::try_from(to.left()).unwrap_or(usize::MAX).min(bytes.len());
        let (front, back) = bytes.as_slices();
        let first = wanted.min(front.len());
        to.put(&front[..first])?;
        to.put(&back[..wanted - first])?;
        bytes.drain(..wanted);
        self.pipe.out_edges.set(self.pipe.out_edges.get() + 1);
        sched::event();
        Ok(wanted as u64)
    }

    fn write(&self, _k: &mut Kernel, _to: &Description, _at: Option<u64>, from: &mut Buffers) -> Outcome {
        if !self.pipe.reader.get() {
            return Err(Errno::EPIPE);
        }
        let mut bytes = self.pipe.bytes.borrow_mut();
        let room = self.pipe.capacity.get() - bytes.len();
        if from.left() == 0 {
            return Ok(0);
        }
        if room == 0 || from.left() <= PIPE_BUF && (room as u64) < from.left() {
            return Err(Errno::EAGAIN);
        }
        let wanted = usize::try_from(from.left()).unwrap_or(usize::MAX).min(room);
        have_room(wanted)?;
        let mut piece = [0; 1024];
        let mut done = 0;
        while done < wanted {
            let count = (wanted - done).min(piece.len());
            match from.take(&mut piece[..count]) {
                Ok(count) => bytes.extend(&piece[..count]),
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
            done += count;
        }
        self.pipe.in_edges.set(self.pipe.in_edges.get() + 1);
        sched::event();
        Ok(done as u64)
    }

    fn writes_all(&self) -> bool {
        true
    }

    fn ioctl(&self, _k: &mut Kernel, request: u64, argument: u64) -> Outcome {
        match request {
            FIONREAD => write_u32(argument, self.pipe.bytes.borrow().len() as u32)?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn stat(&self) -> Result<Stat, Errno> {
        let inode = (Rc::as_ptr(&self.pipe) as usize / align_of::<Pipe>()) as u64 & 0xff_ffff;
        Ok(Stat { device: DEVICE, inode, mode: 0o010_600, links: 1, block_bytes: 4096, ..Stat::default() })
    }

    fn closed(&self, _description: &Description) {
        let (end, edges) = if self.writes {
            (&self.pipe.writer, &self.pipe.in_edges)
        } else {
            (&self.pipe.reader, &self.pipe.out_edges)
        };
        end.set(false);
        edges.set(edges.get() + 1);
    }
}

/// `pipe` and `pipe2`.
pub(crate) fn pipe2(k: &mut Kernel, to: u64, flags: u64) -> Outcome {
    let flags = flags as u32;
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = PipeEnd::new();
    let reader = k.files.open(Rc::new(reader), O_RDONLY | flags)?;
    let made = k.files.open(Rc::new(writer), O_WRONLY | flags).and_then(|writer| {
        let mut numbers = [0; 8];
        numbers[..4].copy_from_slice(&(reader as u32).to_le_bytes());
        numbers[4..].copy_from_slice(&(writer as u32).to_le_bytes());
        write_bytes(to, &numbers).map_err(|fault| {
            let _open = k.files.close(writer);
            fault.into()
        })
    });
    if let Err(error) = made {
        let _open = k.files.close(reader);
        return Err(error);
    }
    Ok(0)
}
