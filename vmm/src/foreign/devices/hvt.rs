//! What Solo5's *hvt* images ask their tender for: a 32-bit `out` of the address of a structure. Console, wall
//! clock, waiting and the end; no disks and no network cards are attached.
//!
//! Source: Solo5's public header `hvt_abi.h`, ABI version 2.

use crate::addr::Gpa;
use crate::memory::GuestMemory;

/// The port of call 0, which there is none of; others follow.
const PORT: u16 = 0x500;
const WALL_TIME: u16 = 1;
const PUTS: u16 = 2;
const POLL: u16 = 3;
const BLOCK_WRITE: u16 = 4;
const BLOCK_READ: u16 = 5;
const NET_WRITE: u16 = 6;
const NET_READ: u16 = 7;
const HALT: u16 = 8;
/// No such device.
const INVALID: u32 = 2;
/// Bytes that are written to the console at once, at most.
const TEXT_MAX: u64 = 1 << 16;

/// What a call asks for, besides what it has already been given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Nothing.
    Done,
    /// Text on the console.
    Print(Vec<u8>),
    /// That time passes, nanoseconds of it at most, until something can be read; nothing ever can.
    Wait(u64),
    /// The end, with this status.
    Halt(i32),
}

/// Serves a write of `at` to `port`; `None` if that is not a call. It is `wall_ns` since 1970.
pub(crate) fn call(memory: &mut GuestMemory, port: u16, at: u32, wall_ns: u64) -> Option<Call> {
    let number = port.checked_sub(PORT).filter(|number| (WALL_TIME..=HALT).contains(number))?;
    let at = u64::from(at);
    let word = |memory: &GuestMemory, index: u64| {
        let mut bytes = [0; 8];
        // What is not memory reads as zero, and is not written.
        let _outside = memory.read(Gpa(at + index * 8), &mut bytes);
        u64::from_le_bytes(bytes)
    };
    let put = |memory: &mut GuestMemory, index: u64, bytes: &[u8]| {
        let _outside = memory.write(Gpa(at + index * 8), bytes);
    };
    match number {
        WALL_TIME => put(memory, 0, &wall_ns.to_le_bytes()),
        PUTS => {
            let mut text = vec![0; usize::try_from(word(memory, 1).min(TEXT_MAX)).unwrap_or(0)];
            if memory.read(Gpa(word(memory, 0)), &mut text).is_ok() {
                return Some(Call::Print(text));
            }
        }
        POLL => {
            let wait = word(memory, 0);
            put(memory, 1, &[0; 12]);
            return Some(Call::Wait(wait));
        }
        BLOCK_WRITE | BLOCK_READ => put(memory, 4, &INVALID.to_le_bytes()),
        NET_WRITE | NET_READ => put(memory, 3, &INVALID.to_le_bytes()),
        _ => return Some(Call::Halt((word(memory, 1) as u32).cast_signed())),
    }
    Some(Call::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MEMORY_BYTES_MIN;

    #[test]
    fn calls_find_their_arguments_and_nonsense_is_harmless() {
        let mut memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
        memory.write(Gpa(0x1000), b"hello").unwrap();
        memory.write(Gpa(0x2000), &0x1000u64.to_le_bytes()).unwrap();
        memory.write(Gpa(0x2008), &5u64.to_le_bytes()).unwrap();
        assert_eq!(call(&mut memory, 0x502, 0x2000, 0), Some(Call::Print(b"hello".to_vec())));
        assert_eq!(call(&mut memory, 0x508, 0x2000, 0), Some(Call::Halt(5)));
        assert_eq!(call(&mut memory, 0x503, 0x2000, 0), Some(Call::Wait(0x1000)));
        assert_eq!(call(&mut memory, 0x501, 0x2000, 77), Some(Call::Done));
        let mut word = [0; 8];
        memory.read(Gpa(0x2000), &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), 77);
        assert_eq!(call(&mut memory, 0x505, 0x2000, 0), Some(Call::Done));
        memory.read(Gpa(0x2020), &mut word[..4]).unwrap();
        assert_eq!(word[..4], INVALID.to_le_bytes());
        for port in 0x4ff..0x520 {
            let served = call(&mut memory, port, u32::MAX - 7, 0);
            assert_eq!(served.is_some(), (0x501..=0x508).contains(&port), "{port:#x}");
        }
    }
}
