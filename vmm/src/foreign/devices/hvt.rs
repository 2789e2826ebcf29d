//! What Solo5's *hvt* images ask their tender for: a 32-bit `out` of the address of a structure. Console, wall
//! clock, waiting, disks, network cards and the end.
//!
//! A call is answered before the image goes on, but for one that waits: what it asked for is written when a frame has
//! come or its time is over ([`Poll`]).
//!
//! Source: Solo5's public header `hvt_abi.h`, ABI version 2.

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

use crate::memory::GuestMemory;
use crate::memory::device::DeviceMemory;
use crate::virtio::Virtio;

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
/// Results: it is done; there is nothing now; no such device, or not possible.
const OK: u32 = 0;
const AGAIN: u32 = 1;
const INVALID: u32 = 2;
/// Bytes that are written to the console at once, at most.
const TEXT_MAX: u64 = 1 << 16;
/// Bytes that go between disk and memory at once; a call may ask for more.
const PIECE_BYTES: u64 = 1 << 20;

/// What a call asks for, besides what it has already been given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Nothing.
    Done,
    /// Text on the console.
    Print(Vec<u8>),
    /// That time passes, nanoseconds of it at most, until something can be read; the answer goes to the structure.
    Wait { nanoseconds: u64, at: u32 },
    /// The end, with this status.
    Halt(i32),
}

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Poll {
    /// Until when, at most; `u64::MAX` for ever.
    pub until_ns: u64,
    /// Its structure.
    pub at: u32,
}

impl Poll {
    /// Answers it, if a frame has come or it is late enough; whether it did.
    pub(crate) fn end(&self, memory: &mut GuestMemory, devices: &Virtio, now_ns: u64) -> bool {
        let ready = devices.ready();
        if ready == 0 && now_ns < self.until_ns {
            return false;
        }
        let arguments = Arguments { memory: memory.for_device(), at: self.at };
        arguments.put(1, &ready.to_le_bytes());
        arguments.put(2, &ready.count_ones().to_le_bytes());
        true
    }
}

/// Serves a write of `at` to `port`; `None` if that is not a call. It is `wall_ns` since 1970.
pub(crate) fn call(
    memory: &mut GuestMemory,
    devices: &mut Virtio,
    port: u16,
    at: u32,
    wall_ns: u64,
) -> Option<Call> {
    let number = port.checked_sub(PORT).filter(|number| (WALL_TIME..=HALT).contains(number))?;
    let arguments = Arguments { memory: memory.for_device(), at };
    match number {
        WALL_TIME => arguments.put(0, &wall_ns.to_le_bytes()),
        PUTS => {
            let bytes = arguments.word(1).min(TEXT_MAX);
            if let Some(text) = arguments.read(arguments.word(0), bytes) {
                return Some(Call::Print(text));
            }
        }
        POLL => return Some(Call::Wait { nanoseconds: arguments.word(0), at }),
        BLOCK_WRITE | BLOCK_READ => {
            let result = arguments.block(devices, number == BLOCK_WRITE);
            arguments.put(4, &result.to_le_bytes());
        }
        NET_WRITE => {
            let result = arguments.send(devices);
            arguments.put(3, &result.to_le_bytes());
        }
        NET_READ => {
            let result = arguments.receive(devices);
            arguments.put(3, &result.to_le_bytes());
        }
        _ => return Some(Call::Halt((arguments.word(1) as u32).cast_signed())),
    }
    Some(Call::Done)
}

/// The structure of a call, in RAM. What is not RAM reads as zero, and is not written.
struct Arguments<'m> {
    memory: DeviceMemory<'m>,
    at: u32,
}

impl Arguments<'_> {
    fn word(&self, index: u64) -> u64 {
        let mut bytes = [0; 8];
        let whole = self.memory.read_slice(&mut bytes, GuestAddress(u64::from(self.at) + index * 8));
        whole.map_or(0, |()| u64::from_le_bytes(bytes))
    }

    fn put(&self, index: u64, bytes: &[u8]) {
        let _outside = self.write(u64::from(self.at) + index * 8, bytes);
    }

    fn has(&self, at: u64, bytes: u64) -> bool {
        let count = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.memory.check_range(GuestAddress(at), count)
    }

    fn read(&self, at: u64, bytes: u64) -> Option<Vec<u8>> {
        let mut out = vec![0; usize::try_from(bytes).ok().filter(|_| self.has(at, bytes))?];
        self.memory.read_slice(&mut out, GuestAddress(at)).ok()?;
        Some(out)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Option<()> {
        if !self.has(at, bytes.len() as u64) {
            return None;
        }
        self.memory.write_slice(bytes, GuestAddress(at)).ok()
    }

    /// Handle, place on the disk, place in memory, length.
    fn block(&self, devices: &mut Virtio, write: bool) -> u32 {
        let [handle, offset, data, bytes] = [0, 1, 2, 3].map(|index| self.word(index));
        let Some(disk) = devices.disk_of(handle) else { return INVALID };
        if offset >= disk.bytes() || !disk.has(offset, bytes) || !self.has(data, bytes) {
            return INVALID;
        }
        let mut done = 0;
        while done < bytes {
            let piece = (bytes - done).min(PIECE_BYTES);
            let moved = if write {
                self.read(data + done, piece).is_some_and(|bytes| disk.write(offset + done, &bytes))
            } else {
                let read = disk.read(offset + done, piece as usize);
                read.is_some_and(|bytes| self.write(data + done, &bytes).is_some())
            };
            if !moved {
                return INVALID;
            }
            done += piece;
        }
        OK
    }

    /// Handle, place in memory, length.
    fn send(&self, devices: &mut Virtio) -> u32 {
        let [handle, data, bytes] = [0, 1, 2].map(|index| self.word(index));
        let Some(card) = devices.card_of(handle) else { return INVALID };
        let frame =
            if bytes <= crate::virtio::FRAME_BYTES_MAX as u64 { self.read(data, bytes) } else { None };
        let Some(frame) = frame else { return INVALID };
        card.keep(&frame);
        OK
    }

    /// The same; the length becomes the frame's, of which the image gets as much as it has room for.
    fn receive(&self, devices: &mut Virtio) -> u32 {
        let [handle, data, room] = [0, 1, 2].map(|index| self.word(index));
        let Some(card) = devices.card_of(handle) else { return INVALID };
        if !self.has(data, room) {
            return INVALID;
        }
        let Some(mut frame) = card.take_waiting() else { return AGAIN };
        frame.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if self.write(data, &frame).is_none() {
            return INVALID;
        }
        self.put(2, &(frame.len() as u64).to_le_bytes());
        OK
    }
}

#[cfg(test)]
mod tests;
