//! What the devices remember, and how they are put back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bus, Profile};
use crate::foreign::devices::hvt;
use crate::foreign::devices::interrupts::Interrupts;
use crate::foreign::devices::pit::Pit;
use crate::foreign::devices::rtc::Rtc;
use crate::foreign::devices::serial::{Serial, SerialImage};
use crate::reset::{Mutation, Planted};
use crate::virtio::Virtio;

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
    poll: Option<hvt::Poll>,
}

impl Bus {
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
            poll: image.poll,
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
            poll,
            power,
            agent,
            tick_ns: _,
            unknown,
        } = self;
        (*profile, *now_ns) = (image.profile, image.now_ns);
        (*hvt, *poll) = (image.hvt, image.poll);
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
            poll: self.poll,
        }
    }
}
