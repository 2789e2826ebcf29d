//! From a path to a snapshot that can be forked: an image is booted, a snapshot file is mapped.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use thiserror::Error;
use unifork_vmm::{
    Boot, BootEnd, BootError, GuestImage, ImageError, Kvm, KvmError, MachineConfig, MemoryCheck, Outcome,
    Outside, Snapshot, SnapshotError, regular,
};

use crate::report;
use crate::syscalls;
use crate::units;

/// What the machine is like. A snapshot file has it frozen in.
#[derive(Clone, Debug, Args)]
pub(crate) struct MachineArgs {
    /// Guest memory
    #[arg(long, visible_alias = "mem", default_value = "64M", value_parser = units::size, value_name = "SIZE")]
    pub(crate) memory: u64,
    /// Longest input; a longer seed is left out, never cut
    #[arg(long, default_value = "1M", value_parser = units::size, value_name = "SIZE")]
    pub(crate) input_max: u64,
    /// Time the program may take from boot to its first input
    #[arg(long, default_value = "30s", value_parser = units::duration, value_name = "TIME")]
    pub(crate) boot_deadline: Duration,
}

impl MachineArgs {
    /// As the VMM takes it.
    pub(crate) fn config(&self, args: &[String], env: &[String]) -> MachineConfig {
        MachineConfig {
            memory_bytes: self.memory,
            input_max: self.input_max,
            boot_deadline: self.boot_deadline,
            args: args.to_vec(),
            env: env.to_vec(),
            ..MachineConfig::default()
        }
    }
}

/// Why there is no snapshot.
#[derive(Debug, Error)]
pub(crate) enum MachineError {
    /// No usable KVM: the host's.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no image.
    #[error("{} is not an image that can be run", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// It is no snapshot, or of another build or host.
    #[error("cannot use {}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SnapshotError,
    },
    /// It does not boot.
    #[error("cannot boot {}", path.display())]
    Boot {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: BootError,
    },
    /// It ran, and ended without asking for an input.
    #[error(
        "{} asked for no input: {}{}{}",
        path.display(), report::sentence(outcome), last_words(console), not_served(unserved)
    )]
    NoInput {
        /// The image.
        path: PathBuf,
        /// How it ended.
        outcome: Box<Outcome>,
        /// What it said.
        console: String,
        /// System calls that the libOS did not serve.
        unserved: Vec<(u64, u32)>,
    },
}

fn not_served(unserved: &[(u64, u32)]) -> String {
    if unserved.is_empty() {
        return String::new();
    }
    format!("; {}: {}", syscalls::NOT_SERVED, syscalls::list(unserved))
}

fn last_words(console: &str) -> String {
    console.lines().next_back().map_or_else(String::new, |line| format!(", after saying `{line}`"))
}

/// A frozen machine and where it came from.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) kvm: Arc<Kvm>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// The boot, unless a snapshot file was opened.
    pub(crate) boot: Option<BootFacts>,
    pub(crate) check: Check,
}

/// Checks a snapshot file's memory meanwhile; ends the process when it is damaged. Dropping it waits, so
/// that a short run does not end before its machine is known to be good.
#[derive(Debug, Default)]
pub(crate) struct Check(Option<JoinHandle<()>>);

impl Drop for Check {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _panicked = thread.join();
        }
    }
}

/// What booting told.
#[derive(Clone, Debug)]
pub(crate) struct BootFacts {
    pub(crate) elapsed: Duration,
    pub(crate) unserved: Vec<(u64, u32)>,
}

/// Whether `path` is an ELF file, and so an image rather than a snapshot.
pub(crate) fn is_elf(path: &Path) -> Result<bool, MachineError> {
    let mut magic = [0; 4];
    let read = regular::open(path).and_then(|mut file| file.read(&mut magic));
    match read {
        Ok(count) => Ok(magic[..count] == *b"\x7fELF"),
        Err(source) => Err(MachineError::Read { path: path.to_path_buf(), source }),
    }
}

/// Boots the ELF file `path` and says how that went.
pub(crate) fn boot(kvm: &Kvm, path: &Path, config: &MachineConfig) -> Result<Boot, MachineError> {
    boot_with(kvm, path, config, Outside::default())
}

/// [`boot`], with files and services.
pub(crate) fn boot_with(
    kvm: &Kvm,
    path: &Path,
    config: &MachineConfig,
    outside: Outside<'_>,
) -> Result<Boot, MachineError> {
    let image =
        GuestImage::open(path).map_err(|source| MachineError::Image { path: path.to_path_buf(), source })?;
    unifork_vmm::boot_with(kvm, unifork_guest::KERNEL, &image, config, outside)
        .map_err(|source| MachineError::Boot { path: path.to_path_buf(), source })
}

/// Opens `path`, an image or a snapshot file, as a frozen machine.
pub(crate) fn open(path: &Path, args: &MachineArgs) -> Result<Machine, MachineError> {
    let (machine, check) = open_and_check_later(path, args)?;
    check.map_or(Ok(()), MemoryCheck::run).map_err(|source| damaged(path, source))?;
    Ok(machine)
}

/// The frozen machine that the parent of this process opened, behind `path`.
pub(crate) fn open_shared(path: &Path) -> Result<Machine, MachineError> {
    let kvm = Arc::new(Kvm::open()?);
    let (snapshot, _) = Snapshot::open_and_check_later(path).map_err(|source| damaged(path, source))?;
    Ok(Machine { kvm, snapshot, boot: None, check: Check::default() })
}

/// As [`open`], for work that goes on for long: a snapshot file's memory, which may be gigabytes, is
/// checked while the work begins, and `fail` ends the process when it is damaged.
pub(crate) fn open_at_once(
    path: &Path,
    args: &MachineArgs,
    fail: impl FnOnce(MachineError) + Send + 'static,
) -> Result<Machine, MachineError> {
    let (mut machine, check) = open_and_check_later(path, args)?;
    let path = path.to_path_buf();
    machine.check = Check(check.map(|check| {
        std::thread::spawn(move || {
            if let Err(source) = check.run() {
                fail(damaged(&path, source));
            }
        })
    }));
    Ok(machine)
}

fn damaged(path: &Path, source: SnapshotError) -> MachineError {
    MachineError::Snapshot { path: path.to_path_buf(), source }
}

fn open_and_check_later(
    path: &Path,
    args: &MachineArgs,
) -> Result<(Machine, Option<MemoryCheck>), MachineError> {
    let elf = is_elf(path)?;
    let kvm = Arc::new(Kvm::open()?);
    if !elf {
        crate::signals::name_at_sigbus(path);
        let (snapshot, check) =
            Snapshot::open_and_check_later(path).map_err(|source| damaged(path, source))?;
        return Ok((Machine { kvm, snapshot, boot: None, check: Check::default() }, Some(check)));
    }
    let boot = boot(&kvm, path, &args.config(&[], &[]))?;
    let console = String::from_utf8_lossy(&boot.console).into_owned();
    match boot.end {
        BootEnd::Snapshot(snapshot) => {
            let facts = BootFacts { elapsed: boot.elapsed, unserved: boot.unserved };
            Ok((Machine { kvm, snapshot, boot: Some(facts), check: Check::default() }, None))
        }
        BootEnd::Ended(outcome) => {
            let (path, outcome) = (path.to_path_buf(), Box::new(outcome));
            Err(MachineError::NoInput { path, outcome, console, unserved: boot.unserved })
        }
    }
}
