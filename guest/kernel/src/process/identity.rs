//! Ids: one process, run by root, in a session and group of its own.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::sched::PID;
use crate::user::{write_bytes, write_u32};

/// Its parent.
pub(crate) const PARENT: u64 = 1;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// All capabilities that Linux 6.1 knows.
const CAPABILITIES: u64 = (1 << 41) - 1;

/// An id argument that means the process itself.
pub(crate) fn is_me(pid: u64) -> Result<(), Errno> {
    if pid as u32 == 0 || pid as u32 == PID { Ok(()) } else { Err(Errno::ESRCH) }
}

/// `getpgid`, `getsid`.
pub(crate) fn group_of(pid: u64) -> Outcome {
    is_me(pid)?;
    Ok(PID.into())
}

/// `setpgid`: only to what it is.
pub(crate) fn setpgid(pid: u64, group: u64) -> Outcome {
    is_me(pid)?;
    if (group as u32).cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    // A session leader's group cannot change.
    Err(Errno::EPERM)
}

/// `getresuid`, `getresgid`: root, three times.
pub(crate) fn getres(to: [u64; 3]) -> Outcome {
    for at in to {
        write_u32(at, 0)?;
    }
    Ok(0)
}

/// `setuid` and its like: root may become root. Becoming somebody else is not served.
pub(crate) fn set_ids(ids: &[u64]) -> Outcome {
    const UNCHANGED: u32 = u32::MAX;
    if ids.iter().all(|&id| matches!(id as u32, 0 | UNCHANGED)) { Ok(0) } else { Err(Errno::EPERM) }
}

/// `wait4` and `waitid`: there are no children.
pub(crate) fn wait(options: u64, known: u64) -> Outcome {
    if u64::from(options as u32) & !known != 0 { Err(Errno::EINVAL) } else { Err(Errno::ECHILD) }
}

/// `waitid`.
pub(crate) fn waitid(kind: u64, options: u64) -> Outcome {
    /// WNOHANG, WNOWAIT, __WNOTHREAD, __WALL, __WCLONE, and the three of [`EVENTS`].
    const KNOWN: u64 = 0xe100_000f;
    /// WSTOPPED, WEXITED, WCONTINUED.
    const EVENTS: u64 = 0xe;
    /// P_ALL, P_PID, P_PGID, P_PIDFD.
    const KINDS: u32 = 4;
    if options & EVENTS == 0 || kind as u32 >= KINDS {
        return Err(Errno::EINVAL);
    }
    wait(options, KNOWN)
}

/// `getgroups`: none but the group itself.
pub(crate) fn getgroups(bytes: u64) -> Outcome {
    if (bytes as u32).cast_signed() < 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// `setgroups`: to none.
pub(crate) fn setgroups(count: u64) -> Outcome {
    if count == 0 { Ok(0) } else { Err(Errno::EPERM) }
}

/// `capget`.
pub(crate) fn capget(header: u64, to: u64) -> Outcome {
    let [version, pid] = [0, 4].map(|offset| crate::user::read_u32(header.wrapping_add(offset)));
    if version? != CAPABILITY_VERSION {
        write_u32(header, CAPABILITY_VERSION)?;
        return if to == 0 { Ok(0) } else { Err(Errno::EINVAL) };
    }
    is_me(pid?.into())?;
    if to != 0 {
        let (low, high) = (CAPABILITIES as u32, (CAPABILITIES >> 32) as u32);
        let words = [low, low, 0, high, high, 0];
        let mut bytes = [0; 24];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        write_bytes(to, &bytes)?;
    }
    Ok(0)
}

/// `set_tid_address`.
pub(crate) fn set_tid_address(k: &mut Kernel, at: u64) -> Outcome {
    let me = k.sched.me();
    me.clear_tid = at;
    Ok(me.tid.into())
}
