//! What is done to descriptors themselves: duplicates, flags, closing, and questions.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::object::{O_APPEND, O_CLOEXEC, O_NONBLOCK, O_PATH, Stat};
use crate::fd::pipe::PipeEnd;
use crate::user::{read_u32, write_bytes};

// include/uapi/linux/fcntl.h, include/uapi/asm-generic/fcntl.h
const F_DUPFD: u64 = 0;
const F_GETFD: u64 = 1;
const F_SETFD: u64 = 2;
const F_GETFL: u64 = 3;
const F_SETFL: u64 = 4;
const F_SETOWN: u64 = 8;
const F_GETOWN: u64 = 9;
const F_DUPFD_CLOEXEC: u64 = 1030;
const F_SETPIPE_SZ: u64 = 1031;
const F_GETPIPE_SZ: u64 = 1032;
const O_LARGEFILE: u32 = 0o10_0000;
const O_DIRECT: u32 = 0o4_0000;
const O_NOATIME: u32 = 0o100_0000;
/// What `F_SETFL` changes.
const SETTABLE: u32 = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
// include/uapi/asm-generic/ioctls.h
const FIONBIO: u64 = 0x5421;
const FIONCLEX: u64 = 0x5450;
const FIOCLEX: u64 = 0x5451;
/// `close_range`.
const CLOSE_RANGE_UNSHARE: u64 = 2;
const CLOSE_RANGE_CLOEXEC: u64 = 4;

/// `close`.
pub(crate) fn close(k: &mut Kernel, fd: u64) -> Outcome {
    k.files.close(fd)?;
    Ok(0)
}

/// `close_range`.
pub(crate) fn close_range(k: &mut Kernel, first: u64, last: u64, flags: u64) -> Outcome {
    let (first, last) = (u64::from(first as u32), u64::from(last as u32));
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    let numbers: Vec<u64> = k.files.numbers().filter(|fd| (first..=last).contains(fd)).collect();
    for fd in numbers {
        if flags & CLOSE_RANGE_CLOEXEC != 0 {
            k.files.entry_mut(fd)?.close_on_exec = true;
        } else {
            k.files.close(fd)?;
        }
    }
    Ok(0)
}

/// `dup`.
pub(crate) fn dup(k: &mut Kernel, fd: u64) -> Outcome {
    let description = k.files.get(fd)?;
    k.files.add(description, false, 0)
}

/// `dup2`.
pub(crate) fn dup2(k: &mut Kernel, from: u64, to: u64) -> Outcome {
    let description = k.files.get(from)?;
    let to = u64::from(to as u32);
    if from as u32 != to as u32 {
        k.files.put(to, description, false)?;
        crate::sched::event();
    }
    Ok(to)
}

/// `dup3`.
pub(crate) fn dup3(k: &mut Kernel, from: u64, to: u64, flags: u64) -> Outcome {
    if flags as u32 & !O_CLOEXEC != 0 || from as u32 == to as u32 {
        return Err(Errno::EINVAL);
    }
    let to = u64::from(to as u32);
    if to >= k.files.limit {
        return Err(Errno::EBADF);
    }
    let description = k.files.get(from)?;
    k.files.put(to, description, flags as u32 & O_CLOEXEC != 0)?;
    crate::sched::event();
    Ok(to)
}

/// `fcntl`. Locks are the file system's.
pub(crate) fn fcntl(k: &mut Kernel, fd: u64, command: u64, argument: u64) -> Outcome {
    let description = k.files.get(fd)?;
    let flags = description.flags.get();
    if flags & O_PATH != 0 && !matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL) {
        return Err(Errno::EBADF);
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let from = u64::from(argument as u32);
            if from >= k.files.limit {
                return Err(Errno::EINVAL);
            }
            k.files.add(description, command == F_DUPFD_CLOEXEC, from)
        }
        F_GETFD => Ok(k.files.entry(fd)?.close_on_exec.into()),
        F_SETFD => {
            k.files.entry_mut(fd)?.close_on_exec = argument & 1 != 0;
            Ok(0)
        }
        // Linux adds O_LARGEFILE to what `open` made, on 64-bit machines always.
        F_GETFL => Ok(u64::from(flags | if description.object.has_positions() { O_LARGEFILE } else { 0 })),
        F_SETFL => {
            description.flags.set(flags & !SETTABLE | argument as u32 & SETTABLE);
            Ok(0)
        }
        F_GETOWN | F_SETOWN => Ok(0),
        F_GETPIPE_SZ => Ok(description.as_a::<PipeEnd>().ok_or(Errno::EBADF)?.capacity()),
        F_SETPIPE_SZ => description.as_a::<PipeEnd>().ok_or(Errno::EBADF)?.set_capacity(argument),
        5..=7 | 36..=38 => crate::fs::lock::record(k, fd, command, argument),
        _ => Err(Errno::EINVAL),
    }
}

/// `ioctl`.
pub(crate) fn ioctl(k: &mut Kernel, fd: u64, request: u64, argument: u64) -> Outcome {
    let description = k.files.get(fd)?;
    if description.has(O_PATH) {
        return Err(Errno::EBADF);
    }
    // The request is an `unsigned int`.
    match u64::from(request as u32) {
        FIOCLEX => k.files.entry_mut(fd)?.close_on_exec = true,
        FIONCLEX => k.files.entry_mut(fd)?.close_on_exec = false,
        FIONBIO => {
            let on = read_u32(argument)? != 0;
            let flags = description.flags.get() & !O_NONBLOCK;
            description.flags.set(if on { flags | O_NONBLOCK } else { flags });
        }
        request => {
            let object = Rc::clone(&description.object);
            return object.ioctl(k, request, argument);
        }
    }
    Ok(0)
}

/// `lseek`.
pub(crate) fn lseek(k: &mut Kernel, fd: u64, offset: u64, whence: u64) -> Outcome {
    let description = k.files.get(fd)?;
    if description.has(O_PATH) {
        return Err(Errno::EBADF);
    }
    description.object.seek(&description, offset.cast_signed(), u64::from(whence as u32))
}

/// `fstat`.
pub(crate) fn fstat(k: &mut Kernel, fd: u64, to: u64) -> Outcome {
    let stat = k.files.get(fd)?.object.stat()?;
    write_stat(to, &stat)?;
    Ok(0)
}

/// Writes a `struct stat`.
pub(crate) fn write_stat(to: u64, stat: &Stat) -> Result<(), Errno> {
    const SECOND_NS: u64 = 1_000_000_000;
    let mut bytes = [0u8; 144];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, stat.device);
    put(8, stat.inode);
    put(16, stat.links);
    put(24, u64::from(stat.user) << 32 | u64::from(stat.mode));
    put(32, stat.group.into());
    put(40, stat.special);
    put(48, stat.size);
    put(56, stat.block_bytes);
    put(64, stat.blocks);
    for (i, time) in stat.times.iter().take(3).enumerate() {
        put(72 + i * 16, time / SECOND_NS);
        put(80 + i * 16, time % SECOND_NS);
    }
    write_bytes(to, &bytes)?;
    Ok(())
}
