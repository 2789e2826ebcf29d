//! What a program says and asks about memory that it has: protection, advice, locks.

use core::ops::Range;

use unifork_abi::PAGE_BYTES;
use unifork_hal::{clear, count_unserved};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::mm::MM;
use crate::mm::list::{Backing, Mapping, PROT_WRITE};
use crate::mm::space::{ADDRESSES_END, round_up};
use crate::user::write_bytes;

const PROTECTION: u64 = 0xf;
const PROT_GROWSDOWN: u64 = 0x100_0000;
const PROT_GROWSUP: u64 = 0x200_0000;
/// Number of the call.
const MPROTECT: u64 = 10;
// include/uapi/asm-generic/mman-common.h
const MADV_DONTNEED: u64 = 4;
const MADV_REMOVE: u64 = 9;
const MADV_DONTNEED_LOCKED: u64 = 24;
/// The largest advice that Linux 6.1 knows, but for the two of hardware poisoning.
const MADV_MAX: u64 = 25;
const MS_ASYNC: u64 = 1;
const MS_INVALIDATE: u64 = 2;
const MS_SYNC: u64 = 4;
const MCL_ALL: u64 = 7;
const MLOCK_ONFAULT: u64 = 1;

/// The whole pages that a call names.
fn pages(start: u64, bytes: u64) -> Result<Range<u64>, Errno> {
    if !start.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(round_up(bytes)?).ok_or(Errno::ENOMEM)?;
    Ok(start..end)
}

/// What is mapped of a range has no holes.
fn is_mapped(range: &Range<u64>) -> Result<(), Errno> {
    if MM.with(|mm| mm.list.covers(range, |_| true)) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// `mprotect`. What comes before a hole is changed, as on Linux.
pub(crate) fn mprotect(start: u64, bytes: u64, protection: u64) -> Outcome {
    let grows = protection & (PROT_GROWSDOWN | PROT_GROWSUP);
    if grows == PROT_GROWSDOWN | PROT_GROWSUP || !start.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::EINVAL);
    }
    if bytes == 0 {
        return Ok(0);
    }
    let range = pages(start, bytes)?;
    if protection & !(PROTECTION | grows) != 0 {
        return Err(Errno::EINVAL);
    }
    let wanted = (protection & 7) as u8;
    MM.with(|mm| {
        mm.list.have_room(2)?;
        let mut end = range.start;
        for mapping in mm.list.within(&range) {
            if mapping.start > end {
                break;
            }
            end = mapping.end.min(range.end);
        }
        let (arena, changed) = (mm.arena.clone(), range.start..end);
        let mut taken = false;
        if !changed.is_empty() {
            mm.list.change(&changed, |mapping| {
                taken |= mapping.protection & PROT_WRITE != 0
                    && mapping.start >= arena.start
                    && mapping.end <= arena.end;
                Some(Mapping { protection: wanted, ..mapping.clone() })
            });
        }
        if taken && wanted & PROT_WRITE == 0 {
            // Accepted, for a program that cannot do without, and named in the run's report.
            count_unserved(MPROTECT);
        }
        if end == range.end { Ok(0) } else { Err(Errno::ENOMEM) }
    })
}

/// `madvise`.
pub(crate) fn madvise(k: &mut Kernel, start: u64, bytes: u64, advice: u64) -> Outcome {
    let advice = u64::from(advice as u32);
    if !start.is_multiple_of(PAGE_BYTES) || advice > MADV_MAX || (5..8).contains(&advice) {
        return Err(Errno::EINVAL);
    }
    let bytes = round_up(bytes).map_err(|_| Errno::EINVAL)?;
    let end = start.checked_add(bytes).filter(|&end| end <= ADDRESSES_END).ok_or(Errno::EINVAL)?;
    let range = start..end;
    if matches!(advice, MADV_DONTNEED | MADV_REMOVE | MADV_DONTNEED_LOCKED) {
        forget(k, &range)?;
    }
    is_mapped(&range)?;
    Ok(0)
}

/// Makes memory what it was when it was mapped.
fn forget(k: &mut Kernel, range: &Range<u64>) -> Result<(), Errno> {
    let mappings = MM.with(|mm| mm.list.within(range).to_vec());
    let arena = MM.with(|mm| mm.arena.clone());
    for mapping in mappings {
        let (low, high) = (mapping.start.max(range.start), mapping.end.min(range.end));
        match &mapping.backing {
            // Shared memory keeps its contents: they are the file's.
            _ if mapping.shared => {}
            Backing::Anonymous | Backing::Heap if low >= arena.start && high <= arena.end => {
                clear(low, high - low)?
            }
            Backing::File(file, offset) => {
                clear(low, high - low)?;
                let at = offset + (low - mapping.start);
                crate::fs::map::reload(k, file, low, high - low, at);
            }
            // The stack's and the image's pages are not this process's to forget: kept.
            _ => {}
        }
    }
    Ok(())
}

/// `mincore`: all of it is there.
pub(crate) fn mincore(start: u64, bytes: u64, to: u64) -> Outcome {
    if !start.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::EINVAL);
    }
    let range = pages(start, bytes)?;
    let count = (range.end - range.start) / PAGE_BYTES;
    unifork_hal::User::writable(to, count)?;
    is_mapped(&range)?;
    for i in 0..count {
        write_bytes(to + i, &[1])?;
    }
    Ok(0)
}

/// `msync`.
pub(crate) fn msync(k: &mut Kernel, start: u64, bytes: u64, flags: u64) -> Outcome {
    if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
        || !start.is_multiple_of(PAGE_BYTES)
        || flags & MS_ASYNC != 0 && flags & MS_SYNC != 0
    {
        return Err(Errno::EINVAL);
    }
    let range = pages(start, bytes)?;
    is_mapped(&range)?;
    crate::fs::map::sync(k, start, range.end - start);
    Ok(0)
}

/// `mlock` and `munlock`: nothing is ever paged out.
pub(crate) fn mlock(start: u64, bytes: u64) -> Outcome {
    let low = start & !(PAGE_BYTES - 1);
    let range = pages(low, bytes.checked_add(start - low).ok_or(Errno::EINVAL)?)?;
    is_mapped(&range)?;
    Ok(0)
}

/// `mlock2`.
pub(crate) fn mlock2(start: u64, bytes: u64, flags: u64) -> Outcome {
    if flags & !MLOCK_ONFAULT != 0 { Err(Errno::EINVAL) } else { mlock(start, bytes) }
}

/// `mlockall`.
pub(crate) fn mlockall(flags: u64) -> Outcome {
    const MCL_ONFAULT: u64 = 4;
    if flags == 0 || flags & !MCL_ALL != 0 || flags == MCL_ONFAULT { Err(Errno::EINVAL) } else { Ok(0) }
}
