//! Everything a vCPU remembers, saved and put back.
//!
//! The order of restoring matters (Linux `Documentation/virt/kvm/api.rst`, and KVM's own checks):
//!
//! 1. CPUID before all else: KVM validates CR4, XCR0 and MSRs against it.
//! 2. XCRs before XSAVE: `KVM_SET_XSAVE` refuses components that XCR0 does not enable.
//! 3. Segment and control registers before MSRs: EFER and the paging mode decide what is legal.
//! 4. Events last: they describe what is pending on top of the registers.
//!
//! What a CPL-3 guest can change is put back after every run ([`CoreState`] and the XSAVE area);
//! XCR0, the MSRs and the debug registers it cannot change, except DR6, which a #DB sets. The
//! soundness tests hold that claim by comparing all of [`VcpuState`]. A guest at CPL 0 can change all of it, and more
//! MSRs ([`KERNEL_MSRS`]), and its time stamp counter ([`super::Vcpu::keep_tsc`]).

use kvm_bindings::{Msrs, kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs};
use serde::{Deserialize, Serialize};

use super::cpuid::CpuModel;
use crate::machine;

/// MSRs that are set and kept: those that decide how a CPL-3 guest behaves.
pub(crate) const MSRS: [u32; 9] = [
    MSR_STAR,
    MSR_LSTAR,
    0xc000_0083, // CSTAR
    MSR_SYSCALL_MASK,
    0xc000_0102, // KERNEL_GS_BASE
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0x277,       // PAT
];

/// MSRs that a guest at CPL 0 can change besides: of those, the ones that the host has and lets be set are kept.
/// TSC_ADJUST, SPEC_CTRL, MCG_STATUS and _CTL, MISC_ENABLE, DEBUGCTL, MTRRs, TSC_DEADLINE, XSS, TSC_AUX, and KVM's own
/// clock, steal time, asynchronous page faults and end-of-interrupt, which make the host write to guest memory.
pub(crate) const KERNEL_MSRS: [u32; 42] = [
    MSR_TSC_ADJUST,
    0x48,
    0x17a,
    0x17b,
    0x1a0,
    0x1d9,
    0x200,
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    0x2ff,
    0x6e0,
    0xda0,
    0xc000_0103,
    0x12,
    0x4b56_4d01,
    0x4b56_4d02,
    0x4b56_4d03,
    0x4b56_4d04,
];

pub(crate) const MSR_TSC_ADJUST: u32 = 0x3b;
pub(crate) const MSR_STAR: u32 = 0xc000_0081;
pub(crate) const MSR_LSTAR: u32 = 0xc000_0082;
pub(crate) const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
/// Bit 31: CPUID faulting may be enabled (Intel SDM volume 4, `MSR_PLATFORM_INFO`).
pub(crate) const MSR_PLATFORM_INFO: u32 = 0xce;
/// Bit 0: CPUID at CPL 3 is #GP.
pub(crate) const MSR_MISC_FEATURES_ENABLES: u32 = 0x140;

/// The state that a run changes and that every reset puts back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoreState {
    /// General registers, RIP and RFLAGS.
    pub regs: kvm_regs,
    /// Segments, descriptor tables, control registers, FS and GS base.
    pub sregs: kvm_sregs,
    /// Pending exceptions and interrupts, and the interrupt shadow.
    pub events: kvm_vcpu_events,
}

/// All of a vCPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VcpuState {
    /// Which CPU the guest sees.
    pub model: CpuModel,
    /// Registers and events.
    pub core: CoreState,
    /// x87, SSE, AVX ..., as `struct kvm_xsave` in 32-bit words.
    pub xsave: Vec<u32>,
    /// XCR0.
    pub xcrs: kvm_xcrs,
    /// Number and value of each of the kept MSRs that this host has.
    pub msrs: Vec<(u32, u64)>,
    /// DR0 to DR7.
    pub debug: kvm_debugregs,
}

impl VcpuState {
    /// Whether this can be what [`super::Vcpu::save`] saved of a machine at CPL 3 with `memory_bytes` bytes of
    /// RAM. What it may still be is up to KVM, which refuses what a CPU could not hold.
    pub(crate) fn is_plausible(&self, memory_bytes: u64) -> bool {
        let sregs = &self.core.sregs;
        let mut kept = MSRS.iter();
        self.msrs.iter().all(|(index, _)| kept.any(|kept| kept == index))
            && self.xcrs.nr_xcrs as usize <= self.xcrs.xcrs.len()
            && sregs.cs.dpl == 3
            && sregs.ss.dpl == 3
            && sregs.cr3 < memory_bytes
            && machine::has_own_tables(sregs)
    }
}

/// The kept MSRs as KVM takes them.
pub(crate) fn msr_list(values: &[(u32, u64)]) -> Msrs {
    let entries: Vec<kvm_msr_entry> =
        values.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    Msrs::from_entries(&entries).expect("a handful of MSRs is far below KVM's limit")
}
