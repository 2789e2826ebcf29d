//! `unifork bench`: measure.
//!
//! Exit codes: 0 measured; 2 bad input; 3 the host failed.

pub(crate) mod control;
pub(crate) mod exec;
mod fit;
mod footprint;
mod peers;
mod plot;
mod report;
pub(crate) mod reset;
pub(crate) mod spawn;
pub(crate) mod syscall;

use std::time::Duration;

use clap::Subcommand;

use crate::cmd::{Failure, Status};

/// Flags of `unifork bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

/// What to measure.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Time to a running fork, phase by phase, and memory of each
    Spawn(spawn::Args),
    /// What putting a fork back costs, by dirty pages and engine
    Reset(reset::Args),
    /// Executions a second of each image, and where the time goes
    Exec(exec::Args),
    /// The price of asking for a fork: a call, a Unix socket, TCP
    Control(control::Args),
    /// What a system call costs: native, trapping, rewritten; and a program without any
    Syscall(syscall::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let output = match &args.verb {
        Verb::Spawn(args) => &args.output,
        Verb::Reset(args) => &args.output,
        Verb::Exec(args) => &args.output,
        Verb::Control(args) => &args.output,
        Verb::Syscall(args) => &args.output,
    };
    output.check()?;
    match &args.verb {
        Verb::Spawn(args) => spawn::run(args, json),
        Verb::Reset(args) => reset::run(args, json),
        Verb::Exec(args) => exec::run(args, json),
        Verb::Control(args) => control::run(args, json),
        Verb::Syscall(args) => syscall::run(args, json),
    }
}

/// In microseconds.
fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// What a measurement of the VMM's own could not be made for is the host's fault.
fn measured<T>(result: Result<T, unifork_vmm::bench::Unmeasured>) -> Result<T, Failure> {
    result.map_err(|error| {
        Failure::host(anyhow::anyhow!("{error}")).help("`unifork doctor` says what this host offers")
    })
}
