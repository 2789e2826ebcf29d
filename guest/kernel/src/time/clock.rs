//! The machine's clock, and the calls that read it.

use unifork_hal::Fault;

use crate::Kernel;
use crate::errno::{Errno, Outcome};
use crate::user::{read_words, write_bytes, write_u64, write_words};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
pub(crate) const MILLISECOND_NS: u64 = 1_000_000;
pub(crate) const MICROSECOND_NS: u64 = 1_000;
/// What a look at the clock takes.
const LOOK_NS: u64 = 1_000;
/// Clocks that count from 1970: CLOCK_REALTIME, its coarse form, its alarm form, and CLOCK_TAI.
const WALL_CLOCKS: [u32; 4] = [0, 5, 8, 11];
/// Clocks that count from boot: MONOTONIC, PROCESS_CPUTIME, THREAD_CPUTIME, MONOTONIC_RAW,
/// MONOTONIC_COARSE, BOOTTIME, BOOTTIME_ALARM.
const BOOT_CLOCKS: [u32; 7] = [1, 2, 3, 4, 6, 7, 9];

/// The clock.
pub(crate) struct Clock {
    epoch_ns: u64,
    since_boot_ns: u64,
}

impl Clock {
    pub(crate) fn new(epoch_ns: u64) -> Self {
        Self { epoch_ns, since_boot_ns: SECOND_NS }
    }

    /// Time since boot, a moment later than when last asked.
    pub(crate) fn look(&mut self) -> u64 {
        self.since_boot_ns = self.since_boot_ns.saturating_add(LOOK_NS);
        self.since_boot_ns
    }

    /// Time since boot; asking takes none.
    pub(crate) fn now(&self) -> u64 {
        self.since_boot_ns
    }

    /// Lets time pass until `time` after boot, if that has not come yet.
    pub(crate) fn advance_to(&mut self, time: u64) {
        self.since_boot_ns = self.since_boot_ns.max(time);
    }

    /// Time since 1970; asking takes none.
    pub(crate) fn wall(&self) -> u64 {
        self.since_boot_ns.saturating_add(self.epoch_ns)
    }

    /// The time since boot that is `time` after 1970.
    pub(crate) fn at_wall(&self, time: u64) -> u64 {
        time.saturating_sub(self.epoch_ns)
    }

    /// The time on a clock.
    pub(crate) fn read(&mut self, clock: u64) -> Result<u64, Errno> {
        let now = self.look();
        if is_wall(clock)? { Ok(now.saturating_add(self.epoch_ns)) } else { Ok(now) }
    }
}

/// Whether a clock counts from 1970.
pub(crate) fn is_wall(clock: u64) -> Result<bool, Errno> {
    let clock = clock as u32;
    // Of a process or thread: the only process's.
    let cpu_time = clock.cast_signed() < 0 && crate::time::posix::is_own_clock(clock);
    if WALL_CLOCKS.contains(&clock) {
        Ok(true)
    } else if BOOT_CLOCKS.contains(&clock) || cpu_time {
        Ok(false)
    } else {
        Err(Errno::EINVAL)
    }
}

/// `clock_gettime`.
pub(crate) fn clock_gettime(k: &mut Kernel, clock: u64, to: u64) -> Outcome {
    let now = k.clock.read(clock)?;
    write_timespec(to, now)?;
    Ok(0)
}

/// `clock_getres`.
pub(crate) fn clock_getres(k: &mut Kernel, clock: u64, to: u64) -> Outcome {
    const COARSE: [u32; 2] = [5, 6];
    k.clock.read(clock)?;
    if to != 0 {
        // A tick of 4 ms, as with CONFIG_HZ=250.
        write_timespec(to, if COARSE.contains(&(clock as u32)) { 4 * MILLISECOND_NS } else { 1 })?;
    }
    Ok(0)
}

/// `clock_settime`, `settimeofday`: the clock is the machine's own.
pub(crate) fn clock_settime(clock: u64, from: u64) -> Outcome {
    const REALTIME: u32 = 0;
    if clock as u32 != REALTIME {
        return Err(Errno::EINVAL);
    }
    read_timespec(from)?;
    Err(Errno::EPERM)
}

/// `gettimeofday`.
pub(crate) fn gettimeofday(k: &mut Kernel, to: u64, zone: u64) -> Outcome {
    let now = k.clock.read(0)?;
    if to != 0 {
        write_words(to, &[now / SECOND_NS, now % SECOND_NS / MICROSECOND_NS])?;
    }
    if zone != 0 {
        write_u64(zone, 0)?;
    }
    Ok(0)
}

/// `time`.
pub(crate) fn time(k: &mut Kernel, to: u64) -> Outcome {
    let seconds = k.clock.read(0)? / SECOND_NS;
    if to != 0 {
        write_u64(to, seconds)?;
    }
    Ok(seconds)
}

/// `times`: ticks of 10 ms since boot; all of it user time.
pub(crate) fn times(k: &mut Kernel, to: u64) -> Outcome {
    let ticks = k.clock.look() / (SECOND_NS / 100);
    if to != 0 {
        write_words(to, &[ticks, 0, 0, 0])?;
    }
    Ok(ticks)
}

/// `getrusage`: all time is user time.
pub(crate) fn getrusage(k: &mut Kernel, who: u64, to: u64) -> Outcome {
    const RUSAGE_SELF: i32 = 0;
    const RUSAGE_CHILDREN: i32 = -1;
    const RUSAGE_THREAD: i32 = 1;
    let now = match (who as u32).cast_signed() {
        RUSAGE_SELF | RUSAGE_THREAD => k.clock.look(),
        RUSAGE_CHILDREN => 0,
        _ => return Err(Errno::EINVAL),
    };
    let mut bytes = [0; 144];
    bytes[..8].copy_from_slice(&(now / SECOND_NS).to_le_bytes());
    bytes[8..16].copy_from_slice(&(now % SECOND_NS / MICROSECOND_NS).to_le_bytes());
    write_bytes(to, &bytes)?;
    Ok(0)
}

/// A `struct timespec` in nanoseconds.
pub(crate) fn read_timespec(from: u64) -> Result<u64, Errno> {
    let [seconds, nanos] = read_words(from)?;
    if nanos >= SECOND_NS || seconds > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND_NS).saturating_add(nanos))
}

/// Writes a `struct timespec`.
pub(crate) fn write_timespec(to: u64, time: u64) -> Result<(), Fault> {
    write_words(to, &[time / SECOND_NS, time % SECOND_NS])
}

/// A `struct itimerspec`: interval and value.
pub(crate) fn read_interval(from: u64) -> Result<[u64; 2], Errno> {
    Ok([read_timespec(from)?, read_timespec(from.wrapping_add(16))?])
}

/// Writes a `struct itimerspec` with this time left and interval.
pub(crate) fn write_interval(to: u64, [left, interval]: [u64; 2]) -> Result<(), Fault> {
    write_words(to, &[interval / SECOND_NS, interval % SECOND_NS, left / SECOND_NS, left % SECOND_NS])
}
