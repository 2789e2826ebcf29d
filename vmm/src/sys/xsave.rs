//! The vCPU's XSAVE area, of whatever size this kernel uses.

use std::io;

use kvm_bindings::Xsave;
use kvm_ioctls::VcpuFd;

/// Bytes of `struct kvm_xsave` proper; `KVM_GET_XSAVE2` returns at least as many.
const XSAVE_BYTES_MIN: usize = 4096;

/// Room for `bytes` of XSAVE state.
pub(crate) fn buffer(bytes: usize) -> io::Result<Xsave> {
    let extra = bytes.saturating_sub(XSAVE_BYTES_MIN).div_ceil(size_of::<u32>());
    Xsave::new(extra).map_err(|e| io::Error::other(format!("an XSAVE area of {bytes} bytes: {e:?}")))
}

/// Reads the vCPU's state into `area`, which [`buffer`] made with the VM's own size.
pub(crate) fn get(vcpu: &VcpuFd, area: &mut Xsave) -> io::Result<()> {
    // SAFETY: `area` was made with the size KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) names, so the
    // kernel does not write past it.
    unsafe { vcpu.get_xsave2(area) }.map_err(io::Error::from)
}

/// Sets the vCPU's state from `area`.
pub(crate) fn set(vcpu: &VcpuFd, area: &Xsave) -> io::Result<()> {
    // SAFETY: `area` was made with the size KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) names, so the
    // kernel does not read past it.
    unsafe { vcpu.set_xsave2(area) }.map_err(io::Error::from)
}

/// The area as words, for keeping and comparing.
pub(crate) fn words(area: &Xsave) -> Vec<u32> {
    let header = area.as_fam_struct_ref();
    header.xsave.region.iter().chain(area.as_slice()).copied().collect()
}

/// The inverse of [`words`], into an area of the VM's size; what does not fit is an error.
pub(crate) fn from_words(words: &[u32], bytes: usize) -> io::Result<Xsave> {
    let mut area = buffer(bytes)?;
    let extra = area.as_slice().len();
    let split = XSAVE_BYTES_MIN / size_of::<u32>();
    if words.len() != split + extra {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} bytes of XSAVE state, but this host keeps {bytes}", std::mem::size_of_val(words)),
        ));
    }
    area.as_mut_slice().copy_from_slice(&words[split..]);
    // SAFETY: only the length of the flexible array may not be changed through this; only
    // `region` is.
    let header = unsafe { area.as_mut_fam_struct() };
    header.xsave.region.copy_from_slice(&words[..split]);
    Ok(area)
}

/// Bytes that an `xsave` of all that the host's kernel has enabled writes.
pub(crate) fn host_bytes() -> u32 {
    // Intel SDM volume 2, CPUID leaf 0xd: EBX of subleaf 0.
    if std::arch::is_x86_feature_detected!("xsave") {
        std::arch::x86_64::__cpuid_count(0xd, 0).ebx
    } else {
        0
    }
}

/// Parts of the state that the host's CPU knows, as XCR0 numbers them.
pub(crate) fn host_parts() -> u64 {
    if std::arch::is_x86_feature_detected!("xsave") {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, 0);
        u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_round_trip_and_a_wrong_size_is_refused() {
        let all: Vec<u32> = (0..1024 + 16).collect();
        let area = from_words(&all, 4096 + 64).unwrap();
        assert_eq!(words(&area), all);
        assert!(from_words(&all, 4096).is_err());
    }
}
