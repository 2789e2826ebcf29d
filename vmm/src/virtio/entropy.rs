//! A source of entropy that has none: the same bytes in every machine with the same seed, and in every fork of
//! a snapshot.

use serde::{Deserialize, Serialize};

use super::device::Served;
use super::ring::{Broken, Request};
use crate::memory::device::DeviceMemory;

/// Bytes given for one request at most; the driver asks again.
const BYTES_MAX: usize = 1 << 16;

/// Its model: a `SplitMix64` generator (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
/// 2014).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entropy {
    state: u64,
}

impl Entropy {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    pub(crate) fn serve(&mut self, request: &Request, memory: &DeviceMemory<'_>) -> Result<Served, Broken> {
        let mut bytes = vec![0; request.writable_bytes().min(BYTES_MAX)];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        request.scatter(memory, 0, &bytes)?;
        Ok(Served::Done(u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
    }
}
