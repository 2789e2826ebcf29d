//! Runs inputs on a replica for LibAFL. The only place where outcomes of the guest become LibAFL's
//! exit kinds, and errors of the host become its errors.
//!
//! An error of the host is not a crash of the guest: it stops the campaign. It travels beside
//! LibAFL, in [`LastRun`](crate::observer::LastRun).

use std::time::{Duration, Instant};

use libafl::Error;
use libafl::executors::{Executor, ExitKind, HasObservers};
use libafl::inputs::{BytesInput, HasMutatorBytes as _};
use libafl::state::HasExecutions;
use libafl_bolts::tuples::RefIndexable;
use unifork_vmm::{Outcome, Space};

use crate::audit::Auditor;
use crate::batch::Batcher;
use crate::campaign::{CampaignError, State};
use crate::findings::{Findings, Moment, Verdict};
use crate::fork::Fork;
use crate::monitor::Monitor;
use crate::novelty;
use crate::observer::{Observers, SharedRun, kernel_counts};
use crate::signals;
use crate::triage::Triage;

/// When a campaign ends by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// After so many executions, those of earlier sessions included.
    pub(crate) execs: Option<u64>,
    /// At this time.
    pub(crate) until: Option<Instant>,
    /// At the first new finding.
    pub(crate) finding: bool,
}

/// What the executor counts for reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Runs of this session.
    pub(crate) runs: u64,
    /// Pages put back after them.
    pub(crate) reset_pages: u64,
    /// Time in the replica: writing inputs, running them, and putting it back. A batch writes and resets
    /// while it runs, and all of it counts as running.
    pub(crate) writing: Duration,
    pub(crate) running: Duration,
    pub(crate) resetting: Duration,
    /// Nanoseconds of each reset and run together, while there is room; for `unifork bench`.
    pub(crate) samples: Vec<u32>,
    /// The libOS's edges that were seen covered.
    pub(crate) kernel_seen: Vec<bool>,
    /// New findings of this session.
    pub(crate) new_findings: u64,
    /// Pages that are always put back, and the share of resets that found no other page dirty.
    pub(crate) hot_pages: usize,
    pub(crate) hot_hit_rate: f64,
    /// Runs in the next batch; batches, runs in them, and batches thrown away.
    pub(crate) batch_size: usize,
    pub(crate) batches: u64,
    pub(crate) batched: u64,
    pub(crate) spoiled: u64,
    /// Runs made again in a new fork, and those that were not the same.
    pub(crate) audits: u64,
    pub(crate) audit_differences: u64,
    /// Audits that were due and could not be made.
    pub(crate) audits_skipped: u64,
    /// Inputs of other clients and machines that were kept.
    pub(crate) imported: u64,
}

impl Tally {
    #[inline]
    fn count(&mut self, reset: Duration, write: Duration, run: Duration) {
        self.runs += 1;
        self.resetting += reset;
        self.writing += write;
        self.running += run;
        if self.samples.len() < self.samples.capacity() {
            self.samples.push(u32::try_from((reset + write + run).as_nanos()).unwrap_or(u32::MAX));
        }
    }
}

/// A LibAFL executor over one replica.
#[derive(Debug)]
pub(crate) struct ReplicaExecutor {
    // Invariant: looks into the replica's windows, so it comes before it: fields drop in order.
    observers: Observers,
    pub(crate) replica: Fork,
    pub(crate) findings: Findings,
    pub(crate) monitor: Monitor,
    pub(crate) tally: Tally,
    pub(crate) limits: Limits,
    triage: Triage,
    last: SharedRun,
    deadline: Duration,
    input_max: usize,
    // A run was made and not yet put back.
    dirty: bool,
    now: Instant,
    /// Batches, where the campaign has them.
    pub(crate) batcher: Option<Batcher>,
    /// Audits, where they were asked for.
    pub(crate) auditor: Option<Auditor>,
}

/// What an executor is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) observers: Observers,
    pub(crate) replica: Fork,
    pub(crate) findings: Findings,
    pub(crate) monitor: Monitor,
    pub(crate) limits: Limits,
    pub(crate) triage: Triage,
    pub(crate) last: SharedRun,
    pub(crate) deadline: Duration,
    pub(crate) input_max: usize,
    pub(crate) batcher: Option<Batcher>,
    pub(crate) auditor: Option<Auditor>,
}

impl ReplicaExecutor {
    /// An executor of these parts. `observers` are those of `replica`.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            observers,
            mut replica,
            findings,
            monitor,
            limits,
            triage,
            last,
            deadline,
            input_max,
            batcher,
            auditor,
        } = parts;
        // Not the length of the map, which is never empty.
        let (_, kernel_edges) = replica.counters_ptr(Space::Kernel);
        Self {
            tally: Tally { kernel_seen: vec![false; kernel_edges], ..Tally::default() },
            observers,
            replica,
            findings,
            monitor,
            limits,
            triage,
            last,
            deadline,
            input_max,
            dirty: false,
            now: Instant::now(),
            batcher,
            auditor,
        }
    }

    /// Whether the campaign is over. One atomic load and two comparisons.
    pub(crate) fn over(&self, execs: u64) -> bool {
        signals::stop_requested()
            || self.limits.execs.is_some_and(|limit| execs >= limit)
            || self.limits.until.is_some_and(|until| self.now >= until)
            || (self.limits.finding && self.tally.new_findings > 0)
    }

    /// Runs `input` once. On the data plane: a run that ends well and is not the second's first
    /// allocates nothing here and makes no system call beside those of the replica.
    fn run(&mut self, state: &mut State, input: &[u8]) -> Result<ExitKind, CampaignError> {
        self.last.found.set(false);
        self.last.rejected.set(false);
        if input.len() > self.input_max {
            // Refused, never cut. LibAFL's mutators stay below; this is for those that do not.
            self.last.rejected.set(true);
            return Ok(ExitKind::Ok);
        }
        let before = Instant::now();
        if self.dirty {
            self.tally.reset_pages += self.replica.reset()?.pages as u64;
        }
        let start = Instant::now();
        self.dirty = true;
        if let Some(batcher) = &mut self.batcher {
            // This run may enter the history.
            batcher.stale = true;
        }
        self.replica.count_all(self.last.count_all.get());
        self.replica.prepare(input)?;
        let written = Instant::now();
        let outcome = self.replica.run_prepared(self.deadline)?;
        self.now = Instant::now();
        self.last.elapsed.set(self.now - written);
        self.tally.count(start - before, written - start, self.now - written);
        *state.executions_mut() += 1;
        if let Some(auditor) = self.auditor.as_mut().filter(|auditor| auditor.due(self.tally.runs)) {
            auditor.run(self.tally.runs, &self.replica, input, &outcome)?;
        }
        let exit = match outcome {
            Outcome::Done { code } => {
                self.last.rejected.set(code == -1);
                ExitKind::Ok
            }
            Outcome::Exit { .. } => ExitKind::Ok,
            Outcome::Timeout => ExitKind::Timeout,
            Outcome::Crash(_) => ExitKind::Crash,
        };
        self.last.exit.set(Some(exit));
        if exit != ExitKind::Ok {
            self.judge(&outcome, *state.executions(), input)?;
        }
        let due = self.monitor.due(self.now);
        if due || self.tally.runs.is_power_of_two() {
            for (seen, &count) in self.tally.kernel_seen.iter_mut().zip(kernel_counts(&self.observers)) {
                *seen |= count != 0;
            }
        }
        if due {
            self.take_figures();
            self.monitor.tick(self.now, state, &self.tally, &self.findings)?;
        }
        Ok(exit)
    }

    /// How many inputs [`Self::run_batch`] likes to be given.
    pub(crate) fn batch_size(&self) -> usize {
        self.batcher.as_ref().map_or(1, Batcher::size)
    }

    /// Runs `inputs` in one go, from the first on. Returns how many were dealt with; `interesting`
    /// names those among them that are to be run by themselves and judged.
    pub(crate) fn run_batch(
        &mut self,
        state: &mut State,
        inputs: &[BytesInput],
        interesting: &mut Vec<usize>,
    ) -> Result<usize, Error> {
        let execs = *state.executions();
        if self.over(execs) {
            return Err(Error::shutting_down());
        }
        let left = self.limits.execs.map_or(u64::MAX, |limit| limit - execs);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(inputs.len());
        let last = self.last.clone();
        self.batch(state, &inputs[..most], interesting).map_err(|fault| last.stop_with(fault))
    }

    fn batch(
        &mut self,
        state: &mut State,
        inputs: &[BytesInput],
        interesting: &mut Vec<usize>,
    ) -> Result<usize, CampaignError> {
        let paused = self.batcher.as_mut().is_none_or(|batcher| batcher.is_paused(inputs.len()));
        let before = Instant::now();
        let replica = &mut self.replica;
        let Some(batcher) = self.batcher.as_mut().filter(|_| !paused) else {
            interesting.clear();
            interesting.extend(0..inputs.len());
            return Ok(inputs.len());
        };
        if std::mem::take(&mut self.dirty) {
            self.tally.reset_pages += replica.reset()?.pages as u64;
        }
        if std::mem::take(&mut batcher.stale) {
            let (app, kernel) = replica.novelty_mut();
            novelty::write_thresholds(state, "edges", app);
            novelty::write_thresholds(state, "kernel", kernel);
        }
        let start = Instant::now();
        let bytes = inputs.iter().map(BytesInput::mutator_bytes);
        let dealt = batcher.run(replica, bytes, self.deadline, interesting)?;
        self.now = Instant::now();
        batcher.adapt(dealt.runs, self.now - start);
        let before_runs = self.tally.runs;
        self.tally.runs += dealt.runs as u64;
        self.tally.reset_pages += dealt.reset_pages;
        self.tally.resetting += start - before;
        self.tally.running += self.now - start;
        *state.executions_mut() += dealt.runs as u64;
        if let Some(auditor) = &mut self.auditor {
            let bytes = inputs.iter().map(BytesInput::mutator_bytes);
            auditor.batch(before_runs, replica, bytes, batcher.runs())?;
        }
        if self.monitor.due(self.now) {
            self.take_figures();
            self.monitor.tick(self.now, state, &self.tally, &self.findings)?;
        }
        Ok(dealt.inputs)
    }

    /// Brings what others count into the tally.
    pub(crate) fn take_figures(&mut self) {
        (self.tally.hot_pages, self.tally.hot_hit_rate) = self.replica.hot();
        if let Some(batcher) = &self.batcher {
            self.tally.batch_size = batcher.size();
            self.tally.batches = batcher.batches;
            self.tally.batched = batcher.batched;
            self.tally.spoiled = batcher.spoiled;
        }
        if let Some(auditor) = &self.auditor {
            self.tally.audits = auditor.audits;
            self.tally.audit_differences = auditor.differences;
            self.tally.audits_skipped = auditor.skipped;
        }
    }

    /// Takes over a finding of another client or machine.
    pub(crate) fn adopt(&mut self, name: &str, report: &[u8], input: &[u8]) -> Result<(), CampaignError> {
        if let Some(record) = self.findings.adopt(name, report, input)? {
            self.tally.new_findings += 1;
            let at = Moment { execs: record.execs, runtime: self.monitor.runtime(self.now) };
            self.monitor.found_by(name, &record.sentence, at);
        }
        Ok(())
    }

    /// Names a bad end and hands it to the findings.
    fn judge(&mut self, outcome: &Outcome, execs: u64, input: &[u8]) -> Result<(), CampaignError> {
        let Some(seen) = self.triage.sight(&mut self.replica, outcome) else { return Ok(()) };
        let at = Moment { execs, runtime: self.monitor.runtime(self.now) };
        let verdict = self.findings.judge(&seen, input, at)?;
        if let Verdict::New(name) = &verdict {
            self.last.found.set(true);
            self.tally.new_findings += 1;
            self.monitor.found(name, outcome, at);
        }
        Ok(())
    }
}

impl<EM, Z> Executor<EM, BytesInput, State, Z> for ReplicaExecutor {
    fn run_target(
        &mut self,
        _: &mut Z,
        state: &mut State,
        _: &mut EM,
        input: &BytesInput,
    ) -> Result<ExitKind, Error> {
        if self.over(*state.executions()) {
            return Err(Error::shutting_down());
        }
        self.run(state, input.as_ref()).map_err(|fault| self.last.stop_with(fault))
    }
}

impl HasObservers for ReplicaExecutor {
    type Observers = Observers;

    fn observers(&self) -> RefIndexable<&Observers, Observers> {
        RefIndexable::from(&self.observers)
    }
    fn observers_mut(&mut self) -> RefIndexable<&mut Observers, Observers> {
        RefIndexable::from(&mut self.observers)
    }
}
