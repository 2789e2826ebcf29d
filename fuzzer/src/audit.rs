//! Audits: now and then a run of the campaign is made again in a new fork, put back by nobody before
//! it, and must be the same.
//!
//! The reset engines and the batches are proven by tests; an audit looks at the campaign at hand, its
//! harness and its host. A difference is never explained away: it is said at once, counted, and makes
//! the campaign end with the exit code of a host error.

use std::sync::Arc;
use std::time::Duration;

use unifork_vmm::{BatchEnd, BatchRun, BatchTime, Engine, Kvm, Outcome};

use crate::campaign::CampaignError;
use crate::cmd::{note, warn};
use crate::fork::{Fork, Frozen};

/// Differences described at most; all are counted.
const DESCRIBED_MAX: usize = 20;
/// A batch that is thrown away is repeated so often: it may be the first after the hot set was forgotten.
const SPOILED_TRIES: u32 = 3;

/// Makes every so many runs again.
#[derive(Debug)]
pub(crate) struct Auditor {
    kvm: Arc<Kvm>,
    frozen: Frozen,
    deadline: Duration,
    every: u64,
    due: u64,
    runs: Vec<BatchRun>,
    /// Runs made again.
    pub(crate) audits: u64,
    /// Those that differed.
    pub(crate) differences: u64,
    /// Runs of batches that should have been made again, where the repetition was thrown away.
    pub(crate) skipped: u64,
    // Inputs that differ from new fork to new fork: the harness's own doing.
    unrepeatable: u64,
}

/// What is compared of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    outcome: Outcome,
    counters: Vec<u8>,
    // Pages that differ from the snapshot: what the run dirtied.
    pages: Vec<u64>,
}

impl Auditor {
    /// Audits every `every`th run.
    pub(crate) fn new(kvm: Arc<Kvm>, frozen: Frozen, deadline: Duration, every: u64) -> Self {
        Self {
            kvm,
            frozen,
            deadline,
            every,
            due: every,
            runs: Vec::new(),
            audits: 0,
            differences: 0,
            skipped: 0,
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
        replica: &Fork,
        input: &[u8],
        outcome: &Outcome,
    ) -> Result<(), CampaignError> {
        self.due = runs + self.every;
        let (counters, pages) = (replica.all_counters(), replica.differing_pages());
        let seen = Seen { outcome: outcome.clone(), counters, pages };
        self.compare(input, &seen, &replica.passed_by(), "by itself")
    }

    /// Audits every `every`th of `live`, the runs of a batch of `inputs` that has just been made after
    /// `runs` others: what the batch said of it, and a repetition of the batch up to it, against a run
    /// in a new fork.
    pub(crate) fn batch<'a>(
        &mut self,
        runs: u64,
        replica: &mut Fork,
        inputs: impl Iterator<Item = &'a [u8]> + Clone,
        live: &[BatchRun],
    ) -> Result<(), CampaignError> {
        // The repetitions overwrite the coverage of the batch.
        let mut due: Vec<(usize, BatchRun, Option<Vec<u8>>)> = Vec::new();
        for (at, run) in live.iter().enumerate() {
            if self.due(runs + at as u64 + 1) {
                self.due = runs + at as u64 + 1 + self.every;
                due.push((at, *run, run.slot.map(|slot| replica.batch_counters(slot).to_vec())));
            }
        }
        for (at, run, counters) in due {
            let Some(input) = inputs.clone().nth(at) else { continue };
            let outcome = Outcome::Done { code: run.code };
            let Some(seen) = self.repeat(replica, inputs.clone().take(at + 1), at)? else {
                self.skipped += 1;
                continue;
            };
            // The campaign's batches may not look at the libOS's counters.
            let app = self.frozen.counter_count();
            let mut news = counters.unwrap_or_else(|| seen.counters.clone());
            news[app..].copy_from_slice(&seen.counters[app..]);
            let filtered = run.slot.is_none() && at > 0 && replica.is_news(&news[..app]);
            if seen.outcome != outcome || seen.counters != news || filtered {
                let live = Seen { outcome, counters: news, pages: seen.pages.clone() };
                self.differ(input, &live, &seen, "in a batch, which was then repeated");
            }
            self.compare(input, &seen, &[], "in a batch")?;
        }
        Ok(())
    }

    /// Runs a batch again, with nothing filtered out; what its last run was. `None` when it cannot be
    /// told, because the hot set is being learned.
    fn repeat<'a>(
        &mut self,
        replica: &mut Fork,
        inputs: impl Iterator<Item = &'a [u8]> + Clone,
        at: usize,
    ) -> Result<Option<Seen>, CampaignError> {
        let time = BatchTime::each(self.deadline);
        for _ in 0..SPOILED_TRIES {
            // A batch of one has no counters of its own: it is run twice.
            let twice = inputs.clone().take(usize::from(at == 0)).chain(inputs.clone());
            let (report, pages) = replica.run_batch_and_look(twice, time, &mut self.runs)?;
            match (report.end, self.runs.last()) {
                (BatchEnd::Complete, Some(&BatchRun { code, slot: Some(slot) })) => {
                    let counters = replica.batch_counters(slot).to_vec();
                    return Ok(Some(Seen { outcome: Outcome::Done { code }, counters, pages }));
                }
                // It would not go on behind a run that used a device: that one is shown as if it had been alone.
                (BatchEnd::Complete, Some(&BatchRun { code, slot: None }))
                    if report.taken == 1 && at == 0 =>
                {
                    let counters = replica.all_counters();
                    return Ok(Some(Seen { outcome: Outcome::Done { code }, counters, pages }));
                }
                (BatchEnd::Stopped { outcome, .. }, _) => {
                    let counters = replica.all_counters();
                    return Ok(Some(Seen { outcome: *outcome, counters, pages }));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Compares what was `seen` with a run in a new fork. A new fork counts every block; one that has seen a block may
    /// have passed it by.
    fn compare(
        &mut self,
        input: &[u8],
        seen: &Seen,
        passed_by: &[bool],
        how: &str,
    ) -> Result<(), CampaignError> {
        let mut fresh = self.frozen.fork(&self.kvm, Engine::CopyAll)?;
        let outcome = fresh.run(input, self.deadline)?;
        let mut exact = Seen { outcome, counters: fresh.all_counters(), pages: fresh.differing_pages() };
        for ((exact, seen), passed_by) in exact.counters.iter_mut().zip(&seen.counters).zip(passed_by) {
            if *passed_by && *seen == 0 {
                *exact = 0;
            }
        }
        self.audits += 1;
        // A timeout stops where the clock ran out: only that it is one can be the same.
        let timeout = exact.outcome == Outcome::Timeout && seen.outcome == Outcome::Timeout;
        if timeout || exact == *seen {
            return Ok(());
        }
        let mut again = self.frozen.fork(&self.kvm, Engine::CopyAll)?;
        let outcome = again.run(input, self.deadline)?;
        if outcome != exact.outcome || again.all_counters() != fresh.all_counters() {
            self.unrepeatable += 1;
            if self.unrepeatable == 1 {
                warn(
                    "an input does not repeat even in new forks: the harness reads the time-stamp counter or the \
                     CPU's random numbers; see docs/determinism.md",
                );
            }
            return Ok(());
        }
        self.differ(input, seen, &exact, how);
        Ok(())
    }

    fn differ(&mut self, input: &[u8], seen: &Seen, exact: &Seen, how: &str) {
        self.differences += 1;
        if self.differences <= DESCRIBED_MAX as u64 {
            note(&format!("AUDIT FAILED: {}", describe(input, seen, exact, how)));
        }
    }
}

fn describe(input: &[u8], seen: &Seen, exact: &Seen, how: &str) -> String {
    let counts = seen.counters.iter().zip(&exact.counters).filter(|(a, b)| a != b).count();
    let pages = if seen.pages == exact.pages {
        String::new()
    } else {
        format!(", pages {:?} against {:?}", seen.pages, exact.pages)
    };
    format!(
        "an input of {} bytes run {how} ended with {:?}, in a new fork with {:?}; {counts} counters differ{pages}",
        input.len(),
        seen.outcome,
        exact.outcome
    )
}

#[cfg(test)]
mod tests {
    use unifork_vmm::boot::boot_bare;
    use unifork_vmm::{BootEnd, MachineConfig, testing};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// A fork of a machine whose program ends at once, and an auditor of it.
    fn auditor() -> (Auditor, Fork) {
        let kvm = Arc::new(Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}")));
        let image = testing::snapshot_then(&testing::DONE);
        let config = MachineConfig { memory_bytes: 16 << 20, ..MachineConfig::default() };
        let boot = boot_bare(&kvm, &image, &config).unwrap();
        let BootEnd::Snapshot(snapshot) = boot.end else { panic!("no snapshot: {:?}", boot.end) };
        let frozen = Frozen::from(snapshot);
        let replica = frozen.fork(&kvm, Engine::HotSet).unwrap();
        (Auditor::new(kvm, frozen, DEADLINE, 100), replica)
    }

    #[test]
    fn an_audit_is_due_every_so_many_runs_and_an_honest_run_passes() {
        let (mut auditor, mut replica) = auditor();
        assert!(!auditor.due(99) && auditor.due(100));
        let outcome = replica.run(b"", DEADLINE).unwrap();
        auditor.run(130, &replica, b"", &outcome).unwrap();
        assert_eq!((auditor.audits, auditor.differences), (1, 0));
        assert!(!auditor.due(229) && auditor.due(230));
    }

    #[test]
    fn a_page_that_the_run_alone_would_not_have_dirtied_is_a_difference() {
        let (mut auditor, mut replica) = auditor();
        let outcome = replica.run(b"", DEADLINE).unwrap();
        let Fork::Own(own) = &mut replica else { panic!("it is of our own guest") };
        own.write_memory(unifork_abi::ARENA_VA, b"left behind by another run").unwrap();
        auditor.run(100, &replica, b"", &outcome).unwrap();
        assert_eq!((auditor.audits, auditor.differences), (1, 1));
    }

    #[test]
    fn another_outcome_is_a_difference() {
        let (mut auditor, mut replica) = auditor();
        replica.run(b"", DEADLINE).unwrap();
        auditor.run(100, &replica, b"", &Outcome::Exit { code: 1 }).unwrap();
        assert_eq!((auditor.audits, auditor.differences), (1, 1));
    }
}
