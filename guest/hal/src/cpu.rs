//! CPU registers that the libOS sets for the application.

use core::arch::asm;

/// The base of FS: the application's thread pointer.
#[must_use]
pub fn fs_base() -> u64 {
    let value;
    // SAFETY: reads a register; the VMM enables FSGSBASE or the CPU has it on.
    unsafe { asm!("rdfsbase {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets the base of FS. The libOS itself has no use for it.
pub fn set_fs_base(value: u64) {
    // SAFETY: the libOS never addresses memory through FS.
    unsafe { asm!("wrfsbase {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// The base of GS.
#[must_use]
pub fn gs_base() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("rdgsbase {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets the base of GS. The libOS itself has no use for it.
pub fn set_gs_base(value: u64) {
    // SAFETY: the libOS never addresses memory through GS.
    unsafe { asm!("wrgsbase {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Waits for something that never comes, as the application asked; its deadline ends the run.
pub fn hang() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
