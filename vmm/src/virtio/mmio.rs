//! Registers of a device in memory: what Firecracker has.
//!
//! Source: virtio 1.2, section 4.2.2. Version 2 alone: what Firecracker offers.

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};

use super::device::Device;
use crate::memory::GuestMemory;

/// "virt"
const MAGIC: u32 = 0x7472_6976;
/// "UFRK"; any value will do.
const VENDOR: u32 = 0x4b52_4655;

/// Reads a register.
pub(crate) fn read(device: &mut Device, offset: u32, out: &mut [u8]) {
    if let Some(at) = offset.checked_sub(VIRTIO_MMIO_CONFIG) {
        return device.read_config(at as usize, out);
    }
    let value = match offset {
        VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
        VIRTIO_MMIO_VERSION => 2,
        VIRTIO_MMIO_DEVICE_ID => device.model.id(),
        VIRTIO_MMIO_VENDOR_ID => VENDOR,
        VIRTIO_MMIO_DEVICE_FEATURES => device.selected_features(),
        VIRTIO_MMIO_QUEUE_NUM_MAX => device.ring().map_or(0, |ring| ring.max_size.into()),
        VIRTIO_MMIO_QUEUE_READY => device.ring().map_or(0, |ring| ring.ready.into()),
        VIRTIO_MMIO_INTERRUPT_STATUS => device.interrupt().into(),
        VIRTIO_MMIO_STATUS => device.status().into(),
        // The configuration never changes.
        VIRTIO_MMIO_CONFIG_GENERATION => 0,
        _ => 0,
    };
    // Registers are read as a whole.
    match <&mut [u8; 4]>::try_from(&mut *out) {
        Ok(bytes) => *bytes = value.to_le_bytes(),
        Err(_) => out.fill(0),
    }
}

/// Writes a register.
pub(crate) fn write(device: &mut Device, memory: &mut GuestMemory, offset: u32, bytes: &[u8]) {
    let Ok(&word) = <&[u8; 4]>::try_from(bytes) else { return };
    let value = u32::from_le_bytes(word);
    match offset {
        VIRTIO_MMIO_DEVICE_FEATURES_SEL => device.device_features_select = value,
        VIRTIO_MMIO_DRIVER_FEATURES => device.accept_features(value),
        VIRTIO_MMIO_DRIVER_FEATURES_SEL => device.driver_features_select = value,
        VIRTIO_MMIO_QUEUE_SEL => device.queue_select = u16::try_from(value).unwrap_or(u16::MAX),
        VIRTIO_MMIO_QUEUE_NOTIFY => device.notify(memory, value as usize),
        VIRTIO_MMIO_INTERRUPT_ACK => device.acknowledge(value as u8),
        VIRTIO_MMIO_STATUS => device.set_status(memory, value as u8),
        _ => {
            let Some(ring) = device.ring() else { return };
            match offset {
                VIRTIO_MMIO_QUEUE_NUM => ring.size = u16::try_from(value).unwrap_or(u16::MAX),
                VIRTIO_MMIO_QUEUE_READY => ring.ready = value & 1 != 0,
                VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut ring.descriptors, value),
                VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut ring.descriptors, value),
                VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut ring.available, value),
                VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut ring.available, value),
                VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut ring.used, value),
                VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut ring.used, value),
                _ => {}
            }
        }
    }
}

pub(crate) fn set_low(word: &mut u64, half: u32) {
    *word = *word & !0xffff_ffff | u64::from(half);
}

pub(crate) fn set_high(word: &mut u64, half: u32) {
    *word = *word & 0xffff_ffff | u64::from(half) << 32;
}
