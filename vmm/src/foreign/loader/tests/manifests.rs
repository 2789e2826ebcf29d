//! Solo5's manifests: devices that fit, devices that do not, and manifests that somebody broke on purpose.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::virtio::{DeviceConfig, Disk};

const BLOCK: u32 = 1;
const NET: u32 = 2;

fn entry(name: &str, kind: u32) -> Vec<u8> {
    let mut entry = name.as_bytes().to_vec();
    entry.resize(68, 0);
    entry.extend(kind.to_le_bytes());
    entry.resize(104, 0);
    entry
}

fn manifest(devices: &[(&str, u32)]) -> Vec<u8> {
    let mut bytes = [1u32.to_le_bytes(), (devices.len() as u32 + 1).to_le_bytes()].concat();
    bytes.extend(entry("", 1 << 30));
    devices.iter().for_each(|(name, kind)| bytes.extend(entry(name, *kind)));
    bytes
}

/// An image for Solo5's hvt that wants these.
pub(super) fn hvt(devices: &[(&str, u32)]) -> Vec<u8> {
    ElfFile { is_64: true, hvt: Some(manifest(devices)), ..ElfFile::default() }.build()
}

fn disk(bytes: u64) -> DeviceConfig {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    DeviceConfig::Disk { disk: Arc::clone(&Disk::open(file.path()).unwrap()), read_only: false }
}

#[test]
fn devices_are_attached_to_what_the_manifest_names_in_their_order() {
    let image = hvt(&[("in", NET), ("data", BLOCK), ("out", NET), ("more", BLOCK)]);
    let devices = [disk(1024), disk(1500), DeviceConfig::Net, DeviceConfig::Net];
    let loaded = load(&Request { devices: &devices, ..request(&image) }).unwrap();
    assert_eq!(loaded.protocol, Protocol::Hvt);
    assert_eq!(loaded.handles, [None, Some(2), Some(0), Some(3), Some(1)]);
    let memory = memory_of(&loaded);
    let at = u64::from(number(&memory, loaded.start.rdi + 32));
    let entry = |handle: u64| &memory[(at + 8 + handle * 104) as usize..][..104];
    assert_eq!((number(&memory, at), number(&memory, at + 4)), (1, 5));
    assert_eq!(entry(1)[72..80], [0x52, 0x54, 0, 0x55, 0x46, 1, 0xdc, 5], "address and MTU");
    assert_eq!(entry(3)[72..78], [0x52, 0x54, 0, 0x55, 0x46, 2]);
    assert_eq!(entry(2)[72..82], [0, 4, 0, 0, 0, 0, 0, 0, 0, 2], "bytes, and bytes of a sector");
    assert_eq!(entry(4)[72..82], [0, 6, 0, 0, 0, 0, 0, 0, 0, 2], "whole sectors");
    assert_eq!([0, 1, 2, 3, 4].map(|handle| entry(handle)[96]), [0, 1, 1, 1, 1]);
    assert_eq!(entry(2)[..5], *b"data\0");
}

#[test]
fn other_devices_than_those_that_it_names_are_an_error_that_says_which() {
    let many: Vec<_> = (0..63).map(|_| ("one", BLOCK)).collect();
    let disks: Vec<_> = many.iter().map(|_| disk(512)).collect();
    assert_eq!(load(&Request { devices: &disks, ..request(&hvt(&many)) }).unwrap().handles.len(), 64);
    let two = [("storage", BLOCK), ("ser\x1bvice", NET)];
    for (wanted, devices, why) in [
        (
            &two[..],
            vec![],
            "names 1 block device (storage) and 1 network device (ser\\u{1b}vice), and the machine is given 0 and 0",
        ),
        (&two, vec![DeviceConfig::Net, DeviceConfig::Net], "given 0 and 2"),
        (&two, vec![disk(512), disk(512), DeviceConfig::Net], "given 2 and 1"),
        (
            &[],
            vec![DeviceConfig::Net],
            "names no block device and no network device, and the machine is given 0 and 1",
        ),
        (&[("a", NET), ("b", NET)], vec![DeviceConfig::Net], "no block device and 2 network devices (a, b)"),
        (&[], vec![DeviceConfig::Console], "no other devices"),
        (&[("odd", 7)], vec![], "names odd, a device of kind 7"),
        (&[], disks, "given 63 and 0"),
    ] {
        match load(&Request { devices: &devices, ..request(&hvt(wanted)) }) {
            Err(LoadError::Devices(said)) => assert!(said.contains(why), "{said}"),
            other => panic!("{wanted:?} {devices:?}: {other:?}"),
        }
    }
    // A bus has room for fewer.
    let devices: Vec<_> = (0..17).map(|_| DeviceConfig::Net).collect();
    let error = load(&Request { devices: &devices, ..request(&multiboot_elf32()) }).unwrap_err();
    assert!(error.to_string().contains("17 devices"), "{error}");
}

#[test]
fn broken_manifests_are_errors_and_never_panics() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let wanted = [("storage", BLOCK), ("service", NET), ("more", BLOCK)];
    let devices = [disk(4096), DeviceConfig::Net, disk(512)];
    let whole = manifest(&wanted);
    let load_it = |manifest: Vec<u8>| {
        let image = ElfFile { is_64: true, hvt: Some(manifest), ..ElfFile::default() }.build();
        load(&Request { devices: &devices, ..request(&image) })
            .map(|loaded| (memory_of_bounds(&loaded), loaded.handles))
    };
    // The seed gets past every check.
    assert!(load_it(whole.clone()).is_ok());
    let (mut accepted, mut mismatched, mut refused) = (0, 0, 0);
    for _ in 0..4000 {
        let mut broken = whole.clone();
        for _ in 0..random.random_range(1..4) {
            match random.random_range(0..8) {
                0 => broken.truncate(random.random_range(0..broken.len().max(1))),
                1 => broken.extend(entry("new", random.random_range(0..4))),
                2 => {
                    let count: u32 = random.random_range(0..70);
                    if let Some(word) = broken.get_mut(4..8) {
                        word.copy_from_slice(&count.to_le_bytes());
                    }
                }
                3 => {
                    // As many entries as there is room for.
                    let count = (broken.len().saturating_sub(8) / 104) as u32;
                    if let Some(word) = broken.get_mut(4..8) {
                        word.copy_from_slice(&count.to_le_bytes());
                    }
                }
                4 => {
                    // A name's last byte, a kind, or whether it is attached.
                    let at =
                        8 + 104 * random.random_range(0..4) + [67, 68, 71, 96][random.random_range(0..4)];
                    if let Some(byte) = broken.get_mut(at) {
                        *byte = random.random();
                    }
                }
                _ if broken.is_empty() => {}
                _ => {
                    let at = random.random_range(0..broken.len());
                    broken[at] = random.random();
                }
            }
        }
        match load_it(broken) {
            Ok((_, handles)) => {
                let mut attached: Vec<u8> = handles.into_iter().flatten().collect();
                attached.sort_unstable();
                assert_eq!(attached, [0, 1, 2], "seed {seed}: each device once");
                accepted += 1;
            }
            Err(LoadError::Devices(_)) => mismatched += 1,
            Err(error) => {
                assert!(matches!(error, LoadError::Malformed(_)), "seed {seed}: {error}");
                refused += 1;
            }
        }
    }
    let counts = [accepted, mismatched, refused];
    assert!(counts.iter().all(|&count| count > 40), "seed {seed}: {counts:?}");
}
