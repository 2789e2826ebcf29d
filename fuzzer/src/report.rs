//! A finding in words.

use std::fmt::Write as _;
use std::time::Duration;

use unifork_vmm::Outcome;

use crate::findings::Record;
use crate::units::{show_clock, show_count};

/// What happened, in one sentence without a full stop. Part of it may be the guest's words, so control
/// characters, which steer terminals, are spelt out.
pub(crate) fn sentence(outcome: &Outcome) -> String {
    printable(&match outcome {
        Outcome::Done { code: 0 } => "the harness returned".to_owned(),
        Outcome::Done { code } => format!("the harness returned {code}"),
        Outcome::Exit { code } => format!("the program exited with code {code}"),
        Outcome::Timeout => "the run did not end before its deadline".to_owned(),
        Outcome::Crash(crash) => crash.cause.to_string(),
    })
}

/// `text` with its control characters spelt out.
fn printable(text: &str) -> String {
    let spell = |c: char| -> String { if c.is_control() { c.escape_default().collect() } else { c.into() } };
    text.chars().map(spell).collect()
}

/// `report.txt`.
pub(crate) fn finding(record: &Record) -> String {
    let machine = &record.machine;
    let repeats = if record.agreed == record.confirmations {
        "yes, in a fresh fork".to_owned()
    } else {
        format!("unstable: {} of {} fresh forks did the same", record.agreed, record.confirmations)
    };
    let runtime = Duration::try_from_secs_f64(record.runtime_s).unwrap_or_default();
    let found = format!("after {} executions, {} of fuzzing", show_count(record.execs), show_clock(runtime));
    let image = format!("{} (snapshot {})", machine.image.display(), machine.snapshot);
    let input = format!("{} bytes", show_count(record.input_bytes as u64));
    let mut text = format!("{}\n\n", record.name);
    for (name, value) in [("repeats", repeats), ("found", found), ("input", input), ("image", image)] {
        let _ = writeln!(text, "{name:<8} {value}");
    }
    let _ = write!(text, "\n{}", record.report);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_asserts_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\u{9b}c — ß"), "a\\u{1b}[2Jb\\r\\n\\u{9b}c — ß");
    }
}
