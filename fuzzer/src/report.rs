//! A finding in words.

use std::fmt::Write as _;

use unifork_vmm::Outcome;

use crate::findings::Record;
use crate::units::{show_clock, show_count};

/// What happened, in one sentence without a full stop.
pub(crate) fn sentence(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { code: 0 } => "the harness returned".to_owned(),
        Outcome::Done { code } => format!("the harness returned {code}"),
        Outcome::Exit { code } => format!("the program exited with code {code}"),
        Outcome::Timeout => "the run did not end before its deadline".to_owned(),
        Outcome::Crash(crash) => crash.cause.to_string(),
    }
}

/// `report.txt`.
pub(crate) fn finding(record: &Record) -> String {
    let mut text = String::new();
    let machine = &record.machine;
    let _ = writeln!(text, "{}\n", record.name);
    let _ = writeln!(text, "what      {}", record.sentence);
    let _ = writeln!(text, "repeats   {}", repeats(record.agreed, record.confirmations));
    let _ = writeln!(text, "image     {} ({})", machine.image.display(), machine.snapshot);
    let runtime = std::time::Duration::try_from_secs_f64(record.runtime_s).unwrap_or_default();
    let execs = show_count(record.execs);
    let _ = writeln!(text, "found     after {execs} executions, {} of fuzzing", show_clock(runtime));
    let _ = writeln!(text, "input     {} bytes", show_count(record.input_bytes as u64));
    text.push_str(&explanation(&record.explanation));
    text
}

/// `yes`, or `unstable: 1 of 3 fresh forks did the same`.
fn repeats(agreed: u32, runs: u32) -> String {
    if agreed == runs {
        "yes, in a fresh fork".to_owned()
    } else {
        format!("unstable: {agreed} of {runs} fresh forks did the same")
    }
}

/// Registers, backtrace, disassembly, console.
pub(crate) fn explanation(explanation: &crate::triage::Explanation) -> String {
    let mut text = String::new();
    if !explanation.text.is_empty() {
        let _ = write!(text, "\n{}", explanation.text);
    }
    if !explanation.console.is_empty() {
        let _ = writeln!(text, "\nconsole");
        for line in explanation.console.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}
