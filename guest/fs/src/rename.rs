//! `renameat2`. Linux `fs/namei.c`, `do_renameat2` and `vfs_rename`, whose order of checks decides
//! which errno a call with several mistakes gets.

use crate::directory::Name;
use crate::errno::Errno;
use crate::node::NodeId;
use crate::tree::FileSystem;
use crate::walk::{Last, Walk};

/// Fail if the new name exists.
pub const RENAME_NOREPLACE: u32 = 1;
/// Swap the two.
pub const RENAME_EXCHANGE: u32 = 2;

impl FileSystem<'_> {
    /// Gives the node at `old_path`, seen from `old_start`, the name `new_path`, seen from
    /// `new_start`.
    ///
    /// # Errors
    ///
    /// As `renameat2(2)`; `RENAME_WHITEOUT` is `EINVAL`.
    pub fn rename(
        &mut self,
        (old_start, old_path): (NodeId, &[u8]),
        (new_start, new_path): (NodeId, &[u8]),
        flags: u32,
    ) -> Result<(), Errno> {
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 || flags == RENAME_NOREPLACE | RENAME_EXCHANGE {
            return Err(Errno::EINVAL);
        }
        let exchange = flags == RENAME_EXCHANGE;
        let from = Walk::begin(self, old_start, old_path)?;
        let to = Walk::begin(self, new_start, new_path)?;
        if self.node(from.directory)?.device != self.node(to.directory)?.device {
            return Err(Errno::EXDEV);
        }
        if from.last != Last::Name {
            return Err(Errno::EBUSY);
        }
        if to.last != Last::Name {
            return Err(if flags == RENAME_NOREPLACE { Errno::EEXIST } else { Errno::EBUSY });
        }
        let old = from.found(self)?.ok_or(Errno::ENOENT)?;
        if self.directory(to.directory)?.dead {
            return Err(Errno::ENOENT);
        }
        let new = to.found(self)?;
        if new.is_some() && flags == RENAME_NOREPLACE {
            return Err(Errno::EEXIST);
        }
        let moves_directory = self.node(old)?.is_directory();
        if exchange {
            let new = new.ok_or(Errno::ENOENT)?;
            if to.slash && !self.node(new)?.is_directory() {
                return Err(Errno::ENOTDIR);
            }
        }
        if !moves_directory && (from.slash || (!exchange && to.slash)) {
            return Err(Errno::ENOTDIR);
        }
        if self.is_above(old, to.directory)? {
            return Err(Errno::EINVAL);
        }
        if let Some(new) = new
            && self.is_above(new, from.directory)?
        {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if new == Some(old) {
            return Ok(());
        }
        if self.directory(from.directory)?.sealed || self.directory(to.directory)?.sealed {
            return Err(Errno::EPERM);
        }
        match new {
            Some(new) if exchange => self.exchange(&from, old, &to, new),
            Some(new) => {
                self.check_replaced(moves_directory, new)?;
                if self.node(old)?.mount_point || self.node(new)?.mount_point {
                    return Err(Errno::EBUSY);
                }
                if moves_directory {
                    if !self.directory(new)?.is_empty() {
                        return Err(Errno::ENOTEMPTY);
                    }
                    self.bury(new)?;
                }
                // The entry changes what it points to, which takes no memory.
                self.pin(old)?;
                self.unlink_from(from.directory, from.name())?;
                self.point(&to, old)?;
                self.detach(to.directory, new)?;
                self.release(new);
                self.unpin(old);
                Ok(())
            }
            None => {
                if self.node(old)?.mount_point {
                    return Err(Errno::EBUSY);
                }
                // Linking first: it is what may fail.
                self.pin(old)?;
                let linked = self.link_in(to.directory, &to.owned_name(), old);
                let moved = linked.and_then(|()| self.unlink_from(from.directory, from.name()));
                self.unpin(old);
                moved
            }
        }
    }

    fn check_replaced(&self, moves_directory: bool, new: NodeId) -> Result<(), Errno> {
        match (moves_directory, self.node(new)?.is_directory()) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            _ => Ok(()),
        }
    }

    fn exchange(&mut self, from: &Walk, old: NodeId, to: &Walk, new: NodeId) -> Result<(), Errno> {
        if self.node(old)?.mount_point || self.node(new)?.mount_point {
            return Err(Errno::EBUSY);
        }
        self.pin(old)?;
        self.pin(new)?;
        self.detach(from.directory, old)?;
        self.detach(to.directory, new)?;
        self.point(from, new)?;
        self.point(to, old)?;
        self.unpin(old);
        self.unpin(new);
        Ok(())
    }

    /// Points the entry at the end of `walk` to `node`.
    fn point(&mut self, walk: &Walk, node: NodeId) -> Result<(), Errno> {
        let name: Name = walk.owned_name();
        self.directory_mut(walk.directory)?.set(Name::clone(&name), node);
        self.attach(walk.directory, &name, node)?;
        self.touch(walk.directory);
        Ok(())
    }

    /// Whether `node` is `directory` or a directory above it.
    fn is_above(&self, node: NodeId, directory: NodeId) -> Result<bool, Errno> {
        let mut at = directory;
        loop {
            if at == node {
                return Ok(true);
            }
            let parent = self.directory(at)?.parent;
            if parent == at {
                return Ok(false);
            }
            at = parent;
        }
    }
}
