//! How much each stage of mutations gets: as much as it asks for as long as it finds as much as havoc does,
//! mutant for mutant, and less when it finds less.
//!
//! What helps with one program is in the way with another: putting operands where others are leads through
//! a header of magic numbers in a moment, and in SQLite, where every entry compares thousands of small
//! numbers, most of it is noise.

use std::collections::BTreeMap;

use libafl::HasMetadata as _;
use serde::{Deserialize, Serialize};

use crate::campaign::State;

/// What the others are measured by.
pub(crate) const HAVOC: &str = "havoc";

/// The least that a stage gets, as one over it: it may do better with a later entry.
const LEAST: f64 = 16.0;
/// With so many mutants, older ones count half.
const MEMORY: f64 = 65_536.0;
/// Every stage is taken to have found one input in so many mutants before its first.
const PRIOR_MADE: f64 = 256.0;

/// What stages made, and what of it entered the corpus; part of the campaign's state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Yields {
    stages: BTreeMap<String, Yield>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Yield {
    made: f64,
    found: f64,
}

libafl_bolts::impl_serdeany!(Yields);

impl Yield {
    fn rate(self) -> f64 {
        (self.found + 1.0) / (self.made + PRIOR_MADE)
    }
}

impl Yields {
    /// Notes that `stage` made so many mutants, and what was found by them.
    fn note(&mut self, stage: &str, made: usize, found: usize) {
        if !self.stages.contains_key(stage) {
            self.stages.insert(stage.to_owned(), Yield::default());
        }
        let Some(own) = self.stages.get_mut(stage) else { return };
        own.made += made as f64;
        own.found += found as f64;
        if own.made > MEMORY {
            own.made /= 2.0;
            own.found /= 2.0;
        }
    }

    /// What `stage` gets of the mutants that it asks for.
    fn share(&self, stage: &str) -> f64 {
        let rate = |name: &str| self.stages.get(name).copied().unwrap_or_default().rate();
        (rate(stage) / rate(HAVOC)).clamp(1.0 / LEAST, 1.0)
    }
}

/// Notes what came of a stage.
pub(crate) fn note(state: &mut State, stage: &str, made: usize, found: usize) {
    state.metadata_or_insert_with(Yields::default).note(stage, made, found);
}

/// How many of `wanted` mutants a stage gets.
pub(crate) fn of(state: &State, stage: &str, wanted: usize) -> usize {
    let share = state.metadata::<Yields>().map_or(1.0, |yields| yields.share(stage));
    (wanted as f64 * share).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_less_than_havoc_gets_less_and_never_nothing() {
        let mut yields = Yields::default();
        assert_eq!(yields.share("tokens"), 1.0);
        yields.note(HAVOC, 10_000, 100);
        yields.note("tokens", 10_000, 100);
        yields.note("comparisons", 10_000, 20);
        yields.note("grammar", 10_000, 300);
        yields.note("single", 60_000, 0);
        assert_eq!(yields.share("tokens"), 1.0);
        assert_eq!(yields.share("grammar"), 1.0, "it does not get more than it asks for");
        let share = yields.share("comparisons");
        assert!((0.2..0.25).contains(&share), "{share}");
        assert_eq!(yields.share("single"), 1.0 / LEAST);
    }

    #[test]
    fn when_nobody_finds_anything_everyone_goes_on() {
        let mut yields = Yields::default();
        yields.note(HAVOC, 60_000, 0);
        yields.note("comparisons", 2_000, 0);
        assert_eq!(yields.share("comparisons"), 1.0);
    }

    #[test]
    fn what_was_long_ago_counts_less() {
        let mut yields = Yields::default();
        yields.note(HAVOC, 60_000, 600);
        for _ in 0..10 {
            yields.note(HAVOC, 60_000, 0);
        }
        let left = yields.stages[HAVOC];
        assert!(left.made <= MEMORY && left.found < 5.0, "{left:?}");
    }
}
