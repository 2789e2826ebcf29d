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
use libafl::mutators::{MutationResult, Mutator};
use libafl::observers::cmp::CmpValuesMetadata;
use libafl::schedulers::TestcaseScore as _;
use libafl::schedulers::testcase_score::CorpusPowerTestcaseScore;
use libafl::stages::{Restartable, Stage};
use libafl::state::{HasCurrentTestcase as _, HasRand as _};
use libafl::{Error, HasMetadata as _};
use libafl_bolts::rands::Rand as _;

use crate::campaign::State;
use crate::executor::ReplicaExecutor;
use crate::stage::compare::Replacements;

/// How many mutants an entry gets.
#[derive(Clone, Debug)]
pub(crate) enum Iterations {
    /// From 1 to this many, at random.
    UpTo(std::num::NonZero<usize>),
    /// As many as the power schedule says.
    Power,
    /// As many as there are replacements of operands.
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
    mutator: M,
    iterations: Iterations,
    // Mutants of the batch at hand; the buffers are used again.
    mutants: Vec<BytesInput>,
    interesting: Vec<usize>,
}

impl<M> BatchMutationalStage<M> {
    /// A stage that mutates with `mutator`.
    pub(crate) fn new(mutator: M, iterations: Iterations) -> Self {
        Self { mutator, iterations, mutants: Vec::new(), interesting: Vec::new() }
    }

    fn count(&self, state: &mut State) -> Result<usize, Error> {
        match &self.iterations {
            &Iterations::UpTo(most) => Ok(1 + state.rand_mut().below(most)),
            Iterations::Replacements(list) => Ok(list.borrow().len()),
            Iterations::Power => {
                let mut entry: std::cell::RefMut<'_, Testcase<BytesInput>> = state.current_testcase_mut()?;
                Ok(CorpusPowerTestcaseScore::compute(state, &mut entry)? as usize)
            }
            &Iterations::Comparisons { each, range: (least, most) } => {
                let count = state.metadata::<CmpValuesMetadata>().map_or(0, |values| values.list.len());
                Ok(if count == 0 { 0 } else { (count * each).clamp(least, most) })
            }
        }
    }
}

impl<EM, M, Z> Stage<ReplicaExecutor, EM, State, Z> for BatchMutationalStage<M>
where
    M: Mutator<BytesInput, State>,
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
        let base = state.current_input_cloned()?;
        while left > 0 {
            let size = executor.batch_size().min(left);
            left -= size;
            let mut made = 0;
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
            let mut done = 0;
            while done < made {
                let batch = &self.mutants[done..made];
                let taken = executor.run_batch(state, batch, &mut self.interesting)?;
                for &index in &self.interesting {
                    let input = &self.mutants[done + index];
                    let (_, id): (_, Option<CorpusId>) =
                        fuzzer.evaluate_input(state, executor, manager, input)?;
                    self.mutator.post_exec(state, id)?;
                }
                done += taken.max(1);
            }
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
