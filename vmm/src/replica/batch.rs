//! Many inputs per `KVM_RUN`: the guest's run loop puts the hot pages back by itself and goes on.
//!
//! What makes that sound is checked afterwards. The dirty log names every page that the batch wrote;
//! when one of them is outside the hot set, some run of the batch began in a state that was not the
//! snapshot's, and all results are thrown away. A run that did not return normally is only a
//! suspicion: the caller runs it by itself, in a fork that the host has put back. So a result that
//! is kept came from an exact snapshot state, up to the windows, which a hostile guest can scribble
//! over; what enters a corpus is run again by itself for that reason.
//!
//! A batch that dirties nothing else makes two system calls, `KVM_RUN` and `KVM_GET_DIRTY_LOG`, and allocates
//! nothing.

use std::time::{Duration, Instant};

use unifork_abi::{BATCH_MAX, Control, Filter, GOLDEN_VA, HotPage, Hypercall, RunState};

use super::{Phase, Replica, ReplicaError};
use crate::addr::{Gpa, PAGE_BYTES};
use crate::outcome::Outcome;
use crate::reset::{Engine, Mutation, ResetStats};
use crate::vm::Event;
use crate::windows;

/// Inputs of a batch begin at a multiple of this in the ring: a cache line.
const RING_ALIGN: u64 = 64;

/// Ticks of the clock in a deadline.
const TICKS: u32 = 8;

/// How long a batch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTime {
    /// Each run. One that comes near it is stopped, to be run by itself.
    pub deadline: Duration,
    /// All of them: when it is over the run at hand is stopped, to be run by itself, and those behind it
    /// do not run.
    pub budget: Duration,
}

impl BatchTime {
    /// A deadline for each run, and for all of them as much time as that allows.
    #[must_use]
    pub fn each(deadline: Duration) -> Self {
        Self { deadline, budget: Duration::MAX }
    }

    /// For all of `runs` runs: never more than they may take one by one, whatever a guest says of which is at hand.
    pub(crate) fn whole(&self, runs: usize) -> Duration {
        let runs = u32::try_from(runs).unwrap_or(u32::MAX);
        self.budget.min(self.deadline.saturating_mul(runs))
    }
}

/// One run of a batch that returned normally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRun {
    /// What the harness returned.
    pub code: i64,
    /// Where its counters are, for [`Replica::batch_counters`]; `None` when they were filtered out as
    /// no news.
    pub slot: Option<u32>,
}

/// How a batch ended.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchEnd {
    /// Every input that was taken returned normally.
    Complete,
    /// Input `at` did not: run it by itself. Those before it are good, those behind it have not run.
    Stopped {
        /// Its index.
        at: usize,
        /// What it looked like.
        outcome: Box<Outcome>,
    },
    /// Some run left a page behind that the guest did not put back, or the records make no sense.
    /// Nothing is known: run all that were taken by themselves.
    Spoiled,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchReport {
    /// How many inputs were taken, from the first: fewer than given when the ring is full.
    pub taken: usize,
    /// How it ended.
    pub end: BatchEnd,
    /// What putting the replica back took afterwards.
    pub reset: ResetStats,
}

/// A batch that has run and has not been put back.
#[derive(Debug)]
struct Ran {
    taken: usize,
    // `None`: the records make no sense.
    end: Option<BatchEnd>,
}

impl Replica {
    /// Runs `inputs` in one go, each for less than its deadline, and puts the replica back.
    /// `runs` is filled with those that returned normally and can be relied on.
    ///
    /// With a `filter`, counters are stored only for runs in which one of them is above the novelty
    /// map ([`Self::novelty_mut`]); with [`Filter::Application`] the libOS's are neither looked at nor
    /// stored, and what the map says of them and [`Self::batch_counters`] has of them means nothing.
    ///
    /// Needs [`Engine::HotSet`]; with another engine the batch is of one input.
    ///
    /// On the data plane, given room in `runs`.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_batch<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        filter: Filter,
        runs: &mut Vec<BatchRun>,
    ) -> Result<BatchReport, ReplicaError> {
        let ran = self.go_through(inputs, time, filter, runs)?;
        self.judge_batch(ran, runs)
    }

    /// As [`Self::run_batch`] without a filter, for audits: also returns the pages that differ from
    /// the snapshot before the replica is put back. The guest puts back after every run but the last,
    /// so they are what the last run alone dirtied, if those before it were put back.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_batch_and_look<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        runs: &mut Vec<BatchRun>,
    ) -> Result<(BatchReport, Vec<u64>), ReplicaError> {
        let ran = self.go_through(inputs, time, Filter::Off, runs)?;
        let pages = self.differing_pages();
        Ok((self.judge_batch(ran, runs)?, pages))
    }

    /// Runs the batch and reads what the guest says of it.
    fn go_through<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        filter: Filter,
        runs: &mut Vec<BatchRun>,
    ) -> Result<Ran, ReplicaError> {
        runs.clear();
        if self.phase == Phase::Ran {
            self.reset()?;
        }
        let batches =
            self.resetter.engine() == Engine::HotSet && self.node.is_none() && self.publish_hot_set();
        let (taken, longest) = self.fill_ring(inputs, if batches { BATCH_MAX } else { 1 })?;
        if taken == 0 {
            return Ok(Ran { taken, end: Some(BatchEnd::Complete) });
        }
        let hot_count = self.resetter.planted.hot_count(self.resetter.hot().pages().len() as u64);
        let plan = &self.snapshot.info().windows;
        let before = Control {
            count: taken as u64,
            hot_count,
            input_extent: self.input_extent,
            filter: filter as u64,
            ..Control::default()
        };
        windows::set_control(&mut self.vm.memory, plan, &before);
        let event = self.enter_batch(time, taken);
        let end = self.collect(&before, event, runs);
        // What the batch may have left at the end of the input window: its longest input.
        self.input_extent = longest.max(self.input_extent);
        Ok(Ran { taken, end })
    }

    /// Puts the replica back, which tells whether the guest's word can be taken.
    fn judge_batch(&mut self, ran: Ran, runs: &mut Vec<BatchRun>) -> Result<BatchReport, ReplicaError> {
        let Ran { taken, end } = ran;
        if taken == 0 {
            return Ok(BatchReport { taken, end: BatchEnd::Complete, reset: ResetStats::default() });
        }
        let reset = self.put_back(taken > 1)?;
        let spoiled = reset.cold > 0 && taken > 1 && !self.resetter.planted.is(Mutation::TrustBatch);
        let end = match end {
            Some(end) if !spoiled => end,
            _ => {
                runs.clear();
                BatchEnd::Spoiled
            }
        };
        Ok(BatchReport { taken, end, reset })
    }

    /// The counters of a run of the last batch: the application's, then the libOS's.
    #[must_use]
    pub fn batch_counters(&self, slot: u32) -> &[u8] {
        let plan = &self.snapshot.info().windows;
        let slot = u64::from(slot).min(plan.coverage_slots - 1);
        windows::slice_ref(
            &self.vm.memory,
            plan.coverage.offset(slot * plan.coverage_stride),
            self.counters_len(),
        )
    }

    /// The novelty map, to write: for each counter, the application's and then the libOS's, the
    /// largest value that would be no news. 255 stands for a counter that never is.
    pub fn novelty_mut(&mut self) -> &mut [u8] {
        let (at, len) = (self.snapshot.info().windows.novelty, self.counters_len());
        windows::slice(&mut self.vm.memory, at, len)
    }

    /// Whether the guest would have called `counters`, as [`Self::batch_counters`] has them, news.
    #[must_use]
    pub fn is_news(&self, counters: &[u8]) -> bool {
        let at = self.snapshot.info().windows.novelty;
        let novelty = windows::slice_ref(&self.vm.memory, at, self.counters_len());
        counters.iter().zip(novelty).any(|(count, most)| count > most)
    }

    fn counters_len(&self) -> u64 {
        use crate::snapshot::Space;
        (self.snapshot.counter_count(Space::Application) + self.snapshot.counter_count(Space::Kernel)) as u64
    }

    /// Packs up to `most` inputs into the ring, with a record each; returns how many fit, and how much
    /// of the input window the longest takes.
    fn fill_ring<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        most: usize,
    ) -> Result<(usize, u64), ReplicaError> {
        let plan = &self.snapshot.info().windows;
        let max = self.snapshot.input_max();
        let most = most.min(usize::try_from(plan.coverage_slots).unwrap_or(1));
        let (mut offset, mut taken, mut longest) = (0, 0, 0);
        self.ring.clear();
        for input in inputs.into_iter().take(most) {
            let len = input.len() as u64;
            if len > max {
                return Err(ReplicaError::InputTooLong { bytes: input.len(), max });
            }
            if offset + len > plan.ring_bytes {
                break;
            }
            windows::slice(&mut self.vm.memory, plan.ring.offset(offset), len).copy_from_slice(input);
            windows::set_record(&mut self.vm.memory, plan, taken, offset, len);
            self.ring.push((offset, len));
            offset = (offset + len).next_multiple_of(RING_ALIGN);
            longest = longest.max(len.next_multiple_of(unifork_abi::INPUT_ALIGN));
            taken += 1;
        }
        Ok((taken, longest))
    }

    /// Tells the guest which pages to put back, if that has changed. Returns false when it cannot put
    /// one of them back, because it cannot write it; then there are no batches.
    fn publish_hot_set(&mut self) -> bool {
        let plan = &self.snapshot.info().windows;
        if self.resetter.take_hot_changed() {
            self.hot_published = true;
            for (i, &page) in self.resetter.hot().pages().iter().enumerate() {
                let gpa = Gpa(u64::from(page) * PAGE_BYTES);
                let Some(page) = self.vm.layout.writable_alias(gpa) else {
                    self.hot_published = false;
                    break;
                };
                let entry =
                    HotPage { page: page.0, golden: self.resetter.planted.golden(i, GOLDEN_VA + gpa.0) };
                windows::set_hot(&mut self.vm.memory, plan, i, entry);
            }
        }
        self.hot_published
    }

    /// Runs the batch. The clock ticks several times in a deadline, and the host sees which run is at
    /// hand: one that may have taken its deadline is stopped, and so is a batch that takes too long in
    /// all, whatever the guest says of its runs.
    fn enter_batch(&mut self, time: BatchTime, taken: usize) -> Event {
        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let plan = &snapshot.info().windows;
        let tick = time.deadline / TICKS;
        self.phase = Phase::Ran;
        if taken == 1 {
            let event = self.vm.run(time.deadline);
            self.note_debug(&event);
            return event;
        }
        let (start, whole) = (Instant::now(), time.whole(taken));
        let (mut seen, mut since) = (0, start);
        self.vm.vcpu.arm(tick);
        let event = loop {
            let event = self.vm.run_armed();
            if event != Event::Deadline {
                break event;
            }
            let now = Instant::now();
            let index = windows::control(&self.vm.memory, plan).index;
            if index != seen {
                // It began somewhere in the last tick.
                (seen, since) = (index, now);
            }
            let late = now - since >= time.deadline - tick || now - start >= whole;
            if late || index >= taken as u64 {
                break event;
            }
            self.vm.vcpu.extend(tick);
        };
        self.vm.vcpu.disarm();
        self.note_debug(&event);
        event
    }

    /// Reads the records; `None` when they make no sense.
    fn collect(&mut self, before: &Control, event: Event, runs: &mut Vec<BatchRun>) -> Option<BatchEnd> {
        let plan = &self.snapshot.info().windows;
        let memory = &self.vm.memory;
        let after = windows::control(memory, plan);
        let index = usize::try_from(after.index).ok().filter(|&i| (i as u64) < before.count)?;
        let sane = after.count == before.count
            && after.hot_count == before.hot_count
            && after.filter == before.filter
            && after.stored <= plan.coverage_slots;
        let done = matches!(event, Event::Hypercall { number, .. } if number == Hypercall::Done as u64);
        if !sane || done && after.index + 1 != before.count {
            return None;
        }
        let finished = index + usize::from(done);
        for i in 0..finished {
            let record = windows::record(memory, plan, i);
            let slot = (record.slot != unifork_abi::NO_SLOT).then_some(record.slot);
            let stored = slot.is_none_or(|slot| u64::from(slot) < after.stored);
            let kept = before.filter != Filter::Off as u64 || before.count == 1 || slot.is_some();
            let given = self.ring.get(i) == Some(&(record.input_offset, record.input_len));
            if record.state != RunState::Done as u32 || !given || !stored || !kept {
                return None;
            }
            runs.push(BatchRun { code: record.code, slot });
        }
        if done {
            return Some(BatchEnd::Complete);
        }
        let outcome = Box::new(self.vm.outcome(event));
        Some(BatchEnd::Stopped { at: index, outcome })
    }
}
