//! What is behind ports and device memory, and the interrupt lines.
//!
//! Both ways to run an image, natively and under the monitor, end here. Nothing in it knows KVM.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Profile;
use super::devices::hvt;
use super::devices::interrupts::Interrupts;
use super::devices::lapic::Refused;
use super::devices::pic::Pic;
use super::devices::pit::Pit;
use super::devices::rtc::{self, Rtc};
use super::devices::serial::{Serial, SerialImage};
use crate::memory::GuestMemory;
use crate::reset::{Mutation, Planted};
use crate::vcpu::enter::Devices;
use crate::virtio::{self, DeviceConfig, Transport, Virtio};

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
const AGENT: u16 = unifork_abi::agent::PORT as u16;

const IRQ_TIMER: u8 = 0;
const IRQ_COM1: u8 = 4;

/// Bytes typed at once into a virtio console, which has room for more.
const TYPED_MAX: usize = 256;

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

/// The devices.
#[derive(Debug)]
pub(crate) struct Bus {
    profile: Profile,
    now_ns: u64,
    serial: Serial,
    interrupts: Interrupts,
    pit: Pit,
    rtc: Rtc,
    virtio: Virtio,
    // Whether calls of Solo5's hvt are served, and until when one of them has the CPU wait.
    hvt: bool,
    hvt_waits_ns: u64,
    power: Option<Power>,
    // What was written to the agent's port and has not been looked at.
    agent: Option<u32>,
    // How far the clock moves at each access to a port.
    tick_ns: u64,
    unknown: BTreeMap<u16, u64>,
}

/// What a [`Bus`] remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BusImage {
    profile: Profile,
    now_ns: u64,
    serial: SerialImage,
    interrupts: Interrupts,
    pit: Pit,
    rtc: Rtc,
    pub(crate) virtio: Virtio,
    hvt: bool,
    hvt_waits_ns: u64,
}

/// The devices, and the memory that some of them reach by themselves.
pub(crate) struct Wired<'a> {
    pub bus: &'a mut Bus,
    pub memory: &'a mut GuestMemory,
}

impl Devices for Wired<'_> {
    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.bus.port_read(port, size)
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.bus.port_write(self.memory, port, size, value);
    }
    fn memory_read(&mut self, at: u64, data: &mut [u8]) {
        self.bus.memory_read(at, data);
    }
    fn memory_write(&mut self, at: u64, data: &[u8]) {
        self.bus.memory_write(self.memory, at, data);
    }
    fn msr_read(&mut self, index: u32) -> Option<u64> {
        self.bus.msr_read(index)?.ok()
    }
    fn cr8(&self) -> Option<u64> {
        Some(self.bus.task_class())
    }
    fn set_cr8(&mut self, value: u64) {
        self.bus.set_task_class(value);
    }
    fn msr_write(&mut self, index: u32, value: u64) -> Option<()> {
        self.bus.msr_write(index, value)?.ok()
    }
}

impl Bus {
    pub(crate) fn new(profile: Profile, memory_bytes: u64, devices: &[DeviceConfig]) -> Self {
        let (transport, level_triggered) = match profile {
            Profile::Pc => (Transport::Pci, virtio::PCI_LINES.iter().map(|line| 1 << line).sum()),
            Profile::Firecracker => (Transport::Mmio, 0),
        };
        Self {
            profile,
            now_ns: 0,
            serial: Serial::new(),
            interrupts: Interrupts::new(Pic::new(level_triggered)),
            pit: Pit::new(),
            rtc: Rtc::new(memory_bytes),
            virtio: Virtio::new(transport, devices),
            hvt: false,
            hvt_waits_ns: 0,
            power: None,
            agent: None,
            tick_ns: 0,
            unknown: BTreeMap::new(),
        }
    }

    /// `append`, and what a kernel has to be told of the devices: before a `--`, behind which a command line is
    /// somebody else's.
    pub(crate) fn command_line(&self, append: &str) -> String {
        let (kernel, rest) = append.split_at(append.find("-- ").unwrap_or(append.len()));
        let arguments = self.virtio.kernel_arguments();
        let words = [kernel.trim_end()].into_iter().chain(arguments.iter().map(String::as_str)).chain([rest]);
        if arguments.is_empty() {
            return append.to_owned();
        }
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn restore(image: &BusImage) -> Self {
        Self {
            profile: image.profile,
            now_ns: image.now_ns,
            serial: Serial::restore(&image.serial),
            interrupts: image.interrupts,
            pit: image.pit,
            rtc: image.rtc.clone(),
            virtio: image.virtio.clone(),
            hvt: image.hvt,
            hvt_waits_ns: image.hvt_waits_ns,
            power: None,
            agent: None,
            tick_ns: 0,
            unknown: BTreeMap::new(),
        }
    }

    /// Makes this what `image` is.
    pub(crate) fn put_back(&mut self, image: &BusImage, planted: &Planted) {
        if !planted.is(Mutation::KeepVirtio) {
            self.virtio.put_back(&image.virtio);
        }
        if planted.is(Mutation::KeepBus) {
            return;
        }
        // How time passes is not the machine's.
        let Self {
            profile,
            now_ns,
            serial,
            interrupts,
            pit,
            rtc,
            virtio: _,
            hvt,
            hvt_waits_ns,
            power,
            agent,
            tick_ns: _,
            unknown,
        } = self;
        (*profile, *now_ns) = (image.profile, image.now_ns);
        (*hvt, *hvt_waits_ns) = (image.hvt, image.hvt_waits_ns);
        (*power, *agent) = (None, None);
        *serial = Serial::restore(&image.serial);
        (*interrupts, *pit) = (image.interrupts, image.pit);
        rtc.clone_from(&image.rtc);
        unknown.clear();
    }

    pub(crate) fn image(&self) -> BusImage {
        BusImage {
            profile: self.profile,
            now_ns: self.now_ns,
            serial: self.serial.image(),
            interrupts: self.interrupts,
            pit: self.pit,
            rtc: self.rtc.clone(),
            virtio: self.virtio.clone(),
            hvt: self.hvt,
            hvt_waits_ns: self.hvt_waits_ns,
        }
    }

    /// From now on, each access to a port takes so long, and nothing else takes any time.
    pub(crate) fn tick(&mut self, tick_ns: u64) {
        self.tick_ns = tick_ns;
    }

    /// It is now `now_ns` nanoseconds after the machine began. Time does not go back.
    pub(crate) fn advance(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        if self.pit.take_due(self.now_ns) > 0 {
            self.interrupts.pulse(IRQ_TIMER);
        }
        self.interrupts.advance(self.now_ns);
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// When a device will raise an interrupt by itself.
    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        [self.pit.next_due(), self.interrupts.next_due()].into_iter().flatten().min()
    }

    pub(crate) fn interrupt_is_pending(&mut self) -> bool {
        if self.serial.take_edge() {
            self.interrupts.pulse(IRQ_COM1);
        }
        self.watch_lines();
        self.interrupts.is_pending()
    }

    /// What devices hold is as it is now: an interrupt that has been served must not come again when its end is said.
    fn watch_lines(&mut self) {
        self.interrupts.set_lines(self.virtio.lines());
    }

    /// The vector of the interrupt that waits; the controller takes it as delivered.
    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        self.interrupts.acknowledge()
    }

    /// CR8.
    pub(crate) fn task_class(&self) -> u64 {
        self.interrupts.task_class()
    }

    /// Writes CR8.
    pub(crate) fn set_task_class(&mut self, class: u64) {
        if class != self.interrupts.task_class() {
            self.interrupts.set_task_class(class);
        }
    }

    /// Reads an MSR, if it is a device's; an access that raises #GP is refused.
    pub(crate) fn msr_read(&mut self, msr: u32) -> Option<Result<u64, Refused>> {
        Interrupts::has_msr(msr).then(|| {
            self.now_ns += self.tick_ns;
            self.interrupts.read_msr(msr, self.now_ns)
        })
    }

    /// Writes it, likewise.
    pub(crate) fn msr_write(&mut self, msr: u32, value: u64) -> Option<Result<(), Refused>> {
        Interrupts::has_msr(msr).then(|| {
            self.now_ns += self.tick_ns;
            self.watch_lines();
            self.interrupts.write_msr(msr, value, self.now_ns)
        })
    }

    pub(crate) fn power(&self) -> Option<Power> {
        self.power
    }

    /// What the image's agent has written to its port since this was last asked.
    pub(crate) fn take_agent(&mut self) -> Option<u32> {
        self.agent.take()
    }

    /// Whether it has written to a console since this was last taken.
    pub(crate) fn has_output(&self) -> bool {
        self.serial.has_output() || self.virtio.has_console_output()
    }

    /// What it has written to its consoles.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        let mut said = self.serial.take_output();
        said.append(&mut self.virtio.take_console());
        said
    }

    /// How many bytes can be typed now: into the virtio console if there is one, else into the serial port.
    pub(crate) fn room_to_type(&self) -> usize {
        match self.virtio.console_is_read() {
            Some(true) => TYPED_MAX,
            Some(false) => 0,
            None => self.serial.room(),
        }
    }

    /// Types them.
    pub(crate) fn type_in(&mut self, memory: &mut GuestMemory, bytes: &[u8]) {
        if self.virtio.console_is_read().is_some() {
            // Far fewer than it has room for.
            let _all = self.virtio.type_in(memory, bytes);
        } else {
            self.serial.receive(bytes);
        }
    }

    /// The virtio devices.
    pub(crate) fn virtio(&mut self) -> &mut Virtio {
        &mut self.virtio
    }

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
            && let Some(call) = hvt::call(memory, port, value, wall_ns)
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
            // Where nothing but ports takes time, a wait is over at once.
            hvt::Call::Wait(wait) if self.tick_ns > 0 => self.now_ns = self.now_ns.saturating_add(wait),
            hvt::Call::Wait(wait) => self.hvt_waits_ns = self.now_ns.saturating_add(wait),
            hvt::Call::Halt(status) => self.power = Some(Power::Exit(status)),
        }
    }

    /// Until when the CPU waits, because it has called for that.
    pub(crate) fn waits_until(&self) -> Option<u64> {
        (self.hvt_waits_ns > self.now_ns).then_some(self.hvt_waits_ns)
    }

    /// From now on, calls of Solo5's hvt are served.
    pub(crate) fn tend_hvt(&mut self) {
        self.hvt = true;
    }

    /// Reads `data.len()` (at most 8) bytes of physical memory where there is no RAM. A device takes the accesses
    /// to its own addresses; where there is none, all bits are set.
    pub(crate) fn memory_read(&mut self, at: u64, data: &mut [u8]) {
        self.now_ns += self.tick_ns;
        if !self.interrupts.memory_read(at, data, self.now_ns) && !self.virtio.memory_read(at, data) {
            data.fill(0xff);
        }
    }

    /// Writes at most 8 bytes there.
    pub(crate) fn memory_write(&mut self, memory: &mut GuestMemory, at: u64, data: &[u8]) {
        self.now_ns += self.tick_ns;
        self.watch_lines();
        // Where no device is, nothing happens.
        let _anybody =
            self.interrupts.memory_write(at, data, self.now_ns) || self.virtio.memory_write(memory, at, data);
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

    #[test]
    fn a_copy_of_the_devices_goes_on_as_they_do() {
        let mut bus = bus(Profile::Pc);
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
            bus.port_write(&mut memory(), port, 1, value);
        }
        for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 0x10)] {
            bus.port_write(&mut memory(), port, 1, value);
        }
        bus.advance(1_000_000);
        let mut copy = Bus::restore(&bus.image());
        assert_eq!(copy.image(), bus.image());
        for bus in [&mut bus, &mut copy] {
            bus.advance(bus.next_event_ns().unwrap());
            assert!(bus.interrupt_is_pending());
            assert_eq!(bus.acknowledge(), Some(0x20));
        }
        assert_eq!(copy.image(), bus.image());
    }
}
