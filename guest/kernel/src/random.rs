//! Randomness that is the same in every run: SplitMix64 from a seed of the VMM's.

use unifork_hal::User;

use crate::errno::{Errno, Outcome};

/// GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE.
const FLAGS: u64 = 7;
/// Bytes per call at most, as on Linux.
const BYTES_MAX: u64 = 0x1ff_ffff;

pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) const fn new() -> Self {
        Self { state: 0 }
    }

    pub(crate) fn start(&mut self, seed: u64) {
        self.state = seed;
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn getrandom(&mut self, to: u64, bytes: u64, flags: u64) -> Outcome {
        if flags & !FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let bytes = bytes.min(BYTES_MAX);
        User::writable(to, bytes)?;
        for at in (0..bytes).step_by(8) {
            let count = (bytes - at).min(8);
            User::writable(to + at, count)?.write(&self.next().to_le_bytes());
        }
        Ok(bytes)
    }
}
