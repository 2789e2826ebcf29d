//! `open`: by name, with all that `O_CREAT` and its companions mean. Linux `fs/namei.c`
//! (`do_open`, `may_open`), `fs/open.c` (`build_open_flags`).

use crate::contents::Contents;
use crate::errno::Errno;
use crate::node::{Kind, NodeId, NodeKind};
use crate::tree::FileSystem;
use crate::walk::{Last, Walk};

/// Flags of `open`, x86-64.
#[expect(missing_docs, reason = "Linux's names, explained in open(2)")]
pub mod flags {
    pub const O_ACCMODE: u32 = 3;
    pub const O_RDONLY: u32 = 0;
    pub const O_WRONLY: u32 = 1;
    pub const O_RDWR: u32 = 2;
    pub const O_CREAT: u32 = 0o100;
    pub const O_EXCL: u32 = 0o200;
    pub const O_NOCTTY: u32 = 0o400;
    pub const O_TRUNC: u32 = 0o1000;
    pub const O_APPEND: u32 = 0o2000;
    pub const O_NONBLOCK: u32 = 0o4000;
    pub const O_DSYNC: u32 = 0o10000;
    pub const O_ASYNC: u32 = 0o20000;
    pub const O_DIRECT: u32 = 0o40000;
    pub const O_LARGEFILE: u32 = 0o100_000;
    pub const O_DIRECTORY: u32 = 0o200_000;
    pub const O_NOFOLLOW: u32 = 0o400_000;
    pub const O_NOATIME: u32 = 0o1_000_000;
    pub const O_CLOEXEC: u32 = 0o2_000_000;
    pub const O_PATH: u32 = 0o10_000_000;
    /// `__O_TMPFILE`, without `O_DIRECTORY`.
    pub const O_TMPFILE_ALONE: u32 = 0o20_000_000;
    pub const O_TMPFILE: u32 = O_TMPFILE_ALONE | O_DIRECTORY;
}
use flags::{
    O_ACCMODE, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDONLY, O_TMPFILE,
    O_TMPFILE_ALONE, O_TRUNC,
};

impl FileSystem<'_> {
    /// Opens what `path` names, seen from `start`, creating it with permissions `mode` if asked to.
    /// The node is pinned for the caller. A device, a pipe, or a [`NodeKind::Magic`] is returned as
    /// it is, for the caller to make something of.
    ///
    /// # Errors
    ///
    /// As `open(2)`; `ENOSPC` when there is no memory for a new file.
    pub fn open(&mut self, start: NodeId, path: &[u8], open: u32, mode: u32) -> Result<NodeId, Errno> {
        let open =
            if open & O_PATH != 0 { open & (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) } else { open };
        if open & O_TMPFILE_ALONE != 0 {
            if open & O_TMPFILE != O_TMPFILE || open & O_CREAT != 0 || open & O_ACCMODE == O_RDONLY {
                return Err(Errno::EINVAL);
            }
            return self.open_unnamed(start, path, open, mode);
        }
        if open & O_CREAT != 0 && open & O_DIRECTORY != 0 {
            return Err(Errno::EINVAL);
        }
        let node = if open & O_CREAT == 0 {
            self.lookup(start, path, open & O_NOFOLLOW == 0)?
        } else {
            match self.find_or_create(start, path, open, mode)? {
                (node, true) => {
                    self.pin(node)?;
                    return Ok(node);
                }
                (node, false) => node,
            }
        };
        self.check_open(node, open)?;
        if open & O_TRUNC != 0 {
            self.truncate_opened(node)?;
        }
        self.pin(node)?;
        Ok(node)
    }

    /// Whether what is there may be opened so.
    fn check_open(&self, node: NodeId, open: u32) -> Result<(), Errno> {
        let kind = self.kind(node)?;
        if open & O_CREAT != 0 && kind == NodeKind::Directory {
            return Err(Errno::EISDIR);
        }
        // A magic link is what it leads to, but for those who want the link.
        let through = matches!(kind, NodeKind::Magic(_)) && open & O_NOFOLLOW == 0;
        if open & O_DIRECTORY != 0 && kind != NodeKind::Directory && !through {
            return Err(Errno::ENOTDIR);
        }
        if open & O_PATH != 0 {
            return Ok(());
        }
        let writes = open & O_ACCMODE != O_RDONLY || open & O_TRUNC != 0;
        match kind {
            NodeKind::Symlink => Err(Errno::ELOOP),
            NodeKind::Magic(_) if !through => Err(Errno::ELOOP),
            NodeKind::Directory if writes => Err(Errno::EISDIR),
            NodeKind::Socket | NodeKind::Block(_) => Err(Errno::ENXIO),
            _ => Ok(()),
        }
    }

    fn truncate_opened(&mut self, node: NodeId) -> Result<(), Errno> {
        if self.kind(node)? == NodeKind::Regular { self.truncate(node, 0) } else { Ok(()) }
    }

    /// The node, and whether it has just been made.
    fn find_or_create(
        &mut self,
        start: NodeId,
        path: &[u8],
        open: u32,
        mode: u32,
    ) -> Result<(NodeId, bool), Errno> {
        let mut walk = Walk::begin(self, start, path)?;
        loop {
            if walk.last != Last::Name {
                let found = walk.found(self)?.ok_or(Errno::ENOENT)?;
                return Err(if open & O_EXCL != 0 { Errno::EEXIST } else { self.not_creatable(found)? });
            }
            if walk.slash {
                return Err(Errno::EISDIR);
            }
            let Some(node) = walk.found(self)? else {
                let name = walk.owned_name();
                let node = self.make(walk.directory, &name, Kind::Regular(Contents::default()), mode)?;
                return Ok((node, true));
            };
            if open & O_EXCL != 0 {
                return Err(Errno::EEXIST);
            }
            match self.node(node)?.kind {
                Kind::Symlink(_) if open & O_NOFOLLOW == 0 => walk.follow(self, node)?,
                _ => return Ok((node, false)),
            }
        }
    }

    fn not_creatable(&self, found: NodeId) -> Result<Errno, Errno> {
        self.directory(found).map(|_| Errno::EISDIR)
    }

    /// `O_TMPFILE`: a file without a name in the directory that `path` names.
    fn open_unnamed(&mut self, start: NodeId, path: &[u8], open: u32, mode: u32) -> Result<NodeId, Errno> {
        let directory = self.lookup(start, path, open & O_NOFOLLOW == 0)?;
        if self.directory(directory)?.sealed {
            return Err(Errno::EOPNOTSUPP);
        }
        let device = self.node(directory)?.device;
        self.unnamed(mode, device)
    }

    /// A regular file without a name, as `memfd_create` makes them; pinned for the caller.
    ///
    /// # Errors
    ///
    /// `ENOSPC`.
    pub fn create_unnamed(&mut self, mode: u32) -> Result<NodeId, Errno> {
        self.unnamed(mode, 1)
    }

    fn unnamed(&mut self, mode: u32, device: u32) -> Result<NodeId, Errno> {
        let node = self.add(Kind::Regular(Contents::default()), mode, device)?;
        self.node_mut(node)?.linkable = true;
        self.pin(node)?;
        Ok(node)
    }
}
