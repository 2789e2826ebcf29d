//! Where the application's image is, from its own program headers.

use alloc::vec::Vec;
use core::ops::Range;

use unifork_abi::PAGE_BYTES;
use unifork_hal::boot_info;

use crate::mm::list::{PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::user::read_words;

// System V ABI, AMD64 supplement, 3.4.3 (auxiliary vector); ELF-64, program headers.
const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const PT_LOAD: u32 = 1;
const HEADER_BYTES: u64 = 56;
/// Words of arguments, environment and auxiliary vector that are looked through.
const WORDS_MAX: u64 = 1 << 16;
const HEADERS_MAX: u64 = 64;

/// The loaded segments, whole pages, with their protection. Nothing when the headers cannot be read;
/// then the image is missing from the list of mappings, and that is all.
pub(crate) fn segments() -> Vec<(Range<u64>, u8)> {
    let mut segments: Vec<(Range<u64>, u8)> = Vec::new();
    let Some((at, count)) = headers() else { return segments };
    for i in 0..count.min(HEADERS_MAX) {
        let Ok([kind, _, start, _, _, bytes, _]) = read_words(at.wrapping_add(i * HEADER_BYTES)) else {
            break;
        };
        let (kind, flags) = (kind as u32, (kind >> 32) as u32);
        if kind != PT_LOAD {
            continue;
        }
        let mut protection = if flags & 4 != 0 { PROT_READ } else { 0 };
        protection |= if flags & 2 != 0 { PROT_WRITE } else { 0 };
        protection |= if flags & 1 != 0 { PROT_EXEC } else { 0 };
        let low = start & !(PAGE_BYTES - 1);
        let high = start.saturating_add(bytes).checked_next_multiple_of(PAGE_BYTES).unwrap_or(low);
        segments.push((low..high, protection));
    }
    // A position-independent image has been moved as a whole.
    let lowest = segments.iter().map(|(range, _)| range.start).min().unwrap_or(0);
    let bias = boot_info().app_start.wrapping_sub(lowest) & !(PAGE_BYTES - 1);
    let mut taken = 0;
    for (range, _) in &mut segments {
        // Two segments may share a page; it is the first one's.
        let (start, end) = (range.start.wrapping_add(bias), range.end.wrapping_add(bias));
        *range = start.max(taken)..end;
        taken = taken.max(end);
    }
    segments
}

/// Address and number of the program headers.
fn headers() -> Option<(u64, u64)> {
    let mut at = boot_info().app_stack;
    let end = at + WORDS_MAX * 8;
    let mut next = || {
        let word = (at < end).then(|| crate::user::read_u64(at).ok()).flatten();
        at += 8;
        word
    };
    let args = next()?;
    for _ in 0..=args {
        next()?;
    }
    while next()? != 0 {}
    let (mut address, mut count) = (None, None);
    loop {
        match (next()?, next()?) {
            (AT_NULL, _) => break,
            (AT_PHDR, value) => address = Some(value),
            (AT_PHNUM, value) => count = Some(value),
            _ => {}
        }
    }
    Some((address?, count?))
}
