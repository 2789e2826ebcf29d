//! Locks on files. There is one process, so record locks never conflict; `flock` locks belong to
//! descriptions, and those of one process may.

use alloc::vec::Vec;

use unifork_fs::NodeId;
use unifork_hal::KernelCell;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fs::file::File;
use crate::user::{have_room, read_bytes, write_bytes};

struct Lock {
    node: NodeId,
    description: u64,
    exclusive: bool,
}

/// All `flock` locks. Beside the kernel's one struct, so that a description can let go of its own.
static LOCKS: KernelCell<Vec<Lock>> = KernelCell::new(Vec::new());

/// The description is closed.
pub(crate) fn release(description: u64) {
    LOCKS.with(|locks| locks.retain(|lock| lock.description != description));
}

/// `flock`.
pub(crate) fn flock(k: &mut Kernel, fd: u64, operation: u64) -> Outcome {
    const LOCK_SH: u64 = 1;
    const LOCK_EX: u64 = 2;
    const LOCK_NB: u64 = 4;
    const LOCK_UN: u64 = 8;
    let description = k.files.get(fd)?;
    let wanted = operation & !LOCK_NB;
    if !matches!(wanted, LOCK_SH | LOCK_EX | LOCK_UN) {
        return Err(Errno::EINVAL);
    }
    if description.has(crate::fd::object::O_PATH) {
        return Err(Errno::EBADF);
    }
    let Some(file) = description.as_a::<File>() else { return Ok(0) };
    have_room(4096)?;
    let (node, id, exclusive) = (file.node, description.id, wanted == LOCK_EX);
    let granted = LOCKS.with(|locks| {
        if wanted == LOCK_UN {
            locks.retain(|lock| lock.description != id);
            return true;
        }
        let conflict =
            |lock: &Lock| lock.node == node && lock.description != id && (exclusive || lock.exclusive);
        if locks.iter().any(conflict) {
            return false;
        }
        locks.retain(|lock| lock.description != id);
        locks.push(Lock { node, description: id, exclusive });
        true
    });
    crate::sched::event();
    match granted {
        true => Ok(0),
        false if operation & LOCK_NB != 0 => Err(Errno::EAGAIN),
        false => Err(k.block_for_event(None)),
    }
}

/// `F_GETLK`, `F_SETLK` and their relatives: nobody else is there to conflict with.
pub(crate) fn record(k: &mut Kernel, fd: u64, command: u64, argument: u64) -> Outcome {
    const F_UNLCK: u16 = 2;
    const GETS: [u64; 2] = [5, 36];
    let description = k.files.get(fd)?;
    let mut lock: [u8; 32] = read_bytes(argument)?;
    let half = |at: usize| u16::from_le_bytes([lock[at], lock[at + 1]]);
    let (kind, whence) = (half(0), half(2));
    if kind > F_UNLCK || whence > 2 {
        return Err(Errno::EINVAL);
    }
    if GETS.contains(&command) {
        lock[..2].copy_from_slice(&F_UNLCK.to_le_bytes());
        write_bytes(argument, &lock)?;
        return Ok(0);
    }
    let allowed = match kind {
        0 => description.may_read(),
        1 => description.may_write(),
        _ => true,
    };
    if allowed { Ok(0) } else { Err(Errno::EBADF) }
}
