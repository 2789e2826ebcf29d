//! Guests that break every rule: nothing panics or hangs, nothing outside is touched, and what happens
//! depends on nothing but what the guest does.

use std::io::Write as _;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::{DeviceConfig, Disk, Transport, Virtio};
use super::driver::{Buffer, Driver, WAYS};
use crate::addr::Gpa;
use crate::memory::{GuestMemory, MEMORY_BYTES_MIN};

const DATA: u64 = 0x20_0000;

/// The device says that it is broken, stays so, and is well again after a reset.
#[test]
fn a_queue_that_makes_no_sense_breaks_the_device_until_it_is_reset() {
    let entropy = [DeviceConfig::Entropy { seed: 1 }];
    for way in WAYS {
        for what in ["a loop", "outside memory", "no such descriptor", "far ahead", "endless", "nested"] {
            let mut driver = Driver::start(way, &entropy, 1);
            let ring = driver.queues[0].clone();
            driver.add(0, 0, &[Buffer::In(DATA, 8), Buffer::In(DATA, 8)]);
            let part = |at: u64, bytes: u32, flags: u16, next: u16| {
                [&at.to_le_bytes()[..], &bytes.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                    .concat()
            };
            match what {
                "a loop" => driver.put(ring.descriptors + 16, &part(DATA, 8, 3, 0)),
                "outside memory" => driver.put(ring.descriptors, &part(MEMORY_BYTES_MIN - 4, 8, 2, 0)),
                "no such descriptor" => driver.put(ring.available + 4, &ring.size.to_le_bytes()),
                "far ahead" => driver.put(ring.available + 2, &(ring.size + 1).to_le_bytes()),
                "endless" => driver.put(ring.descriptors, &part(DATA, u32::MAX, 2, 0)),
                _ => {
                    driver.put(ring.descriptors, &part(DATA, 16, 4, 0));
                    driver.put(DATA, &part(DATA, 16, 4, 0));
                }
            }
            driver.notify(0);
            assert_eq!(driver.interrupts(), 2, "{way:?}: {what}: the driver is told");
            assert_eq!(driver.next_used(0), None, "{way:?}: {what}");
            driver.notify(0);
            assert_eq!(driver.interrupts(), 0, "{way:?}: {what}: once");
            driver.bring_up(1, 0);
            assert_eq!(driver.request(0, &[Buffer::In(DATA, 8)]), Some(8), "{way:?}: {what}");
        }
    }
}

fn configs(disk: &std::sync::Arc<Disk>) -> [DeviceConfig; 4] {
    [
        DeviceConfig::Disk { disk: disk.clone(), read_only: false },
        DeviceConfig::Net,
        DeviceConfig::Console,
        DeviceConfig::Entropy { seed: 7 },
    ]
}

/// One thing that a guest, or the host, does.
#[derive(Clone, Debug)]
enum Step {
    PortRead(u16, usize),
    PortWrite(u16, Vec<u8>),
    MemoryRead(u64, usize),
    MemoryWrite(u64, Vec<u8>),
    Ram(u64, Vec<u8>),
    Frame(Vec<u8>),
    Type(Vec<u8>),
    Take,
}

/// Values that are more likely to mean something than others.
fn value(random: &mut StdRng) -> u64 {
    match random.random_range(0..6) {
        0 => random.random_range(0..16),
        1 => 1 << random.random_range(0..64),
        2 => random.random_range(0..16) * 0x1000,
        3 => u64::MAX - random.random_range(0..16),
        4 => random.random_range(0..MEMORY_BYTES_MIN),
        _ => random.random(),
    }
}

fn step(random: &mut StdRng, transport: Transport) -> Step {
    let bytes = |random: &mut StdRng, most: usize| {
        let length = 1usize << random.random_range(0..=most);
        value(random).to_le_bytes()[..length].to_vec()
    };
    let device: u64 = random.random_range(0..5);
    let register = match random.random_range(0..4) {
        0 => random.random_range(0..0x40),
        1 => random.random_range(0..0x120),
        2 => random.random_range(0..0x4000),
        _ => 4 * random.random_range(0..0x40),
    };
    let place = match transport {
        Transport::Mmio => 0xd000_0000 + device * 0x1000 + register,
        Transport::Pci => 0xfe00_0000 + device * 0x4000 + register,
    };
    let port = match random.random_range(0..4) {
        0 => 0xcf8,
        1 => 0xcfc + random.random_range(0..4),
        _ => 0xc000 + random.random_range(0..0x140),
    };
    match random.random_range(0..40) {
        0..6 => Step::PortRead(port, 1 << random.random_range(0..3)),
        6..10 if random.random_bool(0.3) => {
            let address =
                0x8000_0000u32 | random.random_range(0..6u32) << 11 | random.random_range(0..64u32) << 2;
            Step::PortWrite(0xcf8, address.to_le_bytes().to_vec())
        }
        6..14 => Step::PortWrite(port, bytes(random, 2)),
        14..18 => Step::MemoryRead(place, 1 << random.random_range(0..4)),
        18..30 => Step::MemoryWrite(place, bytes(random, 3)),
        30..36 => Step::Ram(random.random_range(0..MEMORY_BYTES_MIN - 64), bytes(random, 3)),
        36 => Step::Frame(vec![random.random(); random.random_range(0..2000)]),
        37 => Step::Type(vec![random.random(); random.random_range(0..20)]),
        _ => Step::Take,
    }
}

/// Sets up a queue as a driver would, but for what is in it: else random guests rarely get past the status.
fn set_up(random: &mut StdRng, transport: Transport) -> Vec<Step> {
    let device = random.random_range(0..4u64);
    let queue = random.random_range(0..2u64);
    let rings = random.random_range(0..16u64) * 0x1_0000;
    let mut steps = Vec::new();
    match transport {
        Transport::Mmio => {
            let base = 0xd000_0000 + device * 0x1000;
            for (at, value) in [
                (0x70, 0),
                (0x24, 1),
                (0x20, 1),
                (0x70, 0xb),
                (0x30, queue),
                (0x38, 8),
                (0x80, rings),
                (0x90, rings + 0x1000),
                (0xa0, rings + 0x2000),
                (0x44, 1),
                (0x70, 0xf),
            ] {
                steps.push(Step::MemoryWrite(base + at, value.to_le_bytes()[..4].to_vec()));
            }
        }
        Transport::Pci => {
            let port = 0xc000 + device as u16 * 0x40;
            for (at, bytes, value) in
                [(18, 1, 0), (18, 1, 3), (14, 2, queue), (8, 4, rings >> 12), (18, 1, 7)]
            {
                steps.push(Step::PortWrite(port + at, value.to_le_bytes()[..bytes].to_vec()));
            }
        }
    }
    // Descriptors that are nearly right, and available ones.
    for descriptor in 0..8u64 {
        let at = rings + random.random_range(0..0x8000);
        let length = [1, 16, 512, 513, 4096][random.random_range(0..5)];
        let flags = [0, 1, 2, 3, 4][random.random_range(0..5)];
        let next = random.random_range(0..9u16);
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(u32::to_le_bytes(length));
        bytes.extend(u16::to_le_bytes(flags));
        bytes.extend(next.to_le_bytes());
        steps.push(Step::Ram(rings + 16 * descriptor, bytes));
    }
    // Behind 256 descriptors, as before virtio 1.0; in memory it was put there above.
    let available = rings + 16 * 256;
    let heads: Vec<u8> = (0..8).flat_map(|_| random.random_range(0..9u16).to_le_bytes()).collect();
    steps.push(Step::Ram(available + 4, heads));
    steps.push(Step::Ram(available + 2, random.random_range(1..10u16).to_le_bytes().to_vec()));
    match transport {
        Transport::Mmio => {
            steps.push(Step::MemoryWrite(
                0xd000_0050 + device * 0x1000,
                (queue as u32).to_le_bytes().to_vec(),
            ));
        }
        Transport::Pci => {
            steps.push(Step::PortWrite(0xc010 + device as u16 * 0x40, (queue as u16).to_le_bytes().to_vec()));
        }
    }
    steps
}

/// Does it, and returns what the guest or the host sees.
fn apply(virtio: &mut Virtio, memory: &mut GuestMemory, step: &Step) -> Vec<u8> {
    match step {
        Step::PortRead(port, bytes) => {
            let mut out = vec![0x5a; *bytes];
            virtio.port_read(*port, &mut out);
            out
        }
        Step::PortWrite(port, bytes) => vec![virtio.port_write(memory, *port, bytes).into()],
        Step::MemoryRead(at, bytes) => {
            let mut out = vec![0x5a; *bytes];
            virtio.memory_read(*at, &mut out);
            out
        }
        Step::MemoryWrite(at, bytes) => vec![virtio.memory_write(memory, *at, bytes).into()],
        Step::Ram(at, bytes) => {
            memory.write(Gpa(*at), bytes).unwrap();
            Vec::new()
        }
        Step::Frame(frame) => vec![virtio.push_frame(memory, 0, frame).into()],
        Step::Type(bytes) => virtio.type_in(memory, bytes).to_le_bytes().to_vec(),
        Step::Take => {
            let frames = virtio.take_frames().into_iter().flat_map(|(_, frame)| frame).collect();
            [frames, virtio.take_console()].concat()
        }
    }
}

#[test]
fn random_guests_break_nothing_and_are_put_back() {
    let seed = rand::random();
    println!("seed {seed}");
    random_guests(seed, 60);
}

fn random_guests(seed: u64, rounds: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[0x11; 20_000]).unwrap();
    let disk = Disk::open(file.path()).unwrap();
    let mut served = 0;
    for round in 0..rounds {
        let transport = if round % 2 == 0 { Transport::Mmio } else { Transport::Pci };
        let mut memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
        let mut virtio = Virtio::new(transport, &configs(&disk));
        let run = |virtio: &mut Virtio, memory: &mut GuestMemory, steps: &[Step]| {
            let seen: Vec<Vec<u8>> = steps.iter().map(|step| apply(virtio, memory, step)).collect();
            seen
        };
        let steps = |random: &mut StdRng| {
            let mut steps = Vec::new();
            for _ in 0..30 {
                if random.random_bool(0.5) {
                    steps.extend(set_up(random, transport));
                } else {
                    for _ in 0..20 {
                        steps.push(step(random, transport));
                    }
                }
            }
            steps
        };
        run(&mut virtio, &mut memory, &steps(&mut random));
        let (frozen, ram) = (virtio.snapshot(), memory.ram_bytes().to_vec());
        memory.forget_host_writes();
        let steps = steps(&mut random);
        let seen = run(&mut virtio, &mut memory, &steps);
        let (after, ram_after) = (virtio.clone(), memory.ram_bytes().to_vec());
        served += usize::from(virtio.lines() != 0);

        // Every page that differs is marked; what is marked is put back; the second time is like the first.
        for page in 0..ram.len() / 4096 {
            let range = page * 4096..(page + 1) * 4096;
            let differs = ram[range.clone()] != ram_after[range.clone()];
            let marked = memory.host_dirty().contains(&(page as u64));
            assert!(marked || !differs, "seed {seed}, round {round}: page {page} is not marked");
            if marked {
                memory.write(Gpa(range.start as u64), &ram[range]).unwrap();
            }
        }
        virtio.put_back(&frozen);
        assert!(virtio == frozen, "seed {seed}, round {round}");
        assert!(memory.ram_bytes() == ram, "seed {seed}, round {round}");
        assert!(run(&mut virtio, &mut memory, &steps) == seen, "seed {seed}, round {round}");
        assert!(memory.ram_bytes() == ram_after, "seed {seed}, round {round}");
        assert!(virtio == after, "seed {seed}, round {round}");

        // And a copy that went through a file goes on the same way.
        let bytes = postcard::to_stdvec(&frozen).unwrap();
        let mut copy: Virtio = postcard::from_bytes(&bytes).unwrap();
        assert!(copy.attach(std::slice::from_ref(&disk)));
        memory.write(Gpa(0), &ram).unwrap();
        assert!(run(&mut copy, &mut memory, &steps) == seen, "seed {seed}, round {round}");
    }
    assert!(served > rounds / 10, "seed {seed}: only {served} of {rounds} guests got anything done");
    assert_eq!(std::fs::read(file.path()).unwrap(), [0x11; 20_000], "the image is only read");
}
