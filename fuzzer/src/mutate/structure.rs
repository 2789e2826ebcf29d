//! Mutations by a grammar: an entry is read by it, and what stands for a symbol is replaced by something
//! else that the symbol may be.
//!
//! No trees are kept: what a part of an entry is comes from reading it, once for each entry, so that seeds,
//! inputs of other fuzzers and what byte-level havoc made can be mutated as well. An entry that
//! cannot be read gives way to a new one, or takes something generated in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use libafl::Error;
use libafl::corpus::CorpusId;
use libafl::corpus::HasCurrentCorpusId as _;
use libafl::inputs::{BytesInput, HasMutatorBytes as _, ResizableMutator as _};
use libafl::mutators::{MutationResult, Mutator};
use libafl::state::{HasMaxSize as _, HasRand as _};
use libafl_bolts::Named;
use libafl_bolts::rands::Rand as _;

use super::tokens::below;
use super::{BatchMutator, glue, put};
use crate::campaign::State;
use crate::grammar::{Grammar, Span};

/// Symbols below each other in what is generated, at most.
const DEPTH_MAX: usize = 12;
/// From here on, what is generated is brought to an end.
const GENERATED_BYTES: usize = 512;
/// Up to 2^this parts of an entry are replaced.
const STACK_POW: usize = 2;
/// A part that contains another of its kind is repeated up to 2^this times.
const REPEAT_POW: usize = 6;
/// Texts kept of each symbol, to put one entry's into another.
const POOL_MAX: usize = 128;

/// The mutator.
#[derive(Debug)]
pub(crate) struct GrammarMutator {
    // Without one it is never asked.
    grammar: Option<Grammar>,
    entry: Option<CorpusId>,
    spans: Rc<[Span]>,
    // Every entry is read once.
    read: HashMap<CorpusId, Rc<[Span]>>,
    // By symbol: what was found of it.
    pool: Vec<Vec<Vec<u8>>>,
    // Room that is used again.
    chosen: Vec<Span>,
    piece: Vec<u8>,
    mutant: Vec<u8>,
}

impl GrammarMutator {
    /// Mutates by `grammar`.
    pub(crate) fn new(grammar: Option<Grammar>) -> Self {
        let symbols = grammar.as_ref().map_or(0, Grammar::len);
        Self {
            grammar,
            entry: None,
            spans: Rc::new([]),
            read: HashMap::new(),
            pool: vec![Vec::new(); symbols],
            chosen: Vec::new(),
            piece: Vec::new(),
            mutant: Vec::new(),
        }
    }

    /// Reads the entry at hand, which is `bytes`, unless it has been.
    fn look(&mut self, state: &mut State, bytes: &[u8]) -> Result<(), Error> {
        let entry = state.current_corpus_id()?;
        if entry == self.entry {
            return Ok(());
        }
        self.entry = entry;
        let (Some(entry), Some(grammar)) = (entry, &self.grammar) else { return Ok(()) };
        if let Some(spans) = self.read.get(&entry) {
            self.spans = spans.clone();
            return Ok(());
        }
        self.spans = grammar.parse(bytes).unwrap_or_default().into();
        self.read.insert(entry, self.spans.clone());
        for span in self.spans.iter().filter(|span| span.start < span.end) {
            let pool = &mut self.pool[span.symbol];
            let text = &bytes[span.start..span.end];
            if pool.iter().any(|known| known == text) {
                continue;
            }
            if pool.len() < POOL_MAX {
                pool.push(text.to_vec());
            } else {
                pool[below(state.rand_mut(), POOL_MAX)] = text.to_vec();
            }
        }
        Ok(())
    }

    /// Some of the symbol, generated, in `self.piece`.
    fn generate(&mut self, state: &mut State, symbol: usize) {
        if let Some(grammar) = &self.grammar {
            let depth = below(state.rand_mut(), DEPTH_MAX);
            grammar.generate(symbol, depth, GENERATED_BYTES, state.rand_mut(), &mut self.piece);
        }
    }

    /// What is to stand for `span` of `bytes`, in `self.piece`.
    fn replace(&mut self, state: &mut State, bytes: &[u8], span: Span) {
        self.piece.clear();
        let own = |span: &Span| span.start..span.end;
        match below(state.rand_mut(), 8) {
            0..=2 => self.generate(state, span.symbol),
            3..=5 => {
                let pool = &self.pool[span.symbol];
                if pool.is_empty() {
                    self.generate(state, span.symbol);
                } else {
                    self.piece.extend_from_slice(&pool[below(state.rand_mut(), pool.len())]);
                }
            }
            // Nothing at all, which the grammar may not allow.
            6 => {}
            // One of its kind that is in it, or what is round that one, many times.
            _ => {
                let within = |other: &&Span| {
                    other.symbol == span.symbol && inside(**other, span) && other.start < other.end
                };
                let count = self.spans.iter().filter(within).count();
                if count == 0 {
                    self.generate(state, span.symbol);
                    return;
                }
                let nth = below(state.rand_mut(), count);
                let Some(&inner) = self.spans.iter().filter(within).nth(nth) else { return };
                if state.rand_mut().coinflip(0.5) {
                    self.piece.extend_from_slice(&bytes[own(&inner)]);
                    return;
                }
                let times = 1 << below(state.rand_mut(), REPEAT_POW + 1);
                (0..times).for_each(|_| self.piece.extend_from_slice(&bytes[span.start..inner.start]));
                self.piece.extend_from_slice(&bytes[own(&inner)]);
                (0..times).for_each(|_| self.piece.extend_from_slice(&bytes[inner.end..span.end]));
            }
        }
    }
}

fn inside(inner: Span, outer: Span) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && inner != outer
}

impl Mutator<BytesInput, State> for GrammarMutator {
    fn mutate(&mut self, state: &mut State, input: &mut BytesInput) -> Result<MutationResult, Error> {
        self.look(state, input.mutator_bytes())?;
        let bytes = input.mutator_bytes();
        self.mutant.clear();
        if self.spans.is_empty() || below(state.rand_mut(), 64) == 0 {
            // A new input; or, of an entry that is not as the grammar says, something more in it.
            let symbols = self.grammar.as_ref().map_or(1, Grammar::len);
            let symbol = below(state.rand_mut(), symbols);
            self.piece.clear();
            if state.rand_mut().coinflip(0.5) {
                self.generate(state, 0);
                self.mutant.extend_from_slice(&self.piece);
            } else {
                self.generate(state, symbol);
                let at = below(state.rand_mut(), bytes.len() + 1);
                put(bytes, at..at, &self.piece, &mut self.mutant);
            }
        } else {
            let spans = self.spans.clone();
            self.chosen.clear();
            for _ in 0..1 << below(state.rand_mut(), STACK_POW + 1) {
                let span = spans[below(state.rand_mut(), spans.len())];
                let apart = |other: &Span| span.end <= other.start || other.end <= span.start;
                if self.chosen.iter().all(apart) {
                    self.chosen.push(span);
                }
            }
            self.chosen.sort_unstable_by_key(|span| (span.start, span.end));
            let mut from = 0;
            for at in 0..self.chosen.len() {
                let span = self.chosen[at];
                if span.start < from {
                    continue;
                }
                self.mutant.extend_from_slice(&bytes[from..span.start]);
                self.replace(state, bytes, span);
                glue(
                    self.mutant.last().copied(),
                    &self.piece,
                    bytes.get(span.end).copied(),
                    &mut self.mutant,
                );
                from = span.end;
            }
            self.mutant.extend_from_slice(&bytes[from..]);
        }
        if self.mutant == bytes || self.mutant.is_empty() || self.mutant.len() > state.max_size() {
            return Ok(MutationResult::Skipped);
        }
        input.resize(0, 0);
        input.extend(&self.mutant);
        Ok(MutationResult::Mutated)
    }

    fn post_exec(&mut self, _: &mut State, _: Option<CorpusId>) -> Result<(), Error> {
        Ok(())
    }
}

impl BatchMutator for GrammarMutator {}

impl Named for GrammarMutator {
    fn name(&self) -> &Cow<'static, str> {
        const { &Cow::Borrowed("GrammarMutator") }
    }
}
