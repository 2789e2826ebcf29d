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
        0xb8, number as u8, 0, 0, 0, //
        0x48, 0xb9, door[0], door[1], door[2], door[3], door[4], door[5], door[6], door[7], //
        0x48, 0x89, 0x01,
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

/// The smallest static ELF file around `code`: a header, one program header, the code.
#[must_use]
pub fn elf(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&2u16.to_le_bytes()); // ET_EXEC
    file.extend_from_slice(&62u16.to_le_bytes()); // x86-64
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [CODE_VA + HEADERS, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
    file.extend_from_slice(&5u32.to_le_bytes()); // R X
    let bytes = HEADERS + code.len() as u64;
    for word in [0, CODE_VA, CODE_VA, bytes, bytes, 4096] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}
