//! `sendfile` and `copy_file_range`: through the libOS, without the application's memory.

use alloc::rc::Rc;
use alloc::vec::Vec;

use unifork_fs::NodeKind;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::fd::object::{Description, O_APPEND};
use crate::fs::file::File;
use crate::fs::{map, tree, with};
use crate::user::{have_room, read_u64, write_u64};

/// Bytes copied by one call, at most; Linux allows more, and callers go on.
const BYTES_MAX: u64 = 64 << 10;

/// Reads from a regular file.
fn read(k: &Kernel, file: &File, offset: u64, bytes: u64) -> Result<Vec<u8>, Errno> {
    have_room(bytes as usize)?;
    map::write_back(k, file.node, offset, bytes);
    let mut data = Vec::with_capacity(bytes as usize);
    with(k, |fs| fs.read(file.node, offset, bytes, |piece| data.extend_from_slice(piece)))?;
    Ok(data)
}

/// `sendfile`.
pub(crate) fn sendfile(k: &mut Kernel, out: u64, from: u64, offset: u64, count: u64) -> Outcome {
    let (out, from) = (k.files.get(out)?, k.files.get(from)?);
    if !from.may_read() || !out.may_write() {
        return Err(Errno::EBADF);
    }
    if out.has(O_APPEND) {
        return Err(Errno::EINVAL);
    }
    let file = from.as_a::<File>().ok_or(Errno::EINVAL)?;
    if tree(|fs| fs.kind(file.node))? != NodeKind::Regular {
        return Err(Errno::EINVAL);
    }
    let at = if offset == 0 { from.offset.get() } else { read_u64(offset)? };
    if at.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    let data = read(k, file, at, count.min(BYTES_MAX))?;
    let done = match out.object.write(k, &out, None, &mut Buffers::own(data)) {
        Err(Errno::EAGAIN) if !out.has(crate::fd::object::O_NONBLOCK) => {
            return Err(crate::fd::io::wait_for(k, &out));
        }
        outcome => outcome?,
    };
    if offset == 0 {
        from.offset.set(at + done);
    } else {
        write_u64(offset, at + done)?;
    }
    Ok(done)
}

/// Where a copy begins, and where its end is noted.
fn place(description: &Rc<Description>, at: u64) -> Result<u64, Errno> {
    let offset = if at == 0 { description.offset.get() } else { read_u64(at)? };
    if offset.cast_signed() < 0 { Err(Errno::EINVAL) } else { Ok(offset) }
}

/// `copy_file_range`.
pub(crate) fn copy_file_range(k: &mut Kernel, [from, from_at, to, to_at, count, flags]: [u64; 6]) -> Outcome {
    let (from, to) = (k.files.get(from)?, k.files.get(to)?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (Some(source), Some(target)) = (from.as_a::<File>(), to.as_a::<File>()) else {
        return Err(Errno::EINVAL);
    };
    if source.is_directory || target.is_directory {
        return Err(Errno::EISDIR);
    }
    if !from.may_read() || !to.may_write() || to.has(O_APPEND) {
        return Err(Errno::EBADF);
    }
    let (start, end) = (place(&from, from_at)?, place(&to, to_at)?);
    let count = count.min(BYTES_MAX);
    let overlap = start < end.saturating_add(count) && end < start.saturating_add(count);
    if source.node == target.node && overlap {
        return Err(Errno::EINVAL);
    }
    let data = read(k, source, start, count)?;
    let mut rest = data.as_slice();
    let done = with(k, |fs| {
        fs.write(target.node, end, data.len() as u64, |piece| {
            let (now, later) = rest.split_at(piece.len());
            piece.copy_from_slice(now);
            rest = later;
        })
    })?;
    map::refill(k, target.node, end, done);
    for (description, at, offset) in [(&from, from_at, start), (&to, to_at, end)] {
        if at == 0 {
            description.offset.set(offset + done);
        } else {
            write_u64(at, offset + done)?;
        }
    }
    Ok(done)
}
