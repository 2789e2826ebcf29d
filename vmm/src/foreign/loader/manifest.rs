//! Solo5's manifest: the devices that an image names, to which its tender attaches what it is given.
//!
//! It is a note of the image's file, and goes into memory with what the image is told of each device. Handles are
//! indices into it. The first entry is nobody's.
//!
//! Source: Solo5's public header `mft_abi.h`, version 1.

use super::{LoadError, malformed, word};
use crate::virtio::DeviceConfig;
use crate::virtio::calls::{HANDLES_MAX, Property, properties};

const VERSION: u32 = 1;
/// Version, number of entries.
const HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 104;
/// A name with its closing zero comes first.
const NAME_BYTES: usize = 68;
const KIND: usize = 68;
/// What a disk or a card is like.
const PROPERTIES: usize = 72;
const ATTACHED: usize = 96;
const BLOCK: u32 = 1;
const NET: u32 = 2;
/// The first entry's; from it on, they are no kinds of devices.
const RESERVED: u32 = 1 << 30;
/// How long an image's requests to its disks are.
const SECTOR_BYTES: u16 = 512;
const MTU: u16 = 1500;

/// A manifest with devices attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// As the image gets it.
    pub bytes: Vec<u8>,
    /// For each handle, which device it stands for.
    pub handles: Vec<Option<u8>>,
}

/// Attaches `devices` to what `note` names: disks to the block devices, network cards to the network devices, each
/// in their order.
pub(super) fn attach(note: &[u8], devices: &[DeviceConfig]) -> Result<Manifest, LoadError> {
    check(note).ok_or_else(|| malformed("its Solo5 manifest makes no sense"))?;
    let mut bytes = note.to_vec();
    let given: Vec<_> = (0u8..).zip(properties(devices)).collect();
    let mut disks = given.iter().filter(|(_, property)| matches!(property, Some(Property::Disk(_))));
    let mut cards = given.iter().filter(|(_, property)| matches!(property, Some(Property::Card(_))));
    let (mut handles, mut wanted) = (Vec::new(), 0);
    for entry in bytes[HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES) {
        wanted += usize::from(kind(entry) < RESERVED);
        let device = match kind(entry) {
            BLOCK => disks.next(),
            NET => cards.next(),
            _ => None,
        };
        let mut tell = |at: usize, value: &[u8]| entry[at..at + value.len()].copy_from_slice(value);
        match device {
            Some((_, Some(Property::Disk(bytes)))) => {
                tell(PROPERTIES, &bytes.to_le_bytes());
                tell(PROPERTIES + 8, &SECTOR_BYTES.to_le_bytes());
            }
            Some((_, Some(Property::Card(mac)))) => {
                tell(PROPERTIES, mac);
                tell(PROPERTIES + 6, &MTU.to_le_bytes());
            }
            _ => {}
        }
        tell(ATTACHED, &[device.is_some().into()]);
        handles.push(device.map(|(number, _)| *number));
    }
    let attached = handles.iter().flatten().count();
    if attached != wanted || attached != devices.len() {
        return Err(LoadError::Devices(mismatch(note, devices)));
    }
    Ok(Manifest { bytes, handles })
}

/// `None` when it is not what Solo5's tools write.
fn check(note: &[u8]) -> Option<()> {
    let entries =
        usize::try_from(word(note, 4)?).ok().filter(|entries| (1..=HANDLES_MAX).contains(entries))?;
    if word(note, 0)? != VERSION || note.len() != HEADER_BYTES + entries * ENTRY_BYTES {
        return None;
    }
    let first = &note[HEADER_BYTES..];
    let reserved = first[0] == 0 && kind(first) == RESERVED;
    let mut entries = first.chunks_exact(ENTRY_BYTES);
    let each = entries.all(|entry| entry[NAME_BYTES - 1] == 0 && entry[ATTACHED] == 0);
    (reserved && each).then_some(())
}

fn kind(entry: &[u8]) -> u32 {
    word(entry, KIND).unwrap_or(RESERVED)
}

/// What `note` names and what there is, in words.
fn mismatch(note: &[u8], devices: &[DeviceConfig]) -> String {
    let entries = || note[HEADER_BYTES..].chunks_exact(ENTRY_BYTES);
    let name = |entry: &[u8]| {
        let name = entry[..NAME_BYTES].split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).escape_debug().to_string()
    };
    let list = |wanted: u32, one: &str, many: &str| {
        let names: Vec<_> = entries().filter(|entry| kind(entry) == wanted).map(name).collect();
        match &names[..] {
            [] => format!("no {one}"),
            [name] => format!("1 {one} ({name})"),
            names => format!("{} {many} ({})", names.len(), names.join(", ")),
        }
    };
    let unknown = entries().find(|entry| !matches!(kind(entry), BLOCK | NET | RESERVED..));
    if let Some(entry) = unknown {
        return format!(
            "its manifest names {}, a device of kind {}, which is unknown",
            name(entry),
            kind(entry)
        );
    }
    let count = |of: fn(&DeviceConfig) -> bool| devices.iter().filter(|device| of(device)).count();
    let disks = count(|device| matches!(device, DeviceConfig::Disk { .. }));
    let cards = count(|device| matches!(device, DeviceConfig::Net));
    if disks + cards < devices.len() {
        return "Solo5's hvt has disks and network cards, and no other devices".to_owned();
    }
    format!(
        "its manifest names {} and {}, and the machine is given {disks} and {cards} of these",
        list(BLOCK, "block device", "block devices"),
        list(NET, "network device", "network devices"),
    )
}
