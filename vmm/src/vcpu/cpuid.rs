//! The CPU that every guest sees: a named, fixed model, not the host's CPU.
//!
//! A campaign's corpus should mean the same on another machine, and a libc picks its `memcpy` by
//! CPUID. So the model depends on one bit of the host alone: whether it has AVX2 and friends
//! (`unifork-v3`) or not (`unifork-v2`). It never advertises RDRAND, RDSEED, RDTSCP or TSX, which
//! would let inputs behave differently from run to run; a guest that uses them unasked still gets
//! the host's.
//!
//! # Sources
//!
//! Intel SDM volume 2, CPUID; x86-64 psABI, micro-architecture levels.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

/// Which of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuModel {
    /// x86-64-v2: SSE4.2, POPCNT.
    V2,
    /// x86-64-v3: and AVX2, BMI, FMA.
    V3,
}

/// EAX, EBX, ECX and EDX of one leaf.
pub type Leaf = [u32; 4];

/// Physical address bits of the model. Guest memory needs 37.
const PHYSICAL_BITS: u32 = 39;

impl CpuModel {
    /// The better of the two that this host's CPU can run.
    #[must_use]
    pub fn of_host() -> Self {
        let v3 = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("lzcnt")
            && std::arch::is_x86_feature_detected!("movbe")
            && std::arch::is_x86_feature_detected!("f16c");
        if v3 { Self::V3 } else { Self::V2 }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2 => "unifork-v2",
            Self::V3 => "unifork-v3",
        }
    }

    /// XCR0: which state components are enabled.
    #[must_use]
    pub const fn xcr0(self) -> u64 {
        match self {
            Self::V2 => 3, // x87, SSE
            Self::V3 => 7, // and AVX
        }
    }

    /// Bits of a guest-physical address.
    pub(crate) const fn physical_bits(self) -> u32 {
        PHYSICAL_BITS
    }

    /// What CPUID returns for `leaf` and `subleaf`.
    #[must_use]
    pub fn lookup(self, leaf: u32, subleaf: u32) -> Leaf {
        let v3 = self == Self::V3;
        match (leaf, subleaf) {
            (0, _) => [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69], // "GenuineIntel"
            (1, _) => [0x0009_06ea, 0x0001_0800, leaf1_ecx(v3), LEAF1_EDX],
            (2, _) => [0x00fe_ff01, 0, 0, 0], // see leaf 4
            // Level and type, line 64 bytes, ways, sets: 32 KiB L1D, 32 KiB L1I, 256 KiB L2, 8 MiB L3.
            (4, 0) => [0x0000_0121, 0x01c0_003f, 63, 0],
            (4, 1) => [0x0000_0122, 0x01c0_003f, 63, 0],
            (4, 2) => [0x0000_0143, 0x00c0_003f, 1023, 0],
            (4, 3) => [0x0000_0163, 0x03c0_003f, 8191, 2],
            (7, 0) => [0, leaf7_ebx(v3), 0, 0],
            (0xd, 0) if v3 => [7, 832, 832, 0],
            (0xd, 0) => [3, 576, 576, 0],
            (0xd, 2) if v3 => [256, 576, 0, 0],
            (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
            (0x8000_0001, _) => [0, 0, 1 | u32::from(v3) << 5, 1 << 11 | 1 << 20 | 1 << 29],
            (0x8000_0002..=0x8000_0004, _) => self.brand(leaf - 0x8000_0002),
            (0x8000_0008, _) => [48 << 8 | PHYSICAL_BITS, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn brand(self, part: u32) -> Leaf {
        let mut text = [0u8; 48];
        let name = self.name().as_bytes();
        text[..name.len()].copy_from_slice(name);
        let at = part as usize * 16;
        std::array::from_fn(|i| {
            let word = &text[at + i * 4..at + i * 4 + 4];
            u32::from_le_bytes([word[0], word[1], word[2], word[3]])
        })
    }

    /// The model as KVM takes it.
    pub(crate) fn table(self) -> CpuId {
        let leaves = [
            (0, 0),
            (1, 0),
            (2, 0),
            (4, 0),
            (4, 1),
            (4, 2),
            (4, 3),
            (4, 4),
            (7, 0),
            (0xd, 0),
            (0xd, 1),
            (0xd, 2),
            (0x8000_0000, 0),
            (0x8000_0001, 0),
            (0x8000_0002, 0),
            (0x8000_0003, 0),
            (0x8000_0004, 0),
            (0x8000_0008, 0),
        ];
        let entries: Vec<kvm_cpuid_entry2> = leaves
            .into_iter()
            .map(|(function, index)| {
                let [eax, ebx, ecx, edx] = self.lookup(function, index);
                let flags = if matches!(function, 4 | 7 | 0xd) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
                kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
            })
            .collect();
        CpuId::from_entries(&entries).expect("the table is far below KVM's limit")
    }
}

/// FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
const LEAF1_EDX: u32 = 0x078b_fbff;

fn leaf1_ecx(v3: bool) -> u32 {
    // SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 POPCNT AES XSAVE OSXSAVE, hypervisor
    let v2 =
        1 | 1 << 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 25 | 1 << 26 | 1 << 27 | 1 << 31;
    // FMA MOVBE AVX F16C
    v2 | if v3 { 1 << 12 | 1 << 22 | 1 << 28 | 1 << 29 } else { 0 }
}

fn leaf7_ebx(v3: bool) -> u32 {
    // FSGSBASE ERMS, and BMI1 AVX2 BMI2
    1 | 1 << 9 | if v3 { 1 << 3 | 1 << 5 | 1 << 8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_hides_what_would_make_runs_differ() {
        for model in [CpuModel::V2, CpuModel::V3] {
            let [_, _, ecx, _] = model.lookup(1, 0);
            assert_eq!(ecx >> 30 & 1, 0, "RDRAND");
            let [_, ebx, _, _] = model.lookup(7, 0);
            assert_eq!((ebx >> 18 & 1, ebx >> 4 & 1, ebx >> 11 & 1), (0, 0, 0), "RDSEED, TSX");
            let [_, _, _, edx] = model.lookup(0x8000_0001, 0);
            assert_eq!(edx >> 27 & 1, 0, "RDTSCP");
            let [_, ebx, _, _] = model.lookup(1, 0);
            assert_eq!(ebx >> 24, 0, "the APIC id is not the host's");
        }
    }

    #[test]
    fn the_brand_string_is_the_models_name() {
        let words: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|leaf| CpuModel::V3.lookup(leaf, 0))
            .flat_map(u32::to_le_bytes)
            .collect();
        assert!(words.starts_with(b"unifork-v3\0"));
    }
}
