//! The console: bytes in a window that the host reads.

use unifork_abi::{CONSOLE_BYTES, CONSOLE_VA, Hypercall};

use crate::hypercall;
use crate::run_loop::control;

/// Appends `bytes`. A full console is flushed to the host when it wants that, else what does not
/// fit is counted and dropped.
pub fn write(bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let control = control();
        let len = control.console_len.min(CONSOLE_BYTES);
        let room = (CONSOLE_BYTES - len) as usize;
        if room == 0 {
            if control.console_flush == 0 {
                control.console_lost = control.console_lost.wrapping_add(rest.len() as u64);
                return;
            }
            hypercall::call(Hypercall::Console, [0; 3]);
            control.console_len = 0;
            continue;
        }
        let (now, later) = rest.split_at(room.min(rest.len()));
        let at = (CONSOLE_VA + len) as *mut u8;
        // SAFETY: `len + now.len()` is at most CONSOLE_BYTES, the size of the window, which nothing
        // else in the guest refers to.
        unsafe { at.copy_from_nonoverlapping(now.as_ptr(), now.len()) };
        control.console_len = len + now.len() as u64;
        rest = later;
    }
}
