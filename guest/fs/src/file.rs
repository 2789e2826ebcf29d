//! Contents of regular files, and listings of directories.

use crate::contents::{Contents, PAGE};
use crate::directory::FIRST_POSITION;
use crate::errno::Errno;
use crate::node::{Kind, NodeId};
use crate::tree::FileSystem;

/// `fallocate`: the size stays as it is.
pub const FALLOC_FL_KEEP_SIZE: u32 = 1;
/// `fallocate`: makes a hole.
pub const FALLOC_FL_PUNCH_HOLE: u32 = 2;

/// One entry of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'n> {
    /// Its name.
    pub name: &'n [u8],
    /// Its node's number.
    pub ino: u64,
    /// Its node's type, `DT_*`.
    pub kind: u8,
    /// The position behind it.
    pub next: u64,
}

impl<'a> FileSystem<'a> {
    fn contents(&self, file: NodeId) -> Result<&Contents<'a>, Errno> {
        match &self.node(file)?.kind {
            Kind::Regular(contents) => Ok(contents),
            Kind::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Calls `f` with up to `bytes` bytes from `offset` on, in pieces; says how many there were.
    ///
    /// # Errors
    ///
    /// `EISDIR`, `EINVAL` when it is no regular file.
    pub fn read(
        &mut self,
        file: NodeId,
        offset: u64,
        bytes: u64,
        f: impl FnMut(&[u8]),
    ) -> Result<u64, Errno> {
        let count = self.contents(file)?.read(offset, bytes, f);
        let now = self.now();
        let node = self.node_mut(file)?;
        // relatime, as Linux mounts by default: only what would tell a reader something new.
        if node.atime <= node.mtime || node.atime <= node.ctime {
            node.atime = now;
        }
        Ok(count)
    }

    /// Lets `f` fill `bytes` bytes from `offset` on, in pieces; says how many there were, which are
    /// fewer when memory runs out. The file grows as needed.
    ///
    /// # Errors
    ///
    /// `EISDIR`, `EINVAL` when it is no regular file, `EFBIG`, `ENOSPC`.
    pub fn write(
        &mut self,
        file: NodeId,
        offset: u64,
        bytes: u64,
        f: impl FnMut(&mut [u8]),
    ) -> Result<u64, Errno> {
        self.contents(file)?;
        if bytes == 0 {
            return Ok(0);
        }
        let (node, budget) = self.node_and_budget(file)?;
        let Kind::Regular(contents) = &mut node.kind else { return Err(Errno::EINVAL) };
        let count = contents.write(budget, offset, bytes, f)?;
        self.touch(file);
        Ok(count)
    }

    /// Bytes of a regular file.
    ///
    /// # Errors
    ///
    /// `EISDIR`, `EINVAL` when it is no regular file.
    pub fn size(&self, file: NodeId) -> Result<u64, Errno> {
        self.contents(file).map(Contents::len)
    }

    /// `truncate`: makes the file `bytes` long; new bytes are zero.
    ///
    /// # Errors
    ///
    /// `EISDIR`, `EINVAL` when it is no regular file, `EFBIG`.
    pub fn truncate(&mut self, file: NodeId, bytes: u64) -> Result<(), Errno> {
        self.contents(file)?;
        let (node, budget) = self.node_and_budget(file)?;
        let Kind::Regular(contents) = &mut node.kind else { return Err(Errno::EINVAL) };
        contents.resize(budget, bytes)?;
        self.touch(file);
        Ok(())
    }

    /// `fallocate`. Memory is not set aside: a later write may still fail with `ENOSPC`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an empty range, `EOPNOTSUPP` for modes that tmpfs does not have either,
    /// `EFBIG`, and `ENOSPC` when it would not fit now.
    pub fn allocate(&mut self, file: NodeId, mode: u32, offset: u64, bytes: u64) -> Result<(), Errno> {
        let end = offset.checked_add(bytes).filter(|&end| end <= crate::FILE_BYTES_MAX);
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        self.contents(file)?;
        let end = end.ok_or(Errno::EFBIG)?;
        let (node, budget) = self.node_and_budget(file)?;
        let Kind::Regular(contents) = &mut node.kind else { return Err(Errno::EINVAL) };
        match mode {
            0 | FALLOC_FL_KEEP_SIZE => {
                if bytes.next_multiple_of(PAGE) > budget.left() {
                    return Err(Errno::ENOSPC);
                }
                if mode == 0 && end > contents.len() {
                    contents.resize(budget, end)?;
                }
            }
            m if m == FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE => contents.punch(budget, offset, bytes)?,
            _ => return Err(Errno::EOPNOTSUPP),
        }
        self.touch(file);
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    ///
    /// # Errors
    ///
    /// `ENXIO` when there is none, `EINVAL` when it is no regular file.
    pub fn seek(&self, file: NodeId, offset: u64, hole: bool) -> Result<u64, Errno> {
        let contents = self.contents(file)?;
        let found = if hole { contents.next_hole(offset) } else { contents.next_data(offset) };
        found.ok_or(Errno::ENXIO)
    }

    /// Calls `f` with the entries of a directory from `position` on, 0 being its beginning, until
    /// it says `false`.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`; `ENOENT` when the directory has been removed.
    pub fn list(
        &mut self,
        directory: NodeId,
        position: u64,
        mut f: impl FnMut(Listed<'_>) -> bool,
    ) -> Result<(), Errno> {
        let own = self.directory(directory)?;
        if own.dead {
            return Err(Errno::ENOENT);
        }
        let number = |id| self.node(id).map_or((0, 0), |n| (n.ino, n.node_kind().directory_type()));
        let dots = [(b".".as_slice(), directory, 1), (b"..", own.parent, FIRST_POSITION)];
        for (name, id, next) in dots {
            if position < next {
                let (ino, kind) = number(id);
                if !f(Listed { name, ino, kind, next }) {
                    return Ok(());
                }
            }
        }
        for (at, name, id) in own.list(position) {
            let (ino, kind) = number(id);
            if !f(Listed { name, ino, kind, next: at + 1 }) {
                break;
            }
        }
        let now = self.now();
        self.node_mut(directory)?.atime = now;
        Ok(())
    }
}
