//! Randomness that is the same in every run: SplitMix64 from a seed of the VMM's.

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;

/// GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE.
const FLAGS: u64 = 7;
/// Bytes per call at most, as on Linux.
const BYTES_MAX: u64 = 0x1ff_ffff;

/// The generator.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next word.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Fills `buffers`; returns how many bytes that was.
    pub(crate) fn fill(&mut self, buffers: &mut Buffers) -> Outcome {
        while buffers.left() > 0 {
            if let Err(fault) = buffers.put(&self.next().to_le_bytes()) {
                return if buffers.done() > 0 { Ok(buffers.done()) } else { Err(fault.into()) };
            }
        }
        Ok(buffers.done())
    }
}

/// `getrandom`.
pub(crate) fn getrandom(k: &mut Kernel, to: u64, bytes: u64, flags: u64) -> Outcome {
    const RANDOM: u64 = 2;
    const INSECURE: u64 = 4;
    if flags & !FLAGS != 0 || flags & (RANDOM | INSECURE) == RANDOM | INSECURE {
        return Err(Errno::EINVAL);
    }
    k.random.fill(&mut Buffers::one(to, bytes.min(BYTES_MAX)))
}
