//! `chmod`, `chown`, `utimensat`, `access`. The caller is root, who may do everything but execute
//! what nobody may execute.

use crate::errno::Errno;
use crate::node::{Kind, NodeId, Time};
use crate::tree::{FileSystem, S_ISGID};

const S_ISUID: u32 = 0o4000;
const S_IXGRP: u32 = 0o010;

impl FileSystem<'_> {
    /// `chmod`.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a symbolic link.
    pub fn set_permissions(&mut self, id: NodeId, permissions: u32) -> Result<(), Errno> {
        let now = self.now();
        let node = self.node_mut(id)?;
        if matches!(node.kind, Kind::Symlink(_) | Kind::Magic(..)) {
            return Err(Errno::EOPNOTSUPP);
        }
        node.permissions = permissions & 0o7777;
        node.ctime = now;
        Ok(())
    }

    /// `chown`. Takes set-id bits away, as Linux does even for root.
    ///
    /// # Errors
    ///
    /// `ESTALE`.
    pub fn set_owner(&mut self, id: NodeId, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let now = self.now();
        let node = self.node_mut(id)?;
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        if !node.is_directory() {
            // Linux fs/open.c, chown_common; fs/attr.c, setattr_should_drop_sgid.
            node.permissions &= !S_ISUID;
            if node.permissions & S_IXGRP != 0 {
                node.permissions &= !S_ISGID;
            }
        }
        node.ctime = now;
        Ok(())
    }

    /// `utimensat`: sets the times that are given.
    ///
    /// # Errors
    ///
    /// `ESTALE`.
    pub fn set_times(&mut self, id: NodeId, atime: Option<Time>, mtime: Option<Time>) -> Result<(), Errno> {
        let now = self.now();
        let node = self.node_mut(id)?;
        node.atime = atime.unwrap_or(node.atime);
        node.mtime = mtime.unwrap_or(node.mtime);
        node.ctime = now;
        Ok(())
    }

    /// Whether root may execute it: a directory, or what has an execute bit.
    ///
    /// # Errors
    ///
    /// `EACCES` when not.
    pub fn check_executable(&self, id: NodeId) -> Result<(), Errno> {
        let node = self.node(id)?;
        if node.is_directory() || node.permissions & 0o111 != 0 { Ok(()) } else { Err(Errno::EACCES) }
    }
}
