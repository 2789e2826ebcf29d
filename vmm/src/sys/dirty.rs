//! `KVM_GET_DIRTY_LOG` and `KVM_CLEAR_DIRTY_LOG` into a buffer that is used again.
//!
//! kvm-ioctls has the first, but allocates a new bitmap per call; the run+reset path must not.
//!
//! # Sources
//!
//! Linux `Documentation/virt/kvm/api.rst`, 4.8 and 4.117; `include/uapi/linux/kvm.h`.

use std::io;

use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// The dirty bitmap of one memory slot: a bit per page.
#[derive(Debug)]
pub(crate) struct DirtyBitmap {
    // Invariant: `words.len()` is the slot's page count rounded up to 64, divided by 64.
    words: Vec<u64>,
    pages: u64,
    slot: u32,
}

impl DirtyBitmap {
    /// A bitmap for `slot`, which has `pages` pages.
    pub(crate) fn new(slot: u32, pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).expect("a slot's bitmap fits memory");
        Self { words: vec![0; words], pages, slot }
    }

    /// The bitmap as last read.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Reads the slot's dirty bits. One ioctl.
    pub(crate) fn read(&mut self, vm: &VmFd) -> io::Result<()> {
        let mut log = kvm_dirty_log { slot: self.slot, ..Default::default() };
        log.__bindgen_anon_1.dirty_bitmap = self.words.as_mut_ptr().cast();
        // SAFETY: KVM writes one bit per page of the slot, rounded up to 64; `words` has that many
        // bits (invariant), and the slot's size never changes while its VM lives.
        let result = unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Clears and write-protects the pages whose bits are set in `mask`, one word (64 pages) of
    /// it per call: `word` is the index. One ioctl.
    pub(crate) fn clear_word(&self, vm: &VmFd, word: usize, mask: u64) -> io::Result<()> {
        let first_page = word as u64 * 64;
        let num_pages = u32::try_from((self.pages - first_page).min(64)).expect("at most 64");
        let mut bits = mask;
        let mut log = kvm_clear_dirty_log { slot: self.slot, num_pages, first_page, ..Default::default() };
        log.__bindgen_anon_1.dirty_bitmap = (&raw mut bits).cast();
        // SAFETY: KVM reads `num_pages` (at most 64) bits from `bits`, which outlives the call.
        let result = unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &log) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
