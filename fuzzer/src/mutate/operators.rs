//! Which of a set of mutation operators is applied: each alike, or those more often that have found
//! more.
//!
//! The choice is a bandit's: an operator is chosen in proportion to what it found for each time it
//! was used, with a share kept for all of them and old results forgotten by and by. MOpt's particle
//! swarm aims at the same and needs to hear of each mutant before the next is made, which a batch
//! cannot do; here a find is credited to the operators that made the mutant, whenever it is known.

use std::borrow::Cow;
use std::num::NonZero;

use libafl::corpus::CorpusId;
use libafl::inputs::BytesInput;
use libafl::mutators::mopt_mutator::StdMOptMutator;
use libafl::mutators::{MutationResult, Mutator, MutatorsTuple};
use libafl::state::HasRand as _;
use libafl::{Error, HasNamedMetadata as _};
use libafl_bolts::Named;
use libafl_bolts::rands::Rand as _;
use libafl_bolts::tuples::HasConstLen;
use serde::{Deserialize, Serialize};

use super::BatchMutator;
use crate::campaign::State;

/// The share of choices that is made of all operators alike, as one over it.
const ALIKE: usize = 4;
/// After so many uses, older results count half.
const MEMORY: u64 = 1 << 20;
/// Finds that each operator is taken to have made before the first.
const PRIOR_FINDS: f64 = 1.0;
/// So many choices are made by one set of weights.
const FRESH_FOR: u32 = 4096;

/// What is known of the operators; part of the campaign's state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Learned {
    uses: Vec<u64>,
    finds: Vec<f64>,
}

libafl_bolts::impl_serdeany!(Learned);

impl Learned {
    /// Cumulative weights, the last of which is 2^32 or a little less.
    fn weights(&self) -> Vec<u64> {
        let count = self.uses.len().max(1) as f64;
        let uses: u64 = self.uses.iter().sum();
        // What an operator of no record has: the average of the others.
        let prior_uses = PRIOR_FINDS * (uses as f64 + count) / (self.finds.iter().sum::<f64>() + count);
        let rates: Vec<f64> = self
            .uses
            .iter()
            .zip(&self.finds)
            .map(|(&uses, finds)| (finds + PRIOR_FINDS) / (uses as f64 + prior_uses))
            .collect();
        let sum: f64 = rates.iter().sum();
        let alike = 1.0 / ALIKE as f64;
        let mut upto = 0.0;
        rates
            .iter()
            .map(|rate| {
                upto += alike / count + (1.0 - alike) * rate / sum;
                (upto * 4_294_967_296.0) as u64
            })
            .collect()
    }

    fn forget(&mut self) {
        if self.uses.iter().sum::<u64>() > MEMORY {
            self.uses.iter_mut().for_each(|uses| *uses /= 2);
            self.finds.iter_mut().for_each(|finds| *finds /= 2.0);
        }
    }
}

/// Applies operators of `MT`.
#[derive(Debug)]
pub(crate) struct Operators<MT> {
    name: Cow<'static, str>,
    mutations: MT,
    /// Up to 2^this operators a mutant, and at least two; without it, one.
    stack_pow: Option<usize>,
    learns: bool,
    // Cumulative weights, and the choices that they are still good for.
    weights: Vec<u64>,
    fresh: u32,
    // Of each mutant of the batch, the operators: a bit for each.
    used: Vec<u64>,
    about: Option<usize>,
    // Uses that are not in the record yet.
    uses: Vec<u64>,
}

impl<MT: HasConstLen> Operators<MT> {
    /// Operators chosen alike or, with `learns`, by what they found. `name` is what the record is kept
    /// under.
    pub(crate) fn new(name: &'static str, mutations: MT, stack_pow: Option<usize>, learns: bool) -> Self {
        const { assert!(MT::LEN > 0 && MT::LEN <= 64) };
        Self {
            name: Cow::Borrowed(name),
            mutations,
            stack_pow,
            learns,
            weights: Vec::new(),
            fresh: 0,
            used: Vec::new(),
            about: None,
            uses: vec![0; MT::LEN],
        }
    }

    /// The record, brought up to date.
    fn learned<'a>(&mut self, state: &'a mut State) -> &'a mut Learned {
        let learned = state.named_metadata_or_insert_with(&self.name, Learned::default);
        learned.uses.resize(MT::LEN, 0);
        learned.finds.resize(MT::LEN, 0.0);
        learned.uses.iter_mut().zip(&mut self.uses).for_each(|(all, uses)| *all += std::mem::take(uses));
        learned
    }

    fn choose(&mut self, state: &mut State) -> usize {
        let alike = NonZero::new(MT::LEN).expect("checked by new");
        if !self.learns {
            return state.rand_mut().below(alike);
        }
        if self.fresh == 0 {
            self.fresh = FRESH_FOR;
            let learned = self.learned(state);
            learned.forget();
            self.weights = learned.weights();
        }
        self.fresh -= 1;
        let at = state.rand_mut().next() >> 32;
        self.weights.partition_point(|&upto| upto <= at).min(MT::LEN - 1)
    }
}

impl<MT: MutatorsTuple<BytesInput, State> + HasConstLen> Mutator<BytesInput, State> for Operators<MT> {
    fn mutate(&mut self, state: &mut State, input: &mut BytesInput) -> Result<MutationResult, Error> {
        let times = self.stack_pow.map_or(1, |pow| 2 << state.rand_mut().below_or_zero(pow));
        let (mut result, mut used) = (MutationResult::Skipped, 0_u64);
        for _ in 0..times {
            let operator = self.choose(state);
            if self.mutations.get_and_mutate(operator.into(), state, input)? == MutationResult::Mutated {
                result = MutationResult::Mutated;
                used |= 1 << operator;
            }
        }
        if result == MutationResult::Mutated && self.learns {
            self.used.push(used);
            bits(used).for_each(|operator| self.uses[operator] += 1);
        }
        Ok(result)
    }

    fn post_exec(&mut self, state: &mut State, found: Option<CorpusId>) -> Result<(), Error> {
        let about = self.about.take().and_then(|mutant| self.used.get(mutant).copied());
        if let (Some(used), Some(_)) = (about, found) {
            let finds = &mut self.learned(state).finds;
            let share = 1.0 / f64::from(used.count_ones().max(1));
            bits(used).for_each(|operator| finds[operator] += share);
            self.fresh = 0;
        }
        self.mutations.post_exec_all(state, found)
    }
}

fn bits(set: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| set >> bit & 1 == 1)
}

impl<MT: MutatorsTuple<BytesInput, State> + HasConstLen> BatchMutator for Operators<MT> {
    fn begin(&mut self) {
        self.used.clear();
    }
    fn about(&mut self, mutant: usize) {
        self.about = Some(mutant);
    }
}

impl<MT> Named for Operators<MT> {
    fn name(&self) -> &Cow<'static, str> {
        &self.name
    }
}

/// Stacked mutations.
#[derive(Debug)]
pub(crate) enum Havoc<MT> {
    Operators(Operators<MT>),
    /// As LibAFL has it.
    Mopt(StdMOptMutator<MT>),
}

impl<MT: MutatorsTuple<BytesInput, State> + HasConstLen> Mutator<BytesInput, State> for Havoc<MT> {
    fn mutate(&mut self, state: &mut State, input: &mut BytesInput) -> Result<MutationResult, Error> {
        match self {
            Self::Operators(operators) => operators.mutate(state, input),
            Self::Mopt(mopt) => mopt.mutate(state, input),
        }
    }
    fn post_exec(&mut self, state: &mut State, found: Option<CorpusId>) -> Result<(), Error> {
        match self {
            Self::Operators(operators) => operators.post_exec(state, found),
            Self::Mopt(mopt) => mopt.post_exec(state, found),
        }
    }
}

impl<MT: MutatorsTuple<BytesInput, State> + HasConstLen> BatchMutator for Havoc<MT> {
    fn begin(&mut self) {
        if let Self::Operators(operators) = self {
            operators.begin();
        }
    }
    fn about(&mut self, mutant: usize) {
        if let Self::Operators(operators) = self {
            operators.about(mutant);
        }
    }
}

impl<MT> Named for Havoc<MT> {
    fn name(&self) -> &Cow<'static, str> {
        const { &Cow::Borrowed("havoc") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(learned: &Learned) -> Vec<f64> {
        let mut before = 0;
        let share = |&upto: &u64| {
            let share = (upto - std::mem::replace(&mut before, upto)) as f64 / 4_294_967_296.0;
            (share * 100.0).round() / 100.0
        };
        learned.weights().iter().map(share).collect()
    }

    #[test]
    fn without_a_record_all_are_alike() {
        let learned = Learned { uses: vec![0; 4], finds: vec![0.0; 4] };
        assert_eq!(shares(&learned), [0.25; 4]);
    }

    #[test]
    fn who_finds_more_is_chosen_more_and_nobody_is_left_out() {
        let learned = Learned { uses: vec![100_000; 4], finds: vec![0.0, 0.0, 0.0, 1000.0] };
        let shares = shares(&learned);
        assert!(shares[3] > 0.75, "{shares:?}");
        assert!(shares[..3].iter().all(|&share| share >= 0.06), "{shares:?}");
        let last = *learned.weights().last().unwrap();
        assert!(last > (1 << 32) - 16 && last <= 1 << 32, "{last}");
    }

    #[test]
    fn old_results_are_forgotten() {
        let mut learned = Learned { uses: vec![MEMORY, 2], finds: vec![8.0, 1.0] };
        learned.forget();
        assert_eq!((learned.uses, learned.finds), (vec![MEMORY / 2, 1], vec![4.0, 0.5]));
    }
}
