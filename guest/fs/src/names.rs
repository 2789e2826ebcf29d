//! Making and removing names: `mkdir`, `mknod`, `symlink`, `link`, `unlink`, `rmdir`.
//! Linux `fs/namei.c` (`filename_create`, `do_unlinkat`, `do_rmdir`, `vfs_link`).

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::contents::Contents;
use crate::directory::{Directory, Name};
use crate::errno::Errno;
use crate::node::{Kind, NodeId, NodeKind};
use crate::tree::FileSystem;
use crate::walk::{Last, PATH_MAX, Walk};

impl FileSystem<'_> {
    /// Walks to where something is to be made that must not exist yet.
    fn place(&self, start: NodeId, path: &[u8], is_directory: bool) -> Result<(NodeId, Name), Errno> {
        let walk = Walk::begin(self, start, path)?;
        if walk.last != Last::Name {
            return Err(Errno::EEXIST);
        }
        match walk.found(self)? {
            Some(_) => Err(Errno::EEXIST),
            None if walk.slash && !is_directory => Err(Errno::ENOENT),
            None => Ok((walk.directory, walk.owned_name())),
        }
    }

    /// `mkdir`.
    ///
    /// # Errors
    ///
    /// As `mkdir(2)`.
    pub fn make_directory(&mut self, start: NodeId, path: &[u8], mode: u32) -> Result<NodeId, Errno> {
        let (parent, name) = self.place(start, path, true)?;
        let directory = Directory::new(parent, Name::clone(&name));
        // Linux fs/namei.c, vfs_mkdir: of the special bits only the sticky one is taken.
        self.make(parent, &name, Kind::Directory(directory), mode & 0o1777)
    }

    /// `mknod` for regular files, pipes, sockets and devices.
    ///
    /// # Errors
    ///
    /// As `mknod(2)`; `EPERM` for a directory, `EINVAL` for other kinds.
    pub fn make_node(
        &mut self,
        start: NodeId,
        path: &[u8],
        kind: NodeKind,
        mode: u32,
    ) -> Result<NodeId, Errno> {
        let new = match kind {
            NodeKind::Regular => Kind::Regular(Contents::default()),
            NodeKind::Fifo => Kind::Fifo,
            NodeKind::Socket => Kind::Socket,
            NodeKind::Character(number) => Kind::Character(number),
            NodeKind::Block(number) => Kind::Block(number),
            NodeKind::Directory => return Err(Errno::EPERM),
            NodeKind::Symlink | NodeKind::Synthetic(_) | NodeKind::Magic(_) => return Err(Errno::EINVAL),
        };
        let (parent, name) = self.place(start, path, false)?;
        self.make(parent, &name, new, mode)
    }

    /// `symlink`.
    ///
    /// # Errors
    ///
    /// As `symlink(2)`.
    pub fn make_symlink(&mut self, start: NodeId, path: &[u8], target: &[u8]) -> Result<NodeId, Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let (parent, name) = self.place(start, path, false)?;
        let target = owned(target)?;
        self.make(parent, &name, Kind::Symlink(target), 0o777)
    }

    /// `link`: another name for `node`.
    ///
    /// # Errors
    ///
    /// As `link(2)`.
    pub fn make_link(&mut self, node: NodeId, start: NodeId, path: &[u8]) -> Result<(), Errno> {
        let (parent, name) = self.place(start, path, false)?;
        let own = self.node(node)?;
        if own.device != self.node(parent)?.device {
            return Err(Errno::EXDEV);
        }
        let into = self.directory(parent)?;
        if into.dead {
            return Err(Errno::ENOENT);
        }
        if own.is_directory() || into.sealed {
            return Err(Errno::EPERM);
        }
        if own.links == 0 && !own.linkable {
            return Err(Errno::ENOENT);
        }
        self.link_in(parent, &name, node)
    }

    /// `unlink`. The node lives on while it is pinned or has other names.
    ///
    /// # Errors
    ///
    /// As `unlink(2)`.
    pub fn unlink(&mut self, start: NodeId, path: &[u8]) -> Result<(), Errno> {
        let walk = Walk::begin(self, start, path)?;
        if walk.last != Last::Name {
            return Err(Errno::EISDIR);
        }
        let node = walk.found(self)?.ok_or(Errno::ENOENT)?;
        if self.node(node)?.is_directory() {
            return Err(Errno::EISDIR);
        }
        if walk.slash {
            return Err(Errno::ENOTDIR);
        }
        if self.directory(walk.directory)?.sealed {
            return Err(Errno::EPERM);
        }
        self.unlink_from(walk.directory, walk.name())
    }

    /// `rmdir`.
    ///
    /// # Errors
    ///
    /// As `rmdir(2)`.
    pub fn remove_directory(&mut self, start: NodeId, path: &[u8]) -> Result<(), Errno> {
        let walk = Walk::begin(self, start, path)?;
        match walk.last {
            Last::Name => {}
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Root => return Err(Errno::EBUSY),
        }
        let node = walk.found(self)?.ok_or(Errno::ENOENT)?;
        let own = self.directory(node)?;
        if self.node(node)?.mount_point {
            return Err(Errno::EBUSY);
        }
        if !own.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        if self.directory(walk.directory)?.sealed {
            return Err(Errno::EPERM);
        }
        self.bury(node)?;
        self.unlink_from(walk.directory, walk.name())
    }

    /// An empty directory is about to lose its name: its "." does not count any more.
    pub(crate) fn bury(&mut self, directory: NodeId) -> Result<(), Errno> {
        self.directory_mut(directory)?.dead = true;
        self.node_mut(directory)?.links = 1;
        Ok(())
    }
}

/// Nodes that only the file system's owner makes.
impl<'a> FileSystem<'a> {
    /// A file system of its own at the directory `at`: it cannot be removed or moved, and nothing
    /// can be linked or moved across it. `sealed`: programs can change nothing in it.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`.
    pub fn mount(&mut self, at: NodeId, device: u32, sealed: bool) -> Result<(), Errno> {
        self.directory_mut(at)?.sealed = sealed;
        let node = self.node_mut(at)?;
        node.device = device;
        node.mount_point = true;
        Ok(())
    }

    /// Marks a directory as one in which programs can change nothing, or lifts that.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`.
    pub fn seal(&mut self, directory: NodeId, sealed: bool) -> Result<(), Errno> {
        self.directory_mut(directory)?.sealed = sealed;
        Ok(())
    }

    /// A file whose contents its owner makes when it is opened.
    ///
    /// # Errors
    ///
    /// As `mknod(2)`.
    pub fn add_synthetic(
        &mut self,
        parent: NodeId,
        name: &[u8],
        number: u32,
        mode: u32,
    ) -> Result<NodeId, Errno> {
        self.make(parent, &Name::from(name), Kind::Synthetic(number), mode)
    }

    /// A link to something without a name, which reads as `text`.
    ///
    /// # Errors
    ///
    /// As `symlink(2)`.
    pub fn add_magic(
        &mut self,
        parent: NodeId,
        name: &[u8],
        number: u32,
        text: &[u8],
    ) -> Result<NodeId, Errno> {
        self.make(parent, &Name::from(name), Kind::Magic(number, owned(text)?), 0o700)
    }

    /// A regular file whose initial contents stay where they are.
    ///
    /// # Errors
    ///
    /// As `mknod(2)`.
    pub fn add_file(
        &mut self,
        parent: NodeId,
        name: &[u8],
        contents: &'a [u8],
        mode: u32,
    ) -> Result<NodeId, Errno> {
        self.make(parent, &Name::from(name), Kind::Regular(Contents::borrowed(contents)), mode)
    }

    /// Removes the links in a directory that `keep` says no to, by name and text. The others stay where
    /// they are in its listing.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`.
    pub fn retain_links(
        &mut self,
        directory: NodeId,
        mut keep: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Errno> {
        let mut gone = Vec::new();
        for (_, name, id) in self.directory(directory)?.list(0) {
            if self.read_link(id).is_ok_and(|text| !keep(name, text)) {
                gone.push(Name::clone(name));
            }
        }
        for name in gone {
            self.unlink_from(directory, &name)?;
        }
        Ok(())
    }
}

pub(crate) fn owned<'n>(text: &[u8]) -> Result<Cow<'n, [u8]>, Errno> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(text.len()).map_err(|_| Errno::ENOSPC)?;
    copy.extend_from_slice(text);
    Ok(Cow::Owned(copy))
}
