//! `prctl`, and other things that a program says about itself.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::user::{read_string, write_bytes, write_u32};

// include/uapi/linux/prctl.h
const PR_SET_PDEATHSIG: u32 = 1;
const PR_GET_PDEATHSIG: u32 = 2;
const PR_GET_DUMPABLE: u32 = 3;
const PR_SET_DUMPABLE: u32 = 4;
const PR_GET_KEEPCAPS: u32 = 7;
const PR_SET_KEEPCAPS: u32 = 8;
const PR_SET_NAME: u32 = 15;
const PR_GET_NAME: u32 = 16;
const PR_SET_TIMERSLACK: u32 = 29;
const PR_GET_TIMERSLACK: u32 = 30;
const PR_SET_NO_NEW_PRIVS: u32 = 38;
const PR_GET_NO_NEW_PRIVS: u32 = 39;
const PR_SET_THP_DISABLE: u32 = 41;
const PR_GET_THP_DISABLE: u32 = 42;

/// What `prctl` keeps; none of it makes a difference.
#[derive(Default)]
pub(crate) struct Settings {
    death_signal: u32,
    undumpable: bool,
    no_new_privileges: bool,
    no_huge_pages: bool,
    timer_slack: Option<u64>,
    keep_capabilities: bool,
    /// Of all threads alike.
    pub(crate) nice: i8,
}

/// `prctl`.
pub(crate) fn prctl(k: &mut Kernel, [option, a, b, c, d, _]: [u64; 6]) -> Outcome {
    let kept = &mut k.settings;
    match option as u32 {
        PR_SET_NAME => {
            let name = read_string(a, 16)?;
            let long: [u8; 15];
            let name = match &name {
                Some(name) => name.as_slice(),
                None => {
                    long = crate::user::read_bytes(a)?;
                    &long
                }
            };
            let me = k.sched.me();
            me.name = [0; 16];
            me.name[..name.len()].copy_from_slice(name);
        }
        PR_GET_NAME => write_bytes(a, &k.sched.me().name)?,
        PR_SET_PDEATHSIG if a > 64 => return Err(Errno::EINVAL),
        PR_SET_PDEATHSIG => kept.death_signal = a as u32,
        PR_GET_PDEATHSIG => write_u32(a, kept.death_signal)?,
        PR_SET_DUMPABLE if a > 1 => return Err(Errno::EINVAL),
        PR_SET_DUMPABLE => kept.undumpable = a == 0,
        PR_GET_DUMPABLE => return Ok(u64::from(!kept.undumpable)),
        PR_SET_KEEPCAPS if a > 1 => return Err(Errno::EINVAL),
        PR_SET_KEEPCAPS => kept.keep_capabilities = a != 0,
        PR_GET_KEEPCAPS => return Ok(kept.keep_capabilities.into()),
        PR_SET_NO_NEW_PRIVS if a != 1 || b != 0 || c != 0 || d != 0 => return Err(Errno::EINVAL),
        PR_SET_NO_NEW_PRIVS => kept.no_new_privileges = true,
        PR_GET_NO_NEW_PRIVS => return Ok(kept.no_new_privileges.into()),
        PR_SET_THP_DISABLE => kept.no_huge_pages = a != 0,
        PR_GET_THP_DISABLE => return Ok(kept.no_huge_pages.into()),
        PR_SET_TIMERSLACK => kept.timer_slack = (a != 0).then_some(a),
        PR_GET_TIMERSLACK => return Ok(kept.timer_slack.unwrap_or(50_000)),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `personality`: Linux's own, on a machine of its own.
pub(crate) fn personality(wanted: u64) -> Outcome {
    const ASK: u32 = u32::MAX;
    const ADDR_NO_RANDOMIZE: u32 = 0x4_0000;
    // Addresses are never random, so asking for that changes nothing.
    match wanted as u32 {
        0 | ASK | ADDR_NO_RANDOMIZE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}
