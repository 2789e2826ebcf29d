//! What a machine is made of, and what all of its forks have in common.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::elf::Counters;
use crate::faults::FaultDoors;
use crate::layout::Layout;
use crate::plan::Windows;
use crate::vcpu::cpuid::CpuModel;

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Bytes of guest memory; a multiple of 4 KiB. Default 64 MiB.
    pub memory_bytes: u64,
    /// Bytes of the application's stack. Default 8 MiB, as on Linux.
    pub stack_bytes: u64,
    /// The longest input in bytes. Default 1 MiB.
    pub input_max: u64,
    /// The application's arguments; the first is its name. Default: the image's name.
    pub args: Vec<String>,
    /// Its environment. Default: empty.
    pub env: Vec<String>,
    /// How long it may take to ask for its first input. Default 30 s.
    pub boot_deadline: Duration,
    /// Whether `syscall` instructions are rewritten into calls of the libOS. Default: yes.
    pub direct_calls: bool,
    /// The CPU that the guest sees. Default, and with it what the snapshot says: the better of those
    /// that the host can be.
    pub cpu_model: Option<CpuModel>,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            stack_bytes: 8 << 20,
            input_max: 1 << 20,
            args: Vec::new(),
            env: Vec::new(),
            boot_deadline: Duration::from_secs(30),
            direct_calls: true,
            cpu_model: None,
        }
    }
}

/// What is the same for all forks of a machine, besides its memory and vCPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// What it was made of.
    pub config: MachineConfig,
    /// Name of the application's image.
    pub name: String,
    /// Where everything is.
    pub layout: Arc<Layout>,
    /// Where the windows are.
    pub windows: Windows,
    /// The application's counters.
    pub app_counters: Option<Counters>,
    /// The libOS's counters.
    pub kernel_counters: Option<Counters>,
    /// What is added to addresses in the application's file.
    pub app_bias: u64,
    /// Address at which the guest loads x87, SSE and AVX state by itself, from memory that every
    /// reset puts back: a fork that begins there needs no such ioctl. 0: it does not.
    pub resume: u64,
    /// Where the libOS wants exceptions that it deals with itself.
    pub(crate) doors: Option<FaultDoors>,
}
