//! What is worth keeping: policy, nothing else.

use std::borrow::Cow;

use libafl::Error;
use libafl::corpus::Testcase;
use libafl::events::EventFirer;
use libafl::executors::ExitKind;
use libafl::feedbacks::{Feedback, MaxMapFeedback, StateInitializer};
use libafl::inputs::{BytesInput, HasMutatorBytes as _};
use libafl_bolts::Named;

use crate::campaign::State;
use crate::clock::Clock;
use crate::detail::Slowest;
use crate::observer::{Edges, Map, Observers, SharedRun, edge_counts};
use crate::queue::Queue;

/// Which runs may enter the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Those that cover something new.
    New,
    /// All that end well: the inputs of a queue that is read back.
    All,
}

/// Judges whether an input enters the corpus, and writes it to the queue when it does.
///
/// Runs that crash, time out, or return -1 never do. What is written is on disk before LibAFL
/// knows of it, so that a kill loses nothing.
#[derive(Debug)]
pub(crate) struct CorpusFeedback {
    pub(crate) admission: Admission,
    pub(crate) queue: Queue,
    /// The run at hand is of an input that another client has under this number.
    pub(crate) import: Option<u64>,
    pub(crate) slowest: Slowest,
    edges: MaxMapFeedback<Edges, Map>,
    kernel: Option<MaxMapFeedback<Map, Map>>,
    clock: Clock,
    last: SharedRun,
}

impl CorpusFeedback {
    /// A feedback over the application's coverage, and the libOS's as well with `kernel`.
    pub(crate) fn new(
        observers: &Observers,
        kernel: bool,
        queue: Queue,
        clock: Clock,
        last: SharedRun,
    ) -> Self {
        Self {
            admission: Admission::New,
            queue,
            import: None,
            slowest: Slowest::default(),
            edges: MaxMapFeedback::new(&observers.0),
            kernel: kernel.then(|| MaxMapFeedback::new(&observers.1.0)),
            clock,
            last,
        }
    }
}

impl Named for CorpusFeedback {
    fn name(&self) -> &Cow<'static, str> {
        const { &Cow::Borrowed("corpus") }
    }
}

impl StateInitializer<State> for CorpusFeedback {
    fn init_state(&mut self, state: &mut State) -> Result<(), Error> {
        self.edges.init_state(state)?;
        self.kernel.as_mut().map_or(Ok(()), |kernel| kernel.init_state(state))
    }
}

impl<EM: EventFirer<BytesInput, State>> Feedback<EM, BytesInput, Observers, State> for CorpusFeedback {
    fn is_interesting(
        &mut self,
        state: &mut State,
        manager: &mut EM,
        input: &BytesInput,
        observers: &Observers,
        exit: &ExitKind,
    ) -> Result<bool, Error> {
        if *exit != ExitKind::Ok || self.last.rejected.get() {
            return Ok(false);
        }
        let mut new = self.edges.is_interesting(state, manager, input, observers, exit)?;
        if let Some(kernel) = &mut self.kernel {
            new |= kernel.is_interesting(state, manager, input, observers, exit)?;
        }
        Ok(new || self.admission == Admission::All)
    }

    fn append_metadata(
        &mut self,
        state: &mut State,
        manager: &mut EM,
        observers: &Observers,
        testcase: &mut Testcase<BytesInput>,
    ) -> Result<(), Error> {
        self.edges.append_metadata(state, manager, observers, testcase)?;
        if let Some(kernel) = &mut self.kernel {
            kernel.append_metadata(state, manager, observers, testcase)?;
        }
        testcase.set_exec_time(self.clock.effort(self.last.elapsed.get(), edge_counts(observers)));
        let bytes = testcase.input().as_ref().map_or(&[][..], |input| input.mutator_bytes());
        self.slowest.note(self.last.elapsed.get(), bytes);
        let saved = match self.import {
            Some(number) => self.queue.save_as(number, bytes),
            None => self.queue.save(bytes),
        };
        saved.map_err(|error| self.last.stop_with(error))?;
        Ok(())
    }
}

/// The objective: a run that ended in a finding which the executor confirmed and kept.
#[derive(Debug)]
pub(crate) struct FoundFeedback {
    last: SharedRun,
}

impl FoundFeedback {
    /// An objective over what the executor says of its last run.
    pub(crate) fn new(last: SharedRun) -> Self {
        Self { last }
    }
}

impl Named for FoundFeedback {
    fn name(&self) -> &Cow<'static, str> {
        const { &Cow::Borrowed("found") }
    }
}

impl StateInitializer<State> for FoundFeedback {}

impl<EM> Feedback<EM, BytesInput, Observers, State> for FoundFeedback {
    fn is_interesting(
        &mut self,
        _: &mut State,
        _: &mut EM,
        _: &BytesInput,
        _: &Observers,
        _: &ExitKind,
    ) -> Result<bool, Error> {
        Ok(self.last.found.get())
    }
}
