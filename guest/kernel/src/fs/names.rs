//! Making, moving and removing names.

use unifork_fs::NodeKind;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fs::place::{AT_EMPTY_PATH, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, CWD, Target, at, target};
use crate::fs::{tree, with};
use crate::user::{read_path, write_bytes};

/// `mkdirat`.
pub(crate) fn mkdirat(k: &mut Kernel, directory: u64, path: u64, mode: u64) -> Outcome {
    let at = at(k, directory, path)?;
    let mode = mode as u32 & !k.place.umask;
    with(k, |fs| fs.make_directory(at.start, &at.path, mode))?;
    Ok(0)
}

/// `mknodat`.
pub(crate) fn mknodat(k: &mut Kernel, directory: u64, path: u64, mode: u64, device: u64) -> Outcome {
    let kind = match mode & 0o170_000 {
        0 | 0o100_000 => NodeKind::Regular,
        0o010_000 => NodeKind::Fifo,
        0o140_000 => NodeKind::Socket,
        0o020_000 => NodeKind::Character(device),
        0o060_000 => NodeKind::Block(device),
        0o040_000 => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let at = at(k, directory, path)?;
    let mode = mode as u32 & 0o7777 & !k.place.umask;
    with(k, |fs| fs.make_node(at.start, &at.path, kind, mode))?;
    Ok(0)
}

/// `symlinkat`.
pub(crate) fn symlinkat(k: &mut Kernel, text: u64, directory: u64, path: u64) -> Outcome {
    let text = read_path(text)?;
    let at = at(k, directory, path)?;
    with(k, |fs| fs.make_symlink(at.start, &at.path, &text))?;
    Ok(0)
}

/// `linkat`.
pub(crate) fn linkat(k: &mut Kernel, [from, old, to, new, flags, _]: [u64; 6]) -> Outcome {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let Target::Node(node) = target(k, from, old, flags, flags & AT_SYMLINK_FOLLOW != 0)? else {
        return Err(Errno::EXDEV);
    };
    let at = at(k, to, new)?;
    with(k, |fs| fs.make_link(node, at.start, &at.path))?;
    Ok(0)
}

/// `unlinkat`.
pub(crate) fn unlinkat(k: &mut Kernel, directory: u64, path: u64, flags: u64) -> Outcome {
    if flags as u32 as u64 & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let at = at(k, directory, path)?;
    with(k, |fs| {
        if flags & AT_REMOVEDIR != 0 {
            fs.remove_directory(at.start, &at.path)
        } else {
            fs.unlink(at.start, &at.path)
        }
    })?;
    Ok(0)
}

/// `renameat2`.
pub(crate) fn renameat2(k: &mut Kernel, [from, old, to, new, flags, _]: [u64; 6]) -> Outcome {
    let from = at(k, from, old)?;
    let to = at(k, to, new)?;
    with(k, |fs| fs.rename((from.start, &from.path), (to.start, &to.path), flags as u32))?;
    Ok(0)
}

/// `readlinkat`.
pub(crate) fn readlinkat(k: &mut Kernel, directory: u64, path: u64, to: u64, bytes: u64) -> Outcome {
    let bytes = (bytes as u32).cast_signed();
    if bytes <= 0 {
        return Err(Errno::EINVAL);
    }
    let empty = crate::user::read_bytes(path)? == [0];
    let Target::Node(node) = target(k, directory, path, AT_EMPTY_PATH, false)? else {
        return Err(if empty { Errno::ENOENT } else { Errno::EINVAL });
    };
    tree(|fs| {
        let text = match fs.read_link(node) {
            // Linux fs/stat.c: an empty path is meant for descriptors of links.
            Err(_) if empty => return Err(Errno::ENOENT),
            text => text?,
        };
        let count = text.len().min(bytes as usize);
        write_bytes(to, &text[..count])?;
        Ok(count as u64)
    })
}

/// `access`, `faccessat`, `faccessat2`: the caller is root.
pub(crate) fn faccessat(k: &mut Kernel, directory: u64, path: u64, mode: u64, flags: u64) -> Outcome {
    use crate::fs::place::{AT_EACCESS, AT_SYMLINK_NOFOLLOW};
    const X_OK: u64 = 1;
    let known = AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    if mode as u32 & !7 != 0 || flags as u32 as u64 & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if let Target::Node(node) = target(k, directory, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?
        && mode & X_OK != 0
    {
        tree(|fs| fs.check_executable(node))?;
    }
    Ok(0)
}

/// The working directory's descriptor, for the calls without one.
pub(crate) const HERE: u64 = CWD;
