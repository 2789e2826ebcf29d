//! The stages that make mutants of an entry, one after the other.
//!
//! ```text
//!  trace ─► each operand replaced ─► operands at random ─► one mutation ─► many ─► tokens ─► grammar
//! ```
//!
//! A mechanism that is off is a stage that does nothing. One that finds less than havoc gets less.

use std::num::NonZero;

use libafl::events::NopEventManager;
use libafl::mutators::mopt_mutator::StdMOptMutator;
use libafl::mutators::{
    I2SRandReplace, I2SRandReplaceBinonly, SingleChoiceScheduledMutator, havoc_mutations, tokens_mutations,
};
use libafl::stages::StagesTuple;
use libafl_bolts::tuples::{HasConstLen, Merge as _, tuple_list};

use super::{CampaignError, State, TheFuzzer};
use crate::executor::ReplicaExecutor;
use crate::grammar::Grammar;
use crate::mutate::operators::{Havoc, Operators};
use crate::mutate::structure::GrammarMutator;
use crate::mutate::tokens::TokenMutator;
use crate::observer::SharedRun;
use crate::stage::batch::{BatchMutationalStage, Iterations};
use crate::stage::compare::{Optional, ReplaceOperand, Replacements, TraceStage, Tracer};
use crate::stage::share;
use crate::strategy::{Mechanism, Strategy};

/// Each time an entry is chosen, up to so many inputs that differ from it by one mutation...
const SINGLE_MAX: NonZero<usize> = NonZero::new(256).expect("it is not zero");
/// ...and then, as the power schedule has it, inputs with up to 2^this stacked ones. LibAFL's
/// default is 7 and no single mutations: that takes twice the executions to guess three bytes in
/// a row (58,000 against 28,000, mean of four seeds), and reaches 4 % fewer edges of cJSON in
/// 100,000 executions.
const HAVOC_STACK_POW: usize = 4;

/// Mutants of a new entry that LibAFL's input-to-state mutators make, for each of its comparisons, and in
/// all at least and at most: they choose at random.
const RANDOM_EACH: usize = 2;
const RANDOM_MIN: usize = 64;
const RANDOM_MAX: usize = 1024;
/// MOpt's swarms, as LibAFL's examples have them.
const MOPT_SWARMS: usize = 5;

/// What the stages are made of.
#[derive(Debug)]
pub(super) struct Mechanisms {
    pub(super) strategy: Strategy,
    /// Where comparisons are used.
    pub(super) tracer: Option<Tracer>,
    pub(super) grammar: Option<Grammar>,
    pub(super) last: SharedRun,
}

/// Makes the stages.
pub(super) fn stages(
    mechanisms: Mechanisms,
    state: &mut State,
) -> Result<
    impl StagesTuple<ReplicaExecutor, NopEventManager, State, TheFuzzer> + HasConstLen + use<>,
    CampaignError,
> {
    let Mechanisms { strategy, tracer, grammar, last } = mechanisms;
    let has = |mechanism| strategy.has(mechanism);
    let schedule = has(Mechanism::Power);
    let when = |on: bool, iterations| if on { iterations } else { Iterations::Never };

    let replacements = Replacements::default();
    let trace = |tracer| TraceStage::new(tracer, last, replacements.clone(), has(Mechanism::Words));
    let trace = Optional(tracer.map(trace));
    let each = ReplaceOperand::new(replacements.clone());
    let random =
        SingleChoiceScheduledMutator::new(tuple_list!(I2SRandReplace::new(), I2SRandReplaceBinonly::new()));

    let mutations = || havoc_mutations().merge(tokens_mutations());
    let learns = has(Mechanism::Operators);
    let single = Operators::new("single", mutations(), None, learns);
    let havoc = if has(Mechanism::Mopt) {
        Havoc::Mopt(StdMOptMutator::new(state, mutations(), HAVOC_STACK_POW, MOPT_SWARMS)?)
    } else {
        Havoc::Operators(Operators::new("havoc", mutations(), Some(HAVOC_STACK_POW), learns))
    };
    let by_grammar = grammar.is_some() && has(Mechanism::Grammar);

    let shares = has(Mechanism::Shares);
    let comparisons = Iterations::Comparisons { each: RANDOM_EACH, range: (RANDOM_MIN, RANDOM_MAX) };
    let single_times = when(has(Mechanism::Single), Iterations::UpTo(SINGLE_MAX));
    let token_times = when(has(Mechanism::Tokens), Iterations::Text(schedule));
    let grammar_times = when(by_grammar, Iterations::Power(schedule));
    Ok(tuple_list!(
        trace,
        BatchMutationalStage::new("operands", each, Iterations::Replacements(replacements), shares),
        BatchMutationalStage::new("input-to-state", random, comparisons, shares),
        BatchMutationalStage::new("single", single, single_times, shares),
        BatchMutationalStage::new(share::HAVOC, havoc, Iterations::Power(schedule), shares),
        BatchMutationalStage::new("tokens", TokenMutator::default(), token_times, shares),
        BatchMutationalStage::new("grammar", GrammarMutator::new(grammar), grammar_times, shares),
    ))
}
