//! Snapshots as files.
//!
//! # Layout, version 3
//!
//! Little-endian. The header is checked before anything behind it is read, and the checksums before
//! anything is believed. What the state section says of the machine is checked besides
//! ([`check`](super::check)): a file with right checksums may still have been made up.
//!
//! | offset | bytes | field                                                     |
//! |-------:|------:|-----------------------------------------------------------|
//! |      0 |     8 | magic, `b"UFSNAP\r\n"`                                    |
//! |      8 |     4 | [`FORMAT_VERSION`]                                        |
//! |     12 |     4 | CRC-32C of the header, with this field as 0               |
//! |     16 |     8 | bytes of the state section                                |
//! |     24 |     8 | bytes of the memory section, whole pages                  |
//! |     32 |     4 | CRC-32C of the state section                              |
//! |     36 |     4 | CPU features: the model (2 or 3 for x86-64-v2 or -v3)     |
//! |     40 |     4 | CPU features: bytes of XSAVE state                        |
//! |     44 |    16 | CPU features that the guest sees: CPUID 1.ECX, 1.EDX, 7.EBX, 8000_0001.ECX |
//! |     60 |  4036 | zero                                                      |
//! |   4096 |     … | state section (postcard), padded with zeroes to a page    |
//! |      … |     … | memory section, page-aligned so that it is mapped         |
//!
//! Pages of memory that are all zero are holes in the file, so a machine takes the room of what it
//! touched. The state section lists the others, in runs of at most [`EXTENT_PAGES`], with a CRC-32C
//! of each run. [`Snapshot::open`] checks them and that all else is zero, at some 10 GB/s of what is
//! not a hole; [`Snapshot::open_and_check_later`] leaves that to its caller, so that a machine of any size opens at
//! the price of its header and state.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::replace::replace;
use super::{Snapshot, SnapshotError, check};
use crate::addr::PAGE_BYTES;
use crate::boot::MachineInfo;
use crate::memory::{MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, MemoryImage};
use crate::sys::memfd;
use crate::vcpu::VcpuState;
use crate::vcpu::cpuid::CpuModel;

/// The version this build writes, and the only one it reads: snapshots are taken again, not
/// migrated.
pub const FORMAT_VERSION: u32 = 3;

const MAGIC: [u8; 8] = *b"UFSNAP\r\n";

/// The largest state section that is read, in bytes. It holds the vCPU and both ELF files; a length
/// above this is a damaged file and not an allocation to attempt.
const STATE_BYTES_MAX: u64 = 1 << 30;

/// Pages of an extent at most: 2 MiB.
const EXTENT_PAGES: u64 = 512;

/// Pages that are not all zero, and their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Extent {
    first: u64,
    pages: u64,
    crc: u32,
}

#[derive(Serialize, Deserialize)]
struct State {
    extents: Vec<Extent>,
    vcpu: VcpuState,
    info: MachineInfo,
    images: [Vec<u8>; 2],
}

/// What [`Snapshot::inspect`] says about a file without opening all of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Version of the format.
    pub version: u32,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// Bytes of it that are not zero, in whole pages.
    pub memory_used_bytes: u64,
    /// Bytes of the state section.
    pub state_bytes: u64,
    /// The CPU model.
    pub cpu_model: CpuModel,
    /// Name of the application's image.
    pub name: String,
}

/// What is left to do before an opened snapshot's memory can be relied on. May be done on any thread,
/// while forks of the snapshot run.
#[derive(Debug)]
#[must_use]
pub struct MemoryCheck {
    path: PathBuf,
    snapshot: Arc<Snapshot>,
    extents: Vec<Extent>,
}

impl MemoryCheck {
    /// Compares the memory with its checksums.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`], at the first page that is not as it was written.
    pub fn run(self) -> Result<(), SnapshotError> {
        check_memory(&self.path, self.snapshot.memory(), &self.extents)
    }
}

impl Snapshot {
    /// Writes the snapshot to `path`, whole or not at all: to a file without a name in the same folder,
    /// synced, then renamed. Killed half-way, it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`]; `path` is then as it was.
    pub fn write_to(&self, path: &Path) -> Result<(), SnapshotError> {
        let io = |source| SnapshotError::Io { op: "write", path: path.to_owned(), source };
        let state = self.state_section().map_err(io)?;
        replace(path, |file| self.write_sections(file, &state)).map_err(io)
    }

    /// Writes the snapshot to a sealed file in memory, for other processes of this program to inherit and to
    /// [`open`](Self::open) as `/proc/self/fd/N`: they all map the same pages.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`].
    pub fn share(&self) -> Result<File, SnapshotError> {
        let io = |source| SnapshotError::Io { op: "write", path: "memfd:unifork-snapshot".into(), source };
        let state = self.state_section().map_err(io)?;
        let mut file = memfd::create(c"unifork-snapshot", PAGE_BYTES).map_err(io)?;
        self.write_sections(&mut file, &state).map_err(io)?;
        memfd::seal(&file).map_err(io)?;
        Ok(file)
    }

    fn state_section(&self) -> io::Result<Vec<u8>> {
        let state = State {
            extents: extents(self.memory()),
            vcpu: self.vcpu().clone(),
            info: self.info().clone(),
            images: [self.kernel_elf().to_vec(), self.app_elf().to_vec()],
        };
        postcard::to_stdvec(&state).map_err(io::Error::other)
    }

    fn write_sections(&self, file: &mut File, state: &[u8]) -> io::Result<()> {
        let memory = self.memory().bytes();
        let memory_at = PAGE_BYTES + (state.len() as u64).next_multiple_of(PAGE_BYTES);
        file.set_len(memory_at + memory.len() as u64)?;
        let mut header = [0u8; PAGE_BYTES as usize];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&(state.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&(memory.len() as u64).to_le_bytes());
        header[32..36].copy_from_slice(&crc32c::crc32c(state).to_le_bytes());
        header[36..40].copy_from_slice(&model_number(self.vcpu().model).to_le_bytes());
        header[40..44].copy_from_slice(&(self.vcpu().xsave.len() as u32 * 4).to_le_bytes());
        for (at, word) in (44..).step_by(4).zip(features(self.vcpu().model)) {
            header[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)?;
        file.write_all(state)?;
        for (i, page) in pages(self.memory()) {
            file.write_all_at(page, memory_at + i * PAGE_BYTES)?;
        }
        Ok(())
    }

    /// Reads a snapshot, mapping its memory rather than copying it, and checks all of it.
    ///
    /// # Errors
    ///
    /// Any variant but those about a live vCPU. No file makes it panic, or allocate more than its
    /// own length; the tests flip the bits of a small one, and make up files whose checksums are right.
    pub fn open(path: &Path) -> Result<Arc<Self>, SnapshotError> {
        let (snapshot, check) = Self::open_and_check_later(path)?;
        check.run()?;
        Ok(snapshot)
    }

    /// [`Self::open`] without a look at the memory section, which is left to the check that comes with
    /// it: until that has been run, a damaged page is not noticed.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], for the header and the state section.
    pub fn open_and_check_later(path: &Path) -> Result<(Arc<Self>, MemoryCheck), SnapshotError> {
        let (file, parts, state) = read_state(path)?;
        let lacks = |needs: String| SnapshotError::Cpu { path: path.to_owned(), needs };
        if state.vcpu.model == CpuModel::V3 && CpuModel::of_host() != CpuModel::V3 {
            return Err(lacks("AVX2, BMI and FMA".into()));
        }
        let memory = MemoryImage::map(file, parts.memory_at, parts.memory_bytes)?;
        let State { extents, vcpu, info, images: [kernel, app] } = state;
        let snapshot = Arc::new(Self { memory, vcpu, info, images: [kernel.into(), app.into()] });
        let check = MemoryCheck { path: path.to_owned(), snapshot: Arc::clone(&snapshot), extents };
        Ok((snapshot, check))
    }

    /// Reads what a snapshot file says about itself.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], but the memory section is not checked.
    pub fn inspect(path: &Path) -> Result<Summary, SnapshotError> {
        let (file, parts, state) = read_state(path)?;
        drop(file);
        let used: u64 = state.extents.iter().map(|extent| extent.pages).sum();
        Ok(Summary {
            version: FORMAT_VERSION,
            memory_bytes: parts.memory_bytes,
            memory_used_bytes: used * PAGE_BYTES,
            state_bytes: parts.state_bytes,
            cpu_model: state.vcpu.model,
            name: state.info.name,
        })
    }
}

/// What the guest sees of a model: it may have chosen its code by that.
fn features(model: CpuModel) -> [u32; 4] {
    let ([_, _, ecx, edx], [_, ebx, ..], [_, _, extended, _]) =
        (model.lookup(1, 0), model.lookup(7, 0), model.lookup(0x8000_0001, 0));
    [ecx, edx, ebx, extended]
}

/// A model as the header has it.
fn model_number(model: CpuModel) -> u32 {
    match model {
        CpuModel::V2 => 2,
        CpuModel::V3 => 3,
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(16);
    words.by_ref().all(|word| word.first_chunk().is_some_and(|word| u128::from_le_bytes(*word) == 0))
        && words.remainder().iter().all(|&b| b == 0)
}

/// The pages of `image` that are not all zero, and their numbers. Holes are not looked at, which would
/// bring them into memory.
fn pages(image: &MemoryImage) -> impl Iterator<Item = (u64, &[u8])> {
    let mut next = 0;
    let numbers = image.data_ranges().into_iter().flat_map(move |range| {
        let first = (range.start / PAGE_BYTES).max(next);
        next = range.end.div_ceil(PAGE_BYTES).max(next);
        first..next
    });
    let memory = image.bytes();
    let page = move |i: u64| {
        let at = usize::try_from(i * PAGE_BYTES).ok()?;
        Some((i, memory.get(at..)?.get(..PAGE_BYTES as usize)?))
    };
    numbers.filter_map(page).filter(|(_, bytes)| !is_zero(bytes))
}

fn extents(image: &MemoryImage) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (i, bytes) in pages(image) {
        match extents.last_mut() {
            Some(last) if last.first + last.pages == i && last.pages < EXTENT_PAGES => {
                last.pages += 1;
                last.crc = crc32c::crc32c_append(last.crc, bytes);
            }
            _ => extents.push(Extent { first: i, pages: 1, crc: crc32c::crc32c(bytes) }),
        }
    }
    extents
}

/// Checks that the pages of `extents` are as they were written and all others are zero.
fn check_memory(path: &Path, image: &MemoryImage, extents: &[Extent]) -> Result<(), SnapshotError> {
    let memory = image.bytes();
    let data = image.data_ranges();
    // Holes are zero without a look, which would bring them into memory.
    let zero_between = |start: usize, end: usize| {
        data.iter().all(|range| {
            let low = usize::try_from(range.start).unwrap_or(usize::MAX).clamp(start, end);
            let high = usize::try_from(range.end).unwrap_or(usize::MAX).clamp(start, end);
            is_zero(&memory[low..high])
        })
    };
    let wrong = || damaged(path, "the memory section does not match its checksums");
    let offset = |page: u64| {
        let bytes = page.checked_mul(PAGE_BYTES).and_then(|bytes| usize::try_from(bytes).ok());
        bytes.filter(|&bytes| bytes <= memory.len()).ok_or_else(wrong)
    };
    let mut done = 0;
    for extent in extents {
        let start = offset(extent.first)?;
        let end = offset(extent.first.saturating_add(extent.pages))?;
        let bytes = memory.get(start..end).ok_or_else(wrong)?;
        if start < done || crc32c::crc32c(bytes) != extent.crc || !zero_between(done, start) {
            return Err(wrong());
        }
        done = end;
    }
    if zero_between(done, memory.len()) { Ok(()) } else { Err(wrong()) }
}

struct Parts {
    state_bytes: u64,
    memory_at: u64,
    memory_bytes: u64,
    state_crc: u32,
    model: u32,
    xsave_bytes: u32,
    features: [u32; 4],
}

fn damaged(path: &Path, what: &str) -> SnapshotError {
    SnapshotError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

fn read_state(path: &Path) -> Result<(File, Parts, State), SnapshotError> {
    let io = |op| move |source| SnapshotError::Io { op, path: path.to_owned(), source };
    let mut file = crate::regular::open(path).map_err(io("open"))?;
    let len = file.metadata().map_err(io("read"))?.len();
    let mut header = [0u8; PAGE_BYTES as usize];
    let mut start = [0u8; 8];
    if file.read_exact(&mut start).is_err() || start != MAGIC {
        return Err(SnapshotError::NotASnapshot { path: path.to_owned() });
    }
    header[..8].copy_from_slice(&start);
    file.read_exact(&mut header[8..]).map_err(|_| damaged(path, "the header is cut off"))?;
    let parts = check_header(path, &mut header, len)?;
    let mut state = vec![0; usize::try_from(parts.state_bytes).unwrap_or(0)];
    file.read_exact(&mut state).map_err(io("read"))?;
    if crc32c::crc32c(&state) != parts.state_crc {
        return Err(damaged(path, "the state section does not match its checksum"));
    }
    let mut padding = vec![0; usize::try_from(parts.memory_at - PAGE_BYTES - parts.state_bytes).unwrap_or(0)];
    file.read_exact(&mut padding).map_err(io("read"))?;
    if padding.iter().any(|&b| b != 0) {
        return Err(damaged(path, "the padding behind the state section is not zero"));
    }
    let (state, rest): (State, &[u8]) =
        postcard::take_from_bytes(&state).map_err(|_| damaged(path, "the state section makes no sense"))?;
    if !rest.is_empty() {
        return Err(damaged(path, "the state section is longer than what is in it"));
    }
    check::machine(&state.info, &state.vcpu, parts.memory_bytes).map_err(|what| damaged(path, what))?;
    let last = state.extents.iter().try_fold(0, |free, extent| {
        let end = extent.first.checked_add(extent.pages)?;
        (extent.first >= free && end > extent.first).then_some(end)
    });
    if last.is_none_or(|end| end > parts.memory_bytes / PAGE_BYTES) {
        return Err(damaged(path, "its list of pages does not fit its memory"));
    }
    let agree = model_number(state.vcpu.model) == parts.model
        && state.info.config.cpu_model == Some(state.vcpu.model)
        && state.vcpu.xsave.len() as u64 * 4 == u64::from(parts.xsave_bytes);
    if !agree {
        return Err(damaged(path, "its header and its state section disagree"));
    }
    if parts.features != features(state.vcpu.model) {
        let needs = "a CPU model that this build does not have (its features are others)".to_owned();
        return Err(SnapshotError::Cpu { path: path.to_owned(), needs });
    }
    Ok((file, parts, state))
}

fn check_header(
    path: &Path,
    header: &mut [u8; PAGE_BYTES as usize],
    len: u64,
) -> Result<Parts, SnapshotError> {
    let word = |header: &[u8], at: usize| header[at..].first_chunk().map_or(0, |c| u64::from_le_bytes(*c));
    let half = |header: &[u8], at: usize| header[at..].first_chunk().map_or(0, |c| u32::from_le_bytes(*c));
    let found = half(header, 8);
    if found != FORMAT_VERSION {
        return Err(SnapshotError::Version { path: path.to_owned(), found });
    }
    let crc = half(header, 12);
    header[12..16].fill(0);
    if crc32c::crc32c(header) != crc {
        return Err(damaged(path, "the header does not match its checksum"));
    }
    let (state_bytes, memory_bytes) = (word(header, 16), word(header, 24));
    let sane = state_bytes <= STATE_BYTES_MAX
        && (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory_bytes)
        && memory_bytes % PAGE_BYTES == 0;
    let memory_at = PAGE_BYTES + state_bytes.min(STATE_BYTES_MAX).next_multiple_of(PAGE_BYTES);
    if !sane || len != memory_at + memory_bytes {
        return Err(damaged(path, "its length is not what the header says: it is cut off"));
    }
    Ok(Parts {
        state_bytes,
        memory_at,
        memory_bytes,
        state_crc: half(header, 32),
        model: half(header, 36),
        xsave_bytes: half(header, 40),
        features: [44, 48, 52, 56].map(|at| half(header, at)),
    })
}
