//! `unifork snapshot`: freeze an image into a file, or say what is in one.
//!
//! Exit codes: 0 done; 2 bad input; 3 the host failed.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use unifork_vmm::{Snapshot, Space};

use crate::cmd::{Failure, Status, say};
use crate::machine::{self, MachineArgs, MachineError};
use crate::units::{show_count, show_size};

/// Flags of `unifork snapshot`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Example:
  unifork snapshot sqlite.img -o sqlite.snap
  unifork snapshot info sqlite.snap

`fuzz` and `repro` take the file in place of the image. It belongs to this build of unifork and to
hosts with the same CPU features; take it again on another. It is mapped while it is in use: replace
it as this command does, and never write into it.
Exit codes: 0 done; 2 bad input; 3 the host failed."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    /// The image to boot and freeze where it asks for its first input
    #[arg(required = true)]
    pub(crate) image: Option<PathBuf>,
    /// The file to write [default: NAME.snap beside the image]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// What else to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Say what is in a snapshot file
    Info {
        /// The file
        file: PathBuf,
    },
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    match (&args.verb, &args.image) {
        (Some(Verb::Info { file }), _) => {
            if machine::is_elf(file).map_err(super::machine_failure)? {
                let error = anyhow::anyhow!("{} is an image, not a snapshot", file.display());
                return Err(Failure::usage(error).help("make one with `unifork snapshot IMAGE`"));
            }
            let opened =
                Snapshot::open(file).map_err(|source| MachineError::Snapshot { path: file.clone(), source });
            let snapshot = opened.map_err(super::machine_failure)?;
            tell(file, &snapshot, json);
        }
        (None, Some(image)) => {
            let output = args.output.clone().unwrap_or_else(|| crate::seeds::beside(image, "snap"));
            if !machine::is_elf(image).map_err(super::machine_failure)? {
                let error = anyhow::anyhow!("{} is not an ELF image", image.display());
                return Err(Failure::usage(error).help("`unifork build` makes images"));
            }
            let machine = machine::open(image, &args.machine).map_err(super::machine_failure)?;
            machine.snapshot.write_to(&output).map_err(|error| {
                Failure::host(error).help("check that the folder may be written and its disk is not full")
            })?;
            tell(&output, &machine.snapshot, json);
        }
        (None, None) => unreachable!("clap requires the image"),
    }
    Ok(Status::Done)
}

fn tell(path: &Path, snapshot: &Snapshot, json: bool) {
    let file_bytes = std::fs::metadata(path).map_or(0, |data| data.len());
    let (edges, kernel_edges) =
        (snapshot.counter_count(Space::Application), snapshot.counter_count(Space::Kernel));
    if json {
        let line = serde_json::json!({
            "file": path,
            "file_bytes": file_bytes,
            "id": format!("{:016x}", snapshot.id()),
            "memory_bytes": snapshot.memory_bytes(),
            "input_max": snapshot.input_max(),
            "edges": edges,
            "kernel_edges": kernel_edges,
        });
        say(&format!("{line}\n"));
        return;
    }
    say(&format!(
        "{}\n  id       {:016x}\n  file     {}\n  memory   {}\n  inputs   up to {}\n  edges    {} of the application, {} of the libOS\n",
        path.display(),
        snapshot.id(),
        show_size(file_bytes),
        show_size(snapshot.memory_bytes()),
        show_size(snapshot.input_max()),
        show_count(edges as u64),
        show_count(kernel_edges as u64),
    ));
}
