use std::io::Write as _;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::addr::Gpa;
use crate::memory::MEMORY_BYTES_MIN;
use crate::virtio::{DeviceConfig, Disk};

const AT: u32 = 0x2000;
const DATA: u64 = 0x4000;
/// Handles in [`machine`]: a disk, one that cannot be written, two cards.
const DISK: u64 = 1;
const FIXED: u64 = 3;
const FIRST: u64 = 4;
const SECOND: u64 = 2;
const DISK_BYTES: u64 = 8 * 512;

/// Memory, and devices whose handles are not in their own order.
fn machine() -> (GuestMemory, Virtio) {
    let memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[b'.'; DISK_BYTES as usize]).unwrap();
    let disk = Disk::open(file.path()).unwrap();
    let configs = [
        DeviceConfig::Disk { disk: disk.clone(), read_only: false },
        DeviceConfig::Disk { disk, read_only: true },
        DeviceConfig::Net,
        DeviceConfig::Net,
    ];
    let handles = vec![None, Some(0), Some(3), Some(1), Some(2)];
    (memory, Virtio::behind_calls(&configs, handles))
}

fn put(memory: &mut GuestMemory, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write(Gpa(AT.into()), &bytes).unwrap();
}

fn word(memory: &GuestMemory, index: u64) -> u64 {
    let mut bytes = [0; 8];
    memory.read(Gpa(u64::from(AT) + index * 8), &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// Calls `number` with `words`; its result, which is in word `result`.
fn ask(memory: &mut GuestMemory, devices: &mut Virtio, number: u16, words: &[u64]) -> u32 {
    put(memory, &[words, &[0x5a5a_5a5a]].concat());
    assert_eq!(call(memory, devices, PORT + number, AT, 0), Some(Call::Done));
    word(memory, words.len() as u64) as u32
}

#[test]
fn calls_find_their_arguments_and_nonsense_is_harmless() {
    let (mut memory, mut devices) = machine();
    memory.write(Gpa(0x1000), b"hello").unwrap();
    put(&mut memory, &[0x1000, 5]);
    let mut ask = |memory: &mut GuestMemory, port| call(memory, &mut devices, port, AT, 77);
    assert_eq!(ask(&mut memory, 0x502), Some(Call::Print(b"hello".to_vec())));
    assert_eq!(ask(&mut memory, 0x508), Some(Call::Halt(5)));
    assert_eq!(ask(&mut memory, 0x503), Some(Call::Wait { nanoseconds: 0x1000, at: AT }));
    assert_eq!(ask(&mut memory, 0x501), Some(Call::Done));
    assert_eq!(word(&memory, 0), 77);
    for port in 0x4ff..0x520 {
        for at in [u32::MAX - 7, u32::MAX, MEMORY_BYTES_MIN as u32 - 4, 0] {
            let served = call(&mut memory, &mut devices, port, at, 0);
            assert_eq!(served.is_some(), (0x501..=0x508).contains(&port), "{port:#x}");
        }
    }
    // The windows are the host's.
    put(&mut memory, &[crate::memory::WINDOWS_GPA.0, 8]);
    assert_eq!(call(&mut memory, &mut devices, 0x502, AT, 0), Some(Call::Done));
}

#[test]
fn a_disk_is_read_and_written_by_the_byte() {
    let (mut memory, mut devices) = machine();
    memory.write(Gpa(DATA), b"written").unwrap();
    assert_eq!(ask(&mut memory, &mut devices, BLOCK_WRITE, &[DISK, 510, DATA, 7]), OK);
    assert_eq!(ask(&mut memory, &mut devices, BLOCK_READ, &[DISK, 509, DATA + 100, 9]), OK);
    let mut read = [0; 9];
    memory.read(Gpa(DATA + 100), &mut read).unwrap();
    assert_eq!(&read, b".written.");
    assert_eq!(ask(&mut memory, &mut devices, BLOCK_READ, &[FIXED, 510, DATA, 7]), OK);
    memory.read(Gpa(DATA), &mut read[..7]).unwrap();
    assert_eq!(&read[..7], b".......", "another disk");
    // The last byte, and what is behind it; no such device; another kind of device; no such memory.
    assert_eq!(ask(&mut memory, &mut devices, BLOCK_READ, &[DISK, DISK_BYTES - 1, DATA, 1]), OK);
    for words in [
        [DISK, DISK_BYTES, DATA, 0],
        [DISK, DISK_BYTES - 1, DATA, 2],
        [DISK, u64::MAX, DATA, 2],
        [DISK, 1, DATA, u64::MAX],
        [0, 0, DATA, 1],
        [5, 0, DATA, 1],
        [u64::MAX, 0, DATA, 1],
        [FIRST, 0, DATA, 1],
        [DISK, 0, MEMORY_BYTES_MIN - 1, 2],
        [DISK, 0, u64::MAX, 2],
    ] {
        assert_eq!(ask(&mut memory, &mut devices, BLOCK_READ, &words), INVALID, "{words:x?}");
        assert_eq!(ask(&mut memory, &mut devices, BLOCK_WRITE, &words), INVALID, "{words:x?}");
    }
    assert_eq!(ask(&mut memory, &mut devices, BLOCK_WRITE, &[FIXED, 0, DATA, 1]), INVALID);
}

#[test]
fn frames_come_and_go_and_end_a_wait() {
    let (mut memory, mut devices) = machine();
    memory.write(Gpa(DATA), b"frame").unwrap();
    assert_eq!(ask(&mut memory, &mut devices, NET_WRITE, &[SECOND, DATA, 5]), OK);
    assert_eq!(devices.take_frames(), [(1, b"frame".to_vec())]);
    assert_eq!(ask(&mut memory, &mut devices, NET_WRITE, &[DISK, DATA, 5]), INVALID);
    assert_eq!(ask(&mut memory, &mut devices, NET_WRITE, &[FIRST, DATA, 1 << 20]), INVALID, "no such frames");
    assert_eq!(ask(&mut memory, &mut devices, NET_READ, &[FIRST, DATA, 99]), AGAIN);

    let poll = Poll { until_ns: 1000, at: AT };
    put(&mut memory, &[1000, 5, 5]);
    assert!(devices.wants_frame(1) && !poll.end(&mut memory, &devices, 999));
    assert_eq!(word(&memory, 1), 5);
    assert!(poll.end(&mut memory, &devices, 1000), "time is over");
    assert_eq!((word(&memory, 1), word(&memory, 2) as u32), (0, 0));
    assert!(devices.push_frame(&mut memory, 1, b"one") && devices.push_frame(&mut memory, 0, b"other"));
    assert!(!devices.push_frame(&mut memory, 2, b"none"));
    assert!(!devices.wants_frame(1) && poll.end(&mut memory, &devices, 0));
    assert_eq!((word(&memory, 1), word(&memory, 2) as u32), (1 << FIRST | 1 << SECOND, 2));

    // What there is no room for is cut off, as a tap device does it.
    assert_eq!(ask(&mut memory, &mut devices, NET_READ, &[FIRST, DATA, 3]), OK);
    let mut frame = [0; 4];
    memory.read(Gpa(DATA), &mut frame).unwrap();
    assert_eq!((&frame, word(&memory, 2)), (b"othm", 3));
    assert_eq!(ask(&mut memory, &mut devices, NET_READ, &[SECOND, MEMORY_BYTES_MIN, 3]), INVALID);
    assert_eq!(ask(&mut memory, &mut devices, NET_READ, &[SECOND, DATA, 99]), OK, "it is still there");
    assert_eq!(word(&memory, 2), 3);
    assert_eq!(devices.ready(), 0);
}

#[test]
fn random_calls_break_nothing_and_are_put_back() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut memory, mut devices) = machine();
    let snapshot = devices.snapshot();
    let mut results = std::collections::BTreeMap::new();
    for _ in 0..200 {
        for _ in 0..50 {
            let mut any = |usual: &[u64]| match random.random_range(0..10) {
                0 => random.random(),
                1 => 1 << random.random_range(0..64),
                2 => 0u64.wrapping_sub(random.random_range(0..4)),
                _ => usual[random.random_range(0..usual.len())],
            };
            let handle = any(&[1, 2, 3, 4]);
            let [a, b] = [0; 2].map(|_| any(&[0, 1, 512, DATA, DISK_BYTES - 1, MEMORY_BYTES_MIN - 1]));
            let bytes = any(&[0, 1, 60, 512, 5000]);
            let number = random.random_range(WALL_TIME..=HALT);
            let words = if matches!(number, BLOCK_READ | BLOCK_WRITE) {
                vec![handle, a, b, bytes]
            } else {
                vec![handle, b, bytes]
            };
            put(&mut memory, &words);
            if random.random_range(0..4) == 0 {
                devices.push_frame(&mut memory, random.random_range(0..3), &[1; 60]);
            }
            call(&mut memory, &mut devices, PORT + number, AT, 0).unwrap();
            let result = word(&memory, words.len() as u64) as u32;
            *results.entry((number, result.min(3))).or_insert(0) += 1;
        }
        devices.put_back(&snapshot);
        assert!(devices == snapshot, "seed {seed}");
    }
    for number in [BLOCK_WRITE, BLOCK_READ, NET_WRITE, NET_READ] {
        for result in [OK, INVALID] {
            assert!(results.contains_key(&(number, result)), "seed {seed}: {results:?}");
        }
    }
}
