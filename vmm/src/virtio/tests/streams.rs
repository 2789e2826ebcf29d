//! Network cards, consoles, entropy.

use super::super::DeviceConfig;
use super::driver::{Buffer, Driver, WAYS, Way};

const OUT: u64 = 0x20_0000;
const IN: u64 = 0x21_0000;
const RECEIVE: u16 = 0;
const SEND: u16 = 1;

fn header(way: Way) -> u32 {
    if way == Way::Legacy { 10 } else { 12 }
}

#[test]
fn frames_go_both_ways() {
    for way in WAYS {
        let mut driver = Driver::start(way, &[DeviceConfig::Net], 2);
        let mac: Vec<u8> = (0..6).map(|i| driver.config(i, 1) as u8).collect();
        assert_eq!((mac[0] & 3, driver.config(6, 2)), (2, 1), "{way:?}: a local address, and the link is up");

        driver.put(OUT, &[0; 12]);
        driver.put(OUT + u64::from(header(way)), b"to the world");
        assert_eq!(driver.request(SEND, &[Buffer::Out(OUT, header(way) + 12)]), Some(0), "{way:?}");
        assert_eq!(driver.virtio.take_frames(), [(0, b"to the world".to_vec())]);
        assert!(driver.virtio.take_frames().is_empty());

        // The first frame comes before there is room, the second one finds it.
        assert!(driver.virtio.push_frame(&mut driver.memory, 0, b"first"));
        driver.add(RECEIVE, 0, &[Buffer::In(IN, 1526)]);
        driver.notify(RECEIVE);
        assert_eq!(driver.next_used(RECEIVE), Some((0, header(way) + 5)), "{way:?}");
        assert_eq!(driver.get(IN + u64::from(header(way)), 5), b"first");
        assert_eq!(driver.interrupts(), 1);
        driver.add(RECEIVE, 1, &[Buffer::In(IN, header(way)), Buffer::In(IN + 0x1000, 1514)]);
        driver.notify(RECEIVE);
        assert_eq!((driver.next_used(RECEIVE), driver.interrupts()), (None, 0), "{way:?}");
        assert!(driver.virtio.push_frame(&mut driver.memory, 0, b"second"));
        assert_eq!(driver.next_used(RECEIVE), Some((1, header(way) + 6)), "{way:?}");
        assert_eq!(driver.get(IN + 0x1000, 6), b"second");
        assert_eq!((driver.virtio.lines() != 0, driver.interrupts()), (true, 1), "{way:?}");
    }
}

#[test]
fn a_frame_that_does_not_fit_is_lost_and_the_next_one_is_not() {
    let mut driver = Driver::start(Way::Modern, &[DeviceConfig::Net], 2);
    driver.add(RECEIVE, 0, &[Buffer::In(IN, 20)]);
    driver.notify(RECEIVE);
    assert!(driver.virtio.push_frame(&mut driver.memory, 0, b"too long for it"));
    assert!(driver.virtio.push_frame(&mut driver.memory, 0, b"fits"));
    assert_eq!(driver.next_used(RECEIVE), Some((0, 16)));
    assert_eq!(driver.get(IN + 12, 4), b"fits");
    assert!(!driver.virtio.push_frame(&mut driver.memory, 0, &[0; 70_000]), "no such frames");
    for _ in 0..1024 {
        assert!(driver.virtio.push_frame(&mut driver.memory, 0, b"waits"));
    }
    assert!(!driver.virtio.push_frame(&mut driver.memory, 0, b"one too many"));
}

#[test]
fn a_console_says_and_hears() {
    for way in WAYS {
        let mut driver = Driver::start(way, &[DeviceConfig::Net, DeviceConfig::Console], 2);
        assert_eq!(driver.virtio.type_in(&mut driver.memory, b"kept"), 4, "not started yet");
        let mut driver = Driver::start(way, &[DeviceConfig::Console], 2);
        driver.put(OUT, b"hello");
        assert_eq!(driver.request(SEND, &[Buffer::Out(OUT, 2), Buffer::Out(OUT + 2, 3)]), Some(0));
        assert_eq!(driver.virtio.take_console(), b"hello", "{way:?}");
        driver.add(RECEIVE, 0, &[Buffer::In(IN, 4)]);
        driver.add(RECEIVE, 1, &[Buffer::In(IN + 8, 4)]);
        driver.notify(RECEIVE);
        assert_eq!(driver.next_used(RECEIVE), None);
        assert_eq!(driver.virtio.type_in(&mut driver.memory, b"abcdef"), 6);
        assert_eq!((driver.next_used(RECEIVE), driver.next_used(RECEIVE)), (Some((0, 4)), Some((1, 2))));
        assert_eq!((driver.get(IN, 4), driver.get(IN + 8, 2)), (b"abcd".to_vec(), b"ef".to_vec()));
    }
}

#[test]
fn entropy_is_the_same_for_the_same_seed_and_goes_on() {
    let draw = |seed: u64, way: Way| {
        let mut driver = Driver::start(way, &[DeviceConfig::Entropy { seed }], 1);
        assert_eq!(driver.request(0, &[Buffer::In(IN, 13), Buffer::In(IN + 13, 20)]), Some(33));
        let first = driver.get(IN, 33);
        assert_eq!(driver.request(0, &[Buffer::In(IN, 33)]), Some(33));
        (first, driver.get(IN, 33))
    };
    let (first, second) = draw(1, Way::Mmio);
    assert_ne!(first, second);
    assert_eq!(draw(1, Way::Legacy), (first.clone(), second));
    assert_ne!(draw(2, Way::Mmio).0, first);
}
