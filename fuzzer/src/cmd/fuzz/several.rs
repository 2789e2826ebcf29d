//! `unifork fuzz` on several cores, or with other machines.

use std::fs::File;
use std::sync::Arc;

use unifork_vmm::Engine;

use super::Args;
use crate::campaign::Summary;
use crate::cmd::{Blame, Failure};
use crate::cores::supervisor::{Orders, Supervisor};
use crate::cores::{self, CoresError};
use crate::detail::{Book, Slowest};
use crate::findings;
use crate::monitor::Show;
use crate::monitor::board::Board;
use crate::opened::Opened;
use crate::output::Output;

/// The cores of a campaign of several processes; none when one process does it all.
pub(super) fn cores(args: &Args) -> Result<Option<Vec<usize>>, Failure> {
    let cores = match &args.cores {
        Some(list) => list.choose().map_err(|why| {
            Failure::usage(anyhow::anyhow!(why)).help("`--cores all` takes every core there is")
        })?,
        None => Vec::new(),
    };
    let alone = args.serve.is_none() && args.join.is_empty();
    if cores.len() <= 1 && alone && !matches!(args.cores, Some(cores::CoreList::These(_))) {
        return Ok(None);
    }
    if let Some(address) = args.join.iter().find(|address| !address.contains(':')) {
        return Err(Failure::usage(anyhow::anyhow!("--join {address} names no port"))
            .help("give it as HOST:PORT, the address that the other machine serves"));
    }
    if cores.is_empty() {
        let first = cores::CoreList::Count(1).choose();
        return first.map(Some).map_err(|why| Failure::host(anyhow::anyhow!(why)));
    }
    Ok(Some(cores))
}

/// What there is when the clients are to be started.
#[derive(Debug)]
pub(super) struct Started<'a> {
    pub(super) cores: Vec<usize>,
    /// The machine is a snapshot file's.
    pub(super) file: bool,
    pub(super) machine: &'a Opened,
    pub(super) described: findings::Machine,
    pub(super) engine: Engine,
    pub(super) show: Show,
    pub(super) board: Arc<Board>,
}

/// Runs the campaign.
pub(super) fn run(
    args: &Args,
    started: Started<'_>,
    output: &Output,
    begin: &[serde_json::Value],
) -> Result<Summary, Failure> {
    let Started { cores, file, machine, described, engine, show, board } = started;
    // A snapshot file is mapped by all; the memory of a machine that was booted here goes into one.
    let snapshot = if file {
        File::open(&args.image).map_err(CoresError::Start)
    } else {
        machine.frozen.share().map_err(CoresError::Share)
    };
    let snapshot = snapshot.map_err(failure)?;
    if show == Show::Lines {
        crate::cmd::say(&format!("  on cores {}\n", cores::show(&cores)));
    }
    let orders = Orders {
        cores,
        snapshot,
        snapshot_id: machine.frozen.id(),
        counters: machine.frozen.counter_count(),
        machine: described,
        engine,
        deadline: args.deadline,
        seed: args.seed,
        execs: args.execs,
        duration: args.duration,
        until_finding: args.until.is_some(),
        serve: args.serve,
        join: args.join.clone(),
        show,
        board,
    };
    let mut supervisor = Supervisor::new(orders, output).map_err(failure)?;
    for line in begin {
        supervisor.log(line).map_err(failure)?;
    }
    if let Some(boot) = &machine.boot {
        // The clients are given the machine as it is after that.
        Book::open(output.root(), "boot", &boot.unserved)
            .save(&[], &Slowest::default())
            .map_err(|error| failure(error.into()))?;
    }
    supervisor.run().map_err(failure)
}

/// Whose fault it is, and what to do about it.
pub(super) fn failure(error: CoresError) -> Failure {
    let (blame, help) = match &error {
        CoresError::Output(_) => (
            Blame::Host,
            "make room on the disk or check its permissions; the same command then resumes the campaign",
        ),
        CoresError::Start(_) | CoresError::Share(_) | CoresError::Broker(_) => {
            (Blame::Host, "the campaign so far is kept; the same command resumes it")
        }
        CoresError::Dies { .. } => (
            Blame::Host,
            "see what it says with UNIFORK_LOG=debug, and whether `dmesg` says why; the campaign so far is kept",
        ),
        CoresError::Listen { .. } => {
            (Blame::Usage, "give --serve an address of this machine and a port that nobody uses")
        }
        CoresError::Refused { .. } => (
            Blame::Usage,
            "both machines need the same unifork and the same image; the campaign so far is kept",
        ),
        CoresError::Client { help, blame, .. } => {
            let blame = if *blame == Blame::Usage as u8 { Blame::Usage } else { Blame::Host };
            let help = help.clone();
            return Failure { blame, error: error.into(), help };
        }
    };
    Failure { blame, error: error.into(), help: Some(help.to_owned()) }
}
