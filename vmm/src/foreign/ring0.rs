//! Whether code at the guest's CPL 0 is run by KVM, or by our own monitor.

use std::time::Duration;

use kvm_ioctls::VmFd;

use super::bus::Bus;
use super::config::{Profile, Ring0};
use super::cpu::{Cpu, Start, Stop};
use super::cpuid::Cpuid;
use super::set_slots;
use crate::addr::Gpa;
use crate::caps::Kvm;
use crate::memory::{GuestMemory, MemoryError};
use crate::vcpu::VcpuError;
use crate::vm::Tracking;

/// Whether it is the monitor, as asked for by `ring0`.
pub(super) fn uses_monitor(kvm: &Kvm, ring0: Ring0) -> Result<bool, VcpuError> {
    Ok(match ring0 {
        Ring0::Native => false,
        Ring0::Monitor => true,
        Ring0::Auto => !runs_ring0(kvm)?,
    })
}

/// Whether KVM runs CPL 0 natively: one of the instructions that its emulator does not know is tried.
///
/// # Errors
///
/// [`VcpuError`], when there can be no VM.
pub fn runs_ring0(kvm: &Kvm) -> Result<bool, VcpuError> {
    // mov eax, cr4; or eax, 0x600; mov cr4, eax; pxor xmm0, xmm0; hlt
    const CODE: [u8; 16] =
        [0x0f, 0x20, 0xe0, 0x0d, 0, 6, 0, 0, 0x0f, 0x22, 0xe0, 0x66, 0x0f, 0xef, 0xc0, 0xf4];
    const AT: u64 = 0x1000;
    let memory = |e: MemoryError| VcpuError { ioctl: "mmap", source: std::io::Error::other(e) };
    let bytes = crate::memory::MEMORY_BYTES_MIN;
    let (mut memory, _file) = GuestMemory::for_boot(bytes, crate::addr::PAGE_BYTES).map_err(memory)?;
    memory.write(Gpa(AT), &CODE).expect("the memory is larger");
    let error = |source| VcpuError { ioctl: "KVM_CREATE_VM", source };
    let fd = kvm.fd.create_vm().map_err(|e| error(e.into()))?;
    set_slots(&fd, &memory, Tracking::Off)?;
    let start = Start { rip: AT, code: 8, data: 16, ..Start::default() };
    let cpu = Cpu::native(&fd, Cpuid::new(kvm.caps().cpu_model), &start)?;
    let mut probe = Probe { cpu, fd, memory, bus: Bus::new(Profile::Pc, bytes, &[]) };
    probe.cpu.vcpu().arm(Duration::from_secs(1));
    let stop = probe.cpu.step(&probe.fd, &mut probe.memory, &mut probe.bus);
    probe.cpu.vcpu().disarm();
    Ok(stop? == Stop::Halt)
}

/// What [`runs_ring0`] runs, in the order in which it must go.
struct Probe {
    cpu: Cpu,
    fd: VmFd,
    memory: GuestMemory,
    bus: Bus,
}
