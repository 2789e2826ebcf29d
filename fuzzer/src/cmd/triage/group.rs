//! Findings that are one: the same cause, and the same stack.
//!
//! The stack is the functions that [`signature`] keeps. It has no lines in it, so two crashes in one function
//! are one group where they are two findings. A run that never ends is stopped somewhere in its loop; it is
//! stopped a few times, and what all stacks have in common is the loop's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use unifork_vmm::introspect::{CrashReport, signature};
use unifork_vmm::{CrashKind, Outcome};

use super::facts::Facts;
use crate::cmd::subject::Subject;
use crate::fork::ForkError;
use crate::report;
use crate::triage::{LOOKS, Probe, Sighting, outer, spot};

/// A finding that was made again.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) input: Vec<u8>,
    pub(super) sighting: Sighting,
    /// The stack, normalised.
    pub(super) stack: Vec<String>,
    /// Runs in fresh forks that ended alike, and how many were made.
    pub(super) agreed: u32,
    pub(super) runs: u32,
    pub(super) deadline: Duration,
    /// Image, memory and longest input of its machine.
    pub(super) bench: Option<super::BenchKey>,
}

impl Made {
    /// The same for all findings of a group.
    pub(super) fn key(&self) -> String {
        let image = self.bench.as_ref().map(|(image, ..)| image.display().to_string()).unwrap_or_default();
        format!("{image}\n{}\n{}", class(&self.sighting.outcome), self.stack.join("\n"))
    }
}

/// What a group has in common. Whether one instruction touches address 0 or a wild one is up to the input.
fn class(outcome: &Outcome) -> String {
    use CrashKind::{NullCall, NullRead, NullWrite, WildJump, WildRead, WildWrite};
    match outcome {
        Outcome::Crash(crash) => match crash.kind {
            NullRead | WildRead => "read".to_owned(),
            NullWrite | WildWrite => "write".to_owned(),
            NullCall | WildJump => "jump".to_owned(),
            kind => kind.to_string(),
        },
        _ => "timeout".to_owned(),
    }
}

fn kind(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Crash(crash) => crash.kind.to_string(),
        _ => "timeout".to_owned(),
    }
}

/// Makes a finding again, `runs` times; or says why it cannot.
pub(super) fn make(
    probe: &Probe,
    subject: &Subject,
    deadline: Duration,
    runs: u32,
) -> Result<Result<Made, String>, ForkError> {
    let probed = probe.run_for(&subject.input, deadline)?;
    let Some(first) = probed.sighting else {
        return Ok(Err(format!("it ends well: {}", report::sentence(&probed.outcome))));
    };
    if let Some(record) = &subject.record {
        let timeouts = matches!((&record.outcome, &first.outcome), (Outcome::Timeout, Outcome::Timeout));
        if record.name != first.name && !timeouts {
            return Ok(Err(format!("it ends as {}, not as recorded", first.name)));
        }
    }
    let mut common = first.report.frames.clone();
    let mut agreed = 1;
    for run in 1..runs {
        // Not the same deadline, lest a loop be stopped at the same place each time.
        let part = if first.outcome == Outcome::Timeout { LOOKS[run as usize % LOOKS.len()] } else { 1.0 };
        let again = probe.run_for(&subject.input, deadline.mul_f64(part))?;
        if let Some(again) = again.sighting.filter(|again| again.same_as(&first)) {
            agreed += 1;
            if first.outcome == Outcome::Timeout {
                common = outer(&common, &again.report.frames);
            }
        }
    }
    let name = match (&subject.record, &first.outcome) {
        // Where a timeout was stopped is in its name, so it keeps the one it has.
        (Some(record), Outcome::Timeout) => record.name.clone(),
        _ => first.name,
    };
    let stack = signature(&common);
    let sighting = Sighting { name, ..first };
    let input = subject.input.clone();
    Ok(Ok(Made { input, sighting, stack, agreed, runs, deadline, bench: None }))
}

/// One finding of a group.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Member {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) bytes: usize,
}

impl Member {
    pub(super) fn new(subject: &Subject, made: &Made) -> Self {
        Self { path: absolute(&subject.named), name: made.sighting.name.clone(), bytes: subject.input.len() }
    }
}

/// Findings with one cause and stack, and what is known of the smallest.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    /// The smallest finding's.
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) sentence: String,
    pub(super) stack: Vec<String>,
    /// The innermost source line known.
    pub(super) place: Option<String>,
    pub(super) agreed: u32,
    pub(super) runs: u32,
    pub(super) image: PathBuf,
    pub(super) facts: Facts,
    /// Smallest first.
    pub(super) members: Vec<Member>,
    #[serde(serialize_with = "bytes_only")]
    pub(super) input: Vec<u8>,
    pub(super) outcome: Outcome,
    pub(super) report: CrashReport,
}

/// The input lies beside the report.
fn bytes_only<S: Serializer>(input: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(input.len() as u64)
}

impl Group {
    pub(super) fn new(image: PathBuf, made: Made, members: Vec<Member>, facts: Facts) -> Self {
        let Made { input, sighting, stack, agreed, runs, .. } = made;
        Self {
            place: place(&sighting),
            name: sighting.name,
            kind: kind(&sighting.outcome),
            sentence: report::sentence(&sighting.outcome),
            stack,
            agreed,
            runs,
            image: absolute(&image),
            facts,
            members,
            input,
            outcome: sighting.outcome,
            report: sighting.report,
        }
    }

    /// The command that shows it again.
    pub(super) fn command(&self) -> String {
        let path = self.members.first().map_or(Path::new("input"), |member| &member.path);
        format!("unifork repro {} --image {}", quoted(path), quoted(&self.image))
    }
}

/// Pages are read from anywhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:=@%".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A loop is stopped, and a stack ends, at any line; so those have none.
fn place(sighting: &Sighting) -> Option<String> {
    if !matches!(&sighting.outcome, Outcome::Crash(crash) if crash.kind != CrashKind::StackOverflow) {
        return None;
    }
    spot(&sighting.report.frames)
}

/// Findings of two images may have one name, and a folder can have it only once.
pub(super) fn tell_apart(groups: &mut [Group]) {
    for at in 1..groups.len() {
        let (before, rest) = groups.split_at_mut(at);
        let same = before.iter().filter(|group| group.name == rest[0].name).count();
        if same > 0 {
            let number = before.iter().filter(|group| group.name.starts_with(&rest[0].name)).count() + 1;
            rest[0].name = format!("{}-{number}", rest[0].name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell_where_need_be() {
        assert_eq!(quoted(Path::new("a/b-1.img")), "a/b-1.img");
        assert_eq!(quoted(Path::new("it's here")), r"'it'\''s here'");
    }
}
