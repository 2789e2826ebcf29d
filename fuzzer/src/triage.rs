//! What happened in a run that ended badly, and its name: cause and stack.

use std::sync::Arc;
use std::time::Duration;

use libafl_bolts::hash_std;
use serde::{Deserialize, Serialize};
use unifork_vmm::{Crash, Engine, Kvm, Outcome, Replica, ReplicaError, Snapshot, Space};

/// A run that ended badly.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sighting {
    /// Cause and short hash: `null-write-3f2a9c1e`.
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) stack_hash: u64,
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

/// What can be said about a run, for people and for programs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// Registers, backtrace, disassembly.
    pub(crate) text: String,
    /// The backtrace, innermost first.
    pub(crate) backtrace: Vec<String>,
    /// What the guest wrote to its console.
    pub(crate) console: String,
}

/// Names runs.
#[derive(Debug)]
pub(crate) struct Triage {}

impl Triage {
    pub(crate) fn new(_snapshot: &Arc<Snapshot>) -> Self {
        Self {}
    }

    /// Names the run that `replica` just made, if it ended badly.
    pub(crate) fn sight(&self, replica: &Replica, outcome: &Outcome) -> Option<Sighting> {
        let counters = replica.counters(Space::Application);
        let coverage_hash = hash_std(counters);
        let reached = || (0..).zip(counters).filter(|&(_, &count)| count != 0).map(|(edge, _)| edge).collect();
        Some(match outcome {
            Outcome::Done { .. } | Outcome::Exit { .. } => return None,
            Outcome::Timeout => {
                let edges: Vec<u32> = reached();
                let bytes: Vec<u8> = edges.iter().flat_map(|edge| edge.to_le_bytes()).collect();
                let hash = hash_std(&bytes);
                let name = format!("timeout-{}", short(hash));
                Sighting { name, outcome: outcome.clone(), stack_hash: 0, coverage_hash, edges }
            }
            Outcome::Crash(crash) => {
                let stack_hash = self.stack_hash(crash);
                let name = format!("{}-{}", crash.kind, short(stack_hash));
                Sighting { name, outcome: outcome.clone(), stack_hash, coverage_hash, edges: Vec::new() }
            }
        })
    }

    fn stack_hash(&self, crash: &Crash) -> u64 {
        hash_std(&crash.registers.rip.to_le_bytes())
    }

    /// Explains the run that `replica` just made.
    pub(crate) fn explain(&self, replica: &Replica, _outcome: &Outcome) -> Explanation {
        let console = String::from_utf8_lossy(&replica.console()).into_owned();
        Explanation { text: String::new(), backtrace: Vec::new(), console }
    }
}

fn short(hash: u64) -> String {
    format!("{:08x}", hash >> 32)
}

/// Runs single inputs, each in a fork of its own.
#[derive(Debug)]
pub(crate) struct Probe {
    kvm: Arc<Kvm>,
    snapshot: Arc<Snapshot>,
    deadline: Duration,
    triage: Triage,
}

/// What a probe saw.
#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) outcome: Outcome,
    pub(crate) sighting: Option<Sighting>,
    pub(crate) explanation: Explanation,
    /// Of the application's raw counters.
    pub(crate) coverage_hash: u64,
}

impl Probe {
    pub(crate) fn new(kvm: Arc<Kvm>, snapshot: Arc<Snapshot>, deadline: Duration) -> Self {
        let triage = Triage::new(&snapshot);
        Self { kvm, snapshot, deadline, triage }
    }

    /// Runs `input` in a fresh fork.
    pub(crate) fn run(&self, input: &[u8]) -> Result<Probed, ReplicaError> {
        // A fork that is never put back needs no engine; this one sets nothing up.
        let mut replica = Replica::spawn(&self.kvm, &self.snapshot, Engine::CopyAll)?;
        let outcome = replica.run(input, self.deadline)?;
        let coverage_hash = hash_std(replica.counters(Space::Application));
        let sighting = self.triage.sight(&replica, &outcome);
        let explanation = self.triage.explain(&replica, &outcome);
        Ok(Probed { outcome, sighting, explanation, coverage_hash })
    }
}
