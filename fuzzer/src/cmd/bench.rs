//! `unifork bench`: measure.
//!
//! Exit codes: 0 measured; 2 bad input; 3 the host failed.

pub(crate) mod exec;

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
    /// Executions a second of each image, and where the time goes
    Exec(exec::Args),
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    match &args.verb {
        Verb::Exec(args) => exec::run(args, json),
    }
}
