//! `open` and its relatives: from a path to a descriptor.

use alloc::rc::Rc;

use unifork_fs::flags::{
    O_ACCMODE, O_APPEND, O_ASYNC, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_DSYNC, O_EXCL, O_LARGEFILE,
    O_NOATIME, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDWR, O_TMPFILE_ALONE, O_TRUNC, O_WRONLY,
};
use unifork_fs::{NodeId, NodeKind};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::console::Console;
use crate::fd::object::Object;
use crate::fs::device::{self, Device};
use crate::fs::file::File;
use crate::fs::place::{CWD, at};
use crate::fs::{proc, tree, with};
use crate::user::{read_string, read_words};

const O_SYNC: u32 = 0o4_000_000;
/// Flags that `openat2` knows; others are ignored by `open`.
const KNOWN: u32 = O_ACCMODE
    | O_CREAT
    | O_EXCL
    | O_NOCTTY
    | O_TRUNC
    | O_APPEND
    | O_NONBLOCK
    | O_DSYNC
    | O_ASYNC
    | O_DIRECT
    | O_LARGEFILE
    | O_DIRECTORY
    | O_NOFOLLOW
    | O_NOATIME
    | O_CLOEXEC
    | O_PATH
    | O_SYNC
    | O_TMPFILE_ALONE;
/// Flags of the call alone: the description does not keep them.
const TRANSIENT: u32 = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC;

/// `open`.
pub(crate) fn open(k: &mut Kernel, path: u64, flags: u64, mode: u64) -> Outcome {
    openat(k, CWD, path, flags, mode)
}

/// `creat`.
pub(crate) fn creat(k: &mut Kernel, path: u64, mode: u64) -> Outcome {
    openat(k, CWD, path, u64::from(O_CREAT | O_WRONLY | O_TRUNC), mode)
}

/// `openat2`: without restrictions on the path.
pub(crate) fn openat2(k: &mut Kernel, directory: u64, path: u64, how: u64, bytes: u64) -> Outcome {
    if bytes < 24 {
        return Err(Errno::EINVAL);
    }
    if bytes > 24 {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve] = read_words(how)?;
    let creates = flags & u64::from(O_CREAT | O_TMPFILE_ALONE) != 0;
    if flags & !u64::from(KNOWN) != 0 || (mode != 0 && !creates) || mode & !0o7777 != 0 || resolve != 0 {
        return Err(Errno::EINVAL);
    }
    openat(k, directory, path, flags, mode)
}

/// `openat`.
pub(crate) fn openat(k: &mut Kernel, directory: u64, path: u64, flags: u64, mode: u64) -> Outcome {
    let mut flags = flags as u32 & KNOWN;
    if flags & O_PATH != 0 {
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    }
    let at = at(k, directory, path)?;
    let mode = mode as u32 & 0o7777 & !k.place.umask;
    let node = with(k, |fs| fs.open(at.start, &at.path, flags, mode))?;
    opened(k, File::pinned(node), flags)
}

/// Makes a descriptor of a node that has just been opened.
fn opened(k: &mut Kernel, file: File, flags: u32) -> Outcome {
    let node = file.node;
    let kind = tree(|fs| fs.kind(node))?;
    let kept = flags & !TRANSIENT;
    if flags & O_PATH != 0 && !matches!(kind, NodeKind::Magic(_)) {
        return k.files.open(Rc::new(file), kept);
    }
    let object: Rc<dyn Object> = match kind {
        NodeKind::Magic(fd) if flags & O_NOFOLLOW == 0 => return open_again(k, fd.into(), flags),
        NodeKind::Synthetic(number) => {
            if flags & O_ACCMODE != 0 && !proc::may_write(number) {
                return Err(Errno::EACCES);
            }
            let text = proc::text(k, number)?;
            Rc::new(proc::Text::new(text, file))
        }
        NodeKind::Character(number) if number >> 8 == 5 => Rc::new(Console::new(true)),
        NodeKind::Character(number) => {
            let kind = device::Kind::of(number).ok_or(Errno::ENXIO)?;
            Rc::new(Device { kind, file })
        }
        NodeKind::Regular | NodeKind::Directory | NodeKind::Symlink | NodeKind::Magic(_) => Rc::new(file),
        NodeKind::Socket | NodeKind::Block(_) | NodeKind::Fifo => return Err(Errno::ENXIO),
    };
    k.files.open(object, kept)
}

/// Through `/proc/self/fd`: a file is opened anew, anything else is shared.
fn open_again(k: &mut Kernel, fd: u64, flags: u32) -> Outcome {
    let description = k.files.get(fd)?;
    let Some(file) = description.as_a::<File>() else {
        return k.files.add(description, flags & O_CLOEXEC != 0, 0);
    };
    let node = file.node;
    if flags & O_DIRECTORY != 0 && !file.is_directory {
        return Err(Errno::ENOTDIR);
    }
    if file.is_directory && flags & O_ACCMODE != 0 {
        return Err(Errno::EISDIR);
    }
    tree(|fs| fs.pin(node))?;
    let file = File::pinned(node);
    if flags & O_TRUNC != 0 {
        with(k, |fs| fs.truncate(node, 0))?;
    }
    opened(k, file, flags)
}

/// `memfd_create`.
pub(crate) fn memfd_create(k: &mut Kernel, name: u64, flags: u64) -> Outcome {
    const MFD_CLOEXEC: u64 = 1;
    const MFD_ALLOW_SEALING: u64 = 2;
    const MFD_NOEXEC_SEAL: u64 = 8;
    const MFD_EXEC: u64 = 16;
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    read_string(name, 250)?.ok_or(Errno::EINVAL)?;
    let node: NodeId = with(k, |fs| fs.create_unnamed(0o777))?;
    k.files.open(Rc::new(File::pinned(node)), O_RDWR | if flags & MFD_CLOEXEC != 0 { O_CLOEXEC } else { 0 })
}
