//! The program `unifork`: parse, dispatch, print the error chain, exit.
//!
//! Everything a command does is in its file under `cmd/`; what the commands share is one noun a
//! file beside this one. Only `cmd/` uses `anyhow`, and `libafl::Error` stays in `executor.rs`,
//! `campaign.rs` and their neighbours (observers, feedbacks, stages).

mod audit;
mod batch;
mod campaign;
mod cli;
mod clock;
mod cmd;
mod cores;
mod cover;
mod detail;
mod edges;
mod executor;
mod feedback;
mod findings;
mod fork;
mod grammar;
mod history;
mod identity;
mod journal;
mod machine;
mod metrics;
mod monitor;
mod mutate;
mod notice;
mod novelty;
mod observer;
mod opened;
mod output;
mod page;
mod process;
mod queue;
mod report;
mod scheduler;
mod seeds;
mod services;
mod session;
mod shrink;
mod signals;
mod stage;
mod strategy;
mod syscalls;
mod terms;
mod triage;
mod ui;
mod units;

use std::process::ExitCode;

use crate::cli::{Cli, Command};

/// What is logged unless UNIFORK_LOG says. What a driver in a guest does wrong is not worth a line of a library's.
const LOGGED: &str = "error,virtio_queue=off";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("UNIFORK_LOG", LOGGED))
        .target(env_logger::Target::Pipe(Box::new(notice::Log::default())))
        .init();
    let cli = match cmd::parse::<Cli>() {
        Ok(cli) => cli,
        Err(ended) => return ended,
    };
    let json = cli.json;
    let ended = match cli.command {
        Command::Doctor(args) => cmd::doctor::run(&args, json),
        Command::Build(args) => cmd::build::run(&args, json),
        Command::Run(args) => cmd::run::run(&args, json),
        Command::Snapshot(args) => cmd::snapshot::run(&args, json),
        Command::Fuzz(args) => cmd::fuzz::run(&args, json),
        Command::Repro(args) => cmd::repro::run(&args, json),
        Command::Cmin(args) => cmd::cmin::run(&args, json),
        Command::Report(args) => cmd::report::run(&args, json),
        Command::Triage(args) => cmd::triage::run(&args, json),
        Command::Tmin(args) => cmd::tmin::run(&args, json),
        Command::Export(args) => cmd::export::run(&args, json),
        Command::Serve(args) => cmd::serve::run(&args, json),
        Command::Bench(args) => cmd::bench::run(&args, json),
    };
    match ended {
        Ok(status) => status.into(),
        Err(failure) => failure.print(json),
    }
}
