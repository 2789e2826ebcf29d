//! Listings: `getdents64` and `getdents`.

use alloc::vec::Vec;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fs::file::File;
use crate::fs::with;
use crate::user::{have_room, write_bytes};

/// Bytes given at a time, at most: what `readdir` of any C library asks for at once.
const BYTES_MAX: u64 = 256 << 10;

/// `getdents64`; `old`: `getdents`, which has the type behind the name.
pub(crate) fn getdents(k: &mut Kernel, fd: u64, to: u64, bytes: u64, old: bool) -> Outcome {
    let description = k.files.get(fd)?;
    let file = description.as_a::<File>().ok_or(Errno::ENOTDIR)?;
    if !description.may_read() {
        return Err(Errno::EBADF);
    }
    let room = u64::from(bytes as u32).min(BYTES_MAX) as usize;
    have_room(room)?;
    let mut all: Vec<u8> = Vec::new();
    let mut position = description.offset.get();
    let mut full = false;
    with(k, |fs| {
        fs.list(file.node, position, |entry| {
            let header = if old { 18 } else { 19 };
            let record = (header + entry.name.len() + if old { 2 } else { 1 }).next_multiple_of(8);
            if all.len() + record > room {
                full = true;
                return false;
            }
            let start = all.len();
            all.extend_from_slice(&entry.ino.to_le_bytes());
            all.extend_from_slice(&entry.next.to_le_bytes());
            all.extend_from_slice(&(record as u16).to_le_bytes());
            if !old {
                all.push(entry.kind);
            }
            all.extend_from_slice(entry.name);
            all.resize(start + record, 0);
            if old {
                all[start + record - 1] = entry.kind;
            }
            position = entry.next;
            true
        })
    })?;
    if all.is_empty() && full {
        return Err(Errno::EINVAL);
    }
    write_bytes(to, &all)?;
    description.offset.set(position);
    Ok(all.len() as u64)
}
