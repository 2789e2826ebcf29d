//! What all virtio devices have in common, whatever bus they are on: features, status, queues, and the reason
//! for an interrupt.
//!
//! Source: virtio 1.2, chapters 2 and 3.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{QueueOwnedT as _, QueueT as _};

use super::block::Block;
use super::console::Console;
use super::entropy::Entropy;
use super::net::Net;
use super::ring::{Broken, Budget, Request, Ring};
use crate::memory::GuestMemory;
use crate::memory::device::DeviceMemory;

const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It is done, and so many bytes of the answer were written.
    Done(u32),
    /// There is nothing to answer yet: it stays in the queue.
    Later,
}

/// What kind of device it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Model {
    Block(Block),
    Net(Net),
    Console(Console),
    Entropy(Entropy),
}

impl Model {
    /// Virtio's number for it.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Block(_) => virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK,
            Self::Net(_) => virtio_bindings::virtio_ids::VIRTIO_ID_NET,
            Self::Console(_) => virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE,
            Self::Entropy(_) => virtio_bindings::virtio_ids::VIRTIO_ID_RNG,
        }
    }

    fn features(&self) -> u64 {
        match self {
            Self::Block(block) => block.features(),
            Self::Net(_) => Net::FEATURES,
            Self::Console(_) | Self::Entropy(_) => 0,
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        match self {
            Self::Block(_) => &[256],
            Self::Net(_) => &[256, 256],
            Self::Console(_) => &[64, 64],
            Self::Entropy(_) => &[64],
        }
    }

    fn config(&self) -> Vec<u8> {
        match self {
            Self::Block(block) => block.config(),
            Self::Net(net) => net.config(),
            Self::Console(_) => Console::config(),
            Self::Entropy(_) => Vec::new(),
        }
    }

    /// Serves a request in queue number `queue`. `modern`: virtio 1.0 and later was agreed on.
    fn serve(
        &mut self,
        queue: usize,
        modern: bool,
        request: &Request,
        memory: &DeviceMemory<'_>,
    ) -> Result<Served, Broken> {
        match self {
            Self::Block(block) => block.serve(request, memory),
            Self::Net(net) => net.serve(queue, modern, request, memory),
            Self::Console(console) => console.serve(queue, request, memory),
            Self::Entropy(entropy) => entropy.serve(request, memory),
        }
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub model: Model,
    pub rings: Vec<Ring>,
    pub device_features_select: u32,
    pub driver_features_select: u32,
    pub queue_select: u16,
    pub driver_features: u64,
    status: u8,
    /// Why it wants to interrupt.
    interrupt: u8,
}

impl Device {
    pub(crate) fn new(model: Model) -> Self {
        let rings = model.queue_sizes().iter().map(|&size| Ring::new(size)).collect();
        Self {
            model,
            rings,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            driver_features: 0,
            status: 0,
            interrupt: 0,
        }
    }

    /// What it offers.
    pub(crate) fn features(&self) -> u64 {
        self.model.features() | VERSION_1 | EVENT_IDX | INDIRECT
    }

    /// The 32 bits of it that the driver has selected.
    pub(crate) fn selected_features(&self) -> u32 {
        half(self.features(), self.device_features_select)
    }

    /// The driver accepts these of the 32 that it has selected.
    pub(crate) fn accept_features(&mut self, bits: u32) {
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        if self.status & FEATURES_OK == 0 {
            self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(bits) << shift;
        }
    }

    /// The queue that the driver has selected.
    pub(crate) fn ring(&mut self) -> Option<&mut Ring> {
        self.rings.get_mut(usize::from(self.queue_select))
    }

    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// The driver says how far it is; 0 resets the device.
    pub(crate) fn set_status(&mut self, memory: &mut GuestMemory, status: u8) {
        if status == 0 {
            let model = self.model.clone();
            *self = Self::new(model);
            return;
        }
        let began = self.status & DRIVER_OK == 0 && status & DRIVER_OK != 0;
        let mut status = status | self.status & NEEDS_RESET;
        if self.driver_features & !self.features() != 0 {
            status &= !FEATURES_OK; // the driver sees that it asked for too much
        }
        self.status = status;
        if began {
            // What was put there before is served without a notification.
            for queue in 0..self.rings.len() {
                self.notify(memory, queue);
            }
        }
    }

    pub(crate) fn interrupt(&self) -> u8 {
        self.interrupt
    }

    /// The driver has seen these reasons.
    pub(crate) fn acknowledge(&mut self, reasons: u8) {
        self.interrupt &= !reasons;
    }

    /// Whether requests in queue number `queue` are served.
    pub(crate) fn serves(&self, queue: usize) -> bool {
        let running = self.status & DRIVER_OK != 0 && self.status & NEEDS_RESET == 0;
        running && self.rings.get(queue).is_some_and(|ring| ring.ready)
    }

    /// The driver has put something into queue number `queue`.
    pub(crate) fn notify(&mut self, memory: &mut GuestMemory, queue: usize) {
        if !self.serves(queue) {
            return;
        }
        match self.serve(&memory.for_device(), queue) {
            Ok(true) => self.interrupt |= VIRTIO_MMIO_INT_VRING as u8,
            Ok(false) => {}
            Err(Broken) => {
                self.status |= NEEDS_RESET;
                self.interrupt |= VIRTIO_MMIO_INT_CONFIG as u8;
            }
        }
    }

    /// Serves all that is in the queue; true when the driver wants to know.
    fn serve(&mut self, memory: &DeviceMemory<'_>, index: usize) -> Result<bool, Broken> {
        let event_idx = self.driver_features & EVENT_IDX != 0;
        let modern = self.driver_features & VERSION_1 != 0;
        let ring = self.rings.get_mut(index).ok_or(Broken)?;
        let mut queue = ring.queue(event_idx, memory)?;
        let mut budget = Budget::new();
        let mut used = false;
        while let Some(chain) = queue.iter(memory).map_err(|_| Broken)?.next() {
            let request = Request::take(chain, &mut budget)?;
            match self.model.serve(index, modern, &request, memory)? {
                Served::Done(bytes) => queue.add_used(memory, request.head, bytes).map_err(|_| Broken)?,
                Served::Later => {
                    queue.go_to_previous_position();
                    break;
                }
            }
            used = true;
        }
        // With event indices this is also where the driver learns when to notify again.
        queue.enable_notification(memory).map_err(|_| Broken)?;
        let wanted = used && queue.needs_notification(memory).map_err(|_| Broken)?;
        ring.keep(&queue);
        Ok(wanted)
    }

    /// Reads the device's own configuration; 0 where it has none.
    pub(crate) fn read_config(&self, offset: usize, out: &mut [u8]) {
        let config = self.model.config();
        for (byte, at) in out.iter_mut().zip(offset..) {
            *byte = config.get(at).copied().unwrap_or(0);
        }
    }
}

/// The low half of `bits` for 0, the high half for 1.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
