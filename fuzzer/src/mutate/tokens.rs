//! Mutations of text by tokens: words, numbers, quoted strings, spaces, brackets and other marks.
//!
//! Byte-level havoc breaks a keyword for each one that it makes. Here whole tokens are replaced,
//! inserted, removed, repeated and exchanged, and bracketed groups taken over from other entries; new
//! ones come from the dictionary and from the corpus. An entry that is not text is left alone. The language
//! need not be known; see [`super::structure`] for mutations by a grammar.

use std::borrow::Cow;
use std::num::NonZero;
use std::ops::Range;

use libafl::corpus::{Corpus as _, CorpusId};
use libafl::inputs::{BytesInput, HasMutatorBytes as _, ResizableMutator as _};
use libafl::mutators::{MutationResult, Mutator, Tokens};
use libafl::state::{HasCorpus as _, HasMaxSize as _, HasRand as _};
use libafl::{Error, HasMetadata as _};
use libafl_bolts::Named;
use libafl_bolts::rands::{Rand, StdRand};

use super::{BatchMutator, put};
use crate::campaign::State;

/// Bytes of an entry that are looked at, at most.
const LEXED_MAX: usize = 1 << 16;
/// An entry is text if at most one byte in so many is not.
const OTHER_MAX: usize = 16;
/// Up to 2^this mutations a mutant.
const STACK_POW: usize = 3;
/// Tokens that are removed, repeated or taken over at once, at most.
const RANGE_MAX: usize = 16;
/// A range is repeated up to 2^this times.
const REPEAT_POW: usize = 7;

/// Numbers where code tends to take another way.
const NUMBERS: [&[u8]; 16] = [
    b"0",
    b"1",
    b"-1",
    b"2",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"2147483647",
    b"2147483648",
    b"4294967295",
    b"9223372036854775807",
    b"9223372036854775808",
    b"1e308",
    b"1e-400",
    b"0.5",
];

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Word,
    Number,
    Quoted,
    Space,
    Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    start: usize,
    end: usize,
    class: Class,
}

/// Whether an entry is text: ASCII or UTF-8 without control characters, but for a few bytes.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    let is_other = |&&byte: &&u8| byte < b' ' && !matches!(byte, b'\n' | b'\r' | b'\t') || byte >= 0x7f;
    let others = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.iter().filter(|&&byte| byte < 0x80).filter(is_other).count(),
        Err(_) => bytes.iter().filter(is_other).count(),
    };
    !bytes.is_empty() && others * OTHER_MAX <= bytes.len()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Cuts text into tokens; together they are all of it.
fn lex(bytes: &[u8], tokens: &mut Vec<Token>) {
    const OPERATORS: &[u8] = b"<>=!|&+-*/%^~:";
    tokens.clear();
    let bytes = &bytes[..bytes.len().min(LEXED_MAX)];
    let run = |start: usize, is: &dyn Fn(u8) -> bool| {
        bytes[start..].iter().position(|&byte| !is(byte)).map_or(bytes.len(), |len| start + len)
    };
    let mut start = 0;
    while let Some(&first) = bytes.get(start) {
        let (class, end) = match first {
            b'0'..=b'9' => (Class::Number, run(start, &|byte| is_word(byte) || byte == b'.')),
            _ if is_word(first) => (Class::Word, run(start, &is_word)),
            _ if first.is_ascii_whitespace() => {
                (Class::Space, run(start, &|byte| byte.is_ascii_whitespace()))
            }
            b'"' | b'\'' | b'`' => match closing(bytes, start) {
                Some(end) => (Class::Quoted, end),
                None => (Class::Mark, start + 1),
            },
            _ if OPERATORS.contains(&first) => {
                (Class::Mark, run(start, &|byte| OPERATORS.contains(&byte)).min(start + 3))
            }
            _ => (Class::Mark, start + 1),
        };
        tokens.push(Token { start, end, class });
        start = end;
    }
}

/// Behind the quote that closes the one at `start`.
fn closing(bytes: &[u8], start: usize) -> Option<usize> {
    let quote = bytes[start];
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'\n' => return None,
            _ if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// The tokens from an opening bracket to the one that closes it.
fn group(bytes: &[u8], tokens: &[Token], open: usize) -> Option<Range<usize>> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match bytes[token.start] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return (at > open).then_some(open..at + 1);
        }
    }
    None
}

/// The mutator.
#[derive(Debug, Default)]
pub(crate) struct TokenMutator {
    // Room that is used again.
    own: Vec<Token>,
    others: Vec<Token>,
    piece: Vec<u8>,
    mutant: Vec<u8>,
}

impl TokenMutator {
    /// Changes `bytes` once; the result is in `self.mutant`. False when nothing came of it.
    fn once(&mut self, state: &mut State, bytes: &[u8]) -> Result<bool, Error> {
        lex(bytes, &mut self.own);
        let Some(count) = NonZero::new(self.own.len()) else { return Ok(false) };
        let rand = state.rand_mut();
        let at = rand.below(count);
        let token = self.own[at];
        let here = token.start..token.end;
        self.piece.clear();
        let range = match below(rand, 10) {
            0 | 1 => {
                self.fetch(state, Some(token.class))?;
                here
            }
            2 => {
                self.fetch(state, None)?;
                here
            }
            3 | 4 => {
                self.fetch(state, None)?;
                token.start..token.start
            }
            5 => self.span(at, rand),
            6 => {
                let range = self.span(at, rand);
                let times = 1 << below(rand, REPEAT_POW);
                for _ in 0..times {
                    let before = self.piece.last().copied();
                    super::glue(before, &bytes[range.clone()], None, &mut self.piece);
                }
                range.end..range.end
            }
            7 => {
                let other = self.own[rand.below(count)];
                let (one, other) = if token.start < other.start { (token, other) } else { (other, token) };
                if one.end > other.start {
                    return Ok(false);
                }
                let parts = [other.start..other.end, one.end..other.start, one.start..one.end];
                parts.into_iter().for_each(|part| self.piece.extend_from_slice(&bytes[part]));
                one.start..other.end
            }
            8 => {
                // A group for a group, or a range from elsewhere.
                let open = (at..count.get()).find(|&at| is_open(bytes[self.own[at].start]));
                let own = open.and_then(|open| group(bytes, &self.own, open));
                let range = own.map_or(here, |own| self.own[own.start].start..self.own[own.end - 1].end);
                self.fetch_range(state)?;
                range
            }
            _ => {
                let number = self.own[at..].iter().find(|token| token.class == Class::Number);
                let Some(number) = number else { return Ok(false) };
                self.piece.extend_from_slice(NUMBERS[below(rand, NUMBERS.len())]);
                number.start..number.end
            }
        };
        put(bytes, range.clone(), &self.piece, &mut self.mutant);
        Ok(self.mutant != bytes)
    }

    /// The bytes of some tokens from the one `at` on.
    fn span(&self, at: usize, rand: &mut impl Rand) -> Range<usize> {
        let most = 1 << below(rand, RANGE_MAX.ilog2() as usize + 1);
        let tokens = 1 + below(rand, most);
        let last = (at + tokens).min(self.own.len()) - 1;
        self.own[at].start..self.own[last].end
    }

    /// A token from the dictionary or from another entry, in `self.piece`; of `class`, where that entry
    /// has one.
    fn fetch(&mut self, state: &mut State, class: Option<Class>) -> Result<(), Error> {
        let words = state.metadata_map().get::<Tokens>().map_or(0, |tokens| tokens.len());
        let word = below(state.rand_mut(), 2 * words.max(1));
        if class.is_none_or(|class| matches!(class, Class::Word | Class::Mark)) && word < words {
            self.piece.extend_from_slice(&state.metadata::<Tokens>()?.tokens()[word]);
            return Ok(());
        }
        self.other(state, |own, bytes, rand| {
            let from = below(rand, own.others.len());
            let (before, behind) = own.others.split_at(from);
            let wanted = |token: &&Token| class.is_none_or(|class| token.class == class);
            if let Some(token) = behind.iter().chain(before).find(wanted) {
                own.piece.extend_from_slice(&bytes[token.start..token.end]);
            }
        })
    }

    /// A bracketed group, or some tokens in a row, from another entry.
    fn fetch_range(&mut self, state: &mut State) -> Result<(), Error> {
        self.other(state, |own, bytes, rand| {
            let count = own.others.len();
            let from = below(rand, count);
            let open = (from..count).find(|&at| is_open(bytes[own.others[at].start]));
            let range = open
                .and_then(|open| group(bytes, &own.others, open))
                .unwrap_or_else(|| from..(from + 1 + below(rand, RANGE_MAX)).min(count));
            own.piece.extend_from_slice(&bytes[own.others[range.start].start..own.others[range.end - 1].end]);
        })
    }

    /// Lets `take` see another entry that is text, its tokens in `self.others`.
    fn other(
        &mut self,
        state: &mut State,
        take: impl FnOnce(&mut Self, &[u8], &mut StdRand),
    ) -> Result<(), Error> {
        let count = state.corpus().count();
        let nth = below(state.rand_mut(), count);
        let id = state.corpus().nth(nth);
        // The state cannot be lent twice, so that what is to be random comes from a generator of its own.
        let mut rand = StdRand::with_seed(state.rand_mut().next());
        let entry = state.corpus().get(id)?.borrow();
        let Some(input) = entry.input() else { return Ok(()) };
        let bytes = input.mutator_bytes();
        let mut others = std::mem::take(&mut self.others);
        lex(bytes, &mut others);
        self.others = others;
        if !self.others.is_empty() && is_text(bytes) {
            take(self, bytes, &mut rand);
        }
        Ok(())
    }
}

fn is_open(byte: u8) -> bool {
    matches!(byte, b'(' | b'[' | b'{')
}

/// A number below `limit`, which is not zero.
pub(crate) fn below(rand: &mut impl Rand, limit: usize) -> usize {
    rand.below(NonZero::new(limit).expect("the limit is not zero"))
}

impl Mutator<BytesInput, State> for TokenMutator {
    fn mutate(&mut self, state: &mut State, input: &mut BytesInput) -> Result<MutationResult, Error> {
        if !is_text(input.mutator_bytes()) {
            return Ok(MutationResult::Skipped);
        }
        let mut result = MutationResult::Skipped;
        for _ in 0..1 << below(state.rand_mut(), STACK_POW + 1) {
            if self.once(state, input.mutator_bytes())? && self.mutant.len() <= state.max_size() {
                input.resize(0, 0);
                input.extend(&self.mutant);
                result = MutationResult::Mutated;
            }
        }
        Ok(result)
    }

    fn post_exec(&mut self, _: &mut State, _: Option<CorpusId>) -> Result<(), Error> {
        Ok(())
    }
}

impl BatchMutator for TokenMutator {}

impl Named for TokenMutator {
    fn name(&self) -> &Cow<'static, str> {
        const { &Cow::Borrowed("TokenMutator") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<(&str, Class)> {
        let mut tokens = Vec::new();
        lex(text.as_bytes(), &mut tokens);
        tokens.iter().map(|token| (&text[token.start..token.end], token.class)).collect()
    }

    #[test]
    fn text_is_cut_into_what_a_language_is_made_of() {
        use Class::{Mark, Number, Quoted, Space, Word};
        assert_eq!(
            tokens("SELECT x->>'a\\'b' <=2.5e3'"),
            [
                ("SELECT", Word),
                (" ", Space),
                ("x", Word),
                ("->>", Mark),
                ("'a\\'b'", Quoted),
                (" ", Space),
                ("<=", Mark),
                ("2.5e3", Number),
                ("'", Mark),
            ]
        );
        assert_eq!(tokens("\"open\n"), [("\"", Mark), ("open", Word), ("\n", Space)]);
    }

    #[test]
    fn a_group_ends_where_its_bracket_is_closed() {
        let text = b"f(a[1],(b))c)";
        let mut own = Vec::new();
        lex(text, &mut own);
        let whole = group(text, &own, 1).unwrap();
        assert_eq!(&text[own[whole.start].start..own[whole.end - 1].end], b"(a[1],(b))");
        lex(b"((a)", &mut own);
        assert_eq!(group(b"((a)", &own, 0), None);
    }

    #[test]
    fn binary_data_is_not_text() {
        assert!(is_text("{\"k\": \"\u{e9}\"}\n".as_bytes()));
        assert!(is_text(b"\x01[\"a\", 1234567, null]"));
        assert!(!is_text(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"));
        assert!(!is_text(b""));
    }
}
