//! A frozen machine that inputs are run on, whoever's kernel is in it, and where it came from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use unifork_vmm::{Engine, Kvm};

use crate::cmd::run::kernel::KernelArgs;
use crate::findings;
use crate::fork::Frozen;
use crate::machine::{BootFacts, Check, Machine};

/// The machine.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) kvm: Arc<Kvm>,
    pub(crate) frozen: Frozen,
    /// The boot, unless it was frozen before.
    pub(crate) boot: Option<BootFacts>,
    /// Of an image with a kernel of its own: the flags that it was booted with.
    pub(crate) kernel: Option<KernelArgs>,
    // Waits until a snapshot file is known to be whole.
    _check: Check,
}

impl From<Machine> for Opened {
    fn from(machine: Machine) -> Self {
        let Machine { kvm, snapshot, boot, check } = machine;
        Self { kvm, frozen: snapshot.into(), boot, kernel: None, _check: check }
    }
}

impl Opened {
    /// An image with a kernel of its own, booted with `kernel`.
    pub(crate) fn foreign(
        kvm: Arc<Kvm>,
        frozen: Frozen,
        boot: Option<BootFacts>,
        kernel: KernelArgs,
    ) -> Self {
        Self { kvm, frozen, boot, kernel: Some(kernel), _check: Check::default() }
    }

    /// What a finding's record says of the machine opened from `path`.
    pub(crate) fn describe(&self, path: &Path, deadline: Duration, engine: Engine) -> findings::Machine {
        findings::Machine {
            image: path.canonicalize().unwrap_or_else(|_| path.to_path_buf()),
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            snapshot: format!("{:016x}", self.frozen.id()),
            memory_bytes: self.frozen.memory_bytes(),
            input_max: self.frozen.input_max(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            engine: engine.to_string(),
            kernel: self.kernel.clone(),
        }
    }
}
