//! What a machine is made of.

use serde::{Deserialize, Serialize};

use super::ForeignError;
use super::loader::Module;
use crate::vcpu::cpuid::CpuModel;
use crate::virtio::DeviceConfig;

/// Which machine an image was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// What QEMU's `pc` has.
    #[default]
    Pc,
    /// What Firecracker has.
    Firecracker,
}

/// How code at the guest's CPL 0 is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ring0 {
    /// Natively where KVM does that, under the monitor where it would emulate.
    #[default]
    Auto,
    /// By KVM, at CPL 0.
    Native,
    /// By our own monitor, at CPL 3.
    Monitor,
}

/// What a machine is made of, besides its image.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which devices it has.
    pub profile: Profile,
    /// Bytes of memory; a multiple of 4 KiB, at most [`MEMORY_BYTES_MAX`]. Default 128 MiB.
    pub memory_bytes: u64,
    /// The command line.
    pub append: String,
    /// An initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Modules, for protocols that have them.
    pub modules: Vec<Module>,
    /// Its virtio devices: on a PCI bus, or for [`Profile::Firecracker`] in memory, and named on the command line. An
    /// image for Solo5's hvt calls them instead.
    pub devices: Vec<DeviceConfig>,
    /// How its CPL 0 is run.
    pub ring0: Ring0,
    /// Whether an agent finds its host ([`crate::agent`]).
    pub agent: bool,
    /// The CPU that it sees. Default: the better of those that the host can be.
    pub cpu_model: Option<CpuModel>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            memory_bytes: 128 << 20,
            append: String::new(),
            initrd: None,
            modules: Vec::new(),
            devices: Vec::new(),
            ring0: Ring0::default(),
            agent: false,
            cpu_model: None,
        }
    }
}

impl Config {
    /// The same for the same bytes on its disks.
    pub(super) fn disks_checksum(&self) -> Result<u32, ForeignError> {
        let mut sum = 0;
        for device in &self.devices {
            if let DeviceConfig::Disk { disk, .. } = device {
                let disk_sum = disk
                    .checksum()
                    .map_err(|source| ForeignError::Disk { path: disk.path().to_owned(), source })?;
                sum = crc32c::crc32c_append(sum, &disk_sum.to_le_bytes());
            }
        }
        Ok(sum)
    }
}
