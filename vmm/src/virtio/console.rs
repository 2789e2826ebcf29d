//! A console with one port.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::device::Served;
use super::ring::{Broken, Request};
use crate::memory::device::DeviceMemory;

/// The queue that the guest reads from; the other one is what it writes to.
pub(crate) const RECEIVE: usize = 0;
/// Bytes kept of what the guest writes, and of what waits for it; more are lost.
const BYTES_MAX: usize = 1 << 20;

/// A console's model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Console {
    typed: VecDeque<u8>,
    said: Vec<u8>,
}

impl Console {
    /// `struct virtio_console_config`: no size is offered, and no further ports.
    pub(crate) fn config() -> Vec<u8> {
        vec![0; 12]
    }

    /// Bytes for the guest; how many of them were taken.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BYTES_MAX.saturating_sub(self.typed.len()));
        self.typed.extend(&bytes[..taken]);
        taken
    }

    /// Whether something waits for the guest to read it.
    pub(crate) fn has_typed(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Whether the guest has written something that was not taken.
    pub(crate) fn has_said(&self) -> bool {
        !self.said.is_empty()
    }

    /// What the guest has written since this was last asked.
    pub(crate) fn take_said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.said)
    }

    pub(crate) fn serve(
        &mut self,
        queue: usize,
        request: &Request,
        memory: &DeviceMemory<'_>,
    ) -> Result<Served, Broken> {
        if queue == RECEIVE {
            if self.typed.is_empty() {
                return Ok(Served::Later);
            }
            let count = self.typed.len().min(request.writable_bytes());
            let bytes: Vec<u8> = self.typed.drain(..count).collect();
            request.scatter(memory, 0, &bytes)?;
            return Ok(Served::Done(u32::try_from(count).unwrap_or(u32::MAX)));
        }
        let bytes = request.gather(memory)?;
        let kept = bytes.len().min(BYTES_MAX.saturating_sub(self.said.len()));
        self.said.extend_from_slice(&bytes[..kept]);
        Ok(Served::Done(0))
    }
}
