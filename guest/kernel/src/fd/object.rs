//! What a descriptor can stand for, and what can be done with it.

use alloc::rc::Rc;
use core::any::Any;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;

// include/uapi/asm-generic/fcntl.h
pub(crate) const O_RDONLY: u32 = 0;
pub(crate) const O_WRONLY: u32 = 1;
pub(crate) const O_RDWR: u32 = 2;
pub(crate) const O_ACCMODE: u32 = 3;
pub(crate) const O_APPEND: u32 = 0o2000;
pub(crate) const O_NONBLOCK: u32 = 0o4000;
pub(crate) const O_CLOEXEC: u32 = 0o200_0000;
pub(crate) const O_PATH: u32 = 0o1000_0000;

// include/uapi/asm-generic/poll.h; epoll's bits are the same.
pub(crate) const POLLIN: u32 = 1;
pub(crate) const POLLPRI: u32 = 2;
pub(crate) const POLLOUT: u32 = 4;
pub(crate) const POLLERR: u32 = 8;
pub(crate) const POLLHUP: u32 = 0x10;
pub(crate) const POLLNVAL: u32 = 0x20;
pub(crate) const POLLRDNORM: u32 = 0x40;
pub(crate) const POLLRDBAND: u32 = 0x80;
pub(crate) const POLLWRNORM: u32 = 0x100;
pub(crate) const POLLWRBAND: u32 = 0x200;
pub(crate) const POLLRDHUP: u32 = 0x2000;

/// What can be done with an object without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// `POLL*` bits.
    pub(crate) mask: u32,
    /// How often it has become readable, or readable again, or hung up: what edge-triggered waiting
    /// for input looks at.
    pub(crate) in_edges: u64,
    /// The same for output.
    pub(crate) out_edges: u64,
    /// Time since boot at which the clock alone will change the answer.
    pub(crate) at: Option<u64>,
}

/// What `fstat` and `statx` say of a description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) links: u64,
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// What device file it is.
    pub(crate) special: u64,
    pub(crate) size: u64,
    pub(crate) block_bytes: u64,
    /// Of 512 bytes.
    pub(crate) blocks: u64,
    /// Accessed, modified, changed, born: nanoseconds since 1970.
    pub(crate) times: [u64; 4],
}

/// Something behind a descriptor. What an object does not override, it does not do, and the errno is
/// Linux's for that.
pub(crate) trait Object: Any {
    /// What can be done with it now, which is `now` after boot.
    fn ready(&self, now: u64) -> Ready;

    /// Puts bytes into `to`: from the description's offset on, or from `at`. `EAGAIN` when there are
    /// none yet; 0 at the end.
    fn read(&self, _k: &mut Kernel, _from: &Description, _at: Option<u64>, _to: &mut Buffers) -> Outcome {
        Err(Errno::EINVAL)
    }

    /// Takes bytes out of `from`: to the description's offset on, or to `at`. `EAGAIN` when it can take
    /// none yet.
    fn write(&self, _k: &mut Kernel, _to: &Description, _at: Option<u64>, _from: &mut Buffers) -> Outcome {
        Err(Errno::EINVAL)
    }

    /// A write that may wait goes on until all is written.
    fn writes_all(&self) -> bool {
        false
    }

    /// It has positions: `pread` and `lseek` are not `ESPIPE`.
    fn has_positions(&self) -> bool {
        false
    }

    /// `lseek`.
    fn seek(&self, _description: &Description, _offset: i64, _whence: u64) -> Outcome {
        Err(Errno::ESPIPE)
    }

    /// `ioctl`, but for those that all descriptions have.
    fn ioctl(&self, _k: &mut Kernel, _request: u64, _argument: u64) -> Outcome {
        Err(Errno::ENOTTY)
    }

    /// `fstat`.
    fn stat(&self) -> Result<Stat, Errno>;

    /// Something opened, duplicated or closed it: descriptions count.
    fn closed(&self, _description: &Description) {}
}

/// An open file description: what `open` makes, and `dup` shares.
pub(crate) struct Description {
    /// What is behind it.
    pub(crate) object: Rc<dyn Object>,
    /// Access mode and status flags, as `F_GETFL` has them.
    pub(crate) flags: Cell<u32>,
    /// Where the next read or write begins.
    pub(crate) offset: Cell<u64>,
    /// Never used twice: what `epoll` knows it by.
    pub(crate) id: u64,
}

/// Ids so far. It is in guest memory, so the same in every fork.
static IDS: AtomicU64 = AtomicU64::new(0);

impl Description {
    pub(crate) fn new(object: Rc<dyn Object>, flags: u32) -> Self {
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Self { object, flags: Cell::new(flags), offset: Cell::new(0), id }
    }

    /// The object, if it is of this kind.
    pub(crate) fn as_a<T: Object>(&self) -> Option<&T> {
        let any: &dyn Any = &*self.object;
        any.downcast_ref()
    }

    pub(crate) fn may_read(&self) -> bool {
        self.flags.get() & O_PATH == 0 && matches!(self.flags.get() & O_ACCMODE, O_RDONLY | O_RDWR)
    }

    pub(crate) fn may_write(&self) -> bool {
        self.flags.get() & O_PATH == 0 && matches!(self.flags.get() & O_ACCMODE, O_WRONLY | O_RDWR)
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags.get() & flag != 0
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        self.object.closed(self);
        // The other end of a pipe may be waiting for just this.
        crate::sched::event();
    }
}
