//! Guest memory as a device's model sees it: what it writes is marked like any write of the host's.
//!
//! `virtio-queue` reaches memory through `vm-memory`'s traits, by volatile slices, and tells the slice's
//! "bitmap" what it wrote. Here that bitmap is the list of pages that [`GuestMemory::write`] keeps.

use std::cell::RefCell;

use vm_memory::bitmap::{BS, Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionMmap, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

use super::{GuestMemory, PAGE_BYTES};

/// Guest RAM, for as long as a device looks at it. The vCPU is stopped meanwhile.
#[derive(Debug)]
pub(crate) struct DeviceMemory<'m> {
    mapping: &'m GuestRegionMmap<()>,
    written: Written,
    host_dirty: &'m mut Vec<u64>,
}

impl GuestMemory {
    /// RAM for a device. Pages that it writes are marked when the result is dropped.
    pub(crate) fn for_device(&mut self) -> DeviceMemory<'_> {
        let written = Written(RefCell::new(std::mem::take(&mut self.host_dirty)));
        DeviceMemory { mapping: &self.ram, written, host_dirty: &mut self.host_dirty }
    }
}

impl Drop for DeviceMemory<'_> {
    fn drop(&mut self) {
        *self.host_dirty = self.written.0.take();
    }
}

impl GuestMemoryBackend for DeviceMemory<'_> {
    // There is one region, and it is all there is to say of it.
    type R = Self;

    fn iter(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self)
    }
}

impl GuestMemoryRegion for DeviceMemory<'_> {
    type B = Written;

    fn len(&self) -> GuestUsize {
        self.mapping.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.mapping.start_addr()
    }

    fn bitmap(&self) -> Marks<'_> {
        self.written.slice_at(0)
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, Written>>, GuestMemoryError> {
        let slice = GuestMemoryRegion::get_slice(self.mapping, offset, count)?;
        let marks = self.written.slice_at(usize::try_from(offset.0).unwrap_or(usize::MAX));
        let pointer = slice.ptr_guard_mut().as_ptr();
        // SAFETY: the memory is that of `slice`, which vm-memory has checked to be inside the mapping; both
        // borrow it for the same time, and all access to guest memory is volatile.
        Ok(unsafe { VolatileSlice::with_bitmap(pointer, slice.len(), marks, None) })
    }
}

impl GuestMemoryRegionBytes for DeviceMemory<'_> {}

/// Numbers of the pages that were written; may repeat.
#[derive(Debug)]
pub(crate) struct Written(RefCell<Vec<u64>>);

/// The same, for memory that begins at `offset`.
#[derive(Clone, Debug)]
pub(crate) struct Marks<'a> {
    written: &'a Written,
    offset: usize,
}

impl<'a> WithBitmapSlice<'a> for Written {
    type S = Marks<'a>;
}

impl Bitmap for Written {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let mut pages = self.0.borrow_mut();
        let (first, last) = (offset as u64 / PAGE_BYTES, (offset as u64 + len as u64 - 1) / PAGE_BYTES);
        for page in first..=last {
            if pages.last() != Some(&page) {
                pages.push(page);
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.0.borrow().contains(&(offset as u64 / PAGE_BYTES))
    }

    fn slice_at(&self, offset: usize) -> Marks<'_> {
        Marks { written: self, offset }
    }
}

impl<'a> WithBitmapSlice<'_> for Marks<'a> {
    type S = Marks<'a>;
}

impl BitmapSlice for Marks<'_> {}

impl<'a> Bitmap for Marks<'a> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.written.mark_dirty(self.offset.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.written.dirty_at(self.offset.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Marks<'a> {
        Marks { written: self.written, offset: self.offset.saturating_add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::addr::Gpa;
    use crate::memory::MEMORY_BYTES_MIN;

    #[test]
    fn what_a_device_writes_is_marked_and_what_it_reads_is_not() {
        let mut memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
        memory.write(Gpa(0), &[1]).unwrap();
        let device = memory.for_device();
        device.write_slice(&[7; 3], GuestAddress(0x5fff)).unwrap();
        device.store(9u16, GuestAddress(0x9002), std::sync::atomic::Ordering::Release).unwrap();
        assert_eq!(device.read_obj::<u8>(GuestAddress(0x7000)).unwrap(), 0);
        drop(device);
        assert_eq!(memory.host_dirty(), [0, 5, 6, 9]);
        let mut out = [0; 3];
        memory.read(Gpa(0x5fff), &mut out).unwrap();
        assert_eq!(out, [7; 3]);
    }

    #[test]
    fn a_device_reaches_nothing_outside() {
        let mut memory = GuestMemory::for_boot(MEMORY_BYTES_MIN, 4096).unwrap().0;
        let device = memory.for_device();
        for at in [MEMORY_BYTES_MIN - 1, MEMORY_BYTES_MIN, u64::MAX - 1] {
            assert!(device.write_slice(&[1, 2], GuestAddress(at)).is_err(), "{at:#x}");
            assert!(device.read_obj::<u16>(GuestAddress(at)).is_err(), "{at:#x}");
        }
    }
}
