//! Guest memory as the host sees it: bounds-checked, and with one way to write.
//!
//! Three memory slots, each one mapping:
//!
//! ```text
//! slot 0  RAM      at 0                 copy-on-write view of the snapshot's memory file; put back
//! slot 1  windows  at WINDOWS_GPA       control page, inputs, counters, console; never put back
//! slot 2  golden   at GOLDEN_GPA        the snapshot's memory file itself, read-only (forks only)
//!         door     at DOORBELL_GPA      no slot: a store here is a hypercall
//! ```
//!
//! KVM's dirty log does not see what the host writes, so [`GuestMemory::write`] marks the pages it
//! touches and there is no other way to write RAM. The windows are shared with the guest on
//! purpose; they are outside of what is put back.
//!
//! Nothing here is a `&[u8]` into memory that a vCPU may be writing, except through
//! [`GuestMemory::window`], which borrows the whole memory and so proves that the vCPU is stopped.

pub(crate) mod device;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use memmap2::Mmap;
use thiserror::Error;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MmapRegion, VolatileMemory, VolatileSlice,
};

use crate::addr::{Gpa, PAGE_BYTES};
use crate::sys::memfd;
use crate::tree::Page;

/// Where the windows slot is. Above any RAM; needs 37 physical address bits.
pub const WINDOWS_GPA: Gpa = Gpa(0x10_0000_0000);
/// Where the golden slot is.
pub const GOLDEN_GPA: Gpa = Gpa(0x18_0000_0000);
/// Where there is never any memory: a store here is a hypercall.
pub const DOORBELL_GPA: Gpa = Gpa(0x1f_0000_0000);
/// RAM at most, in bytes: it ends below the windows.
pub const MEMORY_BYTES_MAX: u64 = 32 << 30;
/// Pages that the host has just written are not noted again: of so many.
const REPEATED: usize = 16;
/// RAM at least, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;

/// Why guest memory could not be made.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The memory file could not be made, sealed or mapped.
    #[error("cannot {op} {bytes} bytes of guest memory")]
    Io {
        /// What was being done.
        op: &'static str,
        /// How much of it.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// vm-memory refused the mapping.
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        /// How much.
        bytes: u64,
        /// Why.
        source: MmapRegionError,
    },
}

/// An address range that is not inside guest memory.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{bytes} bytes at guest-physical {:#x} are not inside guest memory", at.0)]
pub struct OutOfBounds {
    /// First byte.
    pub at: Gpa,
    /// Length.
    pub bytes: u64,
}

/// The memory every fork of a snapshot starts from: a sealed file, mapped read-only.
#[derive(Debug)]
pub struct MemoryImage {
    file: Arc<File>,
    // Invariant: maps all of `file`, which is sealed, so the bytes never change.
    map: Mmap,
    offset: u64,
}

impl MemoryImage {
    /// Maps `bytes` bytes of `file` from `offset` on. The file must never change again.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Io`] when it cannot be mapped.
    pub(crate) fn map(file: File, offset: u64, bytes: u64) -> Result<Self, MemoryError> {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: the caller hands over a file that nobody writes: a sealed memory file, or a
        // snapshot file, which unifork replaces by rename and never writes in place.
        let map = unsafe { memmap2::MmapOptions::new().offset(offset).len(len).map(&file) }
            .map_err(|source| MemoryError::Io { op: "map", bytes, source })?;
        Ok(Self { file: Arc::new(file), map, offset })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Never: a machine has memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The parts of it that are not holes in its file; holes read as zero.
    pub(crate) fn data_ranges(&self) -> Vec<Range<u64>> {
        memfd::data_ranges(&self.file, self.offset, self.len())
    }

    fn region(&self, prot: i32, flags: i32, at: Gpa) -> Result<GuestRegionMmap<()>, MemoryError> {
        let file = FileOffset::from_arc(Arc::clone(&self.file), self.offset);
        region(Some(file), self.len(), prot, flags, at)
    }
}

fn region(
    file: Option<FileOffset>,
    bytes: u64,
    prot: i32,
    flags: i32,
    at: Gpa,
) -> Result<GuestRegionMmap<()>, MemoryError> {
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mapping =
        MmapRegion::build(file, size, prot, flags).map_err(|source| MemoryError::Map { bytes, source })?;
    GuestRegionMmap::new(mapping, GuestAddress(at.0)).ok_or_else(|| MemoryError::Io {
        op: "place",
        bytes,
        source: io::Error::from(io::ErrorKind::InvalidInput),
    })
}

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// What memory is put back to: a snapshot's image, under the pages of a node of its tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Golden<'a> {
    pub image: &'a MemoryImage,
    pub over: Option<&'a BTreeMap<u64, Arc<Page>>>,
}

impl Golden<'_> {
    /// The bytes of page `page`.
    pub(crate) fn page(&self, page: u64) -> Option<&[u8]> {
        if let Some(bytes) = self.over.and_then(|over| over.get(&page)) {
            return Some(bytes.as_slice());
        }
        let from = usize::try_from(page.checked_mul(PAGE_BYTES)?).ok()?;
        self.image.bytes().get(from..from.checked_add(PAGE_BYTES as usize)?)
    }
}

/// One guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    pub(crate) ram: GuestRegionMmap<()>,
    pub(crate) windows: GuestRegionMmap<()>,
    pub(crate) golden: Option<GuestRegionMmap<()>>,
    // Pages of RAM that the host wrote since the last reset, by page number; may repeat.
    host_dirty: Vec<u64>,
}

impl GuestMemory {
    /// Memory for a guest that boots, and the file behind its RAM.
    pub(crate) fn for_boot(bytes: u64, windows: u64) -> Result<(Self, File), MemoryError> {
        let io = |op| move |source| MemoryError::Io { op, bytes, source };
        let file = memfd::create(c"unifork-memory", bytes).map_err(io("make a file of"))?;
        let handle = file.try_clone().map_err(io("share a file of"))?;
        let ram = region(
            Some(FileOffset::new(handle, 0)),
            bytes,
            RW,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            Gpa(0),
        )?;
        let windows = Self::windows(windows)?;
        Ok((Self { ram, windows, golden: None, host_dirty: Vec::new() }, file))
    }

    /// Memory for a fork of `image`.
    pub(crate) fn for_fork(image: &MemoryImage, windows: u64) -> Result<Self, MemoryError> {
        let ram = image.region(RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE, Gpa(0))?;
        let golden = image.region(libc::PROT_READ, libc::MAP_SHARED | libc::MAP_NORESERVE, GOLDEN_GPA)?;
        let windows = Self::windows(windows)?;
        Ok(Self { ram, windows, golden: Some(golden), host_dirty: Vec::with_capacity(256) })
    }

    fn windows(bytes: u64) -> Result<GuestRegionMmap<()>, MemoryError> {
        region(None, bytes, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, WINDOWS_GPA)
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ram.len()
    }

    /// Never: a machine has memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ram.len() == 0
    }

    /// Copies `out.len()` bytes from `at`, in RAM or the windows.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; `out` is then as it was.
    pub fn read(&self, at: Gpa, out: &mut [u8]) -> Result<(), OutOfBounds> {
        self.slice(at, out.len() as u64)?.copy_to(out);
        Ok(())
    }

    /// Writes `bytes` at `at` and marks the pages, so that the next reset puts them back. There is
    /// no unmarked write to RAM.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing is written then.
    pub fn write(&mut self, at: Gpa, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.slice(at, bytes.len() as u64)?.copy_from(bytes);
        if at < WINDOWS_GPA && !bytes.is_empty() {
            let last = (at.0 + bytes.len() as u64 - 1) / PAGE_BYTES;
            for page in at.0 / PAGE_BYTES..=last {
                if !self.host_dirty.iter().rev().take(REPEATED).any(|&one| one == page) {
                    self.host_dirty.push(page);
                }
            }
        }
        Ok(())
    }

    /// The windows' bytes from `at` on, to read and write in place. Borrowing all of the memory
    /// proves that the vCPU is stopped.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when the range is not inside the windows.
    pub fn window(&mut self, at: Gpa, bytes: u64) -> Result<&mut [u8], OutOfBounds> {
        let slice = Self::within(&self.windows, at, bytes)?;
        let guard = slice.ptr_guard_mut();
        let len = slice.len();
        // SAFETY:
        // 1. `within` checked that the range is inside the mapping, which lives as long as `self`.
        // 2. The vCPU is stopped: running it takes `&mut` of the machine that owns this memory,
        //    and the result borrows `self` mutably for as long as it lives.
        // 3. Any bytes are valid `u8`s, whatever the guest left there.
        Ok(unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), len) })
    }

    /// Like [`Self::window`], to read only.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when the range is not inside the windows.
    pub fn window_ref(&self, at: Gpa, bytes: u64) -> Result<&[u8], OutOfBounds> {
        let slice = Self::within(&self.windows, at, bytes)?;
        let guard = slice.ptr_guard();
        let len = slice.len();
        // SAFETY: as in `window`: in bounds, alive, and no vCPU runs while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(guard.as_ptr(), len) })
    }

    /// Address of a window in the host, for an observer that outlives the borrow. It stays valid
    /// as long as this memory.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when the range is not inside the windows.
    pub fn window_ptr(&mut self, at: Gpa, bytes: u64) -> Result<*mut u8, OutOfBounds> {
        Ok(Self::within(&self.windows, at, bytes)?.ptr_guard_mut().as_ptr())
    }

    /// Puts `image`, of the same size, under RAM and the golden slot, at the same addresses in the host:
    /// KVM sees the pages go and asks for them again.
    pub(crate) fn remap(&mut self, image: &MemoryImage) -> Result<(), MemoryError> {
        let bytes = image.len();
        let golden = self.golden.as_ref().map(|golden| (golden, libc::PROT_READ, libc::MAP_SHARED));
        for (region, prot, flags) in [Some((&self.ram, RW, libc::MAP_PRIVATE)), golden].into_iter().flatten()
        {
            assert_eq!(region.len(), bytes, "only memory of the same size is remapped");
            let flags = flags | libc::MAP_NORESERVE | libc::MAP_FIXED;
            let offset = libc::off_t::try_from(image.offset).unwrap_or(0);
            // SAFETY: the range is exactly one of our own mappings, which stays owned by `region`;
            // `&mut self` proves that no vCPU runs and nobody holds a reference into it.
            let address = unsafe {
                libc::mmap(region.as_ptr().cast(), region.size(), prot, flags, image.file.as_raw_fd(), offset)
            };
            if address == libc::MAP_FAILED {
                return Err(MemoryError::Io { op: "map", bytes, source: io::Error::last_os_error() });
            }
        }
        Ok(())
    }

    /// Gives this fork its own copies of `pages` now. Only a hint: what fails is done at the first
    /// write.
    pub(crate) fn populate(&self, pages: &[u32]) {
        for &page in pages {
            if let Ok(slice) = Self::within(&self.ram, Gpa(u64::from(page) * PAGE_BYTES), PAGE_BYTES) {
                let address = slice.ptr_guard_mut().as_ptr();
                // SAFETY: a page of our own mapping; populating changes no byte of it.
                let _hint =
                    unsafe { libc::madvise(address.cast(), PAGE_BYTES as usize, libc::MADV_POPULATE_WRITE) };
            }
        }
    }

    /// Zeroes all windows by giving their pages back.
    pub(crate) fn discard_windows(&mut self) -> Result<(), MemoryError> {
        let bytes = self.windows.len();
        let size = usize::try_from(bytes).unwrap_or(0);
        // SAFETY: the range is exactly the windows' own anonymous mapping; `&mut self` proves that no
        // vCPU runs and nobody holds a reference into it. Its pages read as zero afterwards.
        let result = unsafe { libc::madvise(self.windows.as_ptr().cast(), size, libc::MADV_DONTNEED) };
        if result == 0 {
            return Ok(());
        }
        Err(MemoryError::Io { op: "clear", bytes, source: io::Error::last_os_error() })
    }

    /// Copies page `page` of `golden` over page `page` of RAM. For [`crate::reset`] alone.
    pub(crate) fn put_back(&self, golden: &Golden<'_>, page: u64) {
        let to = Self::within(&self.ram, Gpa(page.saturating_mul(PAGE_BYTES)), PAGE_BYTES);
        if let (Some(bytes), Ok(to)) = (golden.page(page), to) {
            to.copy_from(bytes);
        }
    }

    /// The bytes of page `page` of RAM. The vCPU is stopped for as long as they are borrowed.
    pub(crate) fn page(&self, page: u64) -> Option<&[u8]> {
        let from = usize::try_from(page.checked_mul(PAGE_BYTES)?).ok()?;
        self.ram_bytes().get(from..from + PAGE_BYTES as usize)
    }

    /// Marks a page as if the host had written it.
    pub(crate) fn mark(&mut self, page: u64) {
        self.host_dirty.push(page);
    }

    /// Pages that the host wrote since [`Self::forget_host_writes`].
    pub(crate) fn host_dirty(&self) -> &[u64] {
        &self.host_dirty
    }

    /// The host's writes have been put back.
    pub(crate) fn forget_host_writes(&mut self) {
        self.host_dirty.clear();
    }

    /// The whole of RAM, to compare or copy. The vCPU is stopped for as long as it is borrowed.
    pub(crate) fn ram_bytes(&self) -> &[u8] {
        let size = usize::try_from(self.ram.len()).unwrap_or(0);
        // SAFETY: the mapping covers `size` bytes and lives as long as `self`; the vCPU is stopped
        // while `self` is borrowed (running it takes `&mut`).
        unsafe { std::slice::from_raw_parts(self.ram.as_ptr(), size) }
    }

    /// Writes RAM to `file`, which has its size; zero pages stay holes.
    pub(crate) fn copy_to(&self, file: &File) -> Result<(), MemoryError> {
        let bytes = self.ram.len();
        for (number, page) in self.ram_bytes().chunks(PAGE_BYTES as usize).enumerate() {
            if page.iter().any(|&byte| byte != 0) {
                file.write_all_at(page, number as u64 * PAGE_BYTES).map_err(|source| MemoryError::Io {
                    op: "copy",
                    bytes,
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn slice(&self, at: Gpa, bytes: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        Self::within(if at < WINDOWS_GPA { &self.ram } else { &self.windows }, at, bytes)
    }

    fn within(region: &GuestRegionMmap<()>, at: Gpa, bytes: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        let outside = OutOfBounds { at, bytes };
        let offset = at.0.checked_sub(region.start_addr().0).ok_or(outside)?;
        let offset = usize::try_from(offset).map_err(|_| outside)?;
        let count = usize::try_from(bytes).map_err(|_| outside)?;
        let mapping: &MmapRegion<()> = region;
        mapping.get_slice(offset, count).map_err(|_| outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::for_boot(MEMORY_BYTES_MIN, 2 * PAGE_BYTES).unwrap().0
    }

    #[test]
    fn a_write_marks_every_page_it_touches() {
        let mut memory = memory();
        memory.write(Gpa(PAGE_BYTES - 1), &[1, 2]).unwrap();
        assert_eq!(memory.host_dirty(), &[0, 1]);
        memory.write(WINDOWS_GPA, &[1]).unwrap();
        assert_eq!(memory.host_dirty(), &[0, 1], "windows are not put back");
    }

    #[test]
    fn nothing_outside_is_read_or_written() {
        let mut memory = memory();
        let mut out = [7u8; 2];
        for at in [MEMORY_BYTES_MIN - 1, WINDOWS_GPA.0 - 1, WINDOWS_GPA.0 + 2 * PAGE_BYTES - 1, u64::MAX] {
            assert!(memory.read(Gpa(at), &mut out).is_err(), "{at:#x}");
            assert!(memory.write(Gpa(at), &out).is_err(), "{at:#x}");
            assert!(memory.window(Gpa(at), 2).is_err(), "{at:#x}");
        }
        assert_eq!(out, [7, 7]);
        assert!(memory.host_dirty().is_empty());
    }
}
