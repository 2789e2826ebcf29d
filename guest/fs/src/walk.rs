//! From a path to a node. Linux `fs/namei.c`, `path_resolution(7)`.
//!
//! A [`Walk`] goes along a path up to its last component and stops there, since what is to become
//! of that one differs from call to call: it may have to exist or not to exist, and a symbolic link
//! may be followed or meant itself.

use alloc::vec::Vec;

use crate::directory::Name;
use crate::errno::Errno;
use crate::node::{Kind, NodeId};
use crate::tree::FileSystem;

/// Bytes of a path at most, with its terminating NUL.
pub const PATH_MAX: usize = 4096;
/// Bytes of a name at most.
pub const NAME_MAX: usize = 255;
/// Symbolic links followed at most on one path.
const LINKS_MAX: u32 = 40;

/// The last component of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// An ordinary name.
    Name,
    /// ".".
    Dot,
    /// "..".
    DotDot,
    /// There is none: the path is all slashes.
    Root,
}

/// A path, walked up to its last component.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The directory that the last component is to be looked up in.
    pub directory: NodeId,
    /// What the last component is.
    pub last: Last,
    /// Slashes follow it.
    pub slash: bool,
    rest: Vec<u8>,
    // The last component within `rest`.
    name: core::ops::Range<usize>,
    links: u32,
}

impl Walk {
    /// Walks `path` from `start`, or from the root if it begins with a slash.
    pub(crate) fn begin(fs: &FileSystem<'_>, start: NodeId, path: &[u8]) -> Result<Self, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut walk =
            Self { directory: start, last: Last::Root, slash: false, rest: Vec::new(), name: 0..0, links: 0 };
        walk.set_rest(path, false)?;
        walk.advance(fs)?;
        Ok(walk)
    }

    /// The name of the last component.
    pub(crate) fn name(&self) -> &[u8] {
        &self.rest[self.name.clone()]
    }

    /// The same, to keep.
    pub(crate) fn owned_name(&self) -> Name {
        Name::from(self.name())
    }

    /// The node that the last component names, if there is one; a symbolic link itself.
    pub(crate) fn found(&self, fs: &FileSystem<'_>) -> Result<Option<NodeId>, Errno> {
        match self.last {
            Last::Root => Ok(Some(self.directory)),
            Last::Dot => fs.directory(self.directory).map(|_| Some(self.directory)),
            Last::DotDot => fs.directory(self.directory).map(|directory| Some(directory.parent)),
            Last::Name => {
                let directory = fs.directory(self.directory)?;
                // Linux does not even look into a directory that has been removed.
                if self.name().len() > NAME_MAX && !directory.dead {
                    return Err(Errno::ENAMETOOLONG);
                }
                Ok(directory.get(self.name()))
            }
        }
    }

    /// Goes on along the symbolic link `link`, which is what the last component names.
    pub(crate) fn follow(&mut self, fs: &FileSystem<'_>, link: NodeId) -> Result<(), Errno> {
        let slash = self.slash;
        self.enter_link(fs, link, slash)?;
        self.advance(fs)
    }

    /// Puts the target of `link` in front of what is left of the path.
    fn enter_link(&mut self, fs: &FileSystem<'_>, link: NodeId, slash: bool) -> Result<(), Errno> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::ELOOP);
        }
        match &fs.node(link)?.kind {
            Kind::Symlink(target) => self.set_rest(target, slash),
            // Only what has a name can be walked through.
            Kind::Magic(_, target) if target.first() == Some(&b'/') => self.set_rest(target, slash),
            _ => Err(Errno::ENOTDIR),
        }?;
        if self.rest.first() == Some(&b'/') {
            self.directory = fs.root();
        }
        Ok(())
    }

    /// Replaces what is walked by `path`, and then what comes behind the present component.
    fn set_rest(&mut self, path: &[u8], slash: bool) -> Result<(), Errno> {
        let behind = self.rest.get(self.name.end..).unwrap_or_default();
        let mut rest = Vec::new();
        rest.try_reserve_exact(path.len() + behind.len() + 1).map_err(|_| Errno::ENOSPC)?;
        rest.extend_from_slice(path);
        if slash && behind.is_empty() {
            rest.push(b'/');
        }
        rest.extend_from_slice(behind);
        self.rest = rest;
        self.name = 0..0;
        Ok(())
    }

    /// Walks to the last component.
    fn advance(&mut self, fs: &FileSystem<'_>) -> Result<(), Errno> {
        if self.name.end == 0 && self.rest.first() == Some(&b'/') {
            self.directory = fs.root();
        }
        loop {
            let from = self.name.end + self.rest[self.name.end..].iter().take_while(|&&b| b == b'/').count();
            if from == self.rest.len() {
                self.name = from..from;
                self.last = Last::Root;
                return Ok(());
            }
            let to = from + self.rest[from..].iter().take_while(|&&b| b != b'/').count();
            self.name = from..to;
            self.last = match self.name() {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                _ => Last::Name,
            };
            let behind = &self.rest[to..];
            self.slash = !behind.is_empty();
            if behind.iter().all(|&b| b == b'/') {
                fs.directory(self.directory)?;
                return Ok(());
            }
            let next = self.found(fs)?.ok_or(Errno::ENOENT)?;
            match fs.node(next)?.kind {
                Kind::Symlink(_) | Kind::Magic(..) => self.enter_link(fs, next, false)?,
                _ => {
                    fs.directory(next)?;
                    self.directory = next;
                }
            }
        }
    }
}

impl FileSystem<'_> {
    /// The node that `path` names, seen from the directory `start`. A symbolic link at its end is
    /// followed if `follow` says so or slashes come behind it. A [`NodeKind::Magic`] there is never
    /// followed: that is the caller's to do.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, `ELOOP`.
    ///
    /// [`NodeKind::Magic`]: crate::NodeKind::Magic
    pub fn lookup(&self, start: NodeId, path: &[u8], follow: bool) -> Result<NodeId, Errno> {
        let mut walk = Walk::begin(self, start, path)?;
        loop {
            let node = walk.found(self)?.ok_or(Errno::ENOENT)?;
            match self.node(node)?.kind {
                Kind::Symlink(_) if follow || walk.slash => walk.follow(self, node)?,
                Kind::Magic(..) if walk.slash => walk.follow(self, node)?,
                Kind::Directory(_) => return Ok(node),
                _ if walk.slash => return Err(Errno::ENOTDIR),
                _ => return Ok(node),
            }
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is none.
    pub fn read_link(&self, link: NodeId) -> Result<&[u8], Errno> {
        match &self.node(link)?.kind {
            Kind::Symlink(target) | Kind::Magic(_, target) => Ok(target),
            _ => Err(Errno::EINVAL),
        }
    }
}
