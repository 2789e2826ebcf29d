//! The per-vCPU dirty ring: KVM names the pages that the guest dirties in a ring that both map.
//!
//! # Sources
//!
//! Linux `Documentation/virt/kvm/api.rst`, 8.29 `KVM_CAP_DIRTY_LOG_RING`: the states of an entry, and
//! that entries are collected and reset in order.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_CAP_DIRTY_LOG_RING, KVMIO, kvm_dirty_gfn, kvm_enable_cap};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use crate::addr::PAGE_BYTES;

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// Entries of the ring: 64 KiB of them. A run that dirties more stops in between to have them
/// collected.
pub(crate) const ENTRIES: u32 = 4096;
/// Where the ring is in the vCPU's mapping, in pages (`KVM_DIRTY_LOG_PAGE_OFFSET`).
const PAGE_OFFSET: u64 = 64;
/// `KVM_DIRTY_GFN_F_DIRTY`, `KVM_DIRTY_GFN_F_RESET`.
const DIRTY: u32 = 1;
const RESET: u32 = 2;

/// Turns the ring on. Before any vCPU is created.
pub(crate) fn enable(vm: &VmFd) -> io::Result<()> {
    let bytes = u64::from(ENTRIES) * size_of::<kvm_dirty_gfn>() as u64;
    let cap = kvm_enable_cap { cap: KVM_CAP_DIRTY_LOG_RING, args: [bytes, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&cap).map_err(io::Error::from)
}

/// The ring of one vCPU.
#[derive(Debug)]
pub(crate) struct DirtyRing {
    // Invariant: maps ENTRIES entries for as long as `self`.
    entries: NonNull<kvm_dirty_gfn>,
    next: u32,
    // KVM has written more entries than there is room for; where it goes on is not known.
    overrun: bool,
}

// SAFETY: the mapping is owned by this value alone and is plain memory; which thread reads it makes no
// difference as long as it is one at a time, which `&mut self` ensures.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    /// Maps the ring of `vcpu`, whose VM has it on.
    pub(crate) fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let offset = libc::off_t::try_from(PAGE_OFFSET * PAGE_BYTES).unwrap_or(0);
        // SAFETY: a new shared mapping of the vCPU's descriptor at the documented offset; the kernel
        // chooses the address.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { entries, next: 0, overrun: false })
    }

    const BYTES: usize = ENTRIES as usize * size_of::<kvm_dirty_gfn>();

    /// Takes the dirty pages of `slot` out of the ring into `bits`, one bit per page, and has KVM
    /// protect them again. One ioctl, if there are any.
    ///
    /// # Errors
    ///
    /// What the ioctl says; and, for ever after, that the ring was overrun. KVM stops the vCPU in time
    /// when the ring fills, but only where it enters the guest: code that it emulates for long, as
    /// software KVM does when the stack pointer is not canonical, is not stopped. Which pages were
    /// lost is not known then, and no later one can be found: KVM and this side disagree about where
    /// the next entry is.
    pub(crate) fn collect(&mut self, vm: &VmFd, slot: u32, bits: &mut [u64]) -> io::Result<()> {
        let before = self.next;
        while let Some((from, page)) = self.take() {
            let word = usize::try_from(page / 64).ok().and_then(|word| bits.get_mut(word));
            if let Some(word) = word.filter(|_| from == slot) {
                *word |= 1 << (page % 64);
            }
        }
        self.overrun |= self.next.wrapping_sub(before) >= ENTRIES;
        if self.overrun {
            return Err(io::Error::other("the guest overran the dirty ring: use another reset engine"));
        }
        if self.next == before {
            return Ok(());
        }
        // SAFETY: the ioctl takes no argument.
        let result = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next dirty entry: slot and page.
    fn take(&mut self) -> Option<(u32, u64)> {
        let index = (self.next % ENTRIES) as usize;
        // SAFETY: `index` is below ENTRIES (invariant: the mapping has that many).
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: the entry is mapped and aligned; `flags` is its first field.
        let flags = unsafe { AtomicU32::from_ptr(entry.cast::<u32>().as_ptr()) };
        if flags.load(Ordering::Acquire) & DIRTY == 0 {
            return None;
        }
        // SAFETY: KVM wrote the entry before it set DIRTY, and does not touch it until it is reset.
        let value = unsafe { entry.read_volatile() };
        flags.store(RESET, Ordering::Release);
        self.next = self.next.wrapping_add(1);
        Some((value.slot & 0xffff, value.offset))
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and nothing refers to it any more.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), Self::BYTES) };
    }
}
