//! Who the application is and what it may use: constants, all of it.

use unifork_hal::{User, boot_info, fs_base, gs_base, set_fs_base, set_gs_base};

use crate::errno::{Errno, Outcome};

/// The only process, and its only thread.
pub(crate) const PID: u64 = 1000;
/// Its parent.
pub(crate) const PARENT: u64 = 1;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
/// First address that is not canonical.
const CANONICAL_END: u64 = 1 << 47;

pub(crate) fn arch_prctl(code: u64, address: u64) -> Outcome {
    match code {
        ARCH_SET_FS | ARCH_SET_GS if address >= CANONICAL_END => return Err(Errno::EINVAL),
        ARCH_SET_FS => set_fs_base(address),
        ARCH_SET_GS => set_gs_base(address),
        ARCH_GET_FS => User::writable(address, 8)?.write(&fs_base().to_le_bytes()),
        ARCH_GET_GS => User::writable(address, 8)?.write(&gs_base().to_le_bytes()),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

pub(crate) fn uname(to: u64) -> Outcome {
    const FIELD: usize = 65;
    let mut bytes = [0u8; 6 * FIELD];
    for (i, text) in ["Linux", "unifork", "6.1.0", "#1 unifork", "x86_64", "(none)"].iter().enumerate() {
        bytes[i * FIELD..i * FIELD + text.len()].copy_from_slice(text.as_bytes());
    }
    User::writable(to, bytes.len() as u64)?.write(&bytes);
    Ok(0)
}

pub(crate) fn getcwd(to: u64, bytes: u64) -> Outcome {
    if bytes < 2 {
        return Err(Errno::ERANGE);
    }
    User::writable(to, 2)?.write(b"/\0");
    Ok(2)
}

/// `prlimit64`: limits are constants. Setting one is refused, so that nothing seems to have changed
/// that has not.
pub(crate) fn prlimit64(pid: u64, resource: u64, new: u64, old: u64) -> Outcome {
    const RLIMIT_STACK: u64 = 3;
    const RLIMIT_NOFILE: u64 = 7;
    const RESOURCES: u64 = 16;
    if pid != 0 && pid != PID {
        return Err(Errno::ESRCH);
    }
    if resource >= RESOURCES {
        return Err(Errno::EINVAL);
    }
    if new != 0 {
        return Err(Errno::EPERM);
    }
    let limit = match resource {
        RLIMIT_STACK => unifork_abi::STACK_TOP_VA - boot_info().app_stack_low,
        RLIMIT_NOFILE => 1024,
        _ => u64::MAX,
    };
    if old != 0 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&limit.to_le_bytes());
        bytes[8..].copy_from_slice(&limit.to_le_bytes());
        User::writable(old, 16)?.write(&bytes);
    }
    Ok(0)
}

pub(crate) fn sched_getaffinity(pid: u64, bytes: u64, to: u64) -> Outcome {
    if pid != 0 && pid != PID {
        return Err(Errno::ESRCH);
    }
    if bytes < 8 || !bytes.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    User::writable(to, 8)?.write(&1u64.to_le_bytes());
    Ok(8)
}

pub(crate) fn sysinfo(uptime_ns: u64, free: u64, to: u64) -> Outcome {
    let mut bytes = [0u8; 112];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, uptime_ns / 1_000_000_000);
    put(32, boot_info().memory_bytes);
    put(40, free);
    put(80, 1); // one process
    bytes[104..108].copy_from_slice(&1u32.to_le_bytes()); // memory unit
    User::writable(to, 112)?.write(&bytes);
    Ok(0)
}

/// A futex in a machine with one thread: nobody else will ever wake it.
pub(crate) fn futex(address: u64, operation: u64, value: u64, timeout: u64) -> Outcome {
    const PRIVATE_AND_REALTIME: u64 = 128 | 256;
    match operation & !PRIVATE_AND_REALTIME {
        0 | 9 => {
            // The word is 32 bits; reading 8 bytes of it must not leave its mapping.
            let aligned = address & !7;
            let word = User::readable(aligned, 8)?.word(0) >> ((address & 4) * 8);
            if !address.is_multiple_of(4) {
                Err(Errno::EINVAL)
            } else if word as u32 != value as u32 {
                Err(Errno::EAGAIN)
            } else if timeout != 0 {
                Err(Errno::ETIMEDOUT)
            } else {
                unifork_hal::hang()
            }
        }
        1 | 10 => Ok(0),
        _ => Err(Errno::ENOSYS),
    }
}
