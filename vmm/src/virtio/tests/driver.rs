//! A driver of virtio devices, as simple as can be.

use super::super::{DeviceConfig, Transport, Virtio};
use crate::addr::Gpa;
use crate::memory::{GuestMemory, MEMORY_BYTES_MIN};

pub(super) const VERSION_1: u64 = 1 << 32;
const RING_BYTES: u64 = 0x4000;
const FIRST_RING: u64 = 0x10_0000;

/// How the driver reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Mmio,
    /// PCI, by its capabilities.
    Modern,
    /// PCI, as before virtio 1.0.
    Legacy,
}

pub(super) const WAYS: [Way; 3] = [Way::Mmio, Way::Modern, Way::Legacy];

impl Way {
    pub(super) fn transport(self) -> Transport {
        if self == Self::Mmio { Transport::Mmio } else { Transport::Pci }
    }
}

/// Where the parts of a device's registers are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub common: u64,
    pub notify: u64,
    pub isr: u64,
    pub config: u64,
    pub ports: u16,
}

/// A queue, from the driver's side.
#[derive(Clone, Debug)]
pub(super) struct DriverQueue {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    next_available: u16,
    pub seen: u16,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Buffer {
    /// The device reads it.
    Out(u64, u32),
    /// The device writes it.
    In(u64, u32),
}

pub(super) struct Driver {
    pub memory: GuestMemory,
    pub virtio: Virtio,
    pub way: Way,
    pub places: Places,
    pub queues: Vec<DriverQueue>,
}

/// Reads configuration space of the device in `slot`.
pub(super) fn config_word(virtio: &mut Virtio, memory: &mut GuestMemory, slot: u32, at: u32) -> u32 {
    let address = 0x8000_0000 | slot << 11 | at & 0xfc;
    assert!(virtio.port_write(memory, 0xcf8, &address.to_le_bytes()));
    let mut word = [0; 4];
    assert!(virtio.port_read(0xcfc, &mut word));
    u32::from_le_bytes(word)
}

pub(super) fn set_config_word(virtio: &mut Virtio, memory: &mut GuestMemory, slot: u32, at: u32, word: u32) {
    let address = 0x8000_0000 | slot << 11 | at & 0xfc;
    assert!(virtio.port_write(memory, 0xcf8, &address.to_le_bytes()));
    assert!(virtio.port_write(memory, 0xcfc, &word.to_le_bytes()));
}

impl Driver {
    /// A machine with these devices, and a driver for the first of them that has not begun.
    pub(super) fn new(way: Way, configs: &[DeviceConfig]) -> Self {
        let mut memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
        let mut virtio = Virtio::new(way.transport(), configs);
        let places = match way {
            Way::Mmio => Places { config: 0xd000_0100, ..Places::default() },
            Way::Modern => find(&mut virtio, &mut memory),
            Way::Legacy => {
                let bar = config_word(&mut virtio, &mut memory, 1, 0x10);
                assert_eq!(bar & 3, 1, "an I/O BAR");
                Places { ports: (bar & 0xfffc) as u16, ..Places::default() }
            }
        };
        Self { memory, virtio, way, places, queues: Vec::new() }
    }

    /// The same, with `queues` queues set up and the device running.
    pub(super) fn start(way: Way, configs: &[DeviceConfig], queues: u16) -> Self {
        Self::start_with(way, configs, queues, 0)
    }

    /// The same, accepting these of the features besides.
    pub(super) fn start_with(way: Way, configs: &[DeviceConfig], queues: u16, features: u64) -> Self {
        let mut driver = Self::new(way, configs);
        driver.bring_up(queues, features);
        driver
    }

    pub(super) fn bring_up(&mut self, queues: u16, features: u64) {
        self.queues.clear();
        self.set_status(0);
        self.set_status(1);
        self.set_status(3);
        let version = if self.way == Way::Legacy { 0 } else { VERSION_1 };
        assert_eq!(self.features() & features, features);
        self.accept(features | version);
        if self.way != Way::Legacy {
            self.set_status(0xb);
            assert_eq!(self.status(), 0xb, "the features are agreed on");
        }
        for queue in 0..queues {
            self.set_up(queue);
        }
        self.set_status(if self.way == Way::Legacy { 7 } else { 0xf });
    }

    pub(super) fn read(&mut self, at: u64, bytes: usize) -> u64 {
        let mut out = [0; 8];
        assert!(self.virtio.memory_read(at, &mut out[..bytes]));
        u64::from_le_bytes(out)
    }

    pub(super) fn write(&mut self, at: u64, bytes: usize, value: u64) {
        assert!(self.virtio.memory_write(&mut self.memory, at, &value.to_le_bytes()[..bytes]));
    }

    pub(super) fn input(&mut self, offset: u16, bytes: usize) -> u32 {
        let mut out = [0; 4];
        assert!(self.virtio.port_read(self.places.ports + offset, &mut out[..bytes]));
        u32::from_le_bytes(out)
    }

    pub(super) fn output(&mut self, offset: u16, bytes: usize, value: u32) {
        let port = self.places.ports + offset;
        assert!(self.virtio.port_write(&mut self.memory, port, &value.to_le_bytes()[..bytes]));
    }

    pub(super) fn status(&mut self) -> u8 {
        (match self.way {
            Way::Mmio => self.read(0xd000_0070, 4),
            Way::Modern => self.read(self.places.common + 20, 1),
            Way::Legacy => self.input(18, 1).into(),
        }) as u8
    }

    pub(super) fn set_status(&mut self, status: u8) {
        match self.way {
            Way::Mmio => self.write(0xd000_0070, 4, status.into()),
            Way::Modern => self.write(self.places.common + 20, 1, status.into()),
            Way::Legacy => self.output(18, 1, status.into()),
        }
    }

    pub(super) fn features(&mut self) -> u64 {
        let mut features = 0;
        for half in [1, 0] {
            let bits = match self.way {
                Way::Mmio => {
                    self.write(0xd000_0014, 4, half);
                    self.read(0xd000_0010, 4)
                }
                Way::Modern => {
                    self.write(self.places.common, 4, half);
                    self.read(self.places.common + 4, 4)
                }
                Way::Legacy => self.input(0, 4).into(),
            };
            features = features << 32 | bits;
        }
        if self.way == Way::Legacy { features & 0xffff_ffff } else { features }
    }

    pub(super) fn accept(&mut self, features: u64) {
        for half in [0, 1] {
            let bits = features >> (32 * half) & 0xffff_ffff;
            match self.way {
                Way::Mmio => {
                    self.write(0xd000_0024, 4, half);
                    self.write(0xd000_0020, 4, bits);
                }
                Way::Modern => {
                    self.write(self.places.common + 8, 4, half);
                    self.write(self.places.common + 12, 4, bits);
                }
                Way::Legacy if half == 0 => self.output(4, 4, bits as u32),
                Way::Legacy => {}
            }
        }
    }

    /// Sets up queue number `index`, with the size that the device offers or 8 where it can be chosen.
    fn set_up(&mut self, index: u16) {
        let descriptors = FIRST_RING + u64::from(index) * RING_BYTES;
        let mut queue = DriverQueue {
            size: 8,
            descriptors,
            available: descriptors + 0x1000,
            used: descriptors + 0x2000,
            next_available: 0,
            seen: 0,
        };
        self.memory.write(Gpa(descriptors), &[0; RING_BYTES as usize]).unwrap();
        let parts = [queue.descriptors, queue.available, queue.used];
        match self.way {
            Way::Mmio => {
                self.write(0xd000_0030, 4, index.into());
                assert!(self.read(0xd000_0034, 4) >= 8);
                self.write(0xd000_0038, 4, 8);
                for (register, part) in [0x80, 0x90, 0xa0].into_iter().zip(parts) {
                    self.write(0xd000_0000 + register, 4, part & 0xffff_ffff);
                    self.write(0xd000_0004 + register, 4, part >> 32);
                }
                self.write(0xd000_0044, 4, 1);
            }
            Way::Modern => {
                let common = self.places.common;
                self.write(common + 22, 2, index.into());
                assert!(self.read(common + 24, 2) >= 8);
                self.write(common + 24, 2, 8);
                for (register, part) in [32, 40, 48].into_iter().zip(parts) {
                    self.write(common + register, 8, part);
                    assert_eq!(self.read(common + register, 8), part);
                }
                self.write(common + 28, 2, 1);
            }
            Way::Legacy => {
                self.output(14, 2, index.into());
                queue.size = self.input(12, 2) as u16;
                queue.available = descriptors + 16 * u64::from(queue.size);
                queue.used = (queue.available + 6 + 2 * u64::from(queue.size)).next_multiple_of(4096);
                assert!(queue.used + 0x1000 <= descriptors + RING_BYTES);
                self.output(8, 4, (descriptors >> 12) as u32);
                assert_eq!(u64::from(self.input(8, 4)), descriptors >> 12);
            }
        }
        self.queues.push(queue);
    }

    pub(super) fn notify(&mut self, queue: u16) {
        match self.way {
            Way::Mmio => self.write(0xd000_0050, 4, queue.into()),
            Way::Modern => self.write(self.places.notify + 4 * u64::from(queue), 2, queue.into()),
            Way::Legacy => self.output(16, 2, queue.into()),
        }
    }

    /// Why the device interrupts; it stops to.
    pub(super) fn interrupts(&mut self) -> u8 {
        match self.way {
            Way::Mmio => {
                let reasons = self.read(0xd000_0060, 4);
                self.write(0xd000_0064, 4, reasons);
                reasons as u8
            }
            Way::Modern => self.read(self.places.isr, 1) as u8,
            Way::Legacy => self.input(19, 1) as u8,
        }
    }

    pub(super) fn config(&mut self, offset: u16, bytes: usize) -> u64 {
        match self.way {
            Way::Legacy => self.input(20 + offset, bytes).into(),
            _ => self.read(self.places.config + u64::from(offset), bytes),
        }
    }

    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.memory.write(Gpa(at), bytes).unwrap();
    }

    pub(super) fn get(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.memory.read(Gpa(at), &mut out).unwrap();
        out
    }

    fn half_word(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }

    /// Puts a chain into a queue, its first descriptor being number `head`, and does not notify.
    pub(super) fn add(&mut self, queue: u16, head: u16, buffers: &[Buffer]) {
        let mut ring = self.queues[usize::from(queue)].clone();
        for (i, buffer) in buffers.iter().enumerate() {
            let number = head + i as u16;
            let (at, bytes, flags) = match *buffer {
                Buffer::Out(at, bytes) => (at, bytes, 0),
                Buffer::In(at, bytes) => (at, bytes, 2),
            };
            let more = u16::from(i + 1 < buffers.len());
            let mut descriptor = at.to_le_bytes().to_vec();
            descriptor.extend(bytes.to_le_bytes());
            descriptor.extend((flags | more).to_le_bytes());
            descriptor.extend((number + 1).to_le_bytes());
            self.put(ring.descriptors + 16 * u64::from(number), &descriptor);
        }
        let slot = u64::from(ring.next_available % ring.size);
        self.put(ring.available + 4 + 2 * slot, &head.to_le_bytes());
        ring.next_available = ring.next_available.wrapping_add(1);
        self.put(ring.available + 2, &ring.next_available.to_le_bytes());
        self.queues[usize::from(queue)] = ring;
    }

    /// The next chain that the device is done with: its first descriptor, and the bytes of the answer.
    pub(super) fn next_used(&mut self, queue: u16) -> Option<(u32, u32)> {
        let ring = self.queues[usize::from(queue)].clone();
        if self.half_word(ring.used + 2) == ring.seen {
            return None;
        }
        let at = ring.used + 4 + 8 * u64::from(ring.seen % ring.size);
        self.queues[usize::from(queue)].seen = ring.seen.wrapping_add(1);
        let word = |at| u32::from_le_bytes(self.get(at, 4).try_into().unwrap());
        Some((word(at), word(at + 4)))
    }

    /// Hands over one chain and takes it back; the bytes of the answer.
    pub(super) fn request(&mut self, queue: u16, buffers: &[Buffer]) -> Option<u32> {
        self.add(queue, 0, buffers);
        self.notify(queue);
        let (head, bytes) = self.next_used(queue)?;
        assert_eq!(head, 0);
        Some(bytes)
    }
}

/// Finds the parts of a device by its capabilities.
fn find(virtio: &mut Virtio, memory: &mut GuestMemory) -> Places {
    let bar = u64::from(config_word(virtio, memory, 1, 0x20) & !0xf);
    let mut places = Places::default();
    let mut at = config_word(virtio, memory, 1, 0x34) & 0xff;
    while at != 0 {
        let [id, next, _, kind] = config_word(virtio, memory, 1, at).to_le_bytes();
        assert_eq!(id, 9, "vendor-specific");
        assert_eq!(config_word(virtio, memory, 1, at + 4) & 0xff, 4, "of BAR4");
        let place = bar + u64::from(config_word(virtio, memory, 1, at + 8));
        match kind {
            1 => places.common = place,
            2 => {
                places.notify = place;
                assert_eq!(config_word(virtio, memory, 1, at + 16), 4, "the multiplier");
            }
            3 => places.isr = place,
            4 => places.config = place,
            _ => {}
        }
        at = u32::from(next);
    }
    places
}
