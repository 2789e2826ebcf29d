//! The command line: flags only, no effects.

use clap::{Parser, Subcommand};

use crate::cmd;

/// Said at the end of `unifork --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a negative result: not reproduced, or nothing found with --until finding
  2  usage or bad input: a flag, an image, a folder
  3  the host: no usable /dev/kvm, a full disk
`unifork run` passes the program's own exit code on, and exits with 125 when it cannot run it.

Start here:
  unifork doctor
  unifork build harness.c -o harness.img -- -O2
  unifork fuzz harness.img --for 60s";

/// Boots a program once, freezes it, and runs inputs against copy-on-write forks of the machine.
#[derive(Debug, Parser)]
#[command(name = "unifork", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Machine-readable output: JSON on stdout, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what this host offers, what is missing, and what is used instead
    Doctor(cmd::doctor::Args),
    /// Turn a libFuzzer harness into an image
    Build(cmd::build::Args),
    /// Boot an image, a static ELF or a kernel and show its console
    Run(cmd::run::Args),
    /// Freeze an image into a snapshot file, or say what is in one
    Snapshot(cmd::snapshot::Args),
    /// Fuzz an image
    Fuzz(Box<cmd::fuzz::Args>),
    /// Run a finding again and explain it
    Repro(cmd::repro::Args),
    /// Sort findings: groups, facts, and a page for each
    Triage(cmd::triage::Args),
    /// Make a page of a campaign: curves, findings, machine
    Report(cmd::report::Args),
    /// Make an input as small as it can be, with the same end
    Tmin(cmd::tmin::Args),
    /// Keep of a corpus what reaches all that it reaches
    Cmin(cmd::cmin::Args),
    /// Write a campaign's corpus and findings as AFL++ or libFuzzer would
    Export(cmd::export::Args),
    /// Run inputs on forks for programs that ask over a socket
    Serve(cmd::serve::Args),
    /// Measure
    Bench(cmd::bench::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
