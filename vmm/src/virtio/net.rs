//! A network card. Frames for the guest wait until it has room; frames of the guest's are kept for whoever
//! asks: the record of the run, or a socket.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP};

use super::device::Served;
use super::ring::{Broken, Request};
use crate::memory::device::DeviceMemory;

/// A locally administered address, the same in every machine: of the first card. Others count on.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x55, 0x46, 0x01];
/// The queue that the guest receives from; the other one is what it sends to.
pub(crate) const RECEIVE: usize = 0;
/// Frames that may wait for the guest.
const WAITING_MAX: usize = 1024;
/// Bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = 65_550;
/// Bytes of frames that are kept of what the guest sends; more are counted.
const SENT_BYTES_MAX: usize = 4 << 20;

/// A card's model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Net {
    // How many cards the machine has before it.
    number: u8,
    waiting: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    sent_bytes: usize,
    lost: u64,
}

impl Net {
    pub(crate) const FEATURES: u64 = 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS;

    /// The card that has `number` cards before it.
    pub(crate) fn new(number: u8) -> Self {
        Self { number, ..Self::default() }
    }

    /// Its address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        let mut mac = MAC;
        mac[5] = mac[5].wrapping_add(self.number);
        mac
    }

    /// `struct virtio_net_config` as far as its features go.
    pub(crate) fn config(&self) -> Vec<u8> {
        [&self.mac()[..], &[VIRTIO_NET_S_LINK_UP as u8, 0]].concat()
    }

    /// A frame for the guest; false when it is too long, or too many are waiting.
    pub(crate) fn push(&mut self, frame: &[u8]) -> bool {
        let taken = self.waiting.len() < WAITING_MAX && frame.len() <= FRAME_BYTES_MAX;
        if taken {
            self.waiting.push_back(frame.to_vec());
        }
        taken
    }

    /// Whether a frame waits for the guest to have room for it.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The frame that has waited longest; the guest has it now.
    pub(crate) fn take_waiting(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front()
    }

    /// The guest sends a frame, which may be lost.
    pub(crate) fn keep(&mut self, frame: &[u8]) {
        if frame.len() <= FRAME_BYTES_MAX && self.sent_bytes + frame.len() <= SENT_BYTES_MAX {
            self.sent_bytes += frame.len();
            self.sent.push(frame.to_vec());
        } else {
            self.lost += 1;
        }
    }

    pub(crate) fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// What the guest has sent since this was last asked.
    pub(crate) fn take_sent(&mut self) -> Vec<Vec<u8>> {
        self.sent_bytes = 0;
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn serve(
        &mut self,
        queue: usize,
        modern: bool,
        request: &Request,
        memory: &DeviceMemory<'_>,
    ) -> Result<Served, Broken> {
        // Before virtio 1.0 the header ends before num_buffers, as merged buffers are not offered.
        let header = if modern { 12 } else { 10 };
        if queue == RECEIVE {
            self.receive(header, request, memory)
        } else {
            self.send(header, request, memory)
        }
    }

    fn receive(
        &mut self,
        header: usize,
        request: &Request,
        memory: &DeviceMemory<'_>,
    ) -> Result<Served, Broken> {
        let room = request.writable_bytes();
        // A frame that the guest has no room for is lost, as on a wire.
        while self.waiting.front().is_some_and(|frame| header + frame.len() > room) {
            self.waiting.pop_front();
            self.lost += 1;
        }
        let Some(frame) = self.waiting.pop_front() else { return Ok(Served::Later) };
        let mut head = [0; 12];
        head[10] = 1; // num_buffers
        request.scatter(memory, 0, &head[..header])?;
        request.scatter(memory, header, &frame)?;
        Ok(Served::Done(u32::try_from(header + frame.len()).unwrap_or(u32::MAX)))
    }

    fn send(
        &mut self,
        header: usize,
        request: &Request,
        memory: &DeviceMemory<'_>,
    ) -> Result<Served, Broken> {
        let said = request.gather(memory)?;
        self.keep(said.get(header..).ok_or(Broken)?);
        Ok(Served::Done(0))
    }
}
