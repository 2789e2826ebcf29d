//! Devices on a PCI bus, as QEMU's `pc` has them: transitional, so that drivers of before virtio 1.0 find what
//! they know behind an I/O BAR, and later ones the capabilities and a memory BAR.
//!
//! ```text
//!   BAR0  I/O, 64 bytes     the registers of before 1.0, then the device's configuration
//!   BAR4  memory, 16 KiB    0x0000 common configuration   0x1000 interrupt status
//!                           0x2000 device configuration   0x3000 notifications, 4 bytes a queue
//! ```
//!
//! The firmware's work is done: BARs have addresses, decoding is on, and the interrupt line says which input of
//! the 8259 the pin is wired to.
//!
//! Sources: virtio 1.2, sections 4.1.3 to 4.1.4.10; PCI Local Bus Specification 3.0, chapter 6.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;

use super::device::Device;
use super::mmio::{set_high, set_low};
use crate::memory::GuestMemory;

/// Bytes of a function's configuration space.
const CONFIG_BYTES: usize = 256;
/// Red Hat's, who lend it to virtio.
const VENDOR: u16 = 0x1af4;

/// First port of the first device's BAR0.
const IO_BASE: u32 = 0xc000;
const IO_BYTES: u32 = 0x40;
/// First address of the first device's BAR4, in the hole below 4 GiB that RAM leaves.
pub(super) const MEMORY_BASE: u32 = 0xfe00_0000;
const MEMORY_BYTES: u32 = 0x4000;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const BAR4: usize = 0x20;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_IO: u8 = 1;
const COMMAND_MEMORY: u8 = 2;
const COMMAND_MASTER: u8 = 4;
/// In the upper half of the command register.
const COMMAND_NO_INTERRUPT: u8 = 4;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

const COMMON_AT: u32 = 0;
const COMMON_BYTES: u32 = 56;
const ISR_AT: u32 = 0x1000;
const DEVICE_AT: u32 = 0x2000;
const DEVICE_BYTES: u32 = 0x100;
const NOTIFY_AT: u32 = 0x3000;
const NOTIFY_MULTIPLIER: u32 = 4;
/// Where the driver's configuration begins in BAR0: there is no MSI-X.
const LEGACY_DEVICE_AT: u32 = 20;

/// A function's configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Function {
    config: Vec<u8>,
    /// Where the capability is that reaches BAR4 from here.
    window: usize,
    line: u8,
}

impl Function {
    /// The bridge that is slot 0 of every bus: an i440FX, as QEMU's `pc` has.
    pub(crate) fn host_bridge() -> Self {
        let mut function = Self { config: vec![0; CONFIG_BYTES], window: CONFIG_BYTES, line: 0 };
        function.identify([0x8086, 0x1237], 0x06_0000, [0x1af4, 0x1100]);
        function
    }

    /// The function of virtio device number `number`, which interrupts on `line` of the 8259.
    pub(crate) fn virtio(device: &Device, number: u32, line: u8) -> Self {
        let mut function = Self { config: vec![0; CONFIG_BYTES], window: CONFIG_BYTES, line };
        // Transitional devices have numbers of their own, and the virtio number as their subsystem.
        let (id, class) = match device.model.id() {
            1 => (0x1000, 0x02_0000),
            2 => (0x1001, 0x01_0000),
            3 => (0x1003, 0x07_8000),
            _ => (0x1005, 0x00_ff00),
        };
        let subsystem = u16::try_from(device.model.id()).unwrap_or(0);
        function.identify([VENDOR, id], class, [VENDOR, subsystem]);
        function.config[COMMAND] = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER;
        function.config[STATUS] = STATUS_CAPABILITIES;
        function.put(BAR0, &((IO_BASE + number * IO_BYTES) | 1).to_le_bytes());
        function.put(BAR4, &(MEMORY_BASE + number * MEMORY_BYTES).to_le_bytes());
        function.put(INTERRUPT_LINE, &[line, 1]); // pin A
        function.add_capabilities();
        function
    }

    fn identify(&mut self, [vendor, device]: [u16; 2], class: u32, [subvendor, subsystem]: [u16; 2]) {
        self.put(0, &vendor.to_le_bytes());
        self.put(2, &device.to_le_bytes());
        self.put(8, &(class << 8).to_le_bytes()); // revision 0: transitional
        self.put(0x2c, &subvendor.to_le_bytes());
        self.put(0x2e, &subsystem.to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.config[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// `struct virtio_pci_cap`, one for each part of BAR4, and the one that reads and writes it from here.
    fn add_capabilities(&mut self) {
        let parts: [(u8, u32, u32, &[u8]); 5] = [
            (1, COMMON_AT, COMMON_BYTES, &[]),
            (2, NOTIFY_AT, 0x1000, &NOTIFY_MULTIPLIER.to_le_bytes()),
            (3, ISR_AT, 1, &[]),
            (4, DEVICE_AT, DEVICE_BYTES, &[]),
            (5, 0, 0, &[0; 4]),
        ];
        let mut at = FIRST_CAPABILITY;
        self.config[CAPABILITIES] = at as u8;
        for (kind, offset, length, more) in parts {
            let bytes = 16 + more.len();
            let next = if kind == 5 { 0 } else { (at + bytes) as u8 };
            self.put(at, &[0x09, next, bytes as u8, kind, 4, 0, 0, 0]);
            self.put(at + 8, &offset.to_le_bytes());
            self.put(at + 12, &length.to_le_bytes());
            self.put(at + 16, more);
            if kind == 5 {
                self.window = at;
            }
            at += bytes;
        }
    }

    /// Which bits of the byte at `at` the guest may change. The rest is how a BAR says its size.
    fn writable(&self, at: usize) -> u8 {
        let bar = |first: usize, bytes: u32| (!(bytes - 1)).to_le_bytes()[at - first];
        let window = self.window;
        match at {
            _ if window == CONFIG_BYTES => 0, // the bridge
            COMMAND => COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER,
            _ if at == COMMAND + 1 => COMMAND_NO_INTERRUPT,
            0x0c | 0x0d | INTERRUPT_LINE => 0xff, // cache line, latency: kept, and nothing more
            BAR0..0x14 => bar(BAR0, IO_BYTES),
            BAR4..0x24 => bar(BAR4, MEMORY_BYTES),
            _ if at == window + 4 || (window + 8..window + 16).contains(&at) => 0xff,
            _ => 0,
        }
    }

    fn word(&self, at: usize) -> u32 {
        self.config.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// First port and number of ports of BAR0, while it is decoded.
    pub(crate) fn ports(&self) -> Option<(u32, u32)> {
        let on = self.config[COMMAND] & COMMAND_IO != 0 && self.window != CONFIG_BYTES;
        on.then(|| (self.word(BAR0) & !(IO_BYTES - 1), IO_BYTES))
    }

    /// First address and number of bytes of BAR4, while it is decoded.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let on = self.config[COMMAND] & COMMAND_MEMORY != 0 && self.window != CONFIG_BYTES;
        on.then(|| ((self.word(BAR4) & !(MEMORY_BYTES - 1)).into(), MEMORY_BYTES.into()))
    }

    /// The input of the 8259 that `device` pulls now.
    pub(crate) fn line(&self, device: &Device) -> Option<u8> {
        let off = self.config[COMMAND + 1] & COMMAND_NO_INTERRUPT != 0;
        (device.interrupt() != 0 && !off).then_some(self.line)
    }

    /// Reads configuration space. `device` is what is behind it; none behind the bridge.
    pub(crate) fn read_config(&self, device: Option<&mut Device>, at: usize, out: &mut [u8]) {
        if let Some(device) = device {
            if let Some((offset, length)) = self.windowed(at, out.len()) {
                return read_memory(device, offset, &mut out[..length]);
            }
            copy(&self.config, at, out);
            if let Some(status) = STATUS.checked_sub(at).and_then(|i| out.get_mut(i))
                && device.interrupt() != 0
            {
                *status |= STATUS_INTERRUPT;
            }
            return;
        }
        copy(&self.config, at, out);
    }

    /// Writes configuration space.
    pub(crate) fn write_config(
        &mut self,
        device: Option<&mut Device>,
        memory: &mut GuestMemory,
        at: usize,
        bytes: &[u8],
    ) {
        if let Some((device, (offset, length))) = device.zip(self.windowed(at, bytes.len())) {
            return write_memory(device, memory, offset, &bytes[..length]);
        }
        for (at, byte) in (at..CONFIG_BYTES).zip(bytes) {
            let mask = self.writable(at);
            self.config[at] = self.config[at] & !mask | byte & mask;
        }
    }

    /// What part of BAR4 an access to the last capability's data is for.
    fn windowed(&self, at: usize, length: usize) -> Option<(u32, usize)> {
        let wanted = self.word(self.window + 12) as usize;
        let here = at == self.window + 16 && matches!(wanted, 1 | 2 | 4) && wanted <= length;
        (here && self.config.get(self.window + 4) == Some(&4)).then(|| (self.word(self.window + 8), wanted))
    }
}

/// Copies what there is of `from` at `at`; beyond its end there are zeros.
fn copy(from: &[u8], at: usize, out: &mut [u8]) {
    for (byte, at) in out.iter_mut().zip(at..) {
        *byte = from.get(at).copied().unwrap_or(0);
    }
}

/// Reads BAR4.
pub(crate) fn read_memory(device: &mut Device, offset: u32, out: &mut [u8]) {
    match offset {
        COMMON_AT..COMMON_BYTES => copy(&common(device), offset as usize, out),
        ISR_AT => {
            out.fill(0);
            if let Some(first) = out.first_mut() {
                *first = device.interrupt();
                device.acknowledge(u8::MAX);
            }
        }
        DEVICE_AT..NOTIFY_AT => device.read_config((offset - DEVICE_AT) as usize, out),
        _ => out.fill(0),
    }
}

/// `struct virtio_pci_common_cfg`.
fn common(device: &mut Device) -> [u8; COMMON_BYTES as usize] {
    const NO_VECTOR: [u8; 2] = [0xff; 2];
    let mut bytes = [0; COMMON_BYTES as usize];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let accepted = match device.driver_features_select {
        0 => device.driver_features as u32,
        1 => (device.driver_features >> 32) as u32,
        _ => 0,
    };
    put(0, &device.device_features_select.to_le_bytes());
    put(4, &device.selected_features().to_le_bytes());
    put(8, &device.driver_features_select.to_le_bytes());
    put(12, &accepted.to_le_bytes());
    put(16, &NO_VECTOR);
    put(18, &(device.rings.len() as u16).to_le_bytes());
    put(20, &[device.status(), 0]);
    put(22, &device.queue_select.to_le_bytes());
    put(26, &NO_VECTOR);
    let select = device.queue_select;
    if let Some(ring) = device.ring() {
        put(24, &ring.size.to_le_bytes());
        put(28, &u16::from(ring.ready).to_le_bytes());
        put(30, &select.to_le_bytes());
        put(32, &ring.descriptors.to_le_bytes());
        put(40, &ring.available.to_le_bytes());
        put(48, &ring.used.to_le_bytes());
    }
    bytes
}

/// Writes BAR4.
pub(crate) fn write_memory(device: &mut Device, memory: &mut GuestMemory, offset: u32, bytes: &[u8]) {
    let value = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    let low = value as u32;
    match (offset, bytes.len()) {
        (NOTIFY_AT..MEMORY_BYTES, _) => {
            device.notify(memory, ((offset - NOTIFY_AT) / NOTIFY_MULTIPLIER) as usize);
        }
        (0, 4) => device.device_features_select = low,
        (8, 4) => device.driver_features_select = low,
        (12, 4) => device.accept_features(low),
        (20, 1) => device.set_status(memory, low as u8),
        (22, 2) => device.queue_select = low as u16,
        _ => {
            let Some(ring) = device.ring() else { return };
            match (offset, bytes.len()) {
                (24, 2) => ring.size = low as u16,
                (28, 2) => ring.ready = low & 1 != 0,
                (32, 8) => ring.descriptors = value,
                (40, 8) => ring.available = value,
                (48, 8) => ring.used = value,
                (32, 4) => set_low(&mut ring.descriptors, low),
                (36, 4) => set_high(&mut ring.descriptors, low),
                (40, 4) => set_low(&mut ring.available, low),
                (44, 4) => set_high(&mut ring.available, low),
                (48, 4) => set_low(&mut ring.used, low),
                (52, 4) => set_high(&mut ring.used, low),
                _ => {}
            }
        }
    }
}

/// Reads BAR0, byte `offset` of it.
pub(crate) fn read_ports(device: &mut Device, offset: u32, out: &mut [u8]) {
    if let Some(at) = offset.checked_sub(LEGACY_DEVICE_AT) {
        return device.read_config(at as usize, out);
    }
    let mut registers = [0; LEGACY_DEVICE_AT as usize];
    let mut put = |at: usize, value: &[u8]| registers[at..at + value.len()].copy_from_slice(value);
    put(0, &(device.features() as u32).to_le_bytes());
    put(4, &(device.driver_features as u32).to_le_bytes());
    let select = device.queue_select;
    // A status that a driver of before 1.0 does not know is left out.
    put(18, &[device.status() & !(VIRTIO_CONFIG_S_NEEDS_RESET as u8), device.interrupt()]);
    put(14, &select.to_le_bytes());
    if let Some(ring) = device.ring() {
        let page = if ring.ready { (ring.descriptors >> 12) as u32 } else { 0 };
        put(8, &page.to_le_bytes());
        put(12, &ring.max_size.to_le_bytes());
    }
    copy(&registers, offset as usize, out);
    if (offset..offset + out.len() as u32).contains(&19) {
        device.acknowledge(u8::MAX); // reading it is what acknowledges
    }
}

/// Writes BAR0.
pub(crate) fn write_ports(device: &mut Device, memory: &mut GuestMemory, offset: u32, bytes: &[u8]) {
    let value = bytes.iter().rev().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
    match (offset, bytes.len()) {
        (4, 4) => {
            device.driver_features_select = 0;
            device.accept_features(value);
        }
        (8, 4) => {
            if let Some(ring) = device.ring() {
                ring.place_legacy(value);
            }
        }
        (14, 2) => device.queue_select = value as u16,
        (16, 2) => device.notify(memory, value as usize),
        (18, 1) => device.set_status(memory, value as u8),
        _ => {}
    }
}
