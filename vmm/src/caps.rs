//! What this host's KVM offers, probed once.

use std::io;

use kvm_bindings::{KVM_CAP_DIRTY_LOG_RING, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_SYNC_REGS};
use kvm_ioctls::Cap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::vcpu::cpuid::CpuModel;

/// The only KVM API version there has been since 2007.
const API_VERSION: i32 = 12;

/// Why KVM cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KvmError {
    /// There is no such device.
    #[error(
        "there is no /dev/kvm: load the kvm_intel or kvm_amd module, or enable nested virtualisation for this machine"
    )]
    Missing,
    /// The device may not be opened.
    #[error(
        "no permission to open /dev/kvm: add yourself to the group `kvm` (usermod -aG kvm $USER) and log in again"
    )]
    Permission,
    /// Opening failed for another reason.
    #[error("cannot open /dev/kvm")]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a KVM that this program knows.
    #[error("KVM API version {found}, but {API_VERSION} is needed: use a current kernel")]
    Version {
        /// What `KVM_GET_API_VERSION` returned.
        found: i32,
    },
    /// Something without which nothing works.
    #[error("KVM lacks {capability}: use Linux 4.20 or newer")]
    Lacks {
        /// What.
        capability: &'static str,
    },
}

/// What this host's KVM offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCaps {
    /// `KVM_GET_API_VERSION`.
    pub api_version: i32,
    /// Registers travel in the `kvm_run` page: resets need no ioctl for them.
    pub sync_regs: bool,
    /// Dirty pages are cleared by hand: hot pages can stay writable.
    pub manual_dirty_log: bool,
    /// Entries of the per-vCPU dirty ring, 0 when there is none.
    pub dirty_ring_entries: u32,
    /// Read-only memory slots: the in-guest reset needs one.
    pub readonly_memory: bool,
    /// Bytes of XSAVE state.
    pub xsave_bytes: u32,
    /// Hardware nested paging is in use, as far as the kernel says; `None` when it does not say.
    pub nested_paging: Option<bool>,
    /// The CPU model that guests see.
    pub cpu_model: CpuModel,
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm {
    pub(crate) fd: kvm_ioctls::Kvm,
    caps: HostCaps,
}

impl Kvm {
    /// Opens `/dev/kvm` and looks at what it offers.
    ///
    /// # Errors
    ///
    /// [`KvmError`], each with what to do about it.
    pub fn open() -> Result<Self, KvmError> {
        let fd = kvm_ioctls::Kvm::new().map_err(|e| match e.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
            libc::EACCES | libc::EPERM => KvmError::Permission,
            _ => KvmError::Open { source: e.into() },
        })?;
        let api_version = fd.get_api_version();
        if api_version != API_VERSION {
            return Err(KvmError::Version { found: api_version });
        }
        for (cap, capability) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
        ] {
            if !fd.check_extension(cap) {
                return Err(KvmError::Lacks { capability });
            }
        }
        let raw = |cap: u32| fd.check_extension_raw(cap.into());
        let caps = HostCaps {
            api_version,
            sync_regs: raw(KVM_CAP_SYNC_REGS) & 7 == 7,
            manual_dirty_log: raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & 1 == 1,
            dirty_ring_entries: u32::try_from(raw(KVM_CAP_DIRTY_LOG_RING)).unwrap_or(0) / DIRTY_GFN_BYTES,
            readonly_memory: true,
            xsave_bytes: u32::try_from(fd.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(4096),
            nested_paging: nested_paging(),
            cpu_model: CpuModel::of_host(),
        };
        Ok(Self { fd, caps })
    }

    /// What it offers.
    #[must_use]
    pub fn caps(&self) -> &HostCaps {
        &self.caps
    }
}

/// Bytes of a `struct kvm_dirty_gfn`.
const DIRTY_GFN_BYTES: u32 = 16;

fn nested_paging() -> Option<bool> {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| matches!(text.trim(), "Y" | "1"));
    read("/sys/module/kvm_intel/parameters/ept").or_else(|| read("/sys/module/kvm_amd/parameters/npt"))
}
