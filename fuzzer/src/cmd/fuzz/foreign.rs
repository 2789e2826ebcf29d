//! `unifork fuzz` for images with a kernel and an agent of their own.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use unifork_vmm::Kvm;
use unifork_vmm::foreign::{Base, BaseError, InputTo, Terms};
use unifork_vmm::regular;

use super::Args;
use crate::cmd::run::kernel::{self, KernelArgs};
use crate::cmd::{Blame, BlameExt as _, Failure};
use crate::fork::Frozen;
use crate::machine::{BootFacts, MachineArgs};
use crate::opened::Opened;

/// [`kernel::is_wanted`], for an image that is to be fuzzed.
pub(crate) fn is_wanted(flags: &KernelArgs, image: &Path) -> Result<bool, Failure> {
    kernel::is_wanted(image, &flags.boot, flags.terms.given())
}

/// Boots one to where its agent asks for the snapshot.
pub(crate) fn open(path: &Path, machine: &MachineArgs, flags: &KernelArgs) -> Result<Opened, Failure> {
    let image: Arc<[u8]> = regular::read(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .or_usage()
        .map_err(|failure| failure.help("check the path"))?
        .into();
    flags.boot.devices.refuse_wires()?;
    let config = flags.boot.config(machine.memory, "")?;
    let kvm = Arc::new(Kvm::open().map_err(|error| crate::cmd::machine_failure(error.into()))?);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let began = Instant::now();
    let terms = flags.terms(&kvm, (path, &name, &image), &config, machine.boot_deadline)?;
    refuse_frames_without_a_card(flags, &terms)?;
    let base = Base::boot(&kvm, &name, image, &config, &terms, machine.boot_deadline)
        .map_err(|error| failure(path, error))?;
    let boot = BootFacts { elapsed: began.elapsed(), unserved: Vec::new() };
    Ok(Opened::foreign(kvm, Frozen::Foreign(base), Some(boot), flags.absolute()))
}

/// The one that the parent of this process has booted, behind `path`.
pub(super) fn open_shared(path: &Path, flags: &KernelArgs) -> Result<Opened, Failure> {
    let kvm = Arc::new(Kvm::open().map_err(|error| crate::cmd::machine_failure(error.into()))?);
    let base = Base::open_shared(path)
        .context("cannot open the machine that the campaign's parent has booted")
        .or_host()?;
    Ok(Opened::foreign(kvm, Frozen::Foreign(base), None, flags.absolute()))
}

/// Refuses frames for inputs where there is no network card to take them.
fn refuse_frames_without_a_card(flags: &KernelArgs, terms: &Terms) -> Result<(), Failure> {
    let frames = terms.agentless.as_ref().is_some_and(|terms| matches!(terms.input, InputTo::Net { .. }));
    if frames && flags.boot.devices.wires().is_empty() {
        let error = anyhow!("--input-to net is for a network card, and the machine has none");
        return Err(Failure::usage(error).help("give it one with --net isolated"));
    }
    Ok(())
}

/// Refuses flags that mean nothing for one.
pub(super) fn refuse_what_is_a_programs(args: &Args) -> Result<(), Failure> {
    if args.kernel_coverage {
        let error = anyhow!("{} has no libOS: all of it is the image's", args.image.display());
        return Err(Failure::usage(error).help("leave out --kernel-coverage"));
    }
    Ok(())
}

fn failure(path: &Path, error: BaseError) -> Failure {
    match error {
        BaseError::Foreign(error) => kernel::failure(path, error),
        BaseError::NoSnapshot { ref console, ref end, .. } => {
            let (how, _) = kernel::judge(end);
            let said = String::from_utf8_lossy(console);
            let last =
                said.lines().next_back().map_or_else(String::new, |line| format!(", after saying `{line}`"));
            Failure::usage(anyhow!("{}: {error}: {how}{last}", path.display()))
                .help("docs/agent.md says how an image asks for one, and docs/agentless.md how to do without")
        }
        BaseError::NotReached { ref end, ref console } => {
            let said = String::from_utf8_lossy(console);
            let last =
                said.lines().next_back().map_or_else(String::new, |line| format!(", after saying `{line}`"));
            let (how, _) = kernel::judge(end);
            Failure::usage(anyhow!("{} did not come to where it is to be frozen: {how}{last}", path.display()))
                .help("check --snapshot-at; `unifork run` shows what it does, and --boot-deadline is its time")
        }
        error => Failure {
            blame: Blame::Usage,
            error: anyhow::Error::from(error).context(format!("{} cannot be fuzzed", path.display())),
            help: Some(
                "docs/agent.md says what an image announces, and docs/agentless.md what is said for one that does not"
                    .to_owned(),
            ),
        },
    }
}
