//! The time stamp counter.

use std::io;
use std::os::fd::AsRawFd as _;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// What `rdtsc` reads.
pub(crate) fn read() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and the kernel lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// What is added to the host's counter for the guest; `None` where KVM does not say (before Linux 5.16).
pub(crate) fn offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut offset = 0u64;
    let attr = attr(std::ptr::from_mut(&mut offset) as u64);
    // SAFETY: KVM_GET_DEVICE_ATTR of this attribute writes 8 bytes at `addr`, which are `offset`'s.
    let result = unsafe { ioctl_with_ref(&vcpu.as_raw_fd(), KVM_GET_DEVICE_ATTR(), &attr) };
    (result == 0).then_some(offset)
}

/// Makes it `offset`.
pub(crate) fn set_offset(vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
    let attr = attr(std::ptr::from_ref(&offset) as u64);
    // SAFETY: KVM_SET_DEVICE_ATTR of this attribute reads 8 bytes at `addr`, which are `offset`'s.
    let result = unsafe { ioctl_with_ref(&vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR(), &attr) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attr(addr: u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group: KVM_VCPU_TSC_CTRL, attr: KVM_VCPU_TSC_OFFSET.into(), addr }
}
