//! What a driver finds on the buses, and how it and the device come to terms.

use super::super::{DEVICES_MAX, DeviceConfig, Transport, Virtio};
use super::driver::{Buffer, Driver, VERSION_1, WAYS, Way, config_word, set_config_word};
use crate::memory::{GuestMemory, MEMORY_BYTES_MIN};

const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const DATA: u64 = 0x20_0000;

fn memory() -> GuestMemory {
    GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0
}

#[test]
fn a_pci_bus_is_searched_and_its_bars_say_their_sizes() {
    let mut memory = memory();
    let configs = [DeviceConfig::Net, DeviceConfig::Console, DeviceConfig::Entropy { seed: 1 }];
    let mut virtio = Virtio::new(Transport::Pci, &configs);
    let mut word = |virtio: &mut Virtio, slot, at| config_word(virtio, &mut memory, slot, at);
    assert_eq!(word(&mut virtio, 0, 0), 0x1237_8086, "the bridge");
    assert_eq!(word(&mut virtio, 0, 8) >> 8, 0x06_0000);
    for (slot, id, subsystem) in [(1, 0x1000, 1), (2, 0x1003, 3), (3, 0x1005, 4)] {
        assert_eq!(word(&mut virtio, slot, 0), id << 16 | 0x1af4);
        assert_eq!(word(&mut virtio, slot, 8) & 0xff, 0, "transitional");
        assert_eq!(word(&mut virtio, slot, 0x2c) >> 16, subsystem);
        assert_eq!(word(&mut virtio, slot, 0x3c) & 0xffff, if slot == 2 { 0x10a } else { 0x10b });
    }
    assert_eq!(word(&mut virtio, 4, 0), u32::MAX, "nobody there");
    for (at, size) in [(0x10, 0xffff_ffc1u32), (0x20, 0xffff_c000), (0x14, 0), (0x30, 0)] {
        let before = config_word(&mut virtio, &mut memory, 2, at);
        set_config_word(&mut virtio, &mut memory, 2, at, u32::MAX);
        assert_eq!(config_word(&mut virtio, &mut memory, 2, at), size, "{at:#x}");
        set_config_word(&mut virtio, &mut memory, 2, at, before);
        assert_eq!(config_word(&mut virtio, &mut memory, 2, at), before);
    }
    set_config_word(&mut virtio, &mut memory, 2, 0, 0);
    set_config_word(&mut virtio, &mut memory, 0, 4, u32::MAX);
    assert_eq!(config_word(&mut virtio, &mut memory, 2, 0), 0x1003_1af4, "an identity does not change");
    assert_eq!(config_word(&mut virtio, &mut memory, 0, 4), 0);
    // Parts of a word, and a port in between that is not this bus's.
    let mut half = [0; 2];
    config_word(&mut virtio, &mut memory, 2, 0);
    assert!(virtio.port_read(0xcfe, &mut half));
    assert_eq!(half, [0x03, 0x10]);
    assert!(!virtio.port_read(0xcf9, &mut [0]) && !virtio.port_write(&mut memory, 0xcf9, &[6]));
}

#[test]
fn a_device_moves_with_its_bars_and_goes_with_its_decoding() {
    let mut memory = memory();
    let mut virtio = Virtio::new(Transport::Pci, &[DeviceConfig::Net]);
    let mut out = [0; 1];
    set_config_word(&mut virtio, &mut memory, 1, 0x10, 0xe000);
    set_config_word(&mut virtio, &mut memory, 1, 0x20, 0xe000_0000);
    assert!(virtio.port_read(0xe000 + 18, &mut out) && !virtio.port_read(0xc000 + 18, &mut out));
    assert!(virtio.memory_read(0xe000_0014, &mut out) && !virtio.memory_read(0xfe00_0014, &mut out));
    set_config_word(&mut virtio, &mut memory, 1, 4, 0);
    assert!(!virtio.port_read(0xe000 + 18, &mut out) && !virtio.memory_read(0xe000_0014, &mut out));
}

#[test]
fn a_device_is_reached_through_configuration_space_alone() {
    let mut memory = memory();
    let mut virtio = Virtio::new(Transport::Pci, &[DeviceConfig::Net]);
    let mut at = config_word(&mut virtio, &mut memory, 1, 0x34) & 0xff;
    while config_word(&mut virtio, &mut memory, 1, at).to_le_bytes()[3] != 5 {
        at = u32::from(config_word(&mut virtio, &mut memory, 1, at).to_le_bytes()[1]);
    }
    set_config_word(&mut virtio, &mut memory, 1, at + 4, 4);
    set_config_word(&mut virtio, &mut memory, 1, at + 8, 4); // the features' low half
    set_config_word(&mut virtio, &mut memory, 1, at + 12, 4);
    let features = config_word(&mut virtio, &mut memory, 1, at + 16);
    assert_eq!(features, 1 << 5 | 1 << 16 | 1 << 28 | 1 << 29);
    set_config_word(&mut virtio, &mut memory, 1, at + 8, 0);
    set_config_word(&mut virtio, &mut memory, 1, at + 16, 1); // selects the high half
    set_config_word(&mut virtio, &mut memory, 1, at + 8, 4);
    assert_eq!(config_word(&mut virtio, &mut memory, 1, at + 16), 1, "version 1");
}

#[test]
fn devices_in_memory_are_told_on_the_command_line() {
    let configs = [DeviceConfig::Net, DeviceConfig::Entropy { seed: 1 }];
    let mut virtio = Virtio::new(Transport::Mmio, &configs);
    let arguments = ["virtio_mmio.device=4K@0xd0000000:5", "virtio_mmio.device=4K@0xd0001000:6"];
    assert_eq!(virtio.kernel_arguments(), arguments);
    let mut word = |at| {
        let mut out = [0; 4];
        virtio.memory_read(at, &mut out).then(|| u32::from_le_bytes(out))
    };
    for (base, id) in [(0xd000_0000, 1), (0xd000_1000, 4)] {
        let read = [0, 4, 8].map(|at| word(base + at).unwrap());
        assert_eq!(read, [u32::from_le_bytes(*b"virt"), 2, id]);
    }
    assert_eq!((word(0xd000_2000), word(0xcfff_ffff)), (None, None));
    assert!(!virtio.port_read(0xcf8, &mut [0; 4]), "there is no PCI bus");
    let many = vec![DeviceConfig::Net; 40];
    assert_eq!(Virtio::new(Transport::Mmio, &many).kernel_arguments().len(), DEVICES_MAX);
}

#[test]
fn features_that_are_not_offered_are_not_agreed_on() {
    for way in [Way::Mmio, Way::Modern] {
        let mut driver = Driver::new(way, &[DeviceConfig::Net]);
        assert_eq!(driver.features() & (VERSION_1 | EVENT_IDX | INDIRECT), VERSION_1 | EVENT_IDX | INDIRECT);
        driver.set_status(3);
        driver.accept(VERSION_1 | 1 << 40);
        driver.set_status(0xb);
        assert_eq!(driver.status(), 3, "{way:?}");
        driver.accept(VERSION_1);
        driver.set_status(0xb);
        assert_eq!(driver.status(), 0xb, "{way:?}");
        driver.accept(VERSION_1 | 1 << 41);
        driver.set_status(0xf);
        assert_eq!(driver.status(), 0xf, "{way:?}: agreed is agreed");
    }
}

#[test]
fn nothing_is_served_before_the_driver_is_ready_and_all_of_it_then() {
    for way in WAYS {
        let mut driver = Driver::new(way, &[DeviceConfig::Entropy { seed: 1 }]);
        driver.bring_up(1, 0);
        let ready = driver.status();
        driver.set_status(0);
        driver.bring_up(1, 0);
        driver.set_status(ready & !4);
        driver.add(0, 0, &[Buffer::In(DATA, 8)]);
        driver.notify(0);
        assert_eq!(driver.next_used(0), None, "{way:?}");
        driver.set_status(ready);
        assert_eq!(driver.next_used(0), Some((0, 8)), "{way:?}");
    }
}

#[test]
fn with_event_indices_the_driver_is_told_when_it_asked() {
    let entropy = [DeviceConfig::Entropy { seed: 1 }];
    let mut driver = Driver::start_with(Way::Modern, &entropy, 1, EVENT_IDX);
    let ring = driver.queues[0].clone();
    // used_event: after the third one.
    driver.put(ring.available + 4 + 2 * u64::from(ring.size), &2u16.to_le_bytes());
    for (count, told) in [(1u16, 0), (2, 0), (3, 1), (4, 0)] {
        assert_eq!(driver.request(0, &[Buffer::In(DATA, 8)]), Some(8));
        assert_eq!(driver.interrupts(), told, "{count}");
        // avail_event: the device wants to hear of the very next one.
        let event = driver.get(ring.used + 4 + 8 * u64::from(ring.size), 2);
        assert_eq!(event, count.to_le_bytes());
    }
}

#[test]
fn a_table_of_descriptors_may_be_somewhere_else() {
    for way in WAYS {
        let entropy = [DeviceConfig::Entropy { seed: 1 }];
        let mut driver = Driver::start_with(way, &entropy, 1, INDIRECT);
        let table = 0x23_0000u64;
        let part = |at: u64, bytes: u32, flags: u16, next: u16| {
            [&at.to_le_bytes()[..], &bytes.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
        };
        driver.put(table, &[part(DATA, 5, 3, 1), part(DATA + 5, 6, 2, 0)].concat());
        driver.add(0, 0, &[Buffer::In(DATA, 0)]);
        let ring = driver.queues[0].clone();
        driver.put(ring.descriptors, &part(table, 32, 4, 0));
        driver.notify(0);
        assert_eq!(driver.next_used(0), Some((0, 11)), "{way:?}");
    }
}

#[test]
fn an_interrupt_can_be_switched_off() {
    let mut driver = Driver::start(Way::Modern, &[DeviceConfig::Entropy { seed: 1 }], 1);
    assert_eq!(driver.virtio.lines(), 0);
    driver.request(0, &[Buffer::In(DATA, 8)]).unwrap();
    assert_eq!(driver.virtio.lines(), 1 << 11);
    let (virtio, memory) = (&mut driver.virtio, &mut driver.memory);
    assert_eq!(config_word(virtio, memory, 1, 4) >> 16 & 8, 8, "the status register says so");
    set_config_word(virtio, memory, 1, 4, 0x407);
    assert_eq!(virtio.lines(), 0);
    set_config_word(virtio, memory, 1, 4, 7);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.virtio.lines(), 0, "acknowledged by reading it");
}
