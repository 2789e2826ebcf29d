//! `brk`, `mmap`, `munmap` and `mremap`.

use core::ops::Range;

use unifork_abi::PAGE_BYTES;
use unifork_hal::{SyscallFrame, move_bytes, out_of_memory};

use crate::errno::{Errno, Outcome};
use crate::mm::MM;
use crate::mm::list::{Backing, Mapping, PROT_NONE};
use crate::mm::space::{ADDRESSES_END, Space, round_up};

// include/uapi/linux/mman.h, include/uapi/asm-generic/mman.h
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MREMAP_MAYMOVE: u64 = 1;
const MREMAP_FIXED: u64 = 2;
const MREMAP_DONTUNMAP: u64 = 4;
const PROTECTION: u64 = 7;
/// Bytes of the libOS's heap that a mapping takes, at most.
const MAPPING_BYTES: usize = 1024;

/// `brk`.
pub(crate) fn brk(to: u64) -> Outcome {
    Ok(MM.with(|mm| mm.set_brk(to)))
}

/// What one `mmap` asks for.
struct Request {
    hint: u64,
    bytes: u64,
    protection: u8,
    flags: u64,
    shared: bool,
    backing: Backing,
}

/// `mmap` of zeros, which `backing` says what is to be put in their place.
pub(crate) fn map(
    [hint, bytes, protection, flags, offset]: [u64; 5],
    backing: Backing,
    frame: &SyscallFrame,
) -> Outcome {
    if bytes == 0 || !offset.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::EINVAL);
    }
    let bytes = round_up(bytes)?;
    let shared = match flags & MAP_TYPE {
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        MAP_PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    crate::user::have_room(MAPPING_BYTES)?;
    let protection = (protection & PROTECTION) as u8;
    place(&Request { hint, bytes, protection, flags, shared, backing }, frame)
}

/// Finds a place and maps zeros there.
fn place(request: &Request, frame: &SyscallFrame) -> Outcome {
    let Request { hint, bytes, protection, flags, shared, .. } = *request;
    let backing = request.backing.clone();
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        let range = fixed(hint, bytes)?;
        if flags & MAP_FIXED_NOREPLACE != 0 && !MM.with(|mm| mm.list.is_free(&range)) {
            return Err(Errno::EEXIST);
        }
        unmap(&range)?;
        MM.with(|mm| mm.map(range, protection, shared, backing))?;
        return Ok(hint);
    }
    MM.with(|mm| {
        let area = mm.above_heap();
        let hint = hint.checked_next_multiple_of(PAGE_BYTES).unwrap_or(0);
        let wanted = hint..hint.saturating_add(bytes);
        let fits = hint != 0 && inside(&wanted, &area) && mm.list.is_free(&wanted);
        let start = if fits { Some(hint) } else { mm.list.find(bytes, &area) };
        let Some(start) = start else {
            let reserved = protection == PROT_NONE || flags & MAP_NORESERVE != 0;
            if bytes > mm.arena.end - mm.arena.start || reserved {
                return Err(Errno::ENOMEM);
            }
            // The machine is full. On Linux the process would be killed sooner or later.
            out_of_memory(bytes, frame);
        };
        mm.map(start..start + bytes, protection, shared, backing)?;
        Ok(start)
    })
}

fn inside(range: &Range<u64>, area: &Range<u64>) -> bool {
    range.start >= area.start && range.end <= area.end
}

/// A range that the program chose, if it can be had.
fn fixed(start: u64, bytes: u64) -> Result<Range<u64>, Errno> {
    if !start.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::EINVAL);
    }
    let range = start..start.checked_add(bytes).filter(|&end| end <= ADDRESSES_END).ok_or(Errno::ENOMEM)?;
    // Not over the heap: musl asks for a page without access there, once for each time that the heap grows
    // from nothing, does without when it cannot have it, and every run would pay for clearing it.
    if MM.with(|mm| inside(&range, &mm.above_heap())) { Ok(range) } else { Err(Errno::ENOMEM) }
}

/// Gives back whatever is mapped of a range.
fn unmap(range: &Range<u64>) -> Result<(), Errno> {
    MM.with(|mm| {
        mm.list.have_room(1)?;
        mm.list.remove(range);
        Ok(())
    })
}

/// `munmap`.
pub(crate) fn munmap(start: u64, bytes: u64) -> Outcome {
    if !start.is_multiple_of(PAGE_BYTES) || bytes == 0 {
        return Err(Errno::EINVAL);
    }
    let bytes = round_up(bytes).map_err(|_| Errno::EINVAL)?;
    let end = start.checked_add(bytes).filter(|&end| end <= ADDRESSES_END).ok_or(Errno::EINVAL)?;
    unmap(&(start..end))?;
    Ok(0)
}

/// `mremap`. Linux `mm/mremap.c`.
pub(crate) fn mremap(args: [u64; 6], frame: &SyscallFrame) -> Outcome {
    let [start, old, new, flags, to, _] = args;
    let has = |flag: u64| flags & flag != 0;
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) != 0
        || has(MREMAP_FIXED | MREMAP_DONTUNMAP) && !has(MREMAP_MAYMOVE)
        || has(MREMAP_DONTUNMAP) && old != new
        || !start.is_multiple_of(PAGE_BYTES)
    {
        return Err(Errno::EINVAL);
    }
    let old = round_up(old).map_err(|_| Errno::EINVAL)?;
    let new = round_up(new).map_err(|_| Errno::EINVAL)?;
    if new == 0 {
        return Err(Errno::EINVAL);
    }
    crate::user::have_room(MAPPING_BYTES)?;
    if has(MREMAP_FIXED) {
        let target = to..to.wrapping_add(new);
        let overlaps = start < target.end && to < start.saturating_add(old);
        if !to.is_multiple_of(PAGE_BYTES) || to > ADDRESSES_END - new.min(ADDRESSES_END) || overlaps {
            return Err(Errno::EINVAL);
        }
    }
    let range = start..start.checked_add(old).ok_or(Errno::EINVAL)?;
    let mapping = whole(&range)?;
    if has(MREMAP_FIXED) {
        let target = fixed(to, new)?;
        unmap(&target)?;
        if new < old {
            unmap(&(start + new..range.end))?;
        }
        MM.with(|mm| mm.map(target, mapping.protection, mapping.shared, mapping.backing.clone()))?;
        return carry(start, old.min(new), to, !has(MREMAP_DONTUNMAP));
    }
    if old == 0 {
        // A second mapping of shared memory.
        return Err(Errno::EINVAL);
    }
    if !has(MREMAP_DONTUNMAP) && new <= old {
        unmap(&(start + new..range.end))?;
        return Ok(start);
    }
    if !has(MREMAP_DONTUNMAP) && grow(&range, new, &mapping)? {
        return Ok(start);
    }
    if !has(MREMAP_MAYMOVE) {
        return Err(Errno::ENOMEM);
    }
    let (protection, shared) = (mapping.protection, mapping.shared);
    let request =
        Request { hint: to, bytes: new, protection, flags: 0, shared, backing: mapping.backing.clone() };
    let moved = place(&request, frame)?;
    carry(start, old, moved, !has(MREMAP_DONTUNMAP))
}

/// The mapping that a range is all in.
fn whole(range: &Range<u64>) -> Result<Mapping, Errno> {
    MM.with(|mm| {
        let first = mm.list.within(&(range.start..range.start + PAGE_BYTES)).first().ok_or(Errno::EFAULT)?;
        if first.start > range.start || first.end < range.end {
            return Err(Errno::EFAULT);
        }
        let mut cut = first.clone();
        if let Backing::File(_, offset) = &mut cut.backing {
            *offset += range.start - first.start;
        }
        Ok(cut)
    })
}

/// Makes a mapping larger where it is; false when something is in the way.
fn grow(range: &Range<u64>, new: u64, mapping: &Mapping) -> Result<bool, Errno> {
    let more = range.end..range.start + new;
    MM.with(|mm: &mut Space| {
        if mapping.end != range.end || !inside(&more, &mm.above_heap()) || !mm.list.is_free(&more) {
            return Ok(false);
        }
        let mut backing = mapping.backing.clone();
        if let Backing::File(_, offset) = &mut backing {
            *offset += range.end - range.start;
        }
        mm.map(more, mapping.protection, mapping.shared, backing)?;
        Ok(true)
    })
}

/// Moves contents to a new mapping, and gives the old one back.
fn carry(from: u64, bytes: u64, to: u64, unmaps: bool) -> Outcome {
    move_bytes(to, from, bytes)?;
    let range = from..from + bytes;
    if unmaps {
        MM.with(|mm| mm.list.have_room(1).map(|()| mm.list.remove(&range)))?;
    } else {
        unifork_hal::clear(from, bytes)?;
    }
    Ok(to)
}
