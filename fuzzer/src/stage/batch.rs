//! Mutation in batches: many mutants of an entry run in one go, and only those that may be news are
//! run again, by themselves, and judged.
//!
//! What enters the corpus, and in which order, is what the one-by-one path would have let in: the guest
//! leaves out only runs none of whose counters is above what the campaign has seen, and each of the
//! others is run from an exact fork and judged by LibAFL as always.

use libafl::corpus::{CorpusId, Testcase};
use libafl::executors::{Executor, HasObservers};
use libafl::fuzzer::Evaluator;
use libafl::inputs::{BytesInput, HasMutatorBytes as _, ResizableMutator as _};
use libafl::mutators::MutationResult;
use libafl::observers::cmp::CmpValuesMetadata;
use libafl::schedulers::TestcaseScore as _;
use libafl::schedulers::testcase_score::CorpusPowerTestcaseScore;
use libafl::stages::{Restartable, Stage};
use libafl::state::{HasCurrentTestcase as _, HasExecutions as _, HasRand as _};
use libafl::{Error, HasMetadata as _};
use libafl_bolts::rands::Rand as _;

use crate::campaign::State;
use crate::executor::ReplicaExecutor;
use crate::mutate::{BatchMutator, tokens};
use crate::stage::compare::Replacements;
use crate::stage::share;

/// How many mutants an entry gets.
#[derive(Clone, Debug)]
pub(crate) enum Iterations {
    /// From 1 to this many, at random.
    UpTo(std::num::NonZero<usize>),
    /// As many as the power schedule says; without it, an entry's neutral score.
    Power(bool),
    /// The same if the entry is text, else none.
    Text(bool),
    /// None.
    Never,
    /// As many as there are replacements of operands, and room for.
    Replacements(Replacements),
    /// So many for each comparison of the traced run: none when the entry was not traced this time.
    Comparisons {
        /// For each of them.
        each: usize,
        /// In all, at least and at most.
        range: (usize, usize),
    },
}

/// The stage.
#[derive(Debug)]
pub(crate) struct BatchMutationalStage<M> {
    name: &'static str,
    shares: bool,
    mutator: M,
    iterations: Iterations,
    // Mutants of the batch at hand; the buffers are used again.
    mutants: Vec<BytesInput>,
    interesting: Vec<usize>,
}

impl<M> BatchMutationalStage<M> {
    /// A stage that mutates with `mutator`.
    /// Its finds are noted as those of `name`; with `shares`, it gets fewer mutants when it finds less than
    /// havoc ([`share`]).
    pub(crate) fn new(name: &'static str, mutator: M, iterations: Iterations, shares: bool) -> Self {
        Self { name, shares, mutator, iterations, mutants: Vec::new(), interesting: Vec::new() }
    }

    fn count(&self, state: &mut State) -> Result<usize, Error> {
        match &self.iterations {
            &Iterations::UpTo(most) => Ok(1 + state.rand_mut().below(most)),
            Iterations::Replacements(list) => Ok(list.borrow().len().min(room(state))),
            Iterations::Never => Ok(0),
            &Iterations::Power(schedule) => power(state, schedule),
            &Iterations::Text(schedule) => {
                let input: BytesInput = state.current_input_cloned()?;
                if tokens::is_text(input.as_ref()) { power(state, schedule) } else { Ok(0) }
            }
            &Iterations::Comparisons { each, range: (least, most) } => {
                let count = state.metadata::<CmpValuesMetadata>().map_or(0, |values| values.list.len());
                Ok(if count == 0 { 0 } else { (count * each).clamp(least, most).min(room(state)) })
            }
        }
    }
}

/// Mutants that the comparisons of one entry get at least, where there are as many...
const COMPARISONS_LEAST: usize = 256;
/// ...and at most, as one over it of all executions so far. Otherwise the first entries of a large program,
/// which compare thousands of numbers, would be all that a short campaign sees.
const COMPARISONS_PART: u64 = 32;

/// Room for mutants by the comparisons of one entry.
fn room(state: &State) -> usize {
    let part = usize::try_from(*state.executions() / COMPARISONS_PART).unwrap_or(usize::MAX);
    part.max(COMPARISONS_LEAST)
}

/// What AFL's score is for an entry of which there is nothing to be said.
const NEUTRAL_SCORE: usize = 100;

fn power(state: &State, schedule: bool) -> Result<usize, Error> {
    if !schedule {
        return Ok(NEUTRAL_SCORE);
    }
    let mut entry: std::cell::RefMut<'_, Testcase<BytesInput>> = state.current_testcase_mut()?;
    Ok(CorpusPowerTestcaseScore::compute(state, &mut entry)? as usize)
}

impl<EM, M, Z> Stage<ReplicaExecutor, EM, State, Z> for BatchMutationalStage<M>
where
    M: BatchMutator,
    ReplicaExecutor: Executor<EM, BytesInput, State, Z> + HasObservers,
    Z: Evaluator<ReplicaExecutor, EM, BytesInput, State>,
{
    fn perform(
        &mut self,
        fuzzer: &mut Z,
        executor: &mut ReplicaExecutor,
        state: &mut State,
        manager: &mut EM,
    ) -> Result<(), Error> {
        let mut left = self.count(state)?;
        if self.shares {
            left = share::of(state, self.name, left);
        }
        let (mut tried, mut found) = (0, 0);
        let base = state.current_input_cloned()?;
        while left > 0 {
            let size = executor.batch_size().min(left);
            left -= size;
            let mut made = 0;
            self.mutator.begin();
            for _ in 0..size {
                if self.mutants.len() == made {
                    self.mutants.push(BytesInput::new(Vec::new()));
                }
                let mutant = &mut self.mutants[made];
                mutant.resize(0, 0);
                mutant.extend(base.mutator_bytes());
                if self.mutator.mutate(state, mutant)? == MutationResult::Mutated {
                    made += 1;
                }
            }
            tried += made;
            let mut done = 0;
            while done < made {
                let batch = &self.mutants[done..made];
                let taken = executor.run_batch(state, batch, &mut self.interesting)?;
                for &index in &self.interesting {
                    let input = &self.mutants[done + index];
                    let (_, id): (_, Option<CorpusId>) =
                        fuzzer.evaluate_input(state, executor, manager, input)?;
                    found += usize::from(id.is_some());
                    self.mutator.about(done + index);
                    self.mutator.post_exec(state, id)?;
                }
                done += taken.max(1);
            }
        }
        if self.shares && tried > 0 {
            share::note(state, self.name, tried, found);
        }
        Ok(())
    }
}

impl<M> Restartable<State> for BatchMutationalStage<M> {
    fn should_restart(&mut self, _: &mut State) -> Result<bool, Error> {
        Ok(true)
    }
    fn clear_progress(&mut self, _: &mut State) -> Result<(), Error> {
        Ok(())
    }
}
