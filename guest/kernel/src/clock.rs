//! Time: deterministic. The clock moves by events, not by the TSC: each look at it takes a
//! microsecond, and sleeping takes as long as was asked for, at once.

use unifork_hal::User;

use crate::errno::{Errno, Outcome};

const LOOK_NS: u64 = 1_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Clocks that count from 1970: CLOCK_REALTIME, its coarse form, and CLOCK_TAI.
const WALL_CLOCKS: [u64; 3] = [0, 5, 11];
/// Clocks that count from boot: MONOTONIC, PROCESS_CPUTIME, THREAD_CPUTIME, MONOTONIC_RAW,
/// MONOTONIC_COARSE, BOOTTIME.
const BOOT_CLOCKS: [u64; 6] = [1, 2, 3, 4, 6, 7];
const TIMER_ABSTIME: u64 = 1;

/// The machine's clock.
pub(crate) struct Clock {
    epoch_ns: u64,
    since_boot_ns: u64,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self { epoch_ns: 0, since_boot_ns: 0 }
    }

    pub(crate) fn start(&mut self, epoch_ns: u64) {
        self.epoch_ns = epoch_ns;
        self.since_boot_ns = SECOND_NS;
    }

    /// Time since boot, a moment later than when last asked.
    pub(crate) fn look(&mut self) -> u64 {
        self.since_boot_ns = self.since_boot_ns.saturating_add(LOOK_NS);
        self.since_boot_ns
    }

    fn read(&mut self, clock: u64) -> Result<u64, Errno> {
        if WALL_CLOCKS.contains(&clock) {
            Ok(self.look().saturating_add(self.epoch_ns))
        } else if BOOT_CLOCKS.contains(&clock) {
            Ok(self.look())
        } else {
            Err(Errno::EINVAL)
        }
    }

    pub(crate) fn clock_gettime(&mut self, clock: u64, to: u64) -> Outcome {
        let now = self.read(clock)?;
        write_pair(to, now / SECOND_NS, now % SECOND_NS)
    }

    pub(crate) fn clock_getres(&mut self, clock: u64, to: u64) -> Outcome {
        self.read(clock)?;
        if to == 0 { Ok(0) } else { write_pair(to, 0, 1) }
    }

    pub(crate) fn gettimeofday(&mut self, to: u64) -> Outcome {
        let now = self.read(0)?;
        if to == 0 { Ok(0) } else { write_pair(to, now / SECOND_NS, now % SECOND_NS / 1000) }
    }

    pub(crate) fn time(&mut self, to: u64) -> Outcome {
        let seconds = self.read(0)? / SECOND_NS;
        if to != 0 {
            User::writable(to, 8)?.write(&seconds.to_le_bytes());
        }
        Ok(seconds)
    }

    /// `times`: ticks of 10 ms since boot; all of it user time.
    pub(crate) fn times(&mut self, to: u64) -> Outcome {
        let ticks = self.look() / (SECOND_NS / 100);
        if to != 0 {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&ticks.to_le_bytes());
            User::writable(to, 32)?.write(&bytes);
        }
        Ok(ticks)
    }

    /// `getrusage`: all time is user time.
    pub(crate) fn getrusage(&mut self, to: u64) -> Outcome {
        let now = self.look();
        let mut bytes = [0; 144];
        bytes[..8].copy_from_slice(&(now / SECOND_NS).to_le_bytes());
        bytes[8..16].copy_from_slice(&(now % SECOND_NS / 1000).to_le_bytes());
        User::writable(to, 144)?.write(&bytes);
        Ok(0)
    }

    pub(crate) fn nanosleep(&mut self, request: u64) -> Outcome {
        let wait = read_pair(request)?;
        self.since_boot_ns = self.since_boot_ns.saturating_add(wait);
        Ok(0)
    }

    pub(crate) fn clock_nanosleep(&mut self, clock: u64, flags: u64, request: u64) -> Outcome {
        let now = self.read(clock)?;
        let time = read_pair(request)?;
        let wait = if flags & TIMER_ABSTIME != 0 { time.saturating_sub(now) } else { time };
        self.since_boot_ns = self.since_boot_ns.saturating_add(wait);
        Ok(0)
    }
}

fn write_pair(to: u64, first: u64, second: u64) -> Outcome {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    User::writable(to, 16)?.write(&bytes);
    Ok(0)
}

/// A `struct timespec` in nanoseconds.
pub(crate) fn read_pair(from: u64) -> Result<u64, Errno> {
    let pair = User::readable(from, 16)?;
    let (seconds, nanos) = (pair.word(0), pair.word(8));
    if nanos >= SECOND_NS || seconds > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND_NS).saturating_add(nanos))
}
