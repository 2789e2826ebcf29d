//! Guests of a few bytes: machine code at CPL 3 on a bare machine, without libOS or application.
//! For tests and measurements.

use unifork_abi::{DOORBELL_VA, Hypercall};

use crate::elf::GuestImage;

/// Where the code of a bare guest begins.
pub const CODE_VA: u64 = 0x20_0000;

/// Bytes of a hypercall without arguments.
pub const CALL_BYTES: usize = 18;

/// `mov eax, NUMBER; mov rcx, DOORBELL_VA; mov [rcx], rax`
#[must_use]
pub const fn call(number: Hypercall) -> [u8; CALL_BYTES] {
    let door = DOORBELL_VA.to_le_bytes();
    [
        0xb8,
        number as u8,
        0,
        0,
        0, //
        0x48,
        0xb9,
        door[0],
        door[1],
        door[2],
        door[3],
        door[4],
        door[5],
        door[6],
        door[7], //
        0x48,
        0x89,
        0x01,
    ]
}

/// Ends the run.
pub const DONE: [u8; CALL_BYTES] = call(Hypercall::Done);

/// A guest that asks for the snapshot and then runs `code` in every fork.
#[must_use]
pub fn snapshot_then(code: &[u8]) -> GuestImage {
    let mut all = call(Hypercall::Snapshot).to_vec();
    all.extend_from_slice(code);
    guest(&all)
}

/// A guest that starts at the first byte of `code`.
///
/// # Panics
///
/// Never: the file it makes is a valid one.
#[must_use]
pub fn guest(code: &[u8]) -> GuestImage {
    GuestImage::parse("bare guest".into(), elf(code).into()).expect("a valid file")
}

/// Where the counters of [`counting_then`] begin.
pub const COUNTERS_VA: u64 = 0x40_0000;

/// A guest like [`snapshot_then`]'s that has `count` coverage counters, which its code counts itself.
///
/// # Panics
///
/// Never: the file it makes is a valid one.
#[must_use]
pub fn counting_then(code: &[u8], count: u64) -> GuestImage {
    let mut all = call(Hypercall::Snapshot).to_vec();
    all.extend_from_slice(code);
    GuestImage::parse("counting guest".into(), elf_of(&all, count).into()).expect("a valid file")
}

/// The smallest static ELF file around `code`: a header, one program header, the code.
#[must_use]
pub fn elf(code: &[u8]) -> Vec<u8> {
    elf_of(code, 0)
}

/// The symbols that say where counters are, as a string table.
const COUNTER_NAMES: &[u8] =
    b"\0__start___sancov_cntrs\0__stop___sancov_cntrs\0__start___sancov_pcs\0__stop___sancov_pcs\0";

/// A static ELF file around `code`; with counters, also a segment for them, and the symbols.
fn elf_of(code: &[u8], counters: u64) -> Vec<u8> {
    let segments = if counters > 0 { 2 } else { 1 };
    let headers = 64 + 56 * segments;
    let bytes = headers + code.len() as u64;
    let (symbols, sections) = (bytes, bytes + 5 * 24 + COUNTER_NAMES.len() as u64);
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    file.extend_from_slice(&62u16.to_le_bytes()); // x86-64
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [CODE_VA + headers, 64, if counters > 0 { sections } else { 0 }] {
        file.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    let names = if counters > 0 { [64, 3, 2] } else { [64, 0, 0] };
    for half in [64, 56, segments as u16].into_iter().chain(names) {
        file.extend_from_slice(&half.to_le_bytes());
    }
    put_segment(&mut file, 5, [0, CODE_VA, CODE_VA, bytes, bytes, 4096]); // R X
    if counters == 0 {
        file.extend_from_slice(code);
        return file;
    }
    put_segment(&mut file, 6, [0, COUNTERS_VA, COUNTERS_VA, 0, counters, 4096]); // R W
    file.extend_from_slice(code);
    // The table of program counters, 16 bytes for each counter, is never read.
    let at = [0, COUNTERS_VA, COUNTERS_VA + counters, 0x1000, 0x1000 + counters * 16];
    let mut name = 0;
    for (i, value) in at.into_iter().enumerate() {
        file.extend_from_slice(&(if i == 0 { 0 } else { name + 1 } as u32).to_le_bytes());
        file.extend_from_slice(&[0x10, 0]); // STB_GLOBAL, STV_DEFAULT
        file.extend_from_slice(&(if i == 0 { 0u16 } else { 0xfff1 }).to_le_bytes()); // SHN_ABS
        file.extend_from_slice(&value.to_le_bytes());
        file.extend_from_slice(&0u64.to_le_bytes());
        if i > 0 {
            name += COUNTER_NAMES[name + 1..].iter().position(|&b| b == 0).unwrap_or(0) + 1;
        }
    }
    file.extend_from_slice(COUNTER_NAMES);
    // Type, offset and size, link, entry size: null, SHT_SYMTAB, SHT_STRTAB.
    let strings = symbols + 5 * 24;
    for (kind, offset, size, link, entry) in [
        (0u32, 0, 0, 0u32, 0u64),
        (2, symbols, 5 * 24, 2, 24),
        (3, strings, COUNTER_NAMES.len() as u64, 0, 0),
    ] {
        file.extend_from_slice(&0u32.to_le_bytes());
        file.extend_from_slice(&kind.to_le_bytes());
        for word in [0, 0, offset, size] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&link.to_le_bytes());
        file.extend_from_slice(&u32::from(kind == 2).to_le_bytes());
        file.extend_from_slice(&8u64.to_le_bytes());
        file.extend_from_slice(&entry.to_le_bytes());
    }
    file
}

fn put_segment(file: &mut Vec<u8>, flags: u32, words: [u64; 6]) {
    file.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
    file.extend_from_slice(&flags.to_le_bytes());
    for word in words {
        file.extend_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found() {
        let image = counting_then(&DONE, 300);
        let counters = image.counters().expect("it has some");
        assert_eq!((counters.start, counters.count, counters.page_bytes), (COUNTERS_VA, 300, 4096));
        assert!(snapshot_then(&DONE).counters().is_none());
    }
}
