//! What inputs reach, many per `KVM_RUN`.

use std::time::Duration;

use unifork_abi::Filter;
use unifork_vmm::{BatchEnd, BatchRun, BatchTime, Engine, Outcome};

use crate::fork::{Fork, ForkError};
use crate::opened::Opened;
use crate::signals;
use crate::triage::Probe;

/// Deadlines that a batch may take in all, so that Ctrl-C is seen in time.
const BUDGET: u32 = 2;

/// How an input ended.
#[derive(Debug)]
pub(super) enum End<'a> {
    /// Well, with these counters of the application.
    Good(&'a [u8]),
    /// The harness returned -1: it is to be kept out of a corpus.
    Rejected,
    /// Badly; what it is called.
    Bad(String),
}

/// Runs inputs.
#[derive(Debug)]
pub(super) struct Measure {
    probe: Probe,
    replica: Fork,
    deadline: Duration,
    runs: Vec<BatchRun>,
    edges: usize,
}

impl Measure {
    pub(super) fn new(machine: &Opened, deadline: Duration) -> Result<Self, ForkError> {
        Ok(Self {
            probe: Probe::new(machine.kvm.clone(), machine.frozen.clone(), deadline),
            replica: machine.frozen.fork(&machine.kvm, Engine::HotSet)?,
            deadline,
            runs: Vec::new(),
            edges: machine.frozen.counter_count(),
        })
    }

    /// Runs all of `inputs`, and tells of each, in order; fewer when someone asks to stop.
    pub(super) fn run(
        &mut self,
        inputs: &[Vec<u8>],
        mut tell: impl FnMut(usize, End<'_>),
    ) -> Result<(), ForkError> {
        let mut next = 0;
        while next < inputs.len() && !signals::stop_requested() {
            let rest = inputs[next..].iter().map(Vec::as_slice);
            let time = BatchTime { deadline: self.deadline, budget: self.deadline * BUDGET };
            let report = self.replica.run_batch(rest, time, Filter::Off, &mut self.runs)?;
            let (finished, alone) = match report.end {
                BatchEnd::Complete => (report.taken, 0),
                BatchEnd::Stopped { at, .. } => (at, 1),
                BatchEnd::Spoiled => (0, report.taken),
            };
            for (at, run) in (next..).zip(&self.runs).take(finished) {
                // A batch of one stores no counters beside those of the replica.
                let counters = match run.slot {
                    Some(slot) => &self.replica.batch_counters(slot)[..self.edges],
                    None => self.replica.counters(),
                };
                tell(at, if run.code == -1 { End::Rejected } else { End::Good(counters) });
            }
            next += finished;
            for _ in 0..alone {
                if signals::stop_requested() {
                    return Ok(());
                }
                self.alone(next, &inputs[next], &mut tell)?;
                next += 1;
            }
        }
        Ok(())
    }

    fn alone(
        &mut self,
        at: usize,
        input: &[u8],
        tell: &mut impl FnMut(usize, End<'_>),
    ) -> Result<(), ForkError> {
        match self.replica.run(input, self.deadline)? {
            Outcome::Done { code: -1 } => tell(at, End::Rejected),
            Outcome::Done { .. } | Outcome::Exit { .. } => {
                tell(at, End::Good(self.replica.counters()));
            }
            Outcome::Crash(_) | Outcome::Timeout => {
                let probed = self.probe.run(input)?;
                match probed.sighting {
                    Some(sighting) => tell(at, End::Bad(sighting.name)),
                    None => tell(at, End::Good(&probed.counters)),
                }
            }
        }
        Ok(())
    }
}
