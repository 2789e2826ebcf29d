//! Which mechanisms a campaign chooses and changes inputs with.
//!
//! What is on by default has earned its price in comparisons (docs/benchmarks.md, "Mechanisms");
//! `scripts/compare-campaigns.py` makes them again.

use clap::ValueEnum;

/// Something that a campaign can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mechanism {
    /// Prefer entries that together cover every edge
    Cover,
    /// Choose entries by weight: quick ones, and those that reach what few do
    Weights,
    /// Give more mutants to entries that promise more (AFL's power schedule "fast")
    Power,
    /// Look what a new entry compares, and put one operand where the other is
    Comparisons,
    /// Add constants that are compared with to the dictionary
    Words,
    /// Mutants that differ from their entry by one mutation, before stacked ones
    Single,
    /// Choose mutation operators by how often they found something
    Operators,
    /// Mutate text by words, numbers, strings and brackets
    Tokens,
    /// Mutate by the grammar, where there is one
    Grammar,
    /// Give a stage of mutations less when it finds less than stacked mutations do
    Shares,
    /// Choose mutation operators as MOpt does, by particle swarm; needs --no-batch
    Mopt,
}

/// The mechanisms of one campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strategy {
    // One bit for each mechanism, by its discriminant.
    bits: u16,
}

impl Default for Strategy {
    fn default() -> Self {
        use Mechanism::{Comparisons, Cover, Grammar, Operators, Shares, Single};
        let on = [Cover, Comparisons, Single, Operators, Grammar, Shares];
        Self { bits: on.iter().fold(0, |bits, &mechanism| bits | bit(mechanism)) }
    }
}

const fn bit(mechanism: Mechanism) -> u16 {
    1 << mechanism as u16
}

impl Strategy {
    /// The default with some mechanisms more and some less; what is in both is off.
    pub(crate) fn new(with: &[Mechanism], without: &[Mechanism]) -> Self {
        let mut bits = Self::default().bits;
        with.iter().for_each(|&mechanism| bits |= bit(mechanism));
        without.iter().for_each(|&mechanism| bits &= !bit(mechanism));
        Self { bits }
    }

    /// Whether `mechanism` is in use.
    pub(crate) fn has(self, mechanism: Mechanism) -> bool {
        self.bits & bit(mechanism) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_off_whatever_else_is_asked_for() {
        let strategy = Strategy::new(&[Mechanism::Mopt, Mechanism::Single], &[Mechanism::Single]);
        assert!(strategy.has(Mechanism::Mopt) && strategy.has(Mechanism::Cover));
        assert!(!strategy.has(Mechanism::Single));
        assert!(!Strategy::default().has(Mechanism::Mopt));
        for mechanism in [Mechanism::Weights, Mechanism::Power, Mechanism::Words, Mechanism::Tokens] {
            assert!(!Strategy::default().has(mechanism), "{mechanism:?} did not earn its price");
        }
    }
}
