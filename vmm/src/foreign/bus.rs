//! What is behind ports and device memory, and the interrupt lines.
//!
//! Both ways to run an image, natively and under the monitor, end here. Nothing in it knows KVM.

use std::collections::BTreeMap;

use super::Profile;
use super::devices::hvt;
use super::devices::interrupts::Interrupts;
use super::devices::lapic::Refused;
use super::devices::pic::Pic;
use super::devices::pit::Pit;
use super::devices::rtc::Rtc;
use super::devices::serial::Serial;
use crate::memory::GuestMemory;
use crate::vcpu::enter::Devices;
use crate::virtio::{self, DeviceConfig, Transport, Virtio};

mod image;
mod ports;

pub(crate) use image::BusImage;
pub use ports::Power;
pub(crate) use ports::{AGENT, PM_TIMER, PM1_CONTROL, PM1_EVENTS};

const IRQ_TIMER: u8 = 0;
const IRQ_COM1: u8 = 4;

/// Bytes typed at once into a virtio console, which has room for more.
const TYPED_MAX: usize = 256;

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
    // Whether calls of Solo5's hvt are served, and one of them that waits.
    hvt: bool,
    poll: Option<hvt::Poll>,
    power: Option<Power>,
    // What was written to the agent's port and has not been looked at.
    agent: Option<u32>,
    // How far the clock moves at each access to a port.
    tick_ns: u64,
    unknown: BTreeMap<u16, u64>,
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
            poll: None,
            power: None,
            agent: None,
            tick_ns: 0,
            unknown: BTreeMap::new(),
        }
    }

    /// `append`, and what a kernel has to be told of the devices: before a `--`, behind which a command line is
    /// somebody else's.
    pub(crate) fn command_line(&self, append: &str) -> String {
        let is_separator = |&(at, _): &(usize, &str)| {
            let around = (append[..at].bytes().last(), append.as_bytes().get(at + 2));
            around.0.is_none_or(|byte| byte == b' ') && around.1.is_none_or(|&byte| byte == b' ')
        };
        let separator = append.match_indices("--").find(is_separator);
        let (kernel, rest) = append.split_at(separator.map_or(append.len(), |(at, _)| at));
        let arguments = self.virtio.kernel_arguments();
        let words = [kernel.trim_end()].into_iter().chain(arguments.iter().map(String::as_str)).chain([rest]);
        if arguments.is_empty() {
            return append.to_owned();
        }
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
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

    /// Until when at most the CPU waits, because it has called for that; answers the call if that is over, or a frame
    /// has come.
    pub(crate) fn waits_until(&mut self, memory: &mut GuestMemory) -> Option<u64> {
        let poll = self.poll?;
        if poll.end(memory, &self.virtio, self.now_ns) {
            self.poll = None;
        }
        self.poll.map(|poll| poll.until_ns)
    }

    /// From now on, calls of Solo5's hvt are served; some are for `devices`, by `handles`.
    pub(crate) fn tend_hvt(&mut self, devices: &[DeviceConfig], handles: Vec<Option<u8>>) {
        self.hvt = true;
        self.virtio = Virtio::behind_calls(devices, handles);
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
    fn devices_are_told_before_what_is_not_the_kernels() {
        let bus = |devices: &[DeviceConfig]| Bus::new(Profile::Firecracker, MEMORY_BYTES_MIN, devices);
        assert_eq!(bus(&[]).command_line("a --"), "a --");
        let one = bus(&[DeviceConfig::Console]);
        let device = "virtio_mmio.device=4K@0xd0000000:5";
        for (append, all) in [
            ("", device.to_owned()),
            ("a --x b--", format!("a --x b-- {device}")),
            ("a -- b -- c", format!("a {device} -- b -- c")),
            ("a --", format!("a {device} --")),
            ("-- a", format!("{device} -- a")),
        ] {
            assert_eq!(one.command_line(append), all);
        }
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
