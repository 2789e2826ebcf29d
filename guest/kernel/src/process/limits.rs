//! Resource limits. Soft limits can be set; those that mean something here are kept to.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::{DESCRIPTORS_HARD_MAX, DESCRIPTORS_MAX};
use crate::process::identity::is_me;
use crate::user::{read_words, write_words};

const RESOURCES: usize = 16;
const NONE: u64 = u64::MAX;
// include/uapi/asm-generic/resource.h
const STACK: usize = 3;
const CORE: usize = 4;
const NPROC: usize = 6;
const NOFILE: usize = 7;
const MEMLOCK: usize = 8;
const SIGPENDING: usize = 11;
const MSGQUEUE: usize = 12;
const NICE: usize = 13;
const RTPRIO: usize = 14;

/// Soft and hard limits.
pub(crate) struct Limits([[u64; 2]; RESOURCES]);

impl Limits {
    pub(crate) fn new(stack_bytes: u64) -> Self {
        let mut limits = [[NONE; 2]; RESOURCES];
        limits[STACK][0] = stack_bytes;
        limits[CORE] = [0, NONE];
        limits[NPROC] = [4096; 2];
        limits[NOFILE] = [DESCRIPTORS_MAX, DESCRIPTORS_HARD_MAX];
        limits[MEMLOCK] = [8 << 20; 2];
        limits[SIGPENDING] = [4096; 2];
        limits[MSGQUEUE] = [819_200; 2];
        limits[NICE] = [0; 2];
        limits[RTPRIO] = [0; 2];
        Self(limits)
    }

    fn of(&self, resource: u64) -> Result<usize, Errno> {
        usize::try_from(resource as u32).ok().filter(|&r| r < RESOURCES).ok_or(Errno::EINVAL)
    }
}

/// `prlimit64`.
pub(crate) fn prlimit64(k: &mut Kernel, pid: u64, resource: u64, new: u64, old: u64) -> Outcome {
    let which = k.limits.of(resource)?;
    let wanted = if new == 0 { None } else { Some(read_words(new)?) };
    is_me(pid)?;
    let before = k.limits.0[which];
    if let Some([soft, hard]) = wanted {
        set(k, which, [soft, hard])?;
    }
    if old != 0 {
        write_words(old, &before)?;
    }
    Ok(0)
}

/// `getrlimit`.
pub(crate) fn getrlimit(k: &mut Kernel, resource: u64, to: u64) -> Outcome {
    let which = k.limits.of(resource)?;
    write_words(to, &k.limits.0[which])?;
    Ok(0)
}

/// `setrlimit`.
pub(crate) fn setrlimit(k: &mut Kernel, resource: u64, from: u64) -> Outcome {
    let which = k.limits.of(resource)?;
    set(k, which, read_words(from)?)?;
    Ok(0)
}

fn set(k: &mut Kernel, which: usize, [soft, hard]: [u64; 2]) -> Result<(), Errno> {
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    if which == NOFILE {
        if hard > DESCRIPTORS_HARD_MAX {
            return Err(Errno::EPERM);
        }
        k.files.limit = soft;
    }
    k.limits.0[which] = [soft, hard];
    Ok(())
}
