//! What is behind ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bus, Profile};
use crate::foreign::devices::{hvt, rtc};
use crate::memory::GuestMemory;

/// How an image ended its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// It switched it off.
    Off,
    /// It reset it; a machine here does not start again.
    Reset,
    /// It wrote this to the debug-exit port.
    DebugExit(u32),
    /// It ended with this status, which its tender would pass on.
    Exit(i32),
}

/// Where the agent of an image calls.
pub(crate) const AGENT: u16 = unifork_abi::agent::PORT as u16;

/// Fixed ACPI registers, where QEMU's `pc` has them: events and their enable bits, control, and the timer.
pub(crate) const PM1_EVENTS: u16 = 0x600;
pub(crate) const PM1_CONTROL: u16 = 0x604;
pub(crate) const PM_TIMER: u16 = 0x608;
const PM_TIMER_HZ: u128 = 3_579_545;

/// What ACPI's timer shows: 32 bits of it.
fn pm_timer(now_ns: u64) -> u32 {
    (u128::from(now_ns) * PM_TIMER_HZ / 1_000_000_000) as u32
}

/// Ports of devices that are not there, at most this many of them, are remembered with how often they
/// were used.
const UNKNOWN_MAX: usize = 64;

impl Bus {
    /// Ports that were used though nothing is there, and how often.
    pub(crate) fn unknown_ports(&self) -> &BTreeMap<u16, u64> {
        &self.unknown
    }

    fn note_unknown(&mut self, port: u16) {
        if self.unknown.len() < UNKNOWN_MAX || self.unknown.contains_key(&port) {
            *self.unknown.entry(port).or_default() += 1;
        }
    }

    /// Reads `size` (1, 2 or 4) bytes from `port`.
    pub(crate) fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.now_ns += self.tick_ns;
        let pc = self.profile == Profile::Pc;
        let byte = match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.interrupts.pic.read(port),
            0x40..=0x43 => self.pit.read(port, self.now_ns),
            0x60 | 0x64 => 0, // i8042: nothing typed, ready for a command
            0x61 => self.pit.read_gate(self.now_ns),
            0x71 => self.rtc.read(self.now_ns),
            0x4d0 | 0x4d1 => self.interrupts.pic.read_triggers(port),
            0x92 => 2, // A20 is on
            0x3f8..=0x3ff => self.serial.read((port - 0x3f8) as u8),
            PM1_EVENTS..PM1_CONTROL if pc => 0,
            // ACPI is on, and was never switched on.
            PM1_CONTROL if pc => 1,
            PM_TIMER if pc && size == 4 => return pm_timer(self.now_ns),
            0xe9 if pc => 0xe9, // how a debug console says that it is one
            _ => {
                let mut data = [0; 4];
                if self.virtio.port_read(port, &mut data[..usize::from(size)]) {
                    return u32::from_le_bytes(data);
                }
                if pc && (0xcf8..=0xcff).contains(&port) {
                    return u32::MAX;
                }
                self.note_unknown(port);
                return u32::MAX;
            }
        };
        // A byte-wide device on a wider access: the rest of the bus floats.
        u32::from(byte) | if size > 1 { 0xffff_ff00 } else { 0 }
    }

    /// Writes the low `size` bytes of `value` to `port`.
    pub(crate) fn port_write(&mut self, memory: &mut GuestMemory, port: u16, size: u8, value: u32) {
        self.now_ns += self.tick_ns;
        let wall_ns = self.now_ns.saturating_add(rtc::EPOCH_S * 1_000_000_000);
        if self.hvt
            && size == 4
            && let Some(call) = hvt::call(memory, &mut self.virtio, port, value, wall_ns)
        {
            return self.serve_hvt(call);
        }
        let pc = self.profile == Profile::Pc;
        let byte = value as u8;
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.interrupts.pic.write(port, byte),
            0x40..=0x43 => self.pit.write(port, byte, self.now_ns),
            0x61 => self.pit.write_gate(byte, self.now_ns),
            0x64 if byte == 0xfe => self.power = Some(Power::Reset),
            0x60 | 0x64 | 0x80 | 0x92 | 0xed => {}
            0x70 => self.rtc.select(byte),
            0x71 => self.rtc.write(byte),
            0x4d0 | 0x4d1 => self.interrupts.pic.write_triggers(port, byte),
            0x3f8..=0x3ff => {
                // 16-bit writes reach two registers, as on the ISA bus.
                for (i, byte) in value.to_le_bytes().iter().take(size.into()).enumerate() {
                    let register = (port - 0x3f8) as u8 + i as u8;
                    if register < 8 {
                        self.serial.write(register, *byte);
                    }
                }
            }
            0xe9 if pc => self.serial.write_plain(byte),
            // isa-debug-exit at QEMU's usual address, and at Solo5's.
            0xf4 | 0x501 if pc => self.power = Some(Power::DebugExit(value)),
            // PM1a control of QEMU's PIIX4 and Q35, of Bochs and old QEMU, of VirtualBox: SLP_EN.
            PM1_CONTROL | 0xb004 | 0x4004 if pc && value & 0x2000 != 0 => self.power = Some(Power::Off),
            0xcf9 if pc && size == 1 => {
                if byte & 4 != 0 {
                    self.power = Some(Power::Reset);
                }
            }
            PM1_EVENTS..=PM1_CONTROL if pc => {}
            AGENT if size == 4 => self.agent = Some(value),
            _ => {
                let data = value.to_le_bytes();
                let known = self.virtio.port_write(memory, port, &data[..usize::from(size)])
                    || pc && (0xcf8..=0xcff).contains(&port);
                if !known {
                    self.note_unknown(port);
                }
            }
        }
    }

    fn serve_hvt(&mut self, call: hvt::Call) {
        match call {
            hvt::Call::Done => {}
            hvt::Call::Print(text) => text.iter().for_each(|&byte| self.serial.write_plain(byte)),
            hvt::Call::Wait { nanoseconds, at } => {
                self.poll = Some(hvt::Poll { until_ns: self.now_ns.saturating_add(nanoseconds), at });
            }
            hvt::Call::Halt(status) => self.power = Some(Power::Exit(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MEMORY_BYTES_MIN;

    fn bus(profile: Profile) -> Bus {
        Bus::new(profile, MEMORY_BYTES_MIN, &[])
    }

    fn memory() -> GuestMemory {
        GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0
    }

    #[test]
    fn a_machine_can_be_switched_off_in_each_of_the_usual_ways() {
        for (port, size, value, power) in [
            (0x604, 2, 0x2000, Power::Off),
            (0xb004, 2, 0x2000, Power::Off),
            (0x64, 1, 0xfe, Power::Reset),
            (0xcf9, 1, 0x06, Power::Reset),
            (0xf4, 4, 7, Power::DebugExit(7)),
            (0x501, 2, 41, Power::DebugExit(41)),
        ] {
            let mut bus = bus(Profile::Pc);
            bus.port_write(&mut memory(), port, size, value);
            assert_eq!(bus.power(), Some(power), "{port:#x}");
        }
        let mut bus = bus(Profile::Firecracker);
        bus.port_write(&mut memory(), 0x604, 2, 0x2000);
        assert_eq!(bus.power(), None, "Firecracker has no such port");
        bus.port_write(&mut memory(), 0x64, 1, 0xfe);
        assert_eq!(bus.power(), Some(Power::Reset));
    }

    #[test]
    fn a_pci_bus_without_devices_has_its_bridge_and_nothing_else() {
        let mut bus = bus(Profile::Pc);
        bus.port_write(&mut memory(), 0xcf8, 4, 0x8000_0000);
        assert_eq!(bus.port_read(0xcf8, 4), 0x8000_0000);
        assert_eq!(bus.port_read(0xcfc, 4), 0x1237_8086);
        assert_eq!(bus.port_read(0xcfa, 2), u32::MAX);
        bus.port_write(&mut memory(), 0xcf8, 4, 0x8000_0800);
        assert_eq!(bus.port_read(0xcfc, 4), u32::MAX);
        assert_eq!(bus.port_read(0xcfe, 2) as u16, u16::MAX);
        assert!(bus.unknown_ports().is_empty());
    }
}
