//! Descriptors: a table of numbers, the open file descriptions behind them, and the objects behind
//! those.
//!
//! ```text
//!  fd ──► table entry (close-on-exec) ──► Description (offset, flags) ──► Object: console, pipe end,
//!  fd ──► table entry ────────────────────┘   shared by dup                event counter, timer, ...
//! ```
//!
//! Everything that the application reads through a descriptor passes [`io::read_from`], and everything
//! it writes passes [`io::write_to`]; they also wait, when an object says `EAGAIN` and the description is
//! not non-blocking. Whether an object is ready is asked in one way, [`object::Object::ready`], by
//! `poll`, `select`, `epoll` and by calls that wait.

pub(crate) mod buffers;
pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod epoll;
pub(crate) mod eventfd;
pub(crate) mod io;
pub(crate) mod object;
pub(crate) mod pipe;
pub(crate) mod poll;
pub(crate) mod select;
pub(crate) mod timerfd;

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::errno::Errno;
use object::{Description, Object};

/// Numbers that `RLIMIT_NOFILE` allows at first, and at most.
pub(crate) const DESCRIPTORS_MAX: u64 = 1024;
pub(crate) const DESCRIPTORS_HARD_MAX: u64 = 1 << 20;

/// An entry of the table.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) description: Rc<Description>,
    pub(crate) close_on_exec: bool,
}

/// The table of descriptors.
pub(crate) struct Files {
    entries: Vec<Option<Entry>>,
    /// The soft limit of `RLIMIT_NOFILE`: numbers are below it.
    pub(crate) limit: u64,
}

impl Files {
    /// The console on 0, 1 and 2.
    pub(crate) fn new() -> Self {
        let entry = |input| {
            let console: Rc<dyn Object> = Rc::new(console::Console::new(input));
            let description = Rc::new(Description::new(console, object::O_RDWR));
            Some(Entry { description, close_on_exec: false })
        };
        let (input, output) = (entry(true), entry(false));
        let entries = Vec::from([input, output.clone(), output]);
        Self { entries, limit: DESCRIPTORS_MAX }
    }

    /// What descriptor `fd` stands for.
    pub(crate) fn get(&self, fd: u64) -> Result<Rc<Description>, Errno> {
        self.entry(fd).map(|entry| Rc::clone(&entry.description))
    }

    pub(crate) fn entry(&self, fd: u64) -> Result<&Entry, Errno> {
        self.entries.get(index(fd)).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    pub(crate) fn entry_mut(&mut self, fd: u64) -> Result<&mut Entry, Errno> {
        self.entries.get_mut(index(fd)).and_then(Option::as_mut).ok_or(Errno::EBADF)
    }

    /// Opens `object` on the lowest free number.
    pub(crate) fn open(&mut self, object: Rc<dyn Object>, flags: u32) -> Result<u64, Errno> {
        crate::user::have_room(4096)?;
        let description = Rc::new(Description::new(object, flags & !object::O_CLOEXEC));
        self.add(description, flags & object::O_CLOEXEC != 0, 0)
    }

    /// Gives `description` the lowest free number from `from` on.
    pub(crate) fn add(
        &mut self,
        description: Rc<Description>,
        close_on_exec: bool,
        from: u64,
    ) -> Result<u64, Errno> {
        let free = (from..self.limit).find(|&fd| self.entry(fd).is_err()).ok_or(Errno::EMFILE)?;
        self.put(free, description, close_on_exec)?;
        Ok(free)
    }

    /// Makes number `fd` stand for `description`; what it stood for before is closed.
    pub(crate) fn put(
        &mut self,
        fd: u64,
        description: Rc<Description>,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        if fd >= self.limit {
            return Err(Errno::EBADF);
        }
        let at = index(fd);
        if at >= self.entries.len() {
            let more = at + 1 - self.entries.len();
            self.entries.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.entries.resize(at + 1, None);
        }
        self.entries[at] = Some(Entry { description, close_on_exec });
        Ok(())
    }

    /// Closes `fd`.
    pub(crate) fn close(&mut self, fd: u64) -> Result<(), Errno> {
        let entry = self.entries.get_mut(index(fd)).and_then(Option::take).ok_or(Errno::EBADF)?;
        drop(entry);
        crate::sched::event();
        Ok(())
    }

    /// The numbers in use, in order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.is_some()).map(|(fd, _)| fd as u64)
    }
}

/// Descriptors are `int`s: of a register, the low half counts.
fn index(fd: u64) -> usize {
    fd as u32 as usize
}
