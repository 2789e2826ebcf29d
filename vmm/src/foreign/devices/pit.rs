//! The 8254 timer: channel 0 raises IRQ 0, channel 2 is what port 0x61 gates.
//!
//! A channel remembers when it was loaded and derives its count from the clock; nothing ticks.
//! Source: Intel 8254 data sheet.

use serde::{Deserialize, Serialize};

/// Ticks a second.
const HZ: u128 = 1_193_182;
const SECOND_NS: u128 = 1_000_000_000;

fn ticks(ns: u64) -> u64 {
    u64::try_from(u128::from(ns) * HZ / SECOND_NS).unwrap_or(u64::MAX)
}

fn nanoseconds(ticks: u64) -> u64 {
    u64::try_from((u128::from(ticks) * SECOND_NS).div_ceil(HZ)).unwrap_or(u64::MAX)
}

/// One channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    /// 1 low byte, 2 high byte, 3 both.
    access: u8,
    /// Ticks from one load to the next, 1 to 65,536.
    period: u32,
    /// When it was loaded; none: it has not been, since its mode was set.
    loaded_ns: Option<u64>,
    low: u8,
    expects_high: bool,
    reads_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
    gate: bool,
    /// Periods that IRQ 0 has been raised for since it was loaded.
    raised: u64,
}

impl Channel {
    const fn new() -> Self {
        Self {
            mode: 3,
            access: 3,
            period: 0x1_0000,
            loaded_ns: None,
            low: 0,
            expects_high: false,
            reads_high: false,
            latched: None,
            latched_status: None,
            gate: true,
            raised: 0,
        }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn elapsed(&self, now: u64) -> u64 {
        self.loaded_ns.map_or(0, |at| ticks(now.saturating_sub(at)))
    }

    fn count(&self, now: u64) -> u16 {
        let (elapsed, period) = (self.elapsed(now), u64::from(self.period));
        let count = match self.mode {
            2 => period - elapsed % period,
            // Counts down twice a period, two at a time.
            3 => period - elapsed * 2 % period,
            _ => period.wrapping_sub(elapsed),
        };
        count as u16
    }

    fn output(&self, now: u64) -> bool {
        let (elapsed, period) = (self.elapsed(now), u64::from(self.period));
        match self.mode {
            2 => elapsed % period != period - 1,
            3 => elapsed % period < period.div_ceil(2),
            4 | 5 => elapsed != period,
            _ => self.loaded_ns.is_some() && elapsed >= period,
        }
    }

    fn load(&mut self, count: u16, now: u64) {
        self.period = if count == 0 { 0x1_0000 } else { count.into() };
        self.loaded_ns = Some(now);
        self.raised = 0;
    }

    fn write(&mut self, value: u8, now: u64) {
        match self.access {
            1 => self.load(value.into(), now),
            2 => self.load(u16::from(value) << 8, now),
            _ if self.expects_high => {
                self.expects_high = false;
                self.load(u16::from(value) << 8 | u16::from(self.low), now);
            }
            _ => {
                self.low = value;
                self.expects_high = true;
            }
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.count(now)).to_le_bytes();
        let (value, done) = match self.access {
            1 => (low, true),
            2 => (high, true),
            _ => {
                self.reads_high = !self.reads_high;
                if self.reads_high { (low, false) } else { (high, true) }
            }
        };
        if done {
            self.latched = None;
        }
        value
    }

    fn latch(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.count(now));
        }
    }

    fn latch_status(&mut self, now: u64) {
        let output = u8::from(self.output(now)) << 7;
        let unloaded = u8::from(self.loaded_ns.is_none()) << 6;
        self.latched_status.get_or_insert(output | unloaded | self.access << 4 | self.mode << 1);
    }
}

/// The timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pit {
    channels: [Channel; 3],
    speaker: bool,
}

impl Pit {
    pub(crate) const fn new() -> Self {
        let mut channels = [Channel::new(); 3];
        channels[2].gate = false;
        Self { channels, speaker: false }
    }

    /// Reads port 0x40 to 0x43.
    pub(crate) fn read(&mut self, port: u16, now: u64) -> u8 {
        match self.channels.get_mut(usize::from(port & 3)) {
            Some(channel) => channel.read(now),
            None => 0xff,
        }
    }

    /// Writes port 0x40 to 0x43.
    pub(crate) fn write(&mut self, port: u16, value: u8, now: u64) {
        if let Some(channel) = self.channels.get_mut(usize::from(port & 3)) {
            return channel.write(value, now);
        }
        if value >> 6 == 3 {
            for (i, channel) in self.channels.iter_mut().enumerate() {
                if value >> (i + 1) & 1 == 0 {
                    continue;
                }
                if value & 0x20 == 0 {
                    channel.latch(now);
                }
                if value & 0x10 == 0 {
                    channel.latch_status(now);
                }
            }
            return;
        }
        let channel = &mut self.channels[usize::from(value >> 6)];
        match value >> 4 & 3 {
            0 => channel.latch(now),
            access => {
                let mode = value >> 1 & 7;
                // 6 and 7 are 2 and 3.
                let mode = if mode > 5 { mode & 3 } else { mode };
                *channel = Channel { mode, access, gate: channel.gate, ..Channel::new() };
            }
        }
    }

    /// Port 0x61: gate and output of channel 2, and a bit that toggles as memory refresh did.
    pub(crate) fn read_gate(&self, now: u64) -> u8 {
        let channel = &self.channels[2];
        let refresh = u8::from((now / 15_085) & 1 == 1) << 4;
        u8::from(channel.gate) | u8::from(self.speaker) << 1 | refresh | u8::from(channel.output(now)) << 5
    }

    /// Writes port 0x61.
    pub(crate) fn write_gate(&mut self, value: u8, now: u64) {
        let channel = &mut self.channels[2];
        let gate = value & 1 != 0;
        if gate && !channel.gate && channel.loaded_ns.is_some() {
            channel.loaded_ns = Some(now);
        }
        channel.gate = gate;
        self.speaker = value & 2 != 0;
    }

    /// How often IRQ 0 is due at `now` and has not been raised.
    pub(crate) fn take_due(&mut self, now: u64) -> u64 {
        let channel = &mut self.channels[0];
        if channel.loaded_ns.is_none() {
            return 0;
        }
        let periods = channel.elapsed(now) / u64::from(channel.period);
        let periods = if channel.is_periodic() { periods } else { periods.min(1) };
        let due = periods.saturating_sub(channel.raised);
        channel.raised += due;
        due
    }

    /// When IRQ 0 is due next.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let channel = &self.channels[0];
        let loaded = channel.loaded_ns?;
        if !channel.is_periodic() && channel.raised > 0 {
            return None;
        }
        let periods = channel.raised.saturating_add(1);
        Some(loaded.saturating_add(nanoseconds(periods.saturating_mul(channel.period.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_periodic_channel_is_due_once_a_period() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x34, 0);
        for byte in 11932u16.to_le_bytes() {
            pit.write(0x40, byte, 0);
        }
        assert_eq!(pit.take_due(9 * MS), 0);
        let next = pit.next_due().unwrap();
        assert!((10 * MS..10 * MS + 2000).contains(&next), "{next}");
        assert_eq!(pit.take_due(next), 1);
        assert_eq!(pit.take_due(next), 0);
        assert_eq!(pit.take_due(51 * MS), 4);
    }

    #[test]
    fn a_one_shot_is_due_once() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x38, 0);
        pit.write(0x40, 0xff, 0);
        assert_eq!(pit.next_due(), None, "half a count does not start it");
        pit.write(0x40, 0x00, 0);
        assert_eq!(pit.take_due(MS), 1);
        assert_eq!(pit.take_due(500 * MS), 0);
        assert_eq!(pit.next_due(), None);
    }

    #[test]
    fn a_latched_count_is_read_low_byte_first_and_does_not_move() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x34, 0);
        pit.write(0x40, 0, 0);
        pit.write(0x40, 0, 0);
        pit.write(0x43, 0, 10 * MS);
        let low = pit.read(0x40, 20 * MS);
        let high = pit.read(0x40, 30 * MS);
        let count = u64::from(u16::from_le_bytes([low, high]));
        assert_eq!(0x1_0000 - count, ticks(10 * MS));
    }

    #[test]
    fn channel_2_counts_from_its_gate() {
        let mut pit = Pit::new();
        pit.write(0x43, 0xb0, 0);
        pit.write(0x42, 0xff, 0);
        pit.write(0x42, 0x2e, 0);
        pit.write_gate(1, 5 * MS);
        assert_eq!(pit.read_gate(6 * MS) & 0x21, 1);
        assert_eq!(pit.read_gate(20 * MS) & 0x21, 0x21);
    }
}
