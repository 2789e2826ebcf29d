//! From a file of somebody else's build system to bytes in guest memory and the state that its boot
//! protocol promises.
//!
//! ```text
//! 0x0000_0000  free, says the map; where a PC's firmware says how much there is below 1 MiB, it says so, too
//! 0x0009_0000  boot structures ([`area`]): what the protocol hands over
//! 0x000a_0000  nothing, as on every PC, but ACPI tables ([`acpi`])
//! 0x0010_0000  free: the image, modules behind it
//!   end        an initial RAM disk, at the end of memory
//! ```
//!
//! Boot structures lie where the map says that nothing is free: kernels reuse free memory at once.
//!
//! linux-loader gives the layouts of `boot_params`, `setup_header` and `hvm_start_info`. Its loaders are
//! not used: they know neither ELF32 nor multiboot, and write while they parse; this one first
//! decides what goes where, and a file that cannot be loaded changes nothing.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Profile;
use super::cpu::Start;
use crate::virtio::{DEVICES_MAX, DeviceConfig};

mod acpi;
mod area;
mod bzimage;
mod elf;
mod hvt;
mod linux64;
mod manifest;
mod multiboot;
mod pvh;

/// The most memory a foreign machine can have: above it are devices.
pub const MEMORY_BYTES_MAX: u64 = 3 << 30;
/// The least: room for the first MiB and an image.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// Where free memory begins again behind the PC's hole.
const HIGH_MEMORY: u64 = 0x10_0000;
const PAGE: u64 = 4096;

/// How an image wants to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// Multiboot 1.
    Multiboot,
    /// Xen's PVH: an ELF note names a 32-bit entry.
    Pvh,
    /// Linux's 64-bit protocol on an ELF64 file.
    Linux64,
    /// A Linux bzImage.
    BzImage,
    /// Solo5's hvt: ELF64, and notes that say so.
    Hvt,
}

impl Protocol {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Multiboot => "multiboot",
            Self::Pvh => "PVH",
            Self::Linux64 => "Linux 64-bit",
            Self::BzImage => "bzImage",
            Self::Hvt => "Solo5 hvt",
        }
    }
}

/// Why an image cannot be loaded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadError {
    /// No protocol recognises it.
    #[error("it is neither an ELF file for x86, nor a bzImage, nor has it a multiboot header")]
    NotAKernel,
    /// It contradicts itself or is cut off.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit.
    #[error("{what} needs memory up to {end:#x}, and the machine has {memory:#x} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// What there is.
        memory: u64,
    },
    /// It wants memory where a PC has none.
    #[error("{what} would lie at {start:#x} to {end:#x}, where the boot structures or a PC's hole are")]
    Reserved {
        /// What.
        what: &'static str,
        /// Its first byte.
        start: u64,
        /// Its end.
        end: u64,
    },
    /// What was given along does not fit in the boot structures.
    #[error("there is no room for the {0} in the boot structures")]
    ArgumentsTooLong(&'static str),
    /// It is given other devices than it names, or more than there is room for.
    #[error("{0}")]
    Devices(String),
    /// The image says that it takes no command line as long as that.
    #[error("the kernel takes a command line of at most {longest} bytes")]
    CommandLineTooLong {
        /// What it takes.
        longest: u64,
    },
    /// The protocol cannot hand that over.
    #[error("the {protocol} protocol cannot hand over {what}")]
    Unsupported {
        /// Its name.
        protocol: &'static str,
        /// What it lacks.
        what: &'static str,
    },
    /// Memory of this size cannot be made.
    #[error("a machine has {MEMORY_BYTES_MIN} to {MEMORY_BYTES_MAX} bytes of memory in whole pages, not {0}")]
    Memory(u64),
}

fn malformed(reason: impl Into<String>) -> LoadError {
    LoadError::Malformed(reason.into())
}

/// A file that a boot protocol hands over, and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name and arguments.
    pub command: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What is to be loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub image: &'a [u8],
    /// The image's name, which multiboot puts before the command line.
    pub name: &'a str,
    pub append: &'a str,
    pub initrd: Option<&'a [u8]>,
    pub modules: &'a [Module],
    pub devices: &'a [DeviceConfig],
    pub memory_bytes: u64,
    pub profile: Profile,
}

/// Bytes for guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub at: u64,
    pub bytes: Cow<'a, [u8]>,
}

/// An image, ready to be put into memory that is all zeroes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded<'a> {
    pub protocol: Protocol,
    /// In the order in which they are written.
    pub pieces: Vec<Piece<'a>>,
    pub start: Start,
    /// Guest-physical ranges that the file says are code.
    pub code: Vec<Range<u64>>,
    /// For each handle by which the image calls its devices, which of them it stands for.
    pub handles: Vec<Option<u8>>,
}

/// Decides what goes where.
///
/// # Errors
///
/// [`LoadError`]; no file makes this panic, or take long.
pub(crate) fn load<'a>(request: &Request<'a>) -> Result<Loaded<'a>, LoadError> {
    let memory = request.memory_bytes;
    if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory) || !memory.is_multiple_of(PAGE) {
        return Err(LoadError::Memory(memory));
    }
    let mut loaded = load_by_protocol(request)?;
    if loaded.protocol != Protocol::Hvt && request.devices.len() > DEVICES_MAX {
        let given = request.devices.len();
        return Err(LoadError::Devices(format!("{given} devices, and there is room for {DEVICES_MAX}")));
    }
    check_pieces(&loaded)?;
    loaded.pieces.push(acpi::tables(request.profile));
    loaded.pieces.push(area::bios_data());
    Ok(loaded)
}

fn load_by_protocol<'a>(request: &Request<'a>) -> Result<Loaded<'a>, LoadError> {
    if let Some(header) = bzimage::header(request.image) {
        return bzimage::load(request, &header);
    }
    let elf = elf::parse(request.image)?;
    if let Some(elf) = elf.as_ref().filter(|elf| elf.is_64 && elf.solo5.is_hvt()) {
        return hvt::load(request, elf);
    }
    let multiboot = multiboot::header(request.image)?;
    let pvh = elf.as_ref().and_then(|elf| elf.pvh_entry);
    match (multiboot, elf, pvh) {
        // As QEMU's -kernel looks for it; Firecracker does not know it.
        (Some(header), elf, _) if request.profile == Profile::Pc => {
            multiboot::load(request, &header, elf.as_ref())
        }
        (_, Some(elf), Some(entry)) => pvh::load(request, &elf, entry),
        (_, Some(elf), None) if elf.is_64 => linux64::load(request, &elf),
        (Some(header), elf, _) => multiboot::load(request, &header, elf.as_ref()),
        (None, Some(_), None) => {
            Err(malformed("it is a 32-bit ELF file with neither a multiboot header nor a PVH note"))
        }
        (None, None, _) => Err(LoadError::NotAKernel),
    }
}

/// Whether `image` is for Solo5's hvt.
pub(crate) fn is_hvt(image: &[u8]) -> bool {
    elf::parse(image).is_ok_and(|elf| elf.is_some_and(|elf| elf.is_64 && elf.solo5.is_hvt()))
}

/// Whether `image` says of itself that it is a kernel, however damaged.
pub(crate) fn is_kernel(image: &[u8]) -> bool {
    let is_noted = || match elf::parse(image) {
        Ok(elf) => elf.is_some_and(|elf| elf.pvh_entry.is_some() || elf.solo5.is_hvt()),
        Err(_) => elf::has_kernel_note(image),
    };
    bzimage::header(image).is_some() || !matches!(multiboot::header(image), Ok(None)) || is_noted()
}

/// Checks that no byte is loaded twice, and that the first instruction is among them.
fn check_pieces(loaded: &Loaded<'_>) -> Result<(), LoadError> {
    let mut ranges: Vec<_> = loaded.pieces.iter().map(|p| p.at..p.at + p.bytes.len() as u64).collect();
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    if let Some(pair) = ranges.windows(2).find(|pair| pair[1].start < pair[0].end) {
        return Err(malformed(format!("two of its segments are loaded to {:#x}", pair[1].start)));
    }
    let entry = loaded.start.rip;
    if !ranges.iter().any(|range| range.contains(&entry)) {
        return Err(malformed(format!("its entry, {entry:#x}, is not among what is loaded")));
    }
    Ok(())
}

/// Where the image's file says that the code at linear address `address` is in guest-physical memory, and the
/// `bytes` bytes that it has there.
pub(crate) fn find(image: &[u8], address: u64, bytes: usize) -> Option<(u64, &[u8])> {
    let elf = elf::parse(image).ok()??;
    let segment = elf.segments.iter().find(|s| (s.linear..s.linear + s.bytes).contains(&address))?;
    let offset = address - segment.linear;
    let file = image.get(segment.file.clone())?.get(usize::try_from(offset).ok()?..)?;
    Some((segment.physical + offset, &file[..bytes.min(file.len())]))
}

/// Checks that `start..end` is memory that an image may occupy.
fn check_range(what: &'static str, start: u64, end: u64, memory: u64) -> Result<(), LoadError> {
    if end > memory {
        return Err(LoadError::TooLarge { what, end, memory });
    }
    if start < HIGH_MEMORY && end > area::START {
        return Err(LoadError::Reserved { what, start, end });
    }
    Ok(())
}

/// What is handed over besides the image: where each thing is.
#[derive(Debug, Default)]
struct Extras<'a> {
    pieces: Vec<Piece<'a>>,
    /// Range and command line of each.
    modules: Vec<Placed>,
    initrd: Option<Range<u64>>,
}

/// A module, placed: where it is, and its command line.
type Placed = (Range<u64>, String);

/// What a request's modules are, for [`place_modules`].
fn modules<'a>(request: &Request<'a>) -> impl Iterator<Item = (&'static str, &'a str, &'a [u8])> {
    request.modules.iter().map(|module| ("a module", &*module.command, &*module.bytes))
}

/// Places `modules`, each with what it is, its command line and its bytes, behind `end`, the end of the image.
///
/// A page is left between the two, as by QEMU, which has its boot structures there: Unikraft 0.17 miscounts the memory
/// behind a module that begins where its image ends, and stops.
fn place_modules<'a>(
    modules: &[(&'static str, &str, &'a [u8])],
    end: u64,
    memory: u64,
) -> Result<(Vec<Piece<'a>>, Vec<Placed>), LoadError> {
    let (mut pieces, mut placed) = (Vec::new(), Vec::new());
    let mut at = end.max(HIGH_MEMORY).saturating_add(PAGE);
    for &(what, command, bytes) in modules {
        at = at.next_multiple_of(PAGE);
        let end = at.saturating_add(bytes.len() as u64);
        check_range(what, at, end, memory)?;
        pieces.push(Piece { at, bytes: Cow::Borrowed(bytes) });
        placed.push((at..end, command.to_owned()));
        at = end;
    }
    Ok((pieces, placed))
}

/// Places modules behind `end`, the end of the image, and an initial RAM disk below `limit`.
fn place_extras<'a>(request: &Request<'a>, end: u64, limit: u64) -> Result<Extras<'a>, LoadError> {
    let memory = request.memory_bytes;
    let mut extras = Extras::default();
    let modules: Vec<_> = modules(request).collect();
    (extras.pieces, extras.modules) = place_modules(&modules, end, memory)?;
    let at = extras.modules.last().map_or(end.max(HIGH_MEMORY), |(range, _)| range.end);
    if let Some(initrd) = request.initrd {
        let bytes = initrd.len() as u64;
        let top = memory.min(limit);
        let start = top.checked_sub(bytes).map(|start| start & !(PAGE - 1)).filter(|&start| start >= at);
        let Some(start) = start else {
            return Err(LoadError::TooLarge {
                what: "the initial RAM disk",
                end: at.saturating_add(bytes),
                memory: top,
            });
        };
        extras.pieces.push(Piece { at: start, bytes: Cow::Borrowed(initrd) });
        extras.initrd = Some(start..start + bytes);
    }
    Ok(extras)
}

/// Kinds of memory, as every protocol numbers them.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// The memory map. The PC's hole is not in it: kernels add their own idea of it, and Unikraft stops
/// if that contradicts the map.
fn memory_map(memory: u64) -> [(Range<u64>, u32); 3] {
    [(0..area::START, RAM), (area::START..area::END, RESERVED), (HIGH_MEMORY..memory, RAM)]
}

/// A little-endian word of a file.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
