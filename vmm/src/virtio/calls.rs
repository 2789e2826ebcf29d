//! Disks and network cards without a bus: the image names them by a handle in each of its calls, as Solo5's hvt has
//! it. A handle is an index into the image's manifest.

use super::block::Block;
use super::device::{Device, Model};
use super::net::Net;
use super::{DeviceConfig, Touched, Virtio, devices_of};

/// Handles at most: as many as a set of them has bits.
pub(crate) const HANDLES_MAX: usize = 64;

/// What an image that calls its devices is told of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    /// A disk of so many bytes.
    Disk(u64),
    /// A network card with this address.
    Card([u8; 6]),
}

/// What there is to tell of the devices of `configs`; `None` for those that cannot be called.
pub(crate) fn properties(configs: &[DeviceConfig]) -> Vec<Option<Property>> {
    let property = |device: Device| match &device.model {
        Model::Block(block) => Some(Property::Disk(block.bytes())),
        Model::Net(net) => Some(Property::Card(net.mac())),
        Model::Console(_) | Model::Entropy(_) => None,
    };
    devices_of(configs.iter()).into_iter().map(property).collect()
}

impl Virtio {
    /// The devices of `configs`, of which number `handles[n]` is reached by handle `n`.
    pub(crate) fn behind_calls(configs: &[DeviceConfig], mut handles: Vec<Option<u8>>) -> Self {
        handles.truncate(HANDLES_MAX);
        Self {
            transport: None,
            devices: devices_of(configs.iter().take(HANDLES_MAX)),
            functions: Vec::new(),
            config_address: 0,
            handles,
            touched: Touched(false),
        }
    }

    /// The disk that `handle` stands for.
    pub(crate) fn disk_of(&mut self, handle: u64) -> Option<&mut Block> {
        match self.model_of(handle)? {
            Model::Block(block) => Some(block),
            _ => None,
        }
    }

    /// The network card that `handle` stands for.
    pub(crate) fn card_of(&mut self, handle: u64) -> Option<&mut Net> {
        match self.model_of(handle)? {
            Model::Net(net) => Some(net),
            _ => None,
        }
    }

    fn model_of(&mut self, handle: u64) -> Option<&mut Model> {
        self.touched.0 = true;
        let number = (*self.handles.get(usize::try_from(handle).ok()?)?)?;
        Some(&mut self.devices.get_mut(usize::from(number))?.model)
    }

    /// The handles of cards in which frames wait, a bit for each.
    pub(crate) fn ready(&self) -> u64 {
        let waits = |number: u8| {
            let device = self.devices.get(usize::from(number));
            device.is_some_and(|device| matches!(&device.model, Model::Net(net) if net.has_waiting()))
        };
        let numbered = (0..).zip(&self.handles);
        let ready = numbered.filter(|(_, number)| number.is_some_and(waits));
        ready.fold(0, |set, (handle, _): (u32, _)| set | 1 << handle)
    }
}
