//! Many inputs per `KVM_RUN` for images with an agent that the monitor runs: the image goes on with the next input by
//! itself, by way of code that the host has put into its address space ([`super::run_loop`]).
//!
//! A run of a batch begins in the frozen machine's exact state, or its result is thrown away. What a run can have
//! changed is
//!
//! - memory: the code copies the hot pages back, and the dirty log tells afterwards whether any other page was
//!   written; if one was, nothing is known of the whole batch, as with our own guest ([`crate::replica`]);
//! - registers that CPL 3 has: the code loads them;
//! - all else, devices, interrupts, control registers, page tables as the monitor has copied them: only by way of
//!   the host. So *the first run that makes the guest stop for anything but the clock is the last of its
//!   batch*. It has begun in the exact state and goes on as any run does, and the host puts everything back
//!   behind it.
//!
//! A run that did not return is a suspicion, to be run by itself.

use std::time::{Duration, Instant};

use unifork_abi::Filter;

use super::base::Base;
use super::replica::run::Finish;
use super::replica::{Fork, ForkError};
use super::run_loop::{self, Control};
use super::{Cpu, End, Machine};
use crate::agent::AgentEvent;
use crate::outcome::Outcome;
use crate::replica::{BatchEnd, BatchReport, BatchRun, BatchTime};
use crate::reset::{Engine, Mutation, ResetStats};

/// Ticks of the clock in a deadline.
const TICKS: u32 = 8;
/// So many batches behind each other that end with their first run...
const SHORT_MAX: u32 = 32;
/// ...and so many inputs are run one by one.
const PAUSE: usize = 512;

/// What a fork remembers of its batches.
#[derive(Debug, Default)]
pub(super) struct Batching {
    // Offset and length of the inputs given.
    given: Vec<(u64, u64)>,
    // Batches that ended with their first run, and inputs still to be run one by one.
    short: u32,
    paused: usize,
}

/// A batch that has run and has not been put back.
#[derive(Debug)]
struct Ran {
    taken: usize,
    // `None`: the records make no sense.
    end: Option<BatchEnd>,
}

impl Fork {
    /// Runs `inputs` in one go, from the first on, each for less than its deadline, and puts the fork back. `runs`
    /// is filled with those that returned normally and can be relied on.
    ///
    /// With a `filter`, counters are stored only for runs in which one of them is above the novelty map
    /// ([`Self::novelty_mut`]). A batch of one has its counters in [`Self::counters`]; so has one that
    /// was stopped, of the run that it was stopped at.
    ///
    /// Needs [`Engine::HotSet`] and an image for which [`super::Base::has_batches`]; otherwise, the batch is of
    /// one input.
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
    ) -> Result<BatchReport, ForkError> {
        let ran = self.go_through(inputs, time, filter, runs)?;
        self.judge_batch(ran, runs)
    }

    /// The same without a filter; also returns the pages that differ from the frozen machine's before it is put
    /// back: what the last run alone dirtied, if those before it were put back.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_batch_and_look<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        runs: &mut Vec<BatchRun>,
    ) -> Result<(BatchReport, Vec<u64>), ForkError> {
        let ran = self.go_through(inputs, time, Filter::Off, runs)?;
        let pages = self.differing_pages();
        Ok((self.judge_batch(ran, runs)?, pages))
    }

    /// The counters of a run of the last batch.
    #[must_use]
    pub fn batch_counters(&self, slot: u32) -> &[u8] {
        match &self.base.loop_layout {
            Some(layout) => layout.stored(&self.machine.memory, slot),
            None => self.counters(),
        }
    }

    /// The novelty map, to write: for each counter, the largest value that would be no news. Empty where there
    /// are no batches.
    pub fn novelty_mut(&mut self) -> &mut [u8] {
        match &self.base.loop_layout {
            Some(layout) => layout.novelty_mut(&mut self.machine.memory),
            None => &mut [],
        }
    }

    /// Whether the image would have called `counters` news.
    #[must_use]
    pub fn is_news(&self, counters: &[u8]) -> bool {
        let Some(layout) = &self.base.loop_layout else { return true };
        counters.iter().zip(layout.novelty(&self.machine.memory)).any(|(count, most)| count > most)
    }

    fn go_through<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        filter: Filter,
        runs: &mut Vec<BatchRun>,
    ) -> Result<Ran, ForkError> {
        runs.clear();
        if self.ran {
            self.reset()?;
        }
        let mut inputs = inputs.into_iter().peekable();
        let Some(first) = inputs.next() else { return Ok(Ran { taken: 0, end: Some(BatchEnd::Complete) }) };
        if inputs.peek().is_none() || !self.can_batch() {
            return self.go_alone(first, time.deadline, runs);
        }
        self.blocks.switch(&mut self.machine)?;
        let count = self.fill_ring(std::iter::once(first).chain(inputs))?;
        self.publish_hot_set();
        let base = std::sync::Arc::clone(&self.base);
        let layout = base.loop_layout.as_ref().expect("there are no batches without");
        let hot = self.resetter.planted.hot_count(self.resetter.hot().pages().len() as u64);
        layout.set_batch(&mut self.machine.memory, count, filter != Filter::Off, hot);
        self.begin_run();
        let vcpu = self.machine.cpu.vcpu();
        vcpu.regs_mut().rip = run_loop::LOOP_VA;
        let (end, last) = self.enter_batch(&base, time, count)?;
        self.take_console();
        self.read_counters()?;
        Ok(self.collect(&base, end, count, last, filter == Filter::Off, runs))
    }

    /// Whether the next inputs can be a batch.
    fn can_batch(&mut self) -> bool {
        let possible = self.base.loop_layout.is_some()
            && self.resetter.engine() == Engine::HotSet
            && self.manual
            && self.delivered.is_empty()
            && !self.machine.bus.interrupt_is_pending()
            && !matches!(&self.machine.cpu, Cpu::Monitored(monitor) if monitor.cpu().task_switched())
            && !self.has_hot_breakpoint();
        let paused = self.batching.paused > 0;
        self.batching.paused = self.batching.paused.saturating_sub(1);
        possible && !paused
    }

    /// Whether a page is hot that has a breakpoint in it, which golden memory does not have.
    fn has_hot_breakpoint(&self) -> bool {
        self.resetter.hot().pages().iter().any(|&page| self.blocks.page(page.into()).is_some())
    }

    fn go_alone(
        &mut self,
        input: &[u8],
        deadline: Duration,
        runs: &mut Vec<BatchRun>,
    ) -> Result<Ran, ForkError> {
        let end = match self.run(input, deadline)? {
            Outcome::Done { code } => {
                runs.push(BatchRun { code, slot: None });
                BatchEnd::Complete
            }
            outcome => BatchEnd::Stopped { at: 0, outcome: Box::new(outcome) },
        };
        Ok(Ran { taken: 1, end: Some(end) })
    }

    /// Packs inputs into the ring; returns how many fit.
    fn fill_ring<'a>(&mut self, inputs: impl Iterator<Item = &'a [u8]>) -> Result<usize, ForkError> {
        let base = std::sync::Arc::clone(&self.base);
        let layout = base.loop_layout.as_ref().expect("there are no batches without");
        let window = base.input_max();
        self.batching.given.clear();
        let mut offset = 0;
        for (number, input) in inputs.take(layout.runs_max()).enumerate() {
            let bytes = input.len() as u64;
            if bytes > window {
                return Err(ForkError::InputTooLong { bytes, window });
            }
            let Some(next) = layout.push(&mut self.machine.memory, number, offset, input) else { break };
            self.batching.given.push((offset, bytes));
            offset = next;
        }
        Ok(self.batching.given.len())
    }

    /// Tells the image which pages to put back, if that has changed.
    fn publish_hot_set(&mut self) {
        if self.resetter.take_hot_changed() {
            run_loop::set_hot(&mut self.machine.memory, self.resetter.hot().pages());
        }
    }

    /// Runs the batch: how it ended, and which run is its last because it stopped the guest.
    fn enter_batch(
        &mut self,
        base: &Base,
        time: BatchTime,
        count: usize,
    ) -> Result<(Finish, Option<u64>), ForkError> {
        let tick = time.deadline / TICKS;
        let (start, whole) = (Instant::now(), time.whole(count));
        let (mut seen, mut since, mut last) = (0, start, None);
        take_disturbed(&mut self.machine);
        let trusting = self.resetter.planted.is(Mutation::IgnoreStops);
        let end = self.run_on(base, tick, |machine| {
            let index = run_loop::control(&machine.memory).index;
            if take_disturbed(machine) && last.is_none() && !trusting {
                last = Some(index);
                run_loop::stop_behind(&mut machine.memory, index);
            }
            let now = Instant::now();
            if index != seen {
                // It began somewhere in the last tick.
                (seen, since) = (index, now);
            }
            machine.cpu.vcpu().extend(tick);
            now - since >= time.deadline.saturating_sub(tick) || now - start >= whole || index >= count as u64
        })?;
        Ok((end, last))
    }

    /// Reads the records, all of which have counters if each run's were to be `kept`.
    fn collect(
        &mut self,
        base: &Base,
        end: Finish,
        count: usize,
        last: Option<u64>,
        kept: bool,
        runs: &mut Vec<BatchRun>,
    ) -> Ran {
        let memory = &self.machine.memory;
        let Control { index, count: claimed, stored } = run_loop::control(memory);
        // Runs behind the last one did not begin: they are not part of this batch.
        let taken = last
            .and_then(|last| usize::try_from(last).ok())
            .map_or(count, |last| last.saturating_add(1).min(count));
        self.batching.short = if taken > 1 { 0 } else { self.batching.short + 1 };
        if self.batching.short >= SHORT_MAX {
            (self.batching.short, self.batching.paused) = (0, PAUSE);
        }
        // By the loop, and not by a call.
        let done = matches!(end, Finish::Machine(End::Agent(AgentEvent::Done { .. })))
            && usize::try_from(index).is_ok_and(|at| run_loop::record_of(memory, at)[4] == 1);
        let nonsense = Ran { taken, end: None };
        let Some(at) = usize::try_from(index).ok().filter(|&at| at < taken) else { return nonsense };
        let is_last = at + 1 == taken;
        if claimed != taken as u64 || last.is_some() && !is_last || done && !is_last {
            return nonsense;
        }
        let layout = base.loop_layout.as_ref().expect("there are no batches without");
        for number in 0..at + usize::from(done) {
            let [offset, length, code, slot, state] = run_loop::record_of(memory, number);
            let given = self.batching.given.get(number) == Some(&(offset, length));
            let none = slot == u64::MAX;
            let slot = layout.slot_of(slot, stored);
            if state != 1 || !given || slot.is_none() && (kept || !none) {
                return nonsense;
            }
            runs.push(BatchRun { code: code.cast_signed(), slot });
        }
        if done {
            // A batch of one has its counters in the fork.
            if taken == 1 {
                runs[0].slot = None;
            }
            return Ran { taken, end: Some(BatchEnd::Complete) };
        }
        let outcome = Box::new(self.outcome(base, end));
        Ran { taken, end: Some(BatchEnd::Stopped { at, outcome }) }
    }

    /// Puts the fork back, which tells whether the image's word can be taken.
    fn judge_batch(&mut self, ran: Ran, runs: &mut Vec<BatchRun>) -> Result<BatchReport, ForkError> {
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
}

fn take_disturbed(machine: &mut Machine) -> bool {
    match &mut machine.cpu {
        Cpu::Monitored(monitor) => monitor.take_disturbed(),
        Cpu::Native(_) => true,
    }
}
