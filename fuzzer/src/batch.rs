//! Batches of runs on a replica: how large, what of them is to be judged, and what they cost.

use std::time::Duration;

use unifork_abi::Filter;
use unifork_vmm::{BatchEnd, BatchRun, BatchTime};

use crate::campaign::CampaignError;
use crate::fork::Fork;

/// Runs in one batch at most.
const RUNS_MAX: usize = 1024;
/// What a batch of a seeded campaign has: there, nothing may depend on the clock.
const RUNS_SEEDED: usize = 64;
/// An exit may cost this share of a batch, as one over it.
const EXIT_SHARE: u32 = 50;
/// A batch may take this many deadlines in all, so that limits and signals are seen in time.
const BUDGET: u32 = 2;
/// Of this many batches, so many may be thrown away: with more, there are none for a while.
const SPOILED_OF: u32 = 32;
const SPOILED_MAX: u32 = 8;
/// So many inputs are run one by one then.
const PAUSE: usize = 8192;

/// How many runs a batch has, and how that went.
#[derive(Debug)]
pub(crate) struct Batcher {
    runs: Vec<BatchRun>,
    filter: Filter,
    size: usize,
    fixed: bool,
    // The price of one exit, measured at the start.
    exit: Duration,
    /// The novelty map in the guest is older than the campaign's history.
    pub(crate) stale: bool,
    /// Runs that were part of a batch, and batches.
    pub(crate) batched: u64,
    pub(crate) batches: u64,
    /// Batches that had to be thrown away.
    pub(crate) spoiled: u64,
    // Of the last few batches: how many there were, and how many were thrown away.
    recent: (u32, u32),
    // Inputs that are still to be run one by one, since batches do not pay at present.
    paused: usize,
}

impl Batcher {
    /// Batches that adapt to how long a run takes, unless the campaign is `seeded`, where an exit costs
    /// `exit`; `filter` says whose coverage counts.
    pub(crate) fn new(seeded: bool, exit: Duration, filter: Filter) -> Self {
        Self {
            runs: Vec::with_capacity(RUNS_MAX),
            filter,
            size: if seeded { RUNS_SEEDED } else { 16 },
            fixed: seeded,
            exit,
            stale: true,
            batched: 0,
            batches: 0,
            spoiled: 0,
            recent: (0, 0),
            paused: 0,
        }
    }

    /// Whether `inputs` more are to be run one by one: each run of this harness dirties other pages, so
    /// that most batches are thrown away.
    pub(crate) fn is_paused(&mut self, inputs: usize) -> bool {
        let paused = self.paused > 0;
        self.paused = self.paused.saturating_sub(inputs);
        paused
    }

    fn note(&mut self, spoiled: bool) {
        self.recent.0 += 1;
        self.recent.1 += u32::from(spoiled);
        if self.recent.1 > SPOILED_MAX {
            self.paused = PAUSE;
            self.recent = (0, 0);
        } else if self.recent.0 == SPOILED_OF {
            self.recent = (0, 0);
        }
    }

    /// How many inputs the next batch should have.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Runs `inputs` from the first on. Returns how many were dealt with, and how many of them count as
    /// executions already; `interesting` names those to be run by themselves and judged.
    pub(crate) fn run<'a>(
        &mut self,
        replica: &mut Fork,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        deadline: Duration,
        interesting: &mut Vec<usize>,
    ) -> Result<Dealt, CampaignError> {
        interesting.clear();
        // A seeded campaign is the same however fast the host is, so only deadlines cut it short.
        let budget = if self.fixed { Duration::MAX } else { deadline * BUDGET };
        let report =
            replica.run_batch(inputs, BatchTime { deadline, budget }, self.filter, &mut self.runs)?;
        self.batches += 1;
        self.note(report.end == BatchEnd::Spoiled);
        let news = |(i, run): (usize, &BatchRun)| (run.slot.is_some() && run.code != -1).then_some(i);
        interesting.extend(self.runs.iter().enumerate().filter_map(news));
        self.batched += self.runs.len() as u64;
        let dealt = match report.end {
            // A batch of one stores no counters: it is always judged.
            BatchEnd::Complete if report.taken == 1 => {
                interesting.clear();
                interesting.push(0);
                Dealt { inputs: 1, ..Dealt::default() }
            }
            BatchEnd::Complete => Dealt { inputs: report.taken, runs: report.taken, reset_pages: 0 },
            BatchEnd::Stopped { at, .. } => {
                interesting.push(at);
                Dealt { inputs: at + 1, runs: at, reset_pages: 0 }
            }
            BatchEnd::Spoiled => {
                self.spoiled += 1;
                interesting.extend(0..report.taken);
                Dealt { inputs: report.taken, ..Dealt::default() }
            }
        };
        Ok(Dealt { reset_pages: report.reset.pages as u64, ..dealt })
    }

    /// The runs of the last batch that can be relied on, from its first on.
    pub(crate) fn runs(&self) -> &[BatchRun] {
        &self.runs
    }

    /// Learns from a batch of `runs` that took `time`.
    pub(crate) fn adapt(&mut self, runs: usize, time: Duration) {
        if self.fixed || runs < 2 {
            return;
        }
        let one =
            time.saturating_sub(self.exit).max(Duration::from_nanos(1)) / u32::try_from(runs).unwrap_or(1);
        let wanted = (self.exit * EXIT_SHARE).as_nanos() / one.as_nanos().max(1);
        let wanted = usize::try_from(wanted).unwrap_or(RUNS_MAX).clamp(2, RUNS_MAX);
        // Half way, so that one odd batch does not matter.
        self.size = self.size.midpoint(wanted).clamp(2, RUNS_MAX);
    }
}

/// What became of the inputs given to a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dealt {
    /// From the first on, so many need not be given again.
    pub(crate) inputs: usize,
    /// So many runs count as executions; the interesting ones are counted when they are run again.
    pub(crate) runs: usize,
    /// Pages put back by the host.
    pub(crate) reset_pages: u64,
}
