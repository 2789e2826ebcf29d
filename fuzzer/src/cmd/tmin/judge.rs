//! Which of many smaller inputs is the first that still does it.
//!
//! A run that ends badly ends its batch, so the inputs behind it have cost nothing but their copying:
//! where most candidates fail by ending well, a batch is as many of them as fit, and where most crash, it is
//! one `KVM_RUN` each, as it would be without. What a batch says is a suspicion. It is kept only when a
//! fresh fork does the same.

use std::time::Duration;

use unifork_abi::Filter;
use unifork_vmm::{BatchEnd, BatchRun, BatchTime, Engine, Outcome};

use crate::fork::{Fork, ForkError};
use crate::opened::Opened;
use crate::triage::{Probe, Sighting, in_loop};

/// Candidates in one batch at most.
const AHEAD_MAX: usize = 1024;
/// And after one that was kept, when the next is likely to be, too.
const AHEAD_MIN: usize = 4;
/// Deadlines that a batch may take in all, so that Ctrl-C is seen in time.
const BUDGET: u32 = 2;
/// Bytes of candidates in one batch at most: they are all copied, and then perhaps not run.
const BYTES_MAX: usize = 4 << 20;

/// What a smaller input has to do.
#[derive(Debug)]
pub(super) enum Goal {
    /// End as this run did; a timeout, in the loop whose stacks have these frames in common.
    Same(Box<Sighting>),
    /// End well, and reach these edges of the application.
    Edges {
        edges: Vec<usize>,
        /// The harness returns -1, which keeps an input out of a corpus.
        rejected: bool,
    },
}

impl Goal {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Same(sighting) => sighting.name.clone(),
            Self::Edges { edges, .. } => format!("{} edges", edges.len()),
        }
    }

    /// Whether it is worth a fresh fork.
    fn plausible(&self, outcome: &Outcome, counters: impl FnOnce() -> bool) -> bool {
        match (self, outcome) {
            (Self::Same(goal), outcome) => match (&goal.outcome, outcome) {
                (Outcome::Timeout, Outcome::Timeout) => true,
                (Outcome::Crash(goal), Outcome::Crash(crash)) => goal.kind == crash.kind,
                _ => false,
            },
            (Self::Edges { .. }, Outcome::Done { .. } | Outcome::Exit { .. }) => counters(),
            _ => false,
        }
    }

    fn covered(&self, counters: &[u8]) -> bool {
        match self {
            Self::Edges { edges, .. } => edges.iter().all(|&edge| counters.get(edge).is_some_and(|&n| n > 0)),
            Self::Same(_) => false,
        }
    }
}

/// Whether the harness asks that the input be kept out of a corpus.
pub(super) fn is_rejected(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { code: -1 })
}

/// How many candidates from the first failed, and whether the one behind them is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) failed: usize,
    pub(super) kept: bool,
}

/// Runs candidates.
#[derive(Debug)]
pub(super) struct Judge {
    probe: Probe,
    replica: Fork,
    deadline: Duration,
    goal: Goal,
    runs: Vec<BatchRun>,
    ahead: usize,
    /// Runs so far, in batches and in fresh forks.
    pub(super) execs: u64,
}

impl Judge {
    pub(super) fn new(
        machine: &Opened,
        probe: Probe,
        deadline: Duration,
        goal: Goal,
    ) -> Result<Self, ForkError> {
        let replica = machine.frozen.fork(&machine.kvm, Engine::HotSet)?;
        Ok(Self { probe, replica, deadline, goal, runs: Vec::new(), ahead: AHEAD_MIN, execs: 0 })
    }

    /// How many candidates of `len` bytes it pays to have ready.
    pub(super) fn ahead(&self, len: usize) -> usize {
        self.ahead.min(BYTES_MAX / len.max(1)).max(1)
    }

    /// Runs candidates from the first on, up to the first that does it; perhaps fewer.
    pub(super) fn first_kept(&mut self, candidates: &[Vec<u8>]) -> Result<Verdict, ForkError> {
        let inputs = candidates.iter().map(Vec::as_slice);
        let time = BatchTime { deadline: self.deadline, budget: self.deadline * BUDGET };
        let report = self.replica.run_batch(inputs, time, Filter::Off, &mut self.runs)?;
        let spoiled = report.end == BatchEnd::Spoiled;
        let verdict = match report.end {
            BatchEnd::Spoiled => self.one_by_one(&candidates[..report.taken])?,
            BatchEnd::Complete => self.look_back(candidates, report.taken)?,
            BatchEnd::Stopped { at, outcome } => {
                let verdict = self.look_back(candidates, at)?;
                if verdict.kept {
                    verdict
                } else {
                    let kept = self.kept_alone(&outcome, &candidates[at])?;
                    Verdict { failed: at + usize::from(!kept), kept }
                }
            }
        };
        self.ahead = if verdict.kept || spoiled {
            AHEAD_MIN.max(self.ahead / 4)
        } else {
            AHEAD_MAX.min(self.ahead * 2)
        };
        Ok(verdict)
    }

    /// Of the first `finished`, which ended well: the first that covers what it has to.
    fn look_back(&mut self, candidates: &[Vec<u8>], finished: usize) -> Result<Verdict, ForkError> {
        self.execs += finished as u64;
        for (at, candidate) in candidates.iter().enumerate().take(finished) {
            // A batch of one stores no counters beside those of the replica.
            let counters = match self.runs.get(at).and_then(|run| run.slot) {
                Some(slot) => self.replica.batch_counters(slot),
                None => self.replica.counters(),
            };
            if self.goal.covered(counters) && self.confirmed(candidate)? {
                return Ok(Verdict { failed: at, kept: true });
            }
        }
        Ok(Verdict { failed: finished, kept: false })
    }

    /// Whether the candidate that ended its batch with `outcome` does it. A time that is up may be the batch's.
    fn kept_alone(&mut self, outcome: &Outcome, candidate: &[u8]) -> Result<bool, ForkError> {
        self.execs += 1;
        if self.goal.plausible(outcome, || false) {
            return self.confirmed(candidate);
        }
        let unknown = *outcome == Outcome::Timeout;
        Ok(unknown && self.one_by_one(&[candidate])?.kept)
    }

    fn one_by_one(&mut self, candidates: &[impl AsRef<[u8]>]) -> Result<Verdict, ForkError> {
        for (at, candidate) in candidates.iter().map(AsRef::as_ref).enumerate() {
            let outcome = self.replica.run(candidate, self.deadline)?;
            self.execs += 1;
            let covered = || self.goal.covered(self.replica.counters());
            if self.goal.plausible(&outcome, covered) && self.confirmed(candidate)? {
                return Ok(Verdict { failed: at, kept: true });
            }
        }
        Ok(Verdict { failed: candidates.len(), kept: false })
    }

    /// Whether a fresh fork does it.
    fn confirmed(&mut self, candidate: &[u8]) -> Result<bool, ForkError> {
        self.execs += 1;
        let probed = self.probe.run(candidate)?;
        Ok(match (&self.goal, &probed.sighting) {
            (Goal::Same(goal), Some(sighting)) => {
                let looped = sighting.outcome != Outcome::Timeout
                    || in_loop(&sighting.report.frames, &goal.report.frames);
                sighting.same_as(goal) && looped
            }
            (Goal::Edges { rejected, .. }, None) => {
                *rejected == is_rejected(&probed.outcome) && self.goal.covered(&probed.counters)
            }
            _ => false,
        })
    }
}
