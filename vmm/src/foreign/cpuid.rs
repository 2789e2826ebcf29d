//! CPUID as other people's kernels see it: the named CPU model of [`CpuModel`], with what such kernels
//! insist on.
//!
//! Added are RDRAND and RDSEED, without which Unikraft does not start, 1 GiB pages, and how fast
//! the time stamp counter is, which kernels otherwise spend a tenth of a second on finding out.
//! The local APIC can be an x2APIC; its timer has no TSC-deadline mode ([`super::devices::lapic`]).
//!
//! # Sources
//!
//! Intel SDM volume 2, CPUID; for leaf 0x4000_0010 the convention of hypervisors (frequency of the
//! TSC in kHz), which Unikraft and Solo5 read.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

use crate::agent;
use crate::vcpu::cpuid::{CpuModel, Leaf};

const RDRAND: u32 = 1 << 30;
const RDSEED: u32 = 1 << 18;
const X2APIC: u32 = 1 << 21;
const OSXSAVE: u32 = 1 << 27;
const UMIP: u32 = 1 << 2;
const PAGE_1GIB: u32 = 1 << 26;
const CR4_OSXSAVE: u64 = 1 << 18;
/// "unifork unif" in EBX, ECX, EDX.
const SIGNATURE: [u32; 3] = [0x6669_6e75, 0x206b_726f, 0x6669_6e75];

/// The CPU that an image sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cpuid {
    model: CpuModel,
    tsc_khz: u32,
    /// Bytes that XSAVE of everything takes on the real CPU; 0 where its XCR0 is the model's.
    real_xsave_bytes: u32,
    /// Whether the machine says that it serves an agent.
    agent: bool,
}

impl Cpuid {
    /// `model`, of whose time stamp counter nothing is known.
    pub(crate) fn new(model: CpuModel) -> Self {
        Self { model, tsc_khz: 0, real_xsave_bytes: 0, agent: false }
    }

    /// The same, on a CPU whose XCR0 cannot be restricted: an `xsave` of everything writes this many
    /// bytes, so that is what kernels have to set aside.
    pub(crate) fn with_real_xsave(self, bytes: u32) -> Self {
        Self { real_xsave_bytes: bytes, ..self }
    }

    /// The same, whose time stamp counter runs at `tsc_khz`; 0: it is not said.
    pub(crate) fn with_tsc_khz(self, tsc_khz: u32) -> Self {
        Self { tsc_khz, ..self }
    }

    /// The same, with the leaves by which an agent knows the machine.
    pub(crate) fn with_agent(self, agent: bool) -> Self {
        Self { agent, ..self }
    }

    /// Whether an agent is told that it is served.
    pub(crate) fn agent(&self) -> bool {
        self.agent
    }

    /// Whether the real CPU has state that an `xsave` of everything moves, and the model has not.
    pub(crate) fn hides_xstate(&self) -> bool {
        self.real_xsave_bytes > self.model.lookup(0xd, 0)[1]
    }

    pub(crate) fn model(&self) -> CpuModel {
        self.model
    }

    /// What CPUID returns while CR4 is `cr4`.
    pub(crate) fn lookup(&self, leaf: u32, subleaf: u32, cr4: u64) -> Leaf {
        let mut found = self.model.lookup(leaf, subleaf);
        match (leaf, subleaf) {
            (1, _) => {
                let on = cr4 & CR4_OSXSAVE != 0;
                found[2] = found[2] & !OSXSAVE | RDRAND | X2APIC | if on { OSXSAVE } else { 0 };
            }
            (7, 0) => found[1] |= RDSEED,
            (0xd, 0) => {
                found[1] = found[1].max(self.real_xsave_bytes);
                found[2] = found[2].max(self.real_xsave_bytes);
            }
            (0x4000_0000, _) => {
                found = agent::cpuid(leaf).filter(|_| self.agent).unwrap_or([
                    0,
                    SIGNATURE[0],
                    SIGNATURE[1],
                    SIGNATURE[2],
                ]);
                found[0] = 0x4000_0010;
            }
            (0x4000_0001, _) if self.agent => found = agent::cpuid(leaf).unwrap_or_default(),
            (0x4000_0010, _) => found = [self.tsc_khz, 0, 0, 0],
            (0x8000_0001, _) => found[3] |= PAGE_1GIB,
            _ => {}
        }
        found
    }

    /// The table as KVM takes it. Under the monitor the guest does not see it; KVM does, which lets a vCPU
    /// have UMIP only if it is there.
    pub(crate) fn table(&self, monitor: bool) -> CpuId {
        let mut entries: Vec<kvm_cpuid_entry2> = self.model.table().as_slice().to_vec();
        for function in [0x4000_0000, 0x4000_0001, 0x4000_0010] {
            entries.push(kvm_cpuid_entry2 { function, ..Default::default() });
        }
        for entry in &mut entries {
            // KVM itself shows OSXSAVE as CR4 has it.
            let [eax, ebx, ecx, edx] = self.lookup(entry.function, entry.index, CR4_OSXSAVE);
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
            if entry.function == 7 {
                entry.ecx |= if monitor { UMIP } else { 0 };
                entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
            }
        }
        CpuId::from_entries(&entries).expect("the table is far below KVM's limit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_has_what_kernels_insist_on_and_nothing_of_the_host() {
        const APIC: u32 = 1 << 9;
        for model in [CpuModel::V2, CpuModel::V3] {
            let cpuid = Cpuid::new(model).with_tsc_khz(2_000_000);
            let [_, ebx, ecx, edx] = cpuid.lookup(1, 0, 0);
            assert_eq!((ebx >> 24, ecx & RDRAND, ecx & OSXSAVE, edx & APIC), (0, RDRAND, 0, APIC));
            assert_eq!((ecx & X2APIC, ecx >> 24 & 1), (X2APIC, 0), "no TSC deadline");
            assert_eq!(cpuid.lookup(1, 0, CR4_OSXSAVE)[2] & OSXSAVE, OSXSAVE);
            assert_eq!(cpuid.lookup(7, 0, 0)[1] & RDSEED, RDSEED);
            assert_eq!(cpuid.lookup(0x4000_0010, 0, 0)[0], 2_000_000);
            assert_eq!(cpuid.lookup(0xb, 0, 0), [0; 4], "no topology, so no APIC id");
        }
    }

    #[test]
    fn a_kernel_sets_aside_what_xsave_really_writes() {
        let cpuid = Cpuid::new(CpuModel::V3).with_real_xsave(11008);
        assert_eq!(cpuid.lookup(0xd, 0, 0)[1..3], [11008, 11008]);
    }
}
