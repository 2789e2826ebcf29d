//! The two ways to find a caller without knowing the function: saved frame pointers, and scanning the
//! stack for return addresses.

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};

use super::super::memory::{read_prefix, read_u64};
use super::{Cursor, Method, RBP, Walk, signal};

/// How much of the stack is looked through for one return address.
const SCAN_BYTES_MAX: usize = 32 << 10;

/// How far a scan goes to find readable memory: a stack that overflowed has its pointer in a guard area,
/// as far below the last good page as the frame that overflowed it is large.
const GUARD_PAGES_MAX: u64 = 2048;
const PAGE_BYTES: u64 = 4096;

/// Within this distance, a return address behind a call of the very function is preferred to a nearer
/// one behind some other call.
const PREFERENCE_SLOTS: usize = 256;

/// How a call says where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// In the instruction.
    Direct(u64),
    /// Through a register or memory.
    Indirect,
}

/// The call instruction that ends where `address` begins, if there is code with one.
///
/// A system call counts: in a guest whose kernel runs in the same address space, the kernel's frames lie
/// on top of it. So does the code that signal handlers return to, which nothing calls.
pub(super) fn call_before(walk: Walk<'_>, address: u64) -> Option<Call> {
    /// The longest form: REX, FF, ModRM, SIB and four bytes of displacement, with a segment prefix.
    const LONGEST: usize = 9;
    let start = address.checked_sub(LONGEST as u64)?;
    if !walk.symbols.is_code(address.wrapping_sub(1)) {
        return None;
    }
    if signal::is_restorer(walk, address) {
        return Some(Call::Indirect);
    }
    let bytes = walk.code(start, LONGEST);
    if bytes.len() < LONGEST {
        return None;
    }
    // The shortest is two bytes. Longest first: what looks like a short call may be the end of a long one.
    (0..=LONGEST - 2).find_map(|skip| {
        let code = bytes.get(skip..)?;
        let mut decoder = Decoder::with_ip(64, code, start + skip as u64, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let calls = matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Syscall);
        if !calls || instruction.next_ip() != address {
            return None;
        }
        Some(match instruction.code() {
            Code::Call_rel32_64 => Call::Direct(instruction.near_branch_target()),
            _ => Call::Indirect,
        })
    })
}

/// The caller by way of the saved `rbp` that `rbp` points to.
pub(super) fn frame_pointer(walk: Walk<'_>, cursor: &Cursor) -> Option<Cursor> {
    let rbp = cursor.registers[RBP].filter(|rbp| *rbp >= cursor.sp && rbp % 8 == 0)?;
    let saved = read_u64(walk.memory, rbp)?;
    let pc = read_u64(walk.memory, rbp.checked_add(8)?)?;
    let mut caller = cursor.moved(pc, rbp.checked_add(16)?, Method::FramePointer);
    caller.registers[RBP] = Some(saved);
    Some(caller)
}

/// The caller by the nearest return address on the stack.
pub(super) fn scan(walk: Walk<'_>, cursor: &Cursor) -> Option<Cursor> {
    let (bottom, stack) = readable_stack(walk, cursor.sp)?;
    let function = walk.symbols.function_range(cursor.inside()).map(|range| range.start);
    let mut nearest = None;
    for (slot, word) in stack.as_chunks::<8>().0.iter().enumerate() {
        let value = u64::from_le_bytes(*word);
        let Some(call) = call_before(walk, value) else { continue };
        let of_this_function = function.is_none_or(|start| call == Call::Direct(start));
        if of_this_function && (nearest.is_none() || slot <= PREFERENCE_SLOTS) {
            nearest = Some((slot, value));
            break;
        }
        nearest = nearest.or(Some((slot, value)));
        if slot > PREFERENCE_SLOTS {
            break;
        }
    }
    let (slot, pc) = nearest?;
    let at = bottom.checked_add(8 * slot as u64)?;
    let mut caller = cursor.moved(pc, at.checked_add(8)?, Method::Scan);
    // A return address on top of the stack is that of a call which has saved nothing yet.
    caller.certain = cursor.certain && at == cursor.sp;
    Some(caller)
}

/// The stack from the first readable word at or above `sp`.
fn readable_stack(walk: Walk<'_>, sp: u64) -> Option<(u64, Vec<u8>)> {
    let first = sp.checked_next_multiple_of(8)?;
    let next_page = (first | (PAGE_BYTES - 1)).checked_add(1)?;
    let pages = (0..GUARD_PAGES_MAX).map_while(|page| next_page.checked_add(page * PAGE_BYTES));
    let start = std::iter::once(first).chain(pages).find(|start| read_u64(walk.memory, *start).is_some())?;
    Some((start, read_prefix(walk.memory, start, SCAN_BYTES_MAX)))
}
