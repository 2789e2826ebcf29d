//! Frames that the kernel pushes for a signal handler.
//!
//! A handler returns to a few bytes of libc that make the system call `rt_sigreturn`. The stack pointer
//! is then at a `ucontext`, which holds the registers of the interrupted code (Linux,
//! `arch/x86/include/uapi/asm/{ucontext,sigcontext}.h`). libunwind and gdb recognise it in the same way.

use super::super::memory::read_u64;
use super::{Cursor, Method, Walk};

/// `mov $15, %rax; syscall`, as glibc and musl write it, and its shorter form.
const RESTORERS: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];

/// Where the registers begin in a `ucontext`.
const REGISTERS_OFFSET: u64 = 40;

/// DWARF's numbers of the registers in the order in which they are stored.
const STORED: [usize; 16] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7];

/// Whether a signal handler returns to `address`.
pub(super) fn is_restorer(walk: Walk<'_>, address: u64) -> bool {
    let code = walk.code(address, 9);
    RESTORERS.iter().any(|restorer| code.starts_with(restorer))
}

/// The code that a signal interrupted, if the frame is about to return from its handler.
pub(super) fn step(walk: Walk<'_>, cursor: &Cursor) -> Option<Cursor> {
    if !is_restorer(walk, cursor.pc) {
        return None;
    }
    let start = cursor.sp.checked_add(REGISTERS_OFFSET)?;
    let mut registers = [None; 16];
    for (slot, number) in (0..).step_by(8).zip(STORED) {
        registers[number] = Some(read_u64(walk.memory, start.checked_add(slot)?)?);
    }
    let pc = read_u64(walk.memory, start.checked_add(8 * 16)?)?;
    let sp = registers[super::RSP]?;
    Some(Cursor { pc, registers, sp, method: Method::Signal, certain: true })
}
