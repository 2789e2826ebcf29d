//! The CMOS clock and its memory (MC146818), ports 0x70 and 0x71. It always shows the same
//! moment, plus what has passed since the machine began.

use serde::{Deserialize, Serialize};

/// 2026-01-01 00:00:00 UTC, where every guest's clock starts, in seconds since 1970.
pub(crate) const EPOCH_S: u64 = 1_767_225_600;

/// The clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rtc {
    index: u8,
    /// What was written to the memory behind the clock's own registers.
    memory: Vec<u8>,
    /// Register B: 24 hours (bit 1), binary (bit 2).
    control: u8,
}

/// Index where the clock's registers end and plain memory begins.
const MEMORY_FROM: u8 = 0x0e;

impl Rtc {
    /// A clock of a machine with `memory_bytes` bytes.
    pub(crate) fn new(memory_bytes: u64) -> Self {
        let mut memory = vec![0; 128];
        // Extended memory above 1 MiB in KiB, and above 16 MiB in 64 KiB, as a PC's firmware has it.
        let kib = u16::try_from((memory_bytes >> 10).saturating_sub(1024)).unwrap_or(u16::MAX);
        let above = u16::try_from(memory_bytes.saturating_sub(16 << 20) >> 16).unwrap_or(u16::MAX);
        for (at, value) in [(0x15, 640), (0x17, kib), (0x30, kib), (0x34, above)] {
            memory[at..at + 2].copy_from_slice(&u16::to_le_bytes(value));
        }
        memory[0x32] = 0x20; // century
        Self { index: 0, memory, control: 2 }
    }

    pub(crate) fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    pub(crate) fn write(&mut self, value: u8) {
        match self.index {
            0x0b => self.control = value & 6 | 2,
            MEMORY_FROM.. => self.memory[usize::from(self.index)] = value,
            _ => {}
        }
    }

    pub(crate) fn read(&self, now_ns: u64) -> u8 {
        let [year, month, day, hour, minute, second, weekday] = civil(EPOCH_S + now_ns / 1_000_000_000);
        match self.index {
            0 => self.encode(second),
            2 => self.encode(minute),
            4 => self.encode(hour),
            6 => self.encode(weekday + 1),
            7 => self.encode(day),
            8 => self.encode(month),
            9 => self.encode(year % 100),
            0x0a => 0x26,
            0x0b => self.control,
            0x0c => 0,
            0x0d => 0x80, // the battery is good
            index => self.memory.get(usize::from(index)).copied().unwrap_or(0),
        }
    }

    fn encode(&self, value: u64) -> u8 {
        let value = if self.control & 4 != 0 { value } else { ((value / 10) << 4) + value % 10 };
        value as u8
    }
}

/// Year, month, day, hour, minute, second and day of the week (0: Sunday) of a moment.
fn civil(seconds: u64) -> [u64; 7] {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Howard Hinnant, "chrono-compatible low-level date algorithms": days since 0000-03-01.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    [year, month, of_year - (153 * m + 2) / 5 + 1, rest / 3600, rest / 60 % 60, rest % 60, (days + 4) % 7]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_shows_the_guests_epoch_in_bcd_or_binary() {
        let mut rtc = Rtc::new(64 << 20);
        let mut read = |index, now| {
            rtc.select(index);
            rtc.read(now)
        };
        assert_eq!([9, 8, 7, 6].map(|i| read(i, 0)), [0x26, 1, 1, 5], "Thursday, 2026-01-01");
        assert_eq!([4, 2, 0].map(|i| read(i, 86_399_000_000_000)), [0x23, 0x59, 0x59]);
        rtc.select(0x0b);
        rtc.write(6);
        rtc.select(2);
        assert_eq!(rtc.read(86_399_000_000_000), 59);
    }

    #[test]
    fn days_follow_the_calendar() {
        assert_eq!(civil(951_782_400), [2000, 2, 29, 0, 0, 0, 2]);
        assert_eq!(civil(951_868_800)[..3], [2000, 3, 1]);
        assert_eq!(civil(0), [1970, 1, 1, 0, 0, 0, 4]);
    }
}
