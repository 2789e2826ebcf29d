//! What happened in a run that ended badly, and its name: cause and stack.
//!
//! The stack is worked out by [`unifork_vmm::introspect`]; here it becomes the name of a finding.

use std::sync::Arc;
use std::time::Duration;

use libafl_bolts::hash_std;
use unifork_vmm::introspect::{CrashReport, Frame, Stop, Symbols};
use unifork_vmm::{Cause, Crash, CrashKind, Engine, Kvm, Outcome};

use crate::fork::{Fork, ForkError, Frozen};
use crate::report;

/// A run that ended badly.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    /// Cause and short hash: `null-write-3f2a9c1e`.
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    /// Where it was and how it got there.
    pub(crate) report: CrashReport,
    /// Of the application's raw counters.
    pub(crate) coverage_hash: u64,
    /// The application's edges that were reached; only of a timeout.
    pub(crate) edges: Vec<u32>,
}

impl Sighting {
    /// Whether another run did the same. Timeouts stop where they stop, so they only have to be
    /// timeouts.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        match (&self.outcome, &other.outcome) {
            (Outcome::Timeout, Outcome::Timeout) => true,
            _ => self.name == other.name,
        }
    }
}

/// Names runs, by the symbols of the machine they ran on.
#[derive(Debug)]
pub(crate) struct Triage {
    symbols: Symbols,
}

impl Triage {
    /// For forks of `frozen`. Reads headers only; debug information is read at the first crash.
    pub(crate) fn new(frozen: &Frozen) -> Self {
        let mut symbols = Symbols::new();
        for (name, bytes, bias) in frozen.images() {
            if let Err(error) = symbols.load(name, Arc::clone(bytes), bias) {
                log::warn!("no symbols: {error}");
            }
        }
        Self { symbols }
    }

    /// Names the run that `replica` just made, if it ended badly.
    pub(crate) fn sight(&self, replica: &mut Fork, outcome: &Outcome) -> Option<Sighting> {
        let counters = replica.counters();
        let coverage_hash = hash_std(counters);
        let (stop, edges) = match outcome {
            Outcome::Done { .. } | Outcome::Exit { .. } => return None,
            Outcome::Timeout => {
                let reached =
                    (0..).zip(counters).filter(|&(_, &count)| count != 0).map(|(edge, _)| edge).collect();
                (Stop::default(), reached)
            }
            Outcome::Crash(crash) => {
                let fault_address = match crash.cause {
                    Cause::Exception { vector: 14, address, .. } => Some(address),
                    _ => None,
                };
                (Stop { registers: crash.registers, fault_address, ..Stop::default() }, Vec::new())
            }
        };
        let registers = if *outcome == Outcome::Timeout { replica.registers() } else { stop.registers };
        let stop = Stop { cause: report::sentence(outcome), console: replica.console(), registers, ..stop };
        let mut report = replica.report(&stop, &self.symbols);
        // What stopped it was no access, though the instruction may make one.
        if !matches!(outcome, Outcome::Crash(Crash { cause: Cause::Exception { .. }, .. })) {
            report.access = None;
        }
        let name = match outcome {
            Outcome::Crash(crash) => {
                let spot = if crash.kind == CrashKind::StackOverflow { None } else { spot(&report.frames) };
                format!(
                    "{}-{}",
                    crash.kind,
                    short(report.stack_hash.0 ^ spot.map_or(0, |spot| hash_std(spot.as_bytes())))
                )
            }
            _ => format!("timeout-{}", short(hash_of_edges(&edges))),
        };
        Some(Sighting { name, outcome: outcome.clone(), report, coverage_hash, edges })
    }
}

/// What a run that timed out is stopped after, in parts of its deadline: it is stopped somewhere in its loop, and
/// what all of its stacks have in common is the loop's.
pub(crate) const LOOKS: [f64; 3] = [1.0, 0.75, 0.5];

/// The frames, counted from the outermost, that are of the same functions.
pub(crate) fn outer(one: &[Frame], other: &[Frame]) -> Vec<Frame> {
    let pairs = one.iter().rev().zip(other.iter().rev());
    let count = pairs.take_while(|(one, other)| one.function() == other.function()).count();
    one[one.len() - count..].to_vec()
}

/// Whether a run that was stopped with the stack `frames` is in the loop whose stacks have `common` in common: the
/// function that loops, called by the same one, is on it.
pub(crate) fn in_loop(frames: &[Frame], common: &[Frame]) -> bool {
    let wanted: Vec<_> = common.iter().take(2).map(Frame::function).collect();
    wanted.is_empty()
        || frames
            .windows(wanted.len())
            .any(|part| part.iter().map(Frame::function).eq(wanted.iter().cloned()))
}

/// Where debug information says the C runtime's sources are: `assert()` reports from there.
const RUNTIME: &str = "/unifork/runtime/";
/// And that of an image's agent, wherever its header is.
const AGENT: &str = "/unifork.h";

/// The innermost source line known, so that two bugs in one function are two findings. Not for runaway
/// recursion, which ends wherever the stack does.
pub(crate) fn spot(frames: &[Frame]) -> Option<String> {
    frames.iter().filter_map(|frame| frame.place.as_ref()).find_map(|place| {
        let path =
            place.file.as_deref().filter(|path| !path.starts_with(RUNTIME) && !path.ends_with(AGENT))?;
        let file = path.rsplit('/').next()?;
        Some(format!("{file}:{}", place.line?))
    })
}

fn hash_of_edges(edges: &[u32]) -> u64 {
    let bytes: Vec<u8> = edges.iter().flat_map(|edge| edge.to_le_bytes()).collect();
    hash_std(&bytes)
}

fn short(hash: u64) -> String {
    format!("{:08x}", hash >> 32)
}

/// Runs single inputs, each in a fork of its own.
#[derive(Debug)]
pub(crate) struct Probe {
    kvm: Arc<Kvm>,
    frozen: Frozen,
    deadline: Duration,
    triage: Triage,
}

/// What a probe saw.
#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) outcome: Outcome,
    /// If it ended badly.
    pub(crate) sighting: Option<Sighting>,
    /// What the guest wrote to its console.
    pub(crate) console: Vec<u8>,
    /// Of the application's raw counters.
    pub(crate) coverage_hash: u64,
    /// The application's raw counters.
    pub(crate) counters: Vec<u8>,
    /// System calls of this run that the libOS did not serve.
    pub(crate) unserved: Vec<(u64, u32)>,
}

impl Probe {
    /// Probes of `frozen`, each of at most `deadline`.
    pub(crate) fn new(kvm: Arc<Kvm>, frozen: impl Into<Frozen>, deadline: Duration) -> Self {
        let frozen = frozen.into();
        let triage = Triage::new(&frozen);
        Self { kvm, frozen, deadline, triage }
    }

    /// Runs `input` in a fresh fork.
    pub(crate) fn run(&self, input: &[u8]) -> Result<Probed, ForkError> {
        self.run_for(input, self.deadline)
    }

    /// The same, for at most `deadline`.
    pub(crate) fn run_for(&self, input: &[u8], deadline: Duration) -> Result<Probed, ForkError> {
        // A fork that is never put back needs no engine; this one sets nothing up.
        let mut replica = self.frozen.fork(&self.kvm, Engine::CopyAll)?;
        let outcome = replica.run(input, deadline)?;
        let counters = replica.counters().to_vec();
        let coverage_hash = hash_std(&counters);
        let sighting = self.triage.sight(&mut replica, &outcome);
        let unserved = replica.unserved();
        Ok(Probed { outcome, sighting, console: replica.console(), coverage_hash, counters, unserved })
    }
}

#[cfg(test)]
mod tests {
    use unifork_vmm::introspect::{Method, Place};

    use super::*;

    /// A stack, innermost first.
    fn stack(functions: &[&str]) -> Vec<Frame> {
        let frame = |function: &&str| Frame {
            address: 0,
            stack: 0,
            method: Method::Start,
            place: Some(Place {
                module: "a".into(),
                function: Some((*function).to_owned()),
                offset: 0,
                file: None,
                line: None,
                column: None,
            }),
        };
        functions.iter().map(frame).collect()
    }

    #[test]
    fn a_loop_is_what_all_its_stacks_have_in_common() {
        let looks = [stack(&["step", "turn", "parse", "main"]), stack(&["skip", "turn", "parse", "main"])];
        let common = outer(&looks[0], &looks[1]);
        assert_eq!(common, stack(&["turn", "parse", "main"]));
        assert!(looks.iter().all(|frames| in_loop(frames, &common)));
        assert!(
            in_loop(&stack(&["deep", "step", "turn", "parse", "start", "main"]), &common),
            "called otherwise"
        );
        assert!(!in_loop(&stack(&["turn", "print", "main"]), &common), "the same function, for another");
        assert!(!in_loop(&stack(&["step", "parse", "main"]), &common));
        assert!(in_loop(&looks[0], &[]), "nothing is known of it");
    }
}
