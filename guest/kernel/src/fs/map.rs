//! Files in memory: `mmap` of a descriptor.
//!
//! Page tables never change, so a mapping is a copy. A private one is filled once. A shared one is kept
//! the same as the file at every call: what the program wrote to memory goes to the file before the file
//! is read through a descriptor, unmapped or synced, and what is written through a descriptor goes to
//! memory. Two shared mappings of the same bytes see each other's stores only after such a call.

use alloc::rc::Rc;

use unifork_fs::{NodeId, NodeKind};
use unifork_hal::SyscallFrame;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::Description;
use crate::fs::device::{self, Device};
use crate::fs::file::File;
use crate::fs::{tree, with};
use crate::mm::MM;
use crate::mm::list::{Backing, Mapping};
use crate::mm::map::map;
use crate::user::have_room;

const PAGE_BYTES: u64 = 4096;
const PROT_WRITE: u64 = 2;
const MAP_SHARED: u64 = 1;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MREMAP_FIXED: u64 = 2;

/// A shared mapping of a file; its node is pinned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    start: u64,
    end: u64,
    node: NodeId,
    offset: u64,
    writable: bool,
}

/// `mmap`.
pub(crate) fn mmap(k: &mut Kernel, args: [u64; 6], frame: &SyscallFrame) -> Outcome {
    let [address, bytes, protection, flags, fd, offset] = args;
    if flags & MAP_FIXED != 0 {
        forget(k, address, bytes);
    }
    let map = |backing, offset| map([address, bytes, protection, flags, offset], backing, frame);
    if flags & MAP_ANONYMOUS != 0 {
        return map(Backing::Anonymous, offset);
    }
    let description = k.files.get(fd)?;
    if bytes == 0 || !offset.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::EINVAL);
    }
    if description.as_a::<Device>().is_some_and(|device| device.kind == device::Kind::Zero) {
        return map(Backing::Anonymous, offset);
    }
    let shared = matches!(flags & MAP_TYPE, MAP_SHARED | 3);
    if !description.may_read() || shared && protection & PROT_WRITE != 0 && !description.may_write() {
        return Err(if description.has(crate::fd::object::O_PATH) { Errno::EBADF } else { Errno::EACCES });
    }
    if description.as_a::<crate::fs::proc::Text>().is_some() {
        return Err(Errno::EIO);
    }
    let node = description.as_a::<File>().ok_or(Errno::ENODEV)?.node;
    if tree(|fs| fs.kind(node))? != NodeKind::Regular {
        return Err(Errno::ENODEV);
    }
    offset.checked_add(bytes).ok_or(Errno::EOVERFLOW)?;
    have_room(4096)?;
    write_back(k, node, offset, bytes);
    let start = map(Backing::File(Rc::clone(&description), offset), offset)?;
    let end = start + bytes.next_multiple_of(PAGE_BYTES);
    let writable = description.may_write();
    let map = Shared { start, end, node, offset, writable };
    fill(k, &map, offset, u64::MAX);
    if shared {
        tree(|fs| fs.pin(node))?;
        k.place.shared.push(map);
    }
    Ok(start)
}

/// `munmap`.
pub(crate) fn munmap(k: &mut Kernel, start: u64, bytes: u64) -> Outcome {
    if start.is_multiple_of(PAGE_BYTES) {
        forget(k, start, bytes);
    }
    crate::mm::map::munmap(start, bytes)
}

/// `mremap`: a mapping of a file goes on being one.
pub(crate) fn mremap(k: &mut Kernel, args: [u64; 6], frame: &SyscallFrame) -> Outcome {
    let [start, old, new, flags, target, _] = args;
    sync(k, start, old);
    if flags & MREMAP_FIXED != 0 {
        forget(k, target, new);
    }
    let to = crate::mm::map::mremap(args, frame)?;
    let (old, new) = (old.next_multiple_of(PAGE_BYTES), new.next_multiple_of(PAGE_BYTES));
    let moved = k.place.shared.iter().position(|map| map.start == start && map.end == start + old);
    if let Some(at) = moved {
        let map = &mut k.place.shared[at];
        (map.start, map.end) = (to, to + new);
    }
    if new > old {
        let behind = MM.with(|mm| mm.list.within(&(to + old..to + new)).first().cloned());
        if let Some(Mapping { start, backing: Backing::File(file, offset), .. }) = behind {
            reload(k, &file, to + old, new - old, offset + (to + old - start));
        }
    }
    Ok(to)
}

/// Reads part of a file into part of a mapping of it, which is zero.
pub(crate) fn reload(k: &Kernel, file: &Description, memory: u64, bytes: u64, offset: u64) {
    let Some(file) = file.as_a::<File>() else { return };
    let part = Shared { start: memory, end: memory + bytes, node: file.node, offset, writable: false };
    fill(k, &part, offset, u64::MAX);
}

/// Writes back what is in a range of memory.
pub(crate) fn sync(k: &Kernel, start: u64, bytes: u64) {
    let end = start.saturating_add(bytes);
    for map in k.place.shared.iter().filter(|map| map.start < end && start < map.end) {
        let from = start.max(map.start) - map.start + map.offset;
        let to = end.min(map.end) - map.start + map.offset;
        store(k, map, from, to - from);
    }
}

/// A range of memory is mapped no more.
fn forget(k: &mut Kernel, start: u64, bytes: u64) {
    if k.place.shared.is_empty() {
        return;
    }
    let end = start.saturating_add(bytes).checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
    sync(k, start, bytes);
    let all = core::mem::take(&mut k.place.shared);
    for map in all {
        let before = Shared { end: map.end.min(start), ..map };
        let behind = map.start.max(end);
        let after = Shared { start: behind, offset: map.offset + (behind - map.start), ..map };
        for part in [before, after] {
            if part.start < part.end && tree(|fs| fs.pin(map.node)).is_ok() {
                k.place.shared.push(part);
            }
        }
        tree(|fs| fs.unpin(map.node));
    }
}

/// Before `bytes` bytes of `node` from `offset` on are read: what the program has stored there.
pub(crate) fn write_back(k: &Kernel, node: NodeId, offset: u64, bytes: u64) {
    for map in k.place.shared.iter().filter(|map| map.node == node) {
        store(k, map, offset, bytes);
    }
}

/// After they were written: so that the program finds them.
pub(crate) fn refill(k: &Kernel, node: NodeId, offset: u64, bytes: u64) {
    for map in k.place.shared.iter().filter(|map| map.node == node) {
        fill(k, map, offset, bytes);
    }
}

/// The pages of a mapping that `bytes` bytes of the file from `offset` on touch: where each is in memory
/// and in the file.
fn pages(map: &Shared, offset: u64, bytes: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
    let map = *map;
    let length = map.end - map.start;
    let from = offset.saturating_sub(map.offset).min(length) / PAGE_BYTES * PAGE_BYTES;
    let to = offset.saturating_add(bytes).saturating_sub(map.offset).min(length);
    (from..to).step_by(PAGE_BYTES as usize).map(move |at| (map.start + at, map.offset + at))
}

/// From memory to the file, page by page, where they differ, and never past the file's end.
fn store(k: &Kernel, map: &Shared, offset: u64, bytes: u64) {
    if !map.writable {
        return;
    }
    let Ok(size) = tree(|fs| fs.size(map.node)) else { return };
    for (memory, file) in pages(map, offset, bytes) {
        let count = size.saturating_sub(file).min(PAGE_BYTES);
        let mut page = [0; PAGE_BYTES as usize];
        let page = &mut page[..count as usize];
        if count == 0 || unifork_hal::read_arena(memory, page).is_err() {
            continue;
        }
        // What cannot be kept for want of memory is lost, as on a full disk.
        let _full = with(k, |fs| {
            let mut same = true;
            let mut rest = &*page;
            fs.read(map.node, file, count, |piece| {
                let (now, later) = rest.split_at(piece.len());
                same &= now == piece;
                rest = later;
            })?;
            let mut rest = &*page;
            if !same {
                fs.write(map.node, file, count, |piece| {
                    let (now, later) = rest.split_at(piece.len());
                    piece.copy_from_slice(now);
                    rest = later;
                })?;
            }
            Ok::<_, unifork_fs::Errno>(())
        });
    }
}

/// From the file to memory; zeros behind its end.
fn fill(k: &Kernel, map: &Shared, offset: u64, bytes: u64) {
    let Ok(size) = tree(|fs| fs.size(map.node)) else { return };
    for (memory, file) in pages(map, offset, bytes) {
        // A fresh mapping is zero.
        if file >= size && bytes == u64::MAX {
            break;
        }
        let mut page = [0; PAGE_BYTES as usize];
        let mut at = 0;
        let read = with(k, |fs| {
            fs.read(map.node, file, PAGE_BYTES, |piece| {
                page[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            })
        });
        if read.is_ok() {
            // Whatever its protection is.
            let _gone = unifork_hal::write_arena(memory, &page);
        }
    }
}
