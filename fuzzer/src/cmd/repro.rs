//! `unifork repro`: run a finding again, in a fresh fork, and explain it.
//!
//! Exit codes: 0 when every run ended as recorded (a raw input: in a crash or timeout, the same
//! each time); 1 when it did not; 2 for files that cannot be used; 3 when the host failed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use unifork_vmm::Outcome;

use crate::cmd::run::kernel::KernelArgs;
use crate::cmd::subject::Subject;
use crate::cmd::{BlameExt as _, Failure, Status, say};
use crate::findings::Record;
use crate::machine::MachineArgs;
use crate::report;
use crate::syscalls;
use crate::triage::{Probe, Probed};
use crate::units;

/// Flags of `unifork repro`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork repro sqlite.campaign/findings/null-write-3f2a9c1e
  unifork repro poc.bin --image sqlite.img

Exit codes: 0 reproduced; 1 not reproduced; 2 bad input; 3 the host failed.")]
pub(crate) struct Args {
    /// A finding's folder, or a file that holds an input
    pub(crate) finding: PathBuf,
    /// The image or snapshot file [default: the one the finding was found in]
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Runs that have to agree, each in a fork of its own
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub(crate) runs: u32,
    /// Time a run may take [default: the finding's, or 1s]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) deadline: Option<Duration>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) kernel: KernelArgs,
}

/// How the runs compare.
#[derive(Clone, Debug, serde::Serialize)]
struct Agreement {
    runs: u32,
    /// Runs whose outcome, stack and coverage equal the first's.
    agree: u32,
    /// The first run ended as the finding's record says; of a raw input, it ended badly.
    as_recorded: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let subject = Subject::read(&args.finding)?;
    let image = subject.image(args.image.as_deref())?;
    let (input, record) = (&subject.input, subject.record.as_ref());
    let deadline = subject.deadline(args.deadline);
    let machine = subject.open(Some(&image), &args.machine, &args.kernel)?;
    let probe = Probe::new(machine.kvm.clone(), machine.frozen.clone(), deadline);
    let first = probe.run(input).or_host()?;
    let mut agreement = Agreement { runs: args.runs, agree: 1, as_recorded: as_recorded(&first, record) };
    for _ in 1..args.runs {
        let again = probe.run(input).or_host()?;
        agreement.agree += u32::from(agrees(&first, &again));
    }
    say(&if json { tell_json(&first, &agreement) } else { tell(args, &first, record, &agreement) });
    let reproduced = agreement.as_recorded && agreement.agree == agreement.runs;
    Ok(if reproduced { Status::Done } else { Status::Negative })
}

fn as_recorded(first: &Probed, record: Option<&Record>) -> bool {
    match (&first.sighting, record) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(sighting), Some(record)) => match (&sighting.outcome, &record.outcome) {
            (Outcome::Timeout, Outcome::Timeout) => true,
            _ => sighting.name == record.name,
        },
    }
}

/// Same outcome, same stack, same coverage. Where a timeout stops is chance, so of timeouts only
/// the outcome counts.
fn agrees(first: &Probed, again: &Probed) -> bool {
    match (&first.sighting, &again.sighting) {
        (Some(one), Some(other)) if one.same_as(other) => {
            matches!(one.outcome, Outcome::Timeout) || one.coverage_hash == other.coverage_hash
        }
        (None, None) => first.outcome == again.outcome && first.coverage_hash == again.coverage_hash,
        _ => false,
    }
}

fn tell(args: &Args, first: &Probed, record: Option<&Record>, agreement: &Agreement) -> String {
    let mut text = String::new();
    match &first.sighting {
        Some(sighting) => {
            let _ = write!(text, "{}\n\n{}", sighting.name, sighting.report);
        }
        None => {
            let _ = writeln!(text, "no crash: {}", report::sentence(&first.outcome));
            for line in String::from_utf8_lossy(&first.console).lines() {
                let _ = writeln!(text, "  console: {}", line.escape_debug());
            }
        }
    }
    if !first.unserved.is_empty() {
        let _ = writeln!(text, "\n{}: {}", syscalls::NOT_SERVED, syscalls::list(&first.unserved));
    }
    let Agreement { runs, agree, as_recorded } = agreement;
    let what =
        if matches!(first.outcome, Outcome::Timeout) { "outcome" } else { "outcome, stack and coverage" };
    let _ = writeln!(text, "\n{agree} of {runs} runs in fresh forks agree ({what})");
    let verdict = match (as_recorded, agree == runs, record) {
        (true, true, _) => "reproduced",
        (true, false, _) => "unstable: not reproduced each time",
        (false, _, Some(_)) => "not reproduced: it does not end as recorded",
        (false, _, None) => "not reproduced: the run ends well",
    };
    let _ = write!(text, "{verdict}");
    if let (false, Some(record)) = (as_recorded, record) {
        let _ = write!(text, " ({} by {})", record.name, args.finding.display());
    }
    text.push('\n');
    text
}

fn tell_json(first: &Probed, agreement: &Agreement) -> String {
    let line = serde_json::json!({
        "name": first.sighting.as_ref().map(|sighting| &sighting.name),
        "sentence": report::sentence(&first.outcome),
        "outcome": first.outcome,
        "report": first.sighting.as_ref().map(|sighting| &sighting.report),
        "coverage_hash": format!("{:016x}", first.coverage_hash),
        "console": String::from_utf8_lossy(&first.console),
        "agreement": agreement,
        "reproduced": agreement.as_recorded && agreement.agree == agreement.runs,
    });
    format!("{line}\n")
}
