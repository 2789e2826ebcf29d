//! How a machine's run ended, and why there could be none.

use std::path::PathBuf;

use thiserror::Error;

use super::bus::Power;
use super::loader::LoadError;
use crate::agent::AgentEvent;
use crate::memory::MemoryError;
use crate::vcpu::VcpuError;

/// Why a machine could not be made or run. What its image does wrong is an [`End`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// The image cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Memory could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A disk's image cannot be read.
    #[error("cannot read the disk {}", .path.display())]
    Disk {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// KVM refused.
    #[error("cannot run a virtual CPU")]
    Vcpu(#[from] VcpuError),
}

/// How a machine's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The image ended its machine.
    Power(Power),
    /// It halted with interrupts off: it waits for nothing.
    Halted,
    /// It waits for an interrupt that no device will raise.
    Idle,
    /// An exception that it could not handle, nor the ones that came of it.
    TripleFault {
        /// The first of them: vector, error code, RIP, and for a page fault the address. Without the
        /// monitor only RIP is known.
        first: Option<Exception>,
        /// RIP.
        rip: u64,
    },
    /// Time is up.
    Deadline,
    /// The caller wanted it to stop.
    Stopped,
    /// It is at a breakpoint of ours.
    Breakpoint {
        /// Where.
        address: u64,
    },
    /// Its agent says so. Only of a machine that has [`Config::agent`].
    Agent(AgentEvent),
    /// It cannot go on, for a reason that is the host's or the monitor's.
    Stuck {
        /// Which.
        reason: String,
    },
}

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 if it has none.
    pub code: u32,
    /// For a page fault: the address.
    pub address: u64,
}
