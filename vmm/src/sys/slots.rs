//! Memory slots: which host mapping KVM shows the guest at which guest-physical address.

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

/// Gives `region` to the guest as `slot`.
///
/// # Safety
///
/// `region` must stay mapped until `vm` and all its vCPUs are gone: the guest reads and writes the
/// mapping, and KVM keeps its address.
pub(crate) unsafe fn set(vm: &VmFd, slot: u32, region: &GuestRegionMmap<()>, flags: u32) -> io::Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the mapping covers the whole slot (address and size are its own), and the caller
    // keeps it mapped for as long as the VM lives.
    unsafe { vm.set_user_memory_region(region) }.map_err(io::Error::from)
}

/// Takes `slot` from the guest: KVM forgets all that it knew of the memory there.
pub(crate) fn remove(vm: &VmFd, slot: u32) -> io::Result<()> {
    let region = kvm_userspace_memory_region { slot, ..Default::default() };
    // SAFETY: a slot of no size is a slot that is deleted; no address is looked at.
    unsafe { vm.set_user_memory_region(region) }.map_err(io::Error::from)
}
