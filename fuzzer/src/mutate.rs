//! Our own mutators, beside LibAFL's: which operator is applied, and what is structured in an input.

use libafl::mutators::Mutator;

use crate::campaign::State;
use libafl::inputs::BytesInput;

pub(crate) mod operators;
pub(crate) mod structure;
pub(crate) mod tokens;

/// A mutator that makes many mutants before it hears of the first. Those it makes from one
/// [`BatchMutator::begin`] to the next are counted from zero, skipped ones left out.
pub(crate) trait BatchMutator: Mutator<BytesInput, State> {
    /// A new batch begins.
    fn begin(&mut self) {}

    /// The next `post_exec` is about this mutant.
    fn about(&mut self, mutant: usize) {
        let _ = mutant;
    }
}

impl<MT> BatchMutator for libafl::mutators::SingleChoiceScheduledMutator<MT> where
    Self: Mutator<BytesInput, State>
{
}

/// Puts a space on either side of `piece` where it would grow together with a word beside it.
fn glue(before: Option<u8>, piece: &[u8], after: Option<u8>, to: &mut Vec<u8>) {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let meet = |one: Option<u8>, other: Option<u8>| one.is_some_and(is_word) && other.is_some_and(is_word);
    if meet(before, piece.first().copied()) {
        to.push(b' ');
    }
    to.extend_from_slice(piece);
    if meet(piece.last().copied(), after) {
        to.push(b' ');
    }
}

/// `bytes` with `range` replaced by `piece`, in `to`.
fn put(bytes: &[u8], range: std::ops::Range<usize>, piece: &[u8], to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(&bytes[..range.start]);
    let after = bytes.get(range.end).copied();
    if piece.is_empty() {
        glue(to.last().copied(), &bytes[range.end..], None, to);
        return;
    }
    glue(to.last().copied(), piece, after, to);
    to.extend_from_slice(&bytes[range.end..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_grow_together() {
        let mut to = Vec::new();
        put(b"a(b)c", 1..4, b"IN", &mut to);
        assert_eq!(to, b"a IN c");
        put(b"a b c", 2..3, b"(x)", &mut to);
        assert_eq!(to, b"a (x) c");
        put(b"a+b", 1..2, b"", &mut to);
        assert_eq!(to, b"a b");
        put(b"", 0..0, b"x", &mut to);
        assert_eq!(to, b"x");
    }
}
