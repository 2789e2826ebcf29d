//! Comparisons: a new entry is run once in the machine that logs what is compared with what, and its
//! first mutants have one operand put where the other is.
//!
//! The log goes to LibAFL's `CmpValuesMetadata`, which its input-to-state mutators read, and its
//! constants to the dictionary. The machine that logs is made at the first need; see
//! `vmm/src/comparisons.rs`.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libafl::corpus::CorpusId;
use libafl::inputs::{BytesInput, ResizableMutator as _};
use libafl::mutators::{MutationResult, Mutator, Tokens};
use libafl::observers::cmp::{CmpValues, CmpValuesMetadata, CmplogBytes};
use libafl::stages::{Restartable, Stage};
use libafl::state::{HasCurrentTestcase as _, HasExecutions as _, HasMaxSize as _, HasRand as _};
use libafl::{Error, HasMetadata as _};
use libafl_bolts::rands::Rand;
use libafl_bolts::{HasLen as _, Named};
use memchr::memmem;
use unifork_abi::COMPARISON_BYTES;
use unifork_vmm::comparisons::{Comparison, Operands};
use unifork_vmm::layout::Layout;
use unifork_vmm::{Engine, Kvm};

use crate::campaign::{CampaignError, State};
use crate::executor::ReplicaExecutor;
use crate::fork::{Fork, ForkError, Frozen};
use crate::mutate::BatchMutator;
use crate::observer::SharedRun;

/// Words that comparisons add to the dictionary, at most.
const WORDS_MAX: usize = 512;
/// Numbers below this are found by havoc as quickly.
const WORD_NUMBER_MIN: u64 = 0x1_0000;
/// Replacements tried of one entry, at most.
const REPLACEMENTS_MAX: usize = 8192;
/// Places at which one operand is replaced, at most.
const PLACES_MAX: usize = 256;
/// Bytes searched for operands in one entry, at most: some 10 ms.
const SEARCHED_BYTES_MAX: usize = 64 << 20;

/// Runs an input in the machine that logs comparisons.
#[derive(Debug)]
pub(crate) struct Tracer {
    kvm: Arc<Kvm>,
    frozen: Frozen,
    deadline: Duration,
    // Made at the first need. `Some(None)`: the image logs nothing.
    fork: Option<Option<Fork>>,
}

impl Tracer {
    /// A tracer of the machine that `frozen` is.
    pub(crate) fn new(kvm: Arc<Kvm>, frozen: Frozen, deadline: Duration) -> Self {
        Self { kvm, frozen, deadline, fork: None }
    }

    /// What the run of `input` compares; `None` when the image logs nothing.
    pub(crate) fn trace(&mut self, input: &[u8]) -> Result<Option<Vec<Comparison>>, CampaignError> {
        if self.fork.is_none() {
            let traced = match &self.frozen {
                Frozen::Own(snapshot) => snapshot
                    .with_comparisons()
                    .map_err(|error| CampaignError::Engine(error.to_string()))?
                    .map(|traced| Frozen::Own(Arc::new(traced))),
                // The same machine, told to log by a flag in its memory.
                Frozen::Foreign(_) => Some(self.frozen.clone()),
            };
            self.fork = Some(match traced {
                Some(traced) => Some(traced.fork(&self.kvm, Engine::HotSet)?),
                None => None,
            });
        }
        let Some(Some(fork)) = &mut self.fork else { return Ok(None) };
        // However a run ends: a crash or a timeout has compared something, too.
        let comparisons = match fork {
            Fork::Own(replica) => {
                replica.clear_comparisons();
                let _outcome = replica.run(input, self.deadline).map_err(ForkError::from)?;
                replica.comparisons()
            }
            Fork::Foreign(fork) => {
                fork.trace(true);
                let _outcome = fork.run(input, self.deadline).map_err(ForkError::from)?;
                fork.comparisons()
            }
        };
        fork.reset()?;
        Ok(Some(comparisons))
    }
}

/// What is still to be replaced in the entry at hand, for [`ReplaceOperand`].
pub(crate) type Replacements = Rc<RefCell<Vec<Replacement>>>;

/// Traces an entry the first time that it is chosen, and then less and less often.
#[derive(Debug)]
pub(crate) struct TraceStage {
    tracer: Tracer,
    last: SharedRun,
    replacements: Replacements,
    words: bool,
}

impl TraceStage {
    /// A stage around `tracer`; a fault of the host's goes to `last`, what is to be replaced to
    /// `replacements`, and constants to the dictionary if `words` says so.
    pub(crate) fn new(tracer: Tracer, last: SharedRun, replacements: Replacements, words: bool) -> Self {
        Self { tracer, last, replacements, words }
    }
}

/// Nothing, when the campaign does without comparisons.
#[derive(Debug)]
pub(crate) struct Optional(pub(crate) Option<TraceStage>);

impl<EM, Z> Stage<ReplicaExecutor, EM, State, Z> for Optional {
    fn perform(
        &mut self,
        _: &mut Z,
        executor: &mut ReplicaExecutor,
        state: &mut State,
        _: &mut EM,
    ) -> Result<(), Error> {
        self.0.as_mut().map_or(Ok(()), |stage| stage.perform(executor, state))
    }
}

impl TraceStage {
    fn perform(&mut self, executor: &mut ReplicaExecutor, state: &mut State) -> Result<(), Error> {
        let values = state.metadata_or_insert_with(CmpValuesMetadata::new);
        values.list.clear();
        self.replacements.borrow_mut().clear();
        // What there was no room for at the first time may have its turn at the second, fourth, eighth...
        let times = state.current_testcase()?.scheduled_count();
        if times > 0 && !times.is_power_of_two() {
            return Ok(());
        }
        if executor.over(*state.executions()) {
            return Err(Error::shutting_down());
        }
        let input: BytesInput = state.current_input_cloned()?;
        let traced = self.tracer.trace(input.as_ref()).map_err(|fault| self.last.stop_with(fault))?;
        let Some(comparisons) = traced else { return Ok(()) };
        *state.executions_mut() += 1;
        executor.tally.runs += 1;
        let values = state.metadata_mut::<CmpValuesMetadata>()?;
        for comparison in &comparisons {
            add_values(comparison, &mut values.list);
        }
        let layout = self.tracer.frozen.layout();
        let tokens = state.metadata_or_insert_with(Tokens::default);
        for comparison in comparisons.iter().filter(|_| self.words) {
            add_words(comparison, &layout, tokens);
        }
        let replacements = replacements(input.as_ref(), &comparisons, state.rand_mut());
        log::debug!(
            "an entry of {} bytes: {} comparisons, {} replacements",
            input.len(),
            comparisons.len(),
            replacements.len()
        );
        log::trace!("{comparisons:x?}");
        *self.replacements.borrow_mut() = replacements;
        Ok(())
    }
}

impl Restartable<State> for Optional {
    fn should_restart(&mut self, _: &mut State) -> Result<bool, Error> {
        Ok(true)
    }
    fn clear_progress(&mut self, _: &mut State) -> Result<(), Error> {
        Ok(())
    }
}

/// Adds what LibAFL's mutators look for: operands that differ, as wide as they are and as narrow as
/// both fit, since C widens bytes before it compares them.
fn add_values(comparison: &Comparison, list: &mut Vec<CmpValues>) {
    match comparison.operands {
        operands if !operands.differ() => {}
        Operands::Numbers { bytes, left, right, constant } => {
            let fits = |bits: u32| left >> bits == 0 && right >> bits == 0;
            if bytes == 8 {
                list.push(CmpValues::U64((left, right, constant)));
            }
            if bytes == 4 || bytes > 4 && fits(32) {
                list.push(CmpValues::U32((left as u32, right as u32, constant)));
            }
            if bytes == 2 || bytes > 2 && fits(16) {
                list.push(CmpValues::U16((left as u16, right as u16, constant)));
            }
            if bytes == 1 || fits(8) {
                list.push(CmpValues::U8((left as u8, right as u8, constant)));
            }
        }
        Operands::Strings { left, right } => {
            // LibAFL's mutator copies as many bytes as match, even from behind the end of the other.
            let len = left.bytes().len().min(right.bytes().len());
            let cut = |text: &[u8]| {
                let mut bytes = [0; COMPARISON_BYTES];
                bytes[..len].copy_from_slice(&text[..len]);
                CmplogBytes::from_buf_and_len(bytes, len as u8)
            };
            list.push(CmpValues::Bytes((cut(left.bytes()), cut(right.bytes()))));
        }
    }
}

/// One operand of a comparison, found in the input, and what the other would be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Replacement {
    at: usize,
    bytes: usize,
    with: Vec<u8>,
}

/// Puts one operand of a comparison where the other is found in the input, as a number of either byte
/// order, as decimal text, or as a string of another length: each way once, one after the other.
///
/// LibAFL's mutators choose at random, keep the input's length, know no text, and take the first byte
/// order that matches, so that a number which reads the same both ways, as in a seed of equal bytes, is
/// never put in big-endian. They come after these.
#[derive(Debug)]
pub(crate) struct ReplaceOperand {
    replacements: Replacements,
}

impl ReplaceOperand {
    /// A mutator that takes from `replacements` until there are no more.
    pub(crate) fn new(replacements: Replacements) -> Self {
        Self { replacements }
    }
}

impl Mutator<BytesInput, State> for ReplaceOperand {
    fn mutate(&mut self, state: &mut State, input: &mut BytesInput) -> Result<MutationResult, Error> {
        let Some(Replacement { at, bytes, with }) = self.replacements.borrow_mut().pop() else {
            return Ok(MutationResult::Skipped);
        };
        let end = at + bytes;
        if end > input.len() || input.len() - bytes + with.len() > state.max_size() {
            return Ok(MutationResult::Skipped);
        }
        input.splice(at..end, with);
        Ok(MutationResult::Mutated)
    }

    fn post_exec(&mut self, _: &mut State, _: Option<CorpusId>) -> Result<(), Error> {
        Ok(())
    }
}

impl BatchMutator for ReplaceOperand {}

impl Named for ReplaceOperand {
    fn name(&self) -> &Cow<'static, str> {
        const { &Cow::Borrowed("ReplaceOperand") }
    }
}

/// All that may be replaced in `input`, in no order: for each comparison, each form that its operands
/// may have there. What is too much is left out at random.
fn replacements(input: &[u8], comparisons: &[Comparison], rand: &mut impl Rand) -> Vec<Replacement> {
    let mut operands: Vec<Operands> = comparisons.iter().map(|comparison| comparison.operands).collect();
    operands.retain(Operands::differ);
    shuffle(&mut operands, rand);
    let mut tried: HashSet<Operands> = HashSet::new();
    let mut found: HashSet<Replacement> = HashSet::new();
    let mut ordered: Vec<Replacement> = Vec::new();
    let mut searched = 0;
    for operands in operands {
        if searched >= SEARCHED_BYTES_MAX {
            break;
        }
        if !tried.insert(operands) {
            continue;
        }
        for (from, to) in forms(&operands) {
            searched += input.len();
            for at in places(input, &from).take(PLACES_MAX) {
                let replacement = Replacement { at, bytes: from.len(), with: to.clone() };
                if found.insert(replacement.clone()) {
                    ordered.push(replacement);
                }
            }
        }
    }
    shuffle(&mut ordered, rand);
    ordered.truncate(REPLACEMENTS_MAX);
    ordered
}

/// Where `part` is in `input`, overlapping itself as well.
fn places(input: &[u8], part: &[u8]) -> impl Iterator<Item = usize> {
    let finder = memmem::Finder::new(part).into_owned();
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + finder.find(input.get(from..)?)?;
        from = at + 1;
        Some(at)
    })
}

fn shuffle<T>(items: &mut [T], rand: &mut impl Rand) {
    for last in (1..items.len()).rev() {
        let other = rand.below(NonZero::new(last + 1).expect("not zero"));
        items.swap(last, other);
    }
}

/// What to look for, and what to put there.
fn forms(operands: &Operands) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut forms: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    match operands {
        Operands::Strings { left, right } => {
            let (left, right) = (left.bytes(), right.bytes());
            let len = left.len().min(right.len());
            for (from, to) in [(left, right), (right, left)] {
                forms.push((from.to_vec(), to.to_vec()));
                // A longer field, of which the function saw more than it compared.
                forms.push((from[..len].to_vec(), to[..len].to_vec()));
            }
        }
        &Operands::Numbers { bytes, left, right, constant } => {
            let mut add = |from: u64, to: u64| {
                for width in [1, 2, 4, 8] {
                    let mask = u64::MAX >> (64 - 8 * width);
                    // C widens bytes before it compares them.
                    let fits = width < usize::from(bytes) && from <= mask && to <= mask;
                    if width == usize::from(bytes) || fits {
                        let little = |value: u64| value.to_le_bytes()[..width].to_vec();
                        let big = |value: u64| little(value).into_iter().rev().collect::<Vec<u8>>();
                        forms.push((little(from), little(to)));
                        forms.push((big(from), big(to)));
                    }
                }
                forms.push((from.to_string().into_bytes(), to.to_string().into_bytes()));
            };
            // One more or less passes where the two were compared for order.
            for to in [left, left.wrapping_add(1), left.wrapping_sub(1)] {
                add(right, to);
            }
            if !constant {
                for to in [right, right.wrapping_add(1), right.wrapping_sub(1)] {
                    add(left, to);
                }
            }
        }
    }
    forms.retain(|(from, to)| !from.is_empty() && from != to);
    forms
}

/// Adds constants to the dictionary: numbers that are in the code, strings in memory that is not
/// written.
fn add_words(comparison: &Comparison, layout: &Layout, tokens: &mut Tokens) {
    let mut add = |word: &[u8]| {
        if tokens.len() < WORDS_MAX {
            tokens.add_token(&word.to_vec());
        }
    };
    match comparison.operands {
        Operands::Numbers { bytes, left, constant: true, .. } if left >= WORD_NUMBER_MIN => {
            let all = left.to_le_bytes();
            let little = &all[..usize::from(bytes)];
            let big: Vec<u8> = little.iter().rev().copied().collect();
            add(little);
            add(&big);
        }
        Operands::Numbers { .. } => {}
        Operands::Strings { left, right } => {
            for text in [left, right] {
                let written = layout.find(text.at).is_none_or(|mapping| mapping.access.write);
                if !written && text.bytes().len() > 1 {
                    add(text.bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use libafl_bolts::rands::StdRand;

    use super::*;

    fn numbers(bytes: u8, left: u64, right: u64) -> Vec<CmpValues> {
        let mut list = Vec::new();
        let operands = Operands::Numbers { bytes, left, right, constant: false };
        add_values(&Comparison { site: 0, operands }, &mut list);
        list
    }

    #[test]
    fn a_number_is_replaced_wherever_it_is_in_either_byte_order_and_as_text() {
        let operands = Operands::Numbers { bytes: 8, left: 0x41, right: 43, constant: false };
        let mut rand = StdRand::with_seed(1);
        let list = replacements(b"AA..65\0\0\0A", &[Comparison { site: 0, operands }], &mut rand);
        let has = |at, bytes, with: &[u8]| list.contains(&Replacement { at, bytes, with: with.to_vec() });
        assert!(has(0, 1, &[43]) && has(1, 1, &[43]), "a byte, twice");
        assert_eq!(places(b"aaaa", b"aa").collect::<Vec<_>>(), [0, 1, 2]);
        assert!(has(6, 4, &[0, 0, 0, 43]), "big-endian");
        assert!(has(6, 4, &[0, 0, 0, 44]), "one more");
        assert!(has(4, 2, b"43"), "text");
        assert!(!list.iter().any(|r| r.bytes == 8), "there is no room for eight bytes");
    }

    #[test]
    fn numbers_are_looked_for_in_every_width_that_holds_both() {
        let widths = |list: Vec<CmpValues>| -> Vec<usize> {
            list.iter()
                .map(|value| match value {
                    CmpValues::U8(_) => 1,
                    CmpValues::U16(_) => 2,
                    CmpValues::U32(_) => 4,
                    CmpValues::U64(_) => 8,
                    CmpValues::Bytes(_) => 0,
                })
                .collect()
        };
        assert_eq!(widths(numbers(8, 1 << 40, 3)), [8]);
        assert_eq!(widths(numbers(8, 300, 3)), [8, 4, 2]);
        assert_eq!(widths(numbers(4, 0x41, 0x42)), [4, 2, 1]);
        assert_eq!(widths(numbers(2, 0x1_41, 0x42)), [2]);
        assert_eq!(widths(numbers(1, 1, 2)), [1]);
        assert_eq!(widths(numbers(4, 7, 7)), [0; 0], "equal operands tell nothing");
    }
}
