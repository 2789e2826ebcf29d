//! Text by a grammar, at random and of bounded depth.

use libafl_bolts::rands::Rand;

use super::{Builtin, Grammar, Part, Symbol};
use crate::mutate::tokens::below;

/// Names that are used again and again, so that what is declared is used.
const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"t", b"x", b"y", b"name", b"value"];
const INTEGERS: [&[u8]; 12] = [
    b"0",
    b"1",
    b"-1",
    b"2",
    b"3",
    b"10",
    b"127",
    b"256",
    b"65536",
    b"2147483648",
    b"-9223372036854775808",
    b"18446744073709551616",
];
const FRACTIONS: [&[u8]; 6] = [b"0.5", b"1e3", b"-0.0", b"1.7976931348623157e308", b"1e-320", b"3.14"];
const TEXTS: [&[u8]; 8] = [b"", b"a", b"abc", b"0", b"%s", b"a b", b"/a/0", b"\xc3\xa9"];

impl Grammar {
    /// Writes some `symbol` to `to`, of about `depth` symbols below each other at most; from `bytes_max` bytes
    /// on, the shortest.
    pub(crate) fn generate(
        &self,
        symbol: usize,
        depth: usize,
        bytes_max: usize,
        rand: &mut impl Rand,
        to: &mut Vec<u8>,
    ) {
        // What is still to be written, last first: a stack of our own, since grammars may nest deeply.
        let start = Part::Symbol(symbol);
        let mut left: Vec<(&Part, usize)> = vec![(&start, depth)];
        while let Some((part, depth)) = left.pop() {
            let symbol = match part {
                Part::Text(text) => {
                    to.extend_from_slice(text);
                    continue;
                }
                Part::Symbol(symbol) => &self.symbols[*symbol],
            };
            match symbol {
                Symbol::Builtin(builtin) => to.extend_from_slice(builtin.example(rand)),
                Symbol::Rules(rules) => {
                    let depth = if to.len() >= bytes_max { 0 } else { depth };
                    let shortest = rules.iter().map(|rule| rule.depth).min().unwrap_or(0);
                    let fits = |limit: usize| rules.iter().filter(move |rule| rule.depth <= limit);
                    let limit = depth.max(shortest);
                    let count = fits(limit).count();
                    let Some(rule) = fits(limit).nth(below(rand, count.max(1))) else { continue };
                    let below = depth.saturating_sub(1);
                    left.extend(rule.parts.iter().rev().map(|part| (part, below)));
                }
            }
        }
    }
}

impl Builtin {
    fn example(self, rand: &mut impl Rand) -> &'static [u8] {
        let mut one = |list: &'static [&'static [u8]]| list[below(rand, list.len())];
        match self {
            Self::Integer => one(&INTEGERS),
            Self::Number => {
                let integer = one(&INTEGERS);
                let fraction = one(&FRACTIONS);
                if integer.len() == 1 { integer } else { fraction }
            }
            Self::Identifier => one(&NAMES),
            Self::Characters => one(&TEXTS),
        }
    }
}

#[cfg(test)]
mod tests {
    use libafl_bolts::rands::StdRand;

    use super::super::tests::{grammar, json};

    #[test]
    fn what_is_generated_can_be_parsed() {
        let grammar = json();
        let mut rand = StdRand::with_seed(5);
        let mut longest = 0;
        for depth in 0..200 {
            let mut text = Vec::new();
            grammar.generate(0, depth % 10, 300, &mut rand, &mut text);
            let spans = grammar.parse(&text).unwrap_or_else(|| panic!("{:?}", text.escape_ascii()));
            assert_eq!((spans[0].start, spans[0].end, spans[0].symbol), (0, text.len(), 0));
            longest = longest.max(text.len());
        }
        assert!(longest > 50, "{longest}");
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let grammar = grammar(&[("A", "x"), ("A", "({A}{A}{A}{A})")]);
        let mut rand = StdRand::with_seed(1);
        for _ in 0..50 {
            let mut text = Vec::new();
            grammar.generate(0, 1_000_000, 1000, &mut rand, &mut text);
            assert!(text.len() < 20_000, "{}", text.len());
        }
        let mut text = Vec::new();
        grammar.generate(0, 0, 1000, &mut rand, &mut text);
        assert_eq!(text, b"x");
    }
}
