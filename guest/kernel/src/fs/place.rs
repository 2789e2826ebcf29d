//! Where a path begins, and what it leads to.

use alloc::rc::Rc;
use alloc::vec::Vec;

use unifork_fs::{NodeId, NodeKind};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::Description;
use crate::fs::file::File;
use crate::fs::{proc, tree};
use crate::user::{read_path, write_bytes};

// include/uapi/linux/fcntl.h
const AT_FDCWD: i32 = -100;
pub(crate) const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
pub(crate) const AT_REMOVEDIR: u64 = 0x200;
pub(crate) const AT_EACCESS: u64 = 0x200;
pub(crate) const AT_SYMLINK_FOLLOW: u64 = 0x400;
pub(crate) const AT_NO_AUTOMOUNT: u64 = 0x800;
pub(crate) const AT_EMPTY_PATH: u64 = 0x1000;
pub(crate) const AT_STATX_SYNC_TYPE: u64 = 0x6000;
/// The working directory, for calls that take no descriptor.
pub(crate) const CWD: u64 = AT_FDCWD as i64 as u64;

/// A path and the directory it is seen from.
pub(crate) struct At {
    pub(crate) start: NodeId,
    pub(crate) path: Vec<u8>,
}

/// What a path leads to.
pub(crate) enum Target {
    /// A node of the tree.
    Node(NodeId),
    /// Something open that has no name: through `/proc/self/fd`.
    Open(Rc<Description>),
}

/// The path at `path`, seen from `directory`.
pub(crate) fn at(k: &mut Kernel, directory: u64, path: u64) -> Result<At, Errno> {
    let path = read_path(path)?;
    let start = match (path.first(), (directory as u32).cast_signed()) {
        (Some(b'/'), _) => tree(|fs| fs.root()),
        (_, AT_FDCWD) => k.place.directory,
        (first, _) => {
            let description = k.files.get(directory)?;
            match description.as_a::<File>() {
                Some(file) => file.node,
                None if first.is_none() => k.place.directory,
                None => return Err(Errno::ENOTDIR),
            }
        }
    };
    proc::refresh(k, start, &path)?;
    Ok(At { start, path })
}

/// What a path leads to; `AT_EMPTY_PATH` in `flags` makes an empty one mean `directory` itself.
pub(crate) fn target(
    k: &mut Kernel,
    directory: u64,
    path: u64,
    flags: u64,
    follow: bool,
) -> Result<Target, Errno> {
    if flags & AT_EMPTY_PATH != 0 && (path == 0 || crate::user::read_bytes(path) == Ok([0])) {
        if (directory as u32).cast_signed() == AT_FDCWD {
            return Ok(Target::Node(k.place.directory));
        }
        return Ok(of_description(k.files.get(directory)?));
    }
    let at = at(k, directory, path)?;
    let (node, kind) = tree(|fs| {
        let node = fs.lookup(at.start, &at.path, follow)?;
        Ok::<_, Errno>((node, fs.kind(node)?))
    })?;
    match kind {
        NodeKind::Magic(fd) if follow => Ok(of_description(k.files.get(fd.into())?)),
        _ => Ok(Target::Node(node)),
    }
}

/// A description's node, if it has one.
pub(crate) fn of_description(description: Rc<Description>) -> Target {
    match description.as_a::<File>() {
        Some(file) => Target::Node(file.node),
        None => Target::Open(description),
    }
}

/// The node that a path leads to; what is open and has no name is `EINVAL`.
pub(crate) fn node(
    k: &mut Kernel,
    directory: u64,
    path: u64,
    flags: u64,
    follow: bool,
) -> Result<NodeId, Errno> {
    match target(k, directory, path, flags, follow)? {
        Target::Node(node) => Ok(node),
        Target::Open(_) => Err(Errno::EINVAL),
    }
}

/// `getcwd`.
pub(crate) fn getcwd(k: &mut Kernel, to: u64, bytes: u64) -> Outcome {
    let mut path = tree(|fs| fs.path_of(k.place.directory))?;
    path.push(0);
    if path.len() > unifork_fs::PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if bytes < path.len() as u64 {
        return Err(Errno::ERANGE);
    }
    write_bytes(to, &path)?;
    Ok(path.len() as u64)
}

/// `chdir`.
pub(crate) fn chdir(k: &mut Kernel, path: u64) -> Outcome {
    let node = node(k, CWD, path, 0, true)?;
    enter(k, node)
}

/// `fchdir`.
pub(crate) fn fchdir(k: &mut Kernel, fd: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let node = description.as_a::<File>().ok_or(Errno::ENOTDIR)?.node;
    enter(k, node)
}

fn enter(k: &mut Kernel, node: NodeId) -> Outcome {
    tree(|fs| {
        if fs.kind(node)? != NodeKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        fs.pin(node)?;
        fs.unpin(k.place.directory);
        Ok(())
    })?;
    k.place.directory = node;
    Ok(0)
}

/// `umask`.
pub(crate) fn umask(k: &mut Kernel, mask: u64) -> Outcome {
    Ok(core::mem::replace(&mut k.place.umask, mask as u32 & 0o777).into())
}
