//! `unifork tmin`: the smallest input that still ends as this one does.
//!
//! Exit codes: 0 when the smallest, or by Ctrl-C the smallest so far, is written; 1 when there is nothing to
//! keep, because the input ends well, or not as recorded, or not twice alike; 2 for files that cannot be
//! used; 3 when the host failed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use unifork_vmm::Outcome;

use crate::cmd::progress::Progress;
use crate::cmd::run::kernel::KernelArgs;
use crate::cmd::subject::Subject;
use crate::cmd::{BlameExt as _, Failure, Status, say};
use crate::machine::MachineArgs;
use crate::output;
use crate::report;
use crate::shrink::Shrink;
use crate::signals;
use crate::triage::{LOOKS, Probe, outer};
use crate::units::{self, show_clock, show_count};

mod judge;

use judge::{Goal, Judge};

/// Flags of `unifork tmin`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork tmin sqlite.campaign/findings/null-write-3f2a9c1e
  unifork tmin poc.bin --image sqlite.img -o small.bin
  unifork tmin seed.json --image cjson.img --edges

Blocks of bytes are removed, large ones first, then bytes become '0', a space or 0, until nothing
more can be. What is kept ended the same way in a fresh fork: same cause, stack and source line; a timeout, in the same loop.
Ctrl-C writes the smallest so far.

Exit codes: 0 written; 1 nothing to keep: it ends well, or not as recorded; 2 bad input; 3 the host
failed.")]
pub(crate) struct Args {
    /// A finding's folder, or a file that holds an input
    pub(crate) finding: PathBuf,
    /// The image or snapshot file [default: the one the finding was found in]
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Where the result is written [default: the input's path with .min behind it]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Of an input that ends well, keep every edge that it reaches
    #[arg(long)]
    pub(crate) edges: bool,
    /// Time a run may take [default: the finding's, or 1s]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) deadline: Option<Duration>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) kernel: KernelArgs,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let subject = Subject::read(&args.finding)?;
    let machine = subject.open(args.image.as_deref(), &args.machine, &args.kernel)?;
    let deadline = subject.deadline(args.deadline);
    let probe = Probe::new(machine.kvm.clone(), machine.frozen.clone(), deadline);
    let goal = match goal(args, &subject, &probe, deadline)? {
        Ok(goal) => goal,
        Err(why) => {
            say(&if json {
                format!("{}\n", serde_json::json!({ "minimized": false, "why": why }))
            } else {
                format!("{why}\n")
            });
            return Ok(Status::Negative);
        }
    };
    let name = goal.name();
    let to = args.output.clone().unwrap_or_else(|| beside(&subject.path));
    // Before the work, so that a folder that cannot be written is said at once.
    output::write_whole(&to, &subject.input).or_usage()?;

    signals::catch();
    let judge = Judge::new(&machine, probe, deadline, goal).or_host()?;
    let before = subject.input.len();
    let (best, execs, took) = minimize(judge, subject.input, &to)?;
    let stopped = signals::stop_requested();
    say(&if json {
        let line = serde_json::json!({
            "minimized": true, "name": name, "output": to, "bytes_before": before, "bytes": best.len(),
            "execs": execs, "seconds": took.as_secs_f64(), "stopped": stopped,
        });
        format!("{line}\n")
    } else {
        format!(
            "{name}: {} bytes, were {}, in {} executions and {}{}\n{}\n",
            show_count(best.len() as u64),
            show_count(before as u64),
            show_count(execs),
            show_clock(took),
            if stopped { "; stopped, it may not be the smallest" } else { "" },
            to.display()
        )
    });
    Ok(Status::Done)
}

/// What is to be kept; or, in one sentence, why there is nothing.
fn goal(
    args: &Args,
    subject: &Subject,
    probe: &Probe,
    deadline: Duration,
) -> Result<Result<Goal, String>, Failure> {
    let mut first = probe.run(&subject.input).or_host()?;
    let again = probe.run(&subject.input).or_host()?;
    if let Some(first) = first.sighting.as_mut().filter(|first| first.outcome == Outcome::Timeout) {
        for part in &LOOKS[1..] {
            let again = probe.run_for(&subject.input, deadline.mul_f64(*part)).or_host()?;
            if let Some(again) = again.sighting {
                first.report.frames = outer(&first.report.frames, &again.report.frames);
            }
        }
    }
    let named = subject.named.display();
    Ok(match (first.sighting, again.sighting) {
        (Some(first), Some(again)) if first.same_as(&again) => match &subject.record {
            Some(record) if record.name != first.name && !both_timeouts(record, &first.outcome) => {
                Err(format!("{named} ends as {}, not as recorded", first.name))
            }
            _ => Ok(Goal::Same(Box::new(first))),
        },
        (None, None) if !args.edges || subject.record.is_some() => {
            let help = if args.edges { "" } else { " (--edges keeps its coverage)" };
            Err(format!("{named} ends well: {}{help}", report::sentence(&first.outcome)))
        }
        (None, None) => Ok(Goal::Edges {
            edges: stable_edges(&first.counters, &again.counters),
            rejected: judge::is_rejected(&first.outcome),
        }),
        _ => Err(format!("{named} does not end alike in two fresh forks")),
    })
}

fn both_timeouts(record: &crate::findings::Record, outcome: &Outcome) -> bool {
    matches!((&record.outcome, outcome), (Outcome::Timeout, Outcome::Timeout))
}

/// The edges that both runs reached.
fn stable_edges(counters: &[u8], again: &[u8]) -> Vec<usize> {
    let reached = counters.iter().zip(again).enumerate();
    reached.filter(|(_, (one, other))| **one > 0 && **other > 0).map(|(edge, _)| edge).collect()
}

fn beside(input: &Path) -> PathBuf {
    let mut name = OsString::from(input);
    name.push(".min");
    PathBuf::from(name)
}

/// Tries changes until none is kept any more, or someone asks to stop. What is known by then is on disk
/// once a second, and at the end.
fn minimize(mut judge: Judge, input: Vec<u8>, to: &Path) -> Result<(Vec<u8>, u64, Duration), Failure> {
    let before = input.len();
    let mut shrink = Shrink::new(input);
    let mut progress = Progress::start();
    while !signals::stop_requested() {
        let edits = shrink.ahead(judge.ahead(shrink.best().len()));
        if edits.is_empty() {
            break;
        }
        let candidates: Vec<Vec<u8>> = edits.iter().map(|edit| edit.apply(shrink.best())).collect();
        let verdict = judge.first_kept(&candidates).or_host()?;
        shrink.failed(verdict.failed);
        if verdict.kept {
            shrink.keep();
        }
        if progress.due() {
            output::write_whole(to, shrink.best()).or_host()?;
            eprintln!(
                "{:>7}  {} of {} bytes  {} executions  {}",
                show_clock(progress.elapsed()),
                show_count(shrink.best().len() as u64),
                show_count(before as u64),
                show_count(judge.execs),
                shrink.pass()
            );
        }
    }
    output::write_whole(to, shrink.best()).or_host()?;
    Ok((shrink.best().to_vec(), judge.execs, progress.elapsed()))
}
