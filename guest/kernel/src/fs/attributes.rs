//! `chmod`, `chown`, times, lengths.

use unifork_fs::{NodeId, NodeKind, Time};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::O_PATH;
use crate::fs::file::File;
use crate::fs::place::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, CWD, Target, of_description, target};
use crate::fs::{map, tree, with};
use crate::user::read_words;

/// The node of a descriptor that is not `O_PATH`; `None` when it has none.
fn of_fd(k: &Kernel, fd: u64) -> Result<Option<NodeId>, Errno> {
    let description = k.files.get(fd)?;
    if description.has(O_PATH) {
        return Err(Errno::EBADF);
    }
    Ok(match of_description(description) {
        Target::Node(node) => Some(node),
        Target::Open(_) => None,
    })
}

/// `fchmodat`; with `flags`, `fchmodat2`.
pub(crate) fn fchmodat(k: &mut Kernel, directory: u64, path: u64, mode: u64, flags: u64) -> Outcome {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    if let Target::Node(node) = target(k, directory, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)? {
        with(k, |fs| fs.set_permissions(node, mode as u32))?;
    }
    Ok(0)
}

/// `fchmod`. What has no node (a pipe) keeps no permissions.
pub(crate) fn fchmod(k: &mut Kernel, fd: u64, mode: u64) -> Outcome {
    if let Some(node) = of_fd(k, fd)? {
        with(k, |fs| fs.set_permissions(node, mode as u32))?;
    }
    Ok(0)
}

/// `fchownat`.
pub(crate) fn fchownat(k: &mut Kernel, [directory, path, uid, gid, flags, _]: [u64; 6]) -> Outcome {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    if let Target::Node(node) = target(k, directory, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)? {
        set_owner(k, node, uid, gid)?;
    }
    Ok(0)
}

/// `fchown`.
pub(crate) fn fchown(k: &mut Kernel, fd: u64, uid: u64, gid: u64) -> Outcome {
    if let Some(node) = of_fd(k, fd)? {
        set_owner(k, node, uid, gid)?;
    }
    Ok(0)
}

fn set_owner(k: &Kernel, node: NodeId, uid: u64, gid: u64) -> Result<(), Errno> {
    let id = |id: u64| Some(id as u32).filter(|&id| id != u32::MAX);
    Ok(with(k, |fs| fs.set_owner(node, id(uid), id(gid)))?)
}

/// What `UTIME_NOW` and `UTIME_OMIT` make of the present.
fn choose(seconds: u64, nanos: u64, now: Time) -> Result<Option<Time>, Errno> {
    const UTIME_NOW: u64 = (1 << 30) - 1;
    const UTIME_OMIT: u64 = (1 << 30) - 2;
    match nanos {
        UTIME_NOW => Ok(Some(now)),
        UTIME_OMIT => Ok(None),
        0..1_000_000_000 => Ok(Some(Time { seconds: seconds.cast_signed(), nanos: nanos as u32 })),
        _ => Err(Errno::EINVAL),
    }
}

fn present(k: &Kernel) -> Time {
    let wall = k.clock.wall();
    Time { seconds: (wall / 1_000_000_000).cast_signed(), nanos: (wall % 1_000_000_000) as u32 }
}

/// `utimensat`.
pub(crate) fn utimensat(k: &mut Kernel, directory: u64, path: u64, times: u64, flags: u64) -> Outcome {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let now = present(k);
    let (atime, mtime) = if times == 0 {
        (Some(now), Some(now))
    } else {
        let [a, a_ns, m, m_ns] = read_words(times)?;
        (choose(a, a_ns, now)?, choose(m, m_ns, now)?)
    };
    let target = if path == 0 {
        of_description(k.files.get(directory)?)
    } else {
        target(k, directory, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?
    };
    if let Target::Node(node) = target {
        with(k, |fs| fs.set_times(node, atime, mtime))?;
    }
    Ok(0)
}

/// `futimesat`, `utimes`: microseconds.
pub(crate) fn futimesat(k: &mut Kernel, directory: u64, path: u64, times: u64) -> Outcome {
    let now = present(k);
    let (atime, mtime) = if times == 0 {
        (Some(now), Some(now))
    } else {
        let [a, a_us, m, m_us] = read_words(times)?;
        if a_us >= 1_000_000 || m_us >= 1_000_000 {
            return Err(Errno::EINVAL);
        }
        (choose(a, a_us * 1000, now)?, choose(m, m_us * 1000, now)?)
    };
    set_path_times(k, directory, path, atime, mtime)
}

/// `utime`: seconds.
pub(crate) fn utime(k: &mut Kernel, path: u64, times: u64) -> Outcome {
    let now = present(k);
    let (atime, mtime) = if times == 0 {
        (Some(now), Some(now))
    } else {
        let [a, m] = read_words(times)?;
        (choose(a, 0, now)?, choose(m, 0, now)?)
    };
    set_path_times(k, CWD, path, atime, mtime)
}

fn set_path_times(
    k: &mut Kernel,
    directory: u64,
    path: u64,
    atime: Option<Time>,
    mtime: Option<Time>,
) -> Outcome {
    if let Target::Node(node) = target(k, directory, path, 0, true)? {
        with(k, |fs| fs.set_times(node, atime, mtime))?;
    }
    Ok(0)
}

/// `truncate`.
pub(crate) fn truncate(k: &mut Kernel, path: u64, bytes: u64) -> Outcome {
    if bytes.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let Target::Node(node) = target(k, CWD, path, 0, true)? else { return Err(Errno::EINVAL) };
    resize(k, node, bytes)
}

/// `ftruncate`.
pub(crate) fn ftruncate(k: &mut Kernel, fd: u64, bytes: u64) -> Outcome {
    if bytes.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let description = k.files.get(fd)?;
    if description.has(O_PATH) {
        return Err(Errno::EBADF);
    }
    let file = description.as_a::<File>().ok_or(Errno::EINVAL)?;
    if !description.may_write() || tree(|fs| fs.kind(file.node))? != NodeKind::Regular {
        return Err(Errno::EINVAL);
    }
    resize(k, file.node, bytes)
}

fn resize(k: &mut Kernel, node: NodeId, bytes: u64) -> Outcome {
    map::write_back(k, node, 0, u64::MAX);
    with(k, |fs| fs.truncate(node, bytes))?;
    map::refill(k, node, 0, u64::MAX);
    Ok(0)
}

/// `fallocate`.
pub(crate) fn fallocate(k: &mut Kernel, fd: u64, mode: u64, offset: u64, bytes: u64) -> Outcome {
    let description = k.files.get(fd)?;
    if description.has(O_PATH) {
        return Err(Errno::EBADF);
    }
    if offset.cast_signed() < 0 || bytes.cast_signed() <= 0 {
        return Err(Errno::EINVAL);
    }
    if mode as u32 & !0x7f != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if !description.may_write() {
        return Err(Errno::EBADF);
    }
    let Some(file) = description.as_a::<File>() else {
        let is_pipe = description.object.stat().is_ok_and(|stat| stat.mode & 0o170_000 == 0o010_000);
        return Err(if is_pipe { Errno::ESPIPE } else { Errno::ENODEV });
    };
    let node = file.node;
    map::write_back(k, node, offset, bytes);
    with(k, |fs| fs.allocate(node, mode as u32, offset, bytes))?;
    map::refill(k, node, offset, bytes);
    Ok(0)
}

/// `fsync`, `fdatasync`, `syncfs`: memory is as far as it goes.
pub(crate) fn fsync(k: &mut Kernel, fd: u64) -> Outcome {
    let description = k.files.get(fd)?;
    if description.has(O_PATH) {
        return Err(Errno::EBADF);
    }
    match description.as_a::<File>() {
        Some(file) => {
            let node = file.node;
            map::write_back(k, node, 0, u64::MAX);
            Ok(0)
        }
        None => Err(Errno::EINVAL),
    }
}

/// `getxattr` and its relatives: there are no extended attributes, as on a tmpfs without any set.
pub(crate) fn getxattr(k: &mut Kernel, path: u64, follow: bool) -> Outcome {
    target(k, CWD, path, 0, follow)?;
    Err(Errno::ENODATA)
}

/// `listxattr`.
pub(crate) fn listxattr(k: &mut Kernel, path: u64, follow: bool) -> Outcome {
    target(k, CWD, path, 0, follow)?;
    Ok(0)
}

/// `readahead`: nothing is far away.
pub(crate) fn readahead(k: &mut Kernel, fd: u64) -> Outcome {
    let description = k.files.get(fd)?;
    if !description.may_read() {
        return Err(Errno::EBADF);
    }
    match description.as_a::<File>() {
        Some(file) if !file.is_directory => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `sync_file_range`.
pub(crate) fn sync_file_range(k: &mut Kernel, fd: u64, offset: u64, bytes: u64, flags: u64) -> Outcome {
    let end = offset.checked_add(bytes).filter(|&end| end <= i64::MAX as u64);
    if flags & !7 != 0 || end.is_none() {
        return Err(Errno::EINVAL);
    }
    match k.files.get(fd)?.as_a::<File>() {
        Some(_) => fsync(k, fd),
        None => Err(Errno::ESPIPE),
    }
}

/// `fadvise64`.
pub(crate) fn fadvise(k: &mut Kernel, fd: u64, bytes: u64, advice: u64) -> Outcome {
    let description = k.files.get(fd)?;
    if description.object.stat().is_ok_and(|stat| stat.mode & 0o170_000 == 0o010_000) {
        return Err(Errno::ESPIPE);
    }
    if bytes.cast_signed() < 0 || advice > 5 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}
