//! Audits: now and then a run of the campaign is made again in a new fork, put back by nobody before
//! it, and must be the same.
//!
//! The reset engines and the batches are proven by tests; an audit looks at the campaign at hand, its
//! harness and its host. A difference is never explained away: it is said at once, counted, and makes
//! the campaign end with the exit code of a host error.

use std::sync::Arc;
use std::time::Duration;

use unifork_vmm::{BatchEnd, BatchRun, Engine, Kvm, Outcome, Replica, Snapshot, Space};

use crate::campaign::CampaignError;

/// Differences described at most; all are counted.
const DESCRIBED_MAX: usize = 20;

/// Makes every so many runs again.
#[derive(Debug)]
pub(crate) struct Auditor {
    kvm: Arc<Kvm>,
    snapshot: Arc<Snapshot>,
    deadline: Duration,
    every: u64,
    due: u64,
    runs: Vec<BatchRun>,
    /// Runs made again.
    pub(crate) audits: u64,
    /// Those that differed.
    pub(crate) differences: u64,
    // Inputs that differ from new fork to new fork: the harness's own doing.
    unrepeatable: u64,
}

/// What is compared of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    outcome: Outcome,
    counters: Vec<u8>,
    // Pages that differ from the snapshot: what the run dirtied. Not known of a run in a batch.
    pages: Option<Vec<u64>>,
}

impl Auditor {
    /// Audits every `every`th run.
    pub(crate) fn new(kvm: Arc<Kvm>, snapshot: Arc<Snapshot>, deadline: Duration, every: u64) -> Self {
        Self {
            kvm,
            snapshot,
            deadline,
            every,
            due: every,
            runs: Vec::new(),
            audits: 0,
            differences: 0,
            unrepeatable: 0,
        }
    }

    /// Whether the campaign, at `runs`, owes an audit.
    #[inline]
    pub(crate) fn due(&self, runs: u64) -> bool {
        runs >= self.due
    }

    /// Audits the run of `input` that has just ended with `outcome` and that `replica` still shows.
    pub(crate) fn run(
        &mut self,
        runs: u64,
        replica: &Replica,
        input: &[u8],
        outcome: &Outcome,
    ) -> Result<(), CampaignError> {
        self.due = runs + self.every;
        let seen = Seen {
            outcome: outcome.clone(),
            counters: counters(replica),
            pages: Some(replica.differing_pages()),
        };
        self.compare(input, &seen, "by itself")
    }

    /// Audits a batch: runs it again with nothing filtered out, and one run of it in a new fork.
    pub(crate) fn batch<'a>(
        &mut self,
        runs: u64,
        replica: &mut Replica,
        inputs: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), CampaignError> {
        self.due = runs + self.every;
        let report = replica.run_batch(inputs.clone(), self.deadline, false, &mut self.runs)?;
        if self.runs.is_empty() || report.taken < 2 || report.end == BatchEnd::Spoiled {
            // Nothing that the campaign would have believed.
            return Ok(());
        }
        // Late runs have more before them that could have gone wrong.
        let at = self.runs.len() - 1 - usize::try_from(self.audits % self.runs.len() as u64).unwrap_or(0);
        let (Some(input), Some(slot)) = (inputs.clone().nth(at), self.runs[at].slot) else { return Ok(()) };
        let seen = Seen {
            outcome: Outcome::Done { code: self.runs[at].code },
            counters: replica.batch_counters(slot).to_vec(),
            pages: None,
        };
        self.compare(input, &seen, "in a batch")
    }

    fn compare(&mut self, input: &[u8], seen: &Seen, how: &str) -> Result<(), CampaignError> {
        let mut fresh = Replica::spawn(&self.kvm, &self.snapshot, Engine::CopyAll)?;
        let outcome = fresh.run(input, self.deadline)?;
        let pages = seen.pages.as_ref().map(|_| fresh.differing_pages());
        let exact = Seen { outcome, counters: counters(&fresh), pages };
        self.audits += 1;
        // A timeout stops where the clock ran out: only that it is one can be the same.
        let timeout = exact.outcome == Outcome::Timeout && seen.outcome == Outcome::Timeout;
        if timeout || exact == *seen {
            return Ok(());
        }
        let mut again = Replica::spawn(&self.kvm, &self.snapshot, Engine::CopyAll)?;
        let outcome = again.run(input, self.deadline)?;
        if outcome != exact.outcome || counters(&again) != exact.counters {
            self.unrepeatable += 1;
            if self.unrepeatable == 1 {
                eprintln!(
                    "unifork: warning: an input does not repeat even in new forks: the harness reads the \
                     time-stamp counter or the CPU's random numbers; see docs/determinism.md"
                );
            }
            return Ok(());
        }
        self.differences += 1;
        if self.differences <= DESCRIBED_MAX as u64 {
            eprintln!("unifork: AUDIT FAILED: {}", describe(input, seen, &exact, how));
        }
        Ok(())
    }
}

fn counters(replica: &Replica) -> Vec<u8> {
    [replica.counters(Space::Application), replica.counters(Space::Kernel)].concat()
}

fn describe(input: &[u8], seen: &Seen, exact: &Seen, how: &str) -> String {
    let counts = seen.counters.iter().zip(&exact.counters).filter(|(a, b)| a != b).count();
    let pages = match (&seen.pages, &exact.pages) {
        (Some(seen), Some(exact)) if seen != exact => format!(", pages {seen:?} against {exact:?}"),
        _ => String::new(),
    };
    format!(
        "an input of {} bytes run {how} ended with {:?}, in a new fork with {:?}; {counts} counters differ{pages}",
        input.len(),
        seen.outcome,
        exact.outcome
    )
}
