//! Event counters. eventfd(2).

use alloc::rc::Rc;
use core::cell::Cell;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, O_CLOEXEC, O_NONBLOCK, O_RDWR, Object, POLLIN, POLLOUT, Ready, Stat};
use crate::sched;

const EFD_SEMAPHORE: u32 = 1;
/// The counter stays below this.
const END: u64 = u64::MAX;

struct EventCounter {
    count: Cell<u64>,
    semaphore: bool,
    in_edges: Cell<u64>,
    out_edges: Cell<u64>,
}

impl Object for EventCounter {
    fn ready(&self, _now: u64) -> Ready {
        let count = self.count.get();
        let mut mask = if count > 0 { POLLIN } else { 0 };
        mask |= if count < END - 1 { POLLOUT } else { 0 };
        Ready { mask, in_edges: self.in_edges.get(), out_edges: self.out_edges.get(), at: None }
    }

    fn read(&self, _k: &mut Kernel, _from: &Description, _at: Option<u64>, to: &mut Buffers) -> Outcome {
        if to.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = self.count.get();
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        let value = if self.semaphore { 1 } else { count };
        to.put(&value.to_le_bytes())?;
        self.count.set(count - value);
        self.out_edges.set(self.out_edges.get() + 1);
        sched::event();
        Ok(8)
    }

    fn write(&self, _k: &mut Kernel, _to: &Description, _at: Option<u64>, from: &mut Buffers) -> Outcome {
        if from.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        from.take(&mut bytes)?;
        let value = u64::from_le_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        if END - self.count.get() <= value {
            return Err(Errno::EAGAIN);
        }
        self.count.set(self.count.get() + value);
        self.in_edges.set(self.in_edges.get() + 1);
        sched::event();
        Ok(8)
    }

    /// Accepted, and without effect.
    fn seek(&self, description: &Description, _offset: i64, _whence: u64) -> Outcome {
        Ok(description.offset.get())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(anonymous())
    }
}

/// What `fstat` says of an object without a file.
pub(crate) fn anonymous() -> Stat {
    Stat { device: 14, inode: 1, mode: 0o600, links: 1, block_bytes: 4096, ..Stat::default() }
}

/// `eventfd` and `eventfd2`.
pub(crate) fn eventfd2(k: &mut Kernel, count: u64, flags: u64) -> Outcome {
    let flags = flags as u32;
    if flags & !(EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let counter = EventCounter {
        count: Cell::new(u64::from(count as u32)),
        semaphore: flags & EFD_SEMAPHORE != 0,
        in_edges: Cell::new(1),
        out_edges: Cell::new(1),
    };
    k.files.open(Rc::new(counter), O_RDWR | flags & (O_CLOEXEC | O_NONBLOCK))
}
