//! Virtio devices: disks, network cards, a console, entropy; on a PCI bus or in memory.
//!
//! ```text
//!   exit ── port, address ──► Virtio ──► pci.rs, mmio.rs: registers ──► device.rs: status, queues
//!                                                                          │ request
//!                       lines() ◄── interrupt                block.rs net.rs console.rs entropy.rs
//! ```
//!
//! All of it is plain data that can be copied, compared and written down: a [`Virtio`] is its own snapshot, and
//! a reset puts a copy back. There are no threads and no files but the disks' images, which are only read; what
//! the guest writes to a disk is kept above it. Requests are served when the guest notifies, before it goes on.
//!
//! Solo5's hvt has disks and network cards without a bus and without queues: the models alone, behind calls
//! (`calls.rs`).
//!
//! What guests do here is not trusted: see `ring.rs`.
//!
//! Source: Virtual I/O Device (VIRTIO) Version 1.2, OASIS.

mod block;
pub(crate) mod calls;
mod console;
mod device;
mod entropy;
mod mmio;
mod net;
mod pci;
mod ring;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::block::Block;
pub use self::block::Disk;
use self::console::Console;
use self::device::{Device, Model};
use self::entropy::Entropy;
pub use self::net::FRAME_BYTES_MAX;
use self::net::Net;
use self::pci::Function;
use crate::memory::GuestMemory;

/// Devices on one bus at most.
pub const DEVICES_MAX: usize = 16;

/// First address of the first device in memory, as in Firecracker.
const MMIO_BASE: u64 = 0xd000_0000;
const MMIO_BYTES: u64 = 0x1000;
/// Input of the interrupt controller of the first device in memory, as in Firecracker; further ones follow.
const MMIO_LINE: u8 = 5;
/// The inputs of the 8259 that a PCI bus's pins are wired to, as in QEMU's `pc`.
pub(crate) const PCI_LINES: [u8; 2] = [11, 10];

/// Memory in which PCI devices can have their registers: between RAM and the interrupt controllers.
pub(crate) const PCI_MEMORY: Range<u32> = pci::MEMORY_BASE..0xfec0_0000;

/// The input of the interrupt controllers that the pin of the device in `slot` is wired to.
pub(crate) const fn line_of_slot(slot: u32) -> u8 {
    PCI_LINES[(slot as usize + 1) % 2]
}

/// A port that names a place in configuration space, and the four that are it.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

/// What the devices are connected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// A PCI bus: QEMU's `pc`.
    Pci,
    /// Registers in memory: Firecracker.
    Mmio,
}

/// A device to be had.
#[derive(Clone, Debug)]
pub enum DeviceConfig {
    /// A disk.
    Disk {
        /// Its image.
        disk: Arc<Disk>,
        /// Whether the guest is told not to write.
        read_only: bool,
    },
    /// A network card.
    Net,
    /// A console.
    Console,
    /// Entropy; the same for the same seed.
    Entropy {
        /// What all of it follows from.
        seed: u64,
    },
}

/// The devices of a machine, and the bus that they are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virtio {
    // None behind calls.
    transport: Option<Transport>,
    devices: Vec<Device>,
    // On a PCI bus: the bridge, and a function for each device.
    functions: Vec<Function>,
    config_address: u32,
    // Behind calls: the device that a handle stands for.
    handles: Vec<Option<u8>>,
    #[serde(skip)]
    touched: Touched,
}

/// Whether anything can have changed since the devices were made or put back. Not part of what they are.
#[derive(Clone, Copy, Debug, Default)]
struct Touched(bool);

impl PartialEq for Touched {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Touched {}

impl Virtio {
    /// The devices of `configs`, of which the first [`DEVICES_MAX`] are taken.
    #[must_use]
    pub fn new(transport: Transport, configs: &[DeviceConfig]) -> Self {
        let devices = devices_of(configs.iter().take(DEVICES_MAX));
        let mut functions = Vec::new();
        if transport == Transport::Pci {
            functions.push(Function::host_bridge());
            for (device, number) in devices.iter().zip(0u32..) {
                functions.push(Function::virtio(device, number, line_of_slot(number + 1)));
            }
        }
        let (config_address, handles) = Default::default();
        Self {
            transport: Some(transport),
            devices,
            functions,
            config_address,
            handles,
            touched: Touched(false),
        }
    }

    /// What to tell a kernel on its command line so that it finds the devices: only where they are in memory, as a
    /// PCI bus can be searched.
    #[must_use]
    pub fn kernel_arguments(&self) -> Vec<String> {
        if self.transport != Some(Transport::Mmio) {
            return Vec::new();
        }
        let place = |i: usize| MMIO_BASE + i as u64 * MMIO_BYTES;
        let line = |i: usize| usize::from(MMIO_LINE) + i;
        (0..self.devices.len())
            .map(|i| format!("virtio_mmio.device=4K@{:#x}:{}", place(i), line(i)))
            .collect()
    }

    /// Where the disks' images are, in their order.
    pub fn disks(&self) -> impl Iterator<Item = &Path> {
        self.devices.iter().filter_map(|device| match &device.model {
            Model::Block(block) => block.path(),
            _ => None,
        })
    }

    /// Puts `disks` behind the disks of devices that were read from a file, in their order; false when they
    /// are not as many, or not as large.
    #[must_use]
    pub fn attach(&mut self, disks: &[Arc<Disk>]) -> bool {
        let mut rest = disks.iter();
        let mut fits = true;
        for device in &mut self.devices {
            if let Model::Block(block) = &mut device.model {
                fits &= rest.next().is_some_and(|disk| block.attach(Arc::clone(disk)));
            }
        }
        fits && rest.next().is_none()
    }

    /// Makes this what `snapshot` is, which came from [`Self::snapshot`]. No work when nothing was touched.
    pub fn put_back(&mut self, snapshot: &Self) {
        if self.touched.0 {
            self.clone_from(snapshot);
            self.touched.0 = false;
        }
    }

    /// A copy to put these back to.
    #[must_use]
    pub fn snapshot(&mut self) -> Self {
        self.touched.0 = false;
        self.clone()
    }

    /// The inputs of the interrupt controller that are pulled now, a bit for each: level-triggered.
    #[must_use]
    pub fn lines(&self) -> u32 {
        match self.transport {
            Some(Transport::Pci) => self
                .functions
                .iter()
                .skip(1)
                .zip(&self.devices)
                .filter_map(|(function, device)| function.line(device))
                .fold(0, |lines, line| lines | 1 << line),
            Some(Transport::Mmio) => (u32::from(MMIO_LINE)..)
                .zip(&self.devices)
                .filter(|(_, device)| device.interrupt() != 0)
                .fold(0, |lines, (line, _)| lines | 1 << line),
            None => 0,
        }
    }

    /// Reads `out.len()` bytes (1, 2 or 4) from `port`; false when there is nothing of this at it.
    pub fn port_read(&mut self, port: u16, out: &mut [u8]) -> bool {
        if self.transport != Some(Transport::Pci) {
            return false;
        }
        if is_config(port, out.len()) {
            self.read_config(port, out);
            return true;
        }
        let Some((i, offset)) = self.port_of(port) else { return false };
        self.touched.0 = true;
        pci::read_ports(&mut self.devices[i], offset, out);
        true
    }

    /// Writes `bytes` (1, 2 or 4) to `port`; false when there is nothing of this at it.
    pub fn port_write(&mut self, memory: &mut GuestMemory, port: u16, bytes: &[u8]) -> bool {
        if self.transport != Some(Transport::Pci) {
            return false;
        }
        if is_config(port, bytes.len()) {
            self.write_config(memory, port, bytes);
            return true;
        }
        let Some((i, offset)) = self.port_of(port) else { return false };
        self.touched.0 = true;
        pci::write_ports(&mut self.devices[i], memory, offset, bytes);
        true
    }

    /// Reads device memory; false when there is nothing of this at `at`.
    pub fn memory_read(&mut self, at: u64, out: &mut [u8]) -> bool {
        let Some((i, offset)) = self.memory_of(at) else { return false };
        self.touched.0 = true;
        match self.transport {
            Some(Transport::Pci) => pci::read_memory(&mut self.devices[i], offset, out),
            Some(Transport::Mmio) => mmio::read(&mut self.devices[i], offset, out),
            None => return false,
        }
        true
    }

    /// Writes device memory; false when there is nothing of this at `at`.
    pub fn memory_write(&mut self, memory: &mut GuestMemory, at: u64, bytes: &[u8]) -> bool {
        let Some((i, offset)) = self.memory_of(at) else { return false };
        self.touched.0 = true;
        match self.transport {
            Some(Transport::Pci) => pci::write_memory(&mut self.devices[i], memory, offset, bytes),
            Some(Transport::Mmio) => mmio::write(&mut self.devices[i], memory, offset, bytes),
            None => return false,
        }
        true
    }

    /// Hands a frame to network card number `card`; false when there is none, when too many wait in it already, and
    /// when the frame is longer than [`FRAME_BYTES_MAX`].
    pub fn push_frame(&mut self, memory: &mut GuestMemory, card: usize, frame: &[u8]) -> bool {
        self.touched.0 = true;
        let mut cards = self.devices.iter_mut().filter(|device| matches!(device.model, Model::Net(_)));
        cards.nth(card).is_some_and(|device| {
            let Model::Net(net) = &mut device.model else { return false };
            let taken = net.push(frame);
            device.notify(memory, net::RECEIVE);
            taken
        })
    }

    /// Whether there are any.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        self.devices.iter().any(|device| matches!(&device.model, Model::Net(net) if net.has_sent()))
    }

    /// Frames that the guest has sent since this was last asked, card by card, each with the number of its card.
    pub fn take_frames(&mut self) -> Vec<(usize, Vec<u8>)> {
        let nets = self.devices.iter_mut().filter_map(|device| match &mut device.model {
            Model::Net(net) => Some(net.take_sent()),
            _ => None,
        });
        let numbered = |(card, frames): (usize, Vec<_>)| frames.into_iter().map(move |frame| (card, frame));
        let frames: Vec<_> = nets.enumerate().flat_map(numbered).collect();
        self.touched.0 |= !frames.is_empty();
        frames
    }

    /// Whether network card number `card` would give a frame to the guest at once: the guest has it running, and has
    /// taken all that came before.
    #[must_use]
    pub fn wants_frame(&self, card: usize) -> bool {
        let runs = |device: &Device| self.transport.is_none() || device.serves(net::RECEIVE);
        let card = self.nets().nth(card);
        card.is_some_and(|(device, net)| runs(device) && !net.has_waiting())
    }

    /// How many network cards there are.
    #[must_use]
    pub fn cards(&self) -> usize {
        self.nets().count()
    }

    fn nets(&self) -> impl Iterator<Item = (&Device, &Net)> {
        self.devices.iter().filter_map(|device| match &device.model {
            Model::Net(net) => Some((device, net)),
            _ => None,
        })
    }

    /// Whether the first console has been read empty; `None` when there is no console.
    #[must_use]
    pub fn console_is_read(&self) -> Option<bool> {
        self.devices.iter().find_map(|device| match &device.model {
            Model::Console(console) => Some(!console.has_typed()),
            _ => None,
        })
    }

    /// Whether the guest has written to a console since that was last taken.
    #[must_use]
    pub fn has_console_output(&self) -> bool {
        self.devices
            .iter()
            .any(|device| matches!(&device.model, Model::Console(console) if console.has_said()))
    }

    /// Types into the first console; how many bytes it took.
    pub fn type_in(&mut self, memory: &mut GuestMemory, bytes: &[u8]) -> usize {
        self.touched.0 = true;
        for device in &mut self.devices {
            if let Model::Console(console) = &mut device.model {
                let taken = console.push(bytes);
                device.notify(memory, console::RECEIVE);
                return taken;
            }
        }
        0
    }

    /// What the guest has written to its consoles since this was last asked.
    pub fn take_console(&mut self) -> Vec<u8> {
        let consoles = self.devices.iter_mut().filter_map(|device| match &mut device.model {
            Model::Console(console) => Some(console.take_said()),
            _ => None,
        });
        let said: Vec<u8> = consoles.flatten().collect();
        self.touched.0 |= !said.is_empty();
        said
    }

    /// The device whose BAR0 has `port`, and the port's offset in it.
    fn port_of(&self, port: u16) -> Option<(usize, u32)> {
        self.functions.iter().skip(1).enumerate().find_map(|(i, function)| {
            let (first, ports) = function.ports()?;
            let offset = u32::from(port).checked_sub(first)?;
            (offset < ports).then_some((i, offset))
        })
    }

    /// The device that has the address, and the address's offset in it.
    fn memory_of(&self, at: u64) -> Option<(usize, u32)> {
        let inside = |first: u64, bytes: u64| {
            let offset = at.checked_sub(first).filter(|&offset| offset < bytes)?;
            u32::try_from(offset).ok()
        };
        match self.transport {
            Some(Transport::Mmio) => (0..self.devices.len())
                .find_map(|i| Some((i, inside(MMIO_BASE + i as u64 * MMIO_BYTES, MMIO_BYTES)?))),
            Some(Transport::Pci) => self.functions.iter().skip(1).enumerate().find_map(|(i, function)| {
                let (first, bytes) = function.memory()?;
                Some((i, inside(first, bytes)?))
            }),
            None => None,
        }
    }

    /// The function that the address register names, and the byte in its configuration space.
    fn config_of(&self, port: u16) -> Option<(usize, usize)> {
        let address = self.config_address;
        let [register, device, bus, _] = address.to_le_bytes();
        let present = address >> 31 != 0 && bus == 0 && device % 8 == 0;
        let slot = usize::from(device / 8);
        let at = usize::from(register & 0xfc) + usize::from(port - CONFIG_DATA);
        (present && slot < self.functions.len()).then_some((slot, at))
    }

    fn read_config(&mut self, port: u16, out: &mut [u8]) {
        if port == CONFIG_ADDRESS {
            return out.copy_from_slice(&self.config_address.to_le_bytes());
        }
        let Some((slot, at)) = self.config_of(port) else { return out.fill(0xff) };
        self.touched.0 = true;
        let device = slot.checked_sub(1).and_then(|i| self.devices.get_mut(i));
        self.functions[slot].read_config(device, at, out);
    }

    fn write_config(&mut self, memory: &mut GuestMemory, port: u16, bytes: &[u8]) {
        self.touched.0 = true;
        if port == CONFIG_ADDRESS {
            let word = bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
            self.config_address = word & 0x80ff_fffc;
            return;
        }
        let Some((slot, at)) = self.config_of(port) else { return };
        let device = slot.checked_sub(1).and_then(|i| self.devices.get_mut(i));
        self.functions[slot].write_config(device, memory, at, bytes);
    }
}

/// What `configs` stand for.
fn devices_of<'a>(configs: impl Iterator<Item = &'a DeviceConfig>) -> Vec<Device> {
    let mut cards = 0;
    let model = |config: &DeviceConfig| match config {
        DeviceConfig::Disk { disk, read_only } => Model::Block(Block::new(Arc::clone(disk), *read_only)),
        DeviceConfig::Net => {
            cards += 1;
            Model::Net(Net::new(cards - 1))
        }
        DeviceConfig::Console => Model::Console(Console::default()),
        DeviceConfig::Entropy { seed } => Model::Entropy(Entropy::new(*seed)),
    };
    configs.map(model).map(Device::new).collect()
}

/// Whether an access is to the address register, which takes whole words, or to what it names. The bytes in
/// between are other devices'.
fn is_config(port: u16, bytes: usize) -> bool {
    port == CONFIG_ADDRESS && bytes == 4 || (CONFIG_DATA..CONFIG_DATA + 4).contains(&port)
}
