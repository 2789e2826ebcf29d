//! A snapshot: one machine, frozen, and the file it is kept in.
//!
//! A [`Snapshot`] never changes once taken. Forks share one through an `Arc`; each is a
//! [`Replica`](crate::replica::Replica) that maps its memory copy-on-write and that
//! [`crate::reset`] puts back after every input. This module takes, writes and reads snapshots; it
//! neither runs a guest nor resets one. The file's layout is in [`file`].
//!
//! ```text
//!              freeze                   write_to
//!   stopped Vm ─────► Snapshot (memfd) ──────────► NAME.snap
//!                        │   ▲                        │
//!        spawn × forks   │   └────────── open ────────┘
//!                        ▼
//!                  Replica ⟲ reset
//! ```

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::MmapMut;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::boot::MachineInfo;
use crate::comparisons::Sites;
use crate::elf::GuestImage;
use crate::memory::{MemoryError, MemoryImage};
use crate::sys::memfd;
use crate::vcpu::{VcpuError, VcpuState};
use crate::vm::Vm;

mod check;
pub mod file;
mod replace;

/// Which part of the guest a counter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// The application.
    Application,
    /// The libOS.
    Kernel,
}

/// Why a snapshot could not be taken, written or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file could not be opened, read, written or mapped.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was being done: "open", "read", "write" or "map".
        op: &'static str,
        /// The snapshot file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The first eight bytes are not the magic: this is some other file.
    #[error("{} is not a unifork snapshot", path.display())]
    NotASnapshot {
        /// The file.
        path: PathBuf,
    },
    /// Another version of this program wrote it.
    #[error("{}: snapshot format {found}, this build reads {}; take it again", path.display(), file::FORMAT_VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
    },
    /// Something in it does not match its checksum, or is cut off.
    #[error("{} is damaged: {what}; take the snapshot again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It was taken on a machine whose CPU this one cannot stand in for.
    #[error("{} needs {needs}, which this machine lacks; take the snapshot here", path.display())]
    Cpu {
        /// The file.
        path: PathBuf,
        /// What is missing.
        needs: String,
    },
    /// The vCPU's state could not be read.
    #[error("cannot save the virtual CPU")]
    Vcpu(#[from] VcpuError),
    /// The memory could not be sealed or mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// One machine, frozen.
#[derive(Debug)]
pub struct Snapshot {
    // Invariant: every fork maps `memory` MAP_PRIVATE or read-only, so no guest can write to it.
    memory: MemoryImage,
    vcpu: VcpuState,
    info: MachineInfo,
    // The libOS's and the application's ELF files, for symbols.
    images: [Arc<[u8]>; 2],
}

impl Snapshot {
    /// Freezes `vm`, which stopped in a hypercall, as if it had returned 0. `file` is the file
    /// behind its RAM, which nobody may map writable any more once `vm` is gone.
    pub(crate) fn freeze(
        mut vm: Vm,
        file: File,
        info: MachineInfo,
        images: [Arc<[u8]>; 2],
    ) -> Result<Self, SnapshotError> {
        vm.answer(0)?;
        let core = vm.vcpu.core();
        let mut vcpu = vm.vcpu.save(core)?;
        vcpu.core.sregs.cr2 = 0;
        let bytes = vm.memory.len();
        drop(vm);
        memfd::seal(&file).map_err(|source| MemoryError::Io { op: "seal", bytes, source })?;
        let memory = MemoryImage::map(file, 0, bytes)?;
        Ok(Self { memory, vcpu, info, images })
    }

    /// The same machine with the calls in it that log comparisons ([`crate::comparisons`]); `None` when
    /// its application was not built to log them. Costs what the machine has touched, again.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Memory`] when the host has no memory for it.
    pub fn with_comparisons(&self) -> Result<Option<Self>, SnapshotError> {
        if self.info.windows.comparisons_bytes == 0 {
            return Ok(None);
        }
        let bytes = self.memory.len();
        let name = self.info.name.clone();
        let Some(sites) =
            GuestImage::parse(name, Arc::clone(&self.images[1])).ok().and_then(|i| Sites::find(&i))
        else {
            return Ok(None);
        };
        let io = |op| move |source| MemoryError::Io { op, bytes, source };
        let file = memfd::create(c"unifork-comparisons", bytes).map_err(io("create"))?;
        {
            // Not with `write`: a snapshot file that someone cut off would be a strange EFAULT then, and not the
            // SIGBUS that it is everywhere else.
            // SAFETY: the file is this function's own, and nobody else maps it before it is sealed.
            let mut copy = unsafe { MmapMut::map_mut(&file) }.map_err(io("map"))?;
            for range in self.memory.data_ranges() {
                let range = to_index(range.start)..to_index(range.end);
                copy[range.clone()].copy_from_slice(&self.memory.bytes()[range]);
            }
            for patch in sites.with() {
                for (at, bytes) in self.info.layout.pieces(patch.at, &patch.bytes) {
                    copy[to_index(at.0)..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        memfd::seal(&file).map_err(io("seal"))?;
        let memory = MemoryImage::map(file, 0, bytes)?;
        Ok(Some(Self {
            memory,
            vcpu: self.vcpu.clone(),
            info: self.info.clone(),
            images: self.images.clone(),
        }))
    }

    /// The memory that every fork starts from.
    #[must_use]
    pub fn memory(&self) -> &MemoryImage {
        &self.memory
    }

    /// The vCPU state that every fork starts from.
    #[must_use]
    pub fn vcpu(&self) -> &VcpuState {
        &self.vcpu
    }

    /// What else is the same for all forks.
    #[must_use]
    pub fn info(&self) -> &MachineInfo {
        &self.info
    }

    /// Bytes of guest memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.len()
    }

    /// The longest input, in bytes.
    #[must_use]
    pub fn input_max(&self) -> u64 {
        self.info.config.input_max
    }

    /// How many coverage counters there are.
    #[must_use]
    pub fn counter_count(&self, space: Space) -> usize {
        let counters = match space {
            Space::Application => self.info.app_counters,
            Space::Kernel => self.info.kernel_counters,
        };
        counters.map_or(0, |c| usize::try_from(c.count).unwrap_or(0))
    }

    /// Whether forks load x87, SSE and AVX state by themselves before they use it: they begin at the
    /// run loop's `resume`, which does.
    pub(crate) fn loads_own_fpu(&self) -> bool {
        self.vcpu.core.regs.rip == self.info.resume
    }

    /// The application's ELF file.
    #[must_use]
    pub fn app_elf(&self) -> &Arc<[u8]> {
        &self.images[1]
    }

    /// The libOS's ELF file.
    #[must_use]
    pub fn kernel_elf(&self) -> &Arc<[u8]> {
        &self.images[0]
    }

    /// Tells machines apart: the same files in the same configuration give the same number.
    #[must_use]
    pub fn id(&self) -> u64 {
        let config = postcard::to_stdvec(&self.info.config).unwrap_or_default();
        let files = self.images.iter().fold(0, |crc, image| crc32c::crc32c_append(crc, image));
        u64::from(files) << 32 | u64::from(crc32c::crc32c(&config))
    }
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("the memory is mapped, so its size is a usize")
}
