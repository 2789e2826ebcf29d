//! What the machine is.

use unifork_hal::{boot_info, heap_free_bytes, set_fs_base, set_gs_base};

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::mm::MM;
use crate::time::clock::SECOND_NS;
use crate::user::{write_bytes, write_u64};

// arch/x86/include/uapi/asm/prctl.h
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
/// First address that is not canonical.
const CANONICAL_END: u64 = 1 << 47;

/// `arch_prctl`.
pub(crate) fn arch_prctl(code: u64, address: u64) -> Outcome {
    match code {
        ARCH_SET_FS | ARCH_SET_GS if address >= CANONICAL_END => return Err(Errno::EPERM),
        ARCH_SET_FS => set_fs_base(address),
        ARCH_SET_GS => set_gs_base(address),
        ARCH_GET_FS => write_u64(address, unifork_hal::fs_base())?,
        ARCH_GET_GS => write_u64(address, unifork_hal::gs_base())?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `uname`.
pub(crate) fn uname(to: u64) -> Outcome {
    const FIELD: usize = 65;
    let mut bytes = [0u8; 6 * FIELD];
    for (i, text) in ["Linux", "unifork", "6.1.0", "#1 unifork", "x86_64", "(none)"].iter().enumerate() {
        bytes[i * FIELD..i * FIELD + text.len()].copy_from_slice(text.as_bytes());
    }
    write_bytes(to, &bytes)?;
    Ok(0)
}

/// `sysinfo`.
pub(crate) fn sysinfo(k: &mut Kernel, to: u64) -> Outcome {
    let free = MM.with(|mm| mm.free_bytes()) + heap_free_bytes() as u64;
    let mut bytes = [0u8; 112];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, k.clock.look() / SECOND_NS);
    put(32, boot_info().memory_bytes);
    put(40, free);
    put(80, 1); // one process
    bytes[104..108].copy_from_slice(&1u32.to_le_bytes()); // memory unit
    write_bytes(to, &bytes)?;
    Ok(0)
}

/// `getcpu`: there is one.
pub(crate) fn getcpu(cpu: u64, node: u64) -> Outcome {
    for at in [cpu, node] {
        if at != 0 {
            crate::user::write_u32(at, 0)?;
        }
    }
    Ok(0)
}
