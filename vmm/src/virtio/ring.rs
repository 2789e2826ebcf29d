//! A virtqueue between two notifications, and the requests in it.
//!
//! The vCPU is stopped while a queue is looked at, so it is `virtio-queue`'s [`Queue`] for that long only, and
//! plain numbers, [`Ring`], for the rest of the time.
//!
//! All of a queue is the guest's. Addresses outside memory, chains that loop and rings that run ahead break the
//! device ([`Broken`]), and [`Budget`] bounds what one notification can cost.

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, Queue, QueueState, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress};

use crate::memory::device::DeviceMemory;

/// The guest has broken the rules of the queue: nothing more is served until it resets the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// What the driver has set up, and how far both sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ring {
    pub max_size: u16,
    pub size: u16,
    pub ready: bool,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub next_available: u16,
    pub next_used: u16,
}

impl Ring {
    pub(crate) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
        }
    }

    /// The queue to work on; [`Self::keep`] takes it back.
    pub(crate) fn queue(&self, event_idx: bool, memory: &DeviceMemory<'_>) -> Result<Queue, Broken> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: event_idx,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        };
        let queue = Queue::try_from(state).map_err(|_| Broken)?;
        if queue.is_valid(memory) { Ok(queue) } else { Err(Broken) }
    }

    pub(crate) fn keep(&mut self, queue: &Queue) {
        (self.next_available, self.next_used) = (queue.next_avail(), queue.next_used());
    }

    /// The three parts of a queue of before virtio 1.0, which are one after the other.
    pub(crate) fn place_legacy(&mut self, page: u32) {
        const PAGE_BYTES: u64 = 4096;
        let size = u64::from(self.max_size);
        self.size = self.max_size;
        self.descriptors = u64::from(page) * PAGE_BYTES;
        self.available = self.descriptors + 16 * size;
        self.used = (self.available + 6 + 2 * size).next_multiple_of(PAGE_BYTES);
        self.ready = page != 0;
    }
}

/// What one notification may cost.
#[derive(Debug)]
pub(crate) struct Budget {
    descriptors: usize,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self { descriptors: 1 << 16, bytes: 64 << 20 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    at: GuestAddress,
    bytes: usize,
}

/// One chain of descriptors: what the driver hands over, and where it wants the answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub head: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Request {
    pub(crate) fn take(
        chain: DescriptorChain<&DeviceMemory<'_>>,
        budget: &mut Budget,
    ) -> Result<Self, Broken> {
        let mut request = Self { head: chain.head_index(), readable: Vec::new(), writable: Vec::new() };
        let mut complete = false;
        for descriptor in chain {
            budget.descriptors = budget.descriptors.checked_sub(1).ok_or(Broken)?;
            budget.bytes = budget.bytes.checked_sub(u64::from(descriptor.len())).ok_or(Broken)?;
            let segment = Segment { at: descriptor.addr(), bytes: descriptor.len() as usize };
            if descriptor.is_write_only() {
                request.writable.push(segment);
            } else {
                request.readable.push(segment);
            }
            complete = !descriptor.has_next();
        }
        // A chain that leads nowhere, or round and round.
        if complete { Ok(request) } else { Err(Broken) }
    }

    /// Bytes that the device may write.
    pub(crate) fn writable_bytes(&self) -> usize {
        self.writable.iter().map(|segment| segment.bytes).sum()
    }

    /// All that the driver hands over.
    pub(crate) fn gather(&self, memory: &DeviceMemory<'_>) -> Result<Vec<u8>, Broken> {
        let mut all = vec![0; self.readable.iter().map(|segment| segment.bytes).sum()];
        let mut rest = &mut all[..];
        for segment in &self.readable {
            let (now, later) = rest.split_at_mut(segment.bytes);
            memory.read_slice(now, segment.at).map_err(|_| Broken)?;
            rest = later;
        }
        Ok(all)
    }

    /// Writes `bytes` from byte `from` of the answer on; what does not fit is left out.
    pub(crate) fn scatter(&self, memory: &DeviceMemory<'_>, from: usize, bytes: &[u8]) -> Result<(), Broken> {
        let (mut skip, mut rest) = (from, bytes);
        for segment in &self.writable {
            if skip >= segment.bytes {
                skip -= segment.bytes;
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(segment.bytes - skip));
            let at = segment.at.0.checked_add(skip as u64).ok_or(Broken)?;
            memory.write_slice(now, GuestAddress(at)).map_err(|_| Broken)?;
            (skip, rest) = (0, later);
        }
        Ok(())
    }
}
