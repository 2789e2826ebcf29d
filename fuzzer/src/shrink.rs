//! An input being made smaller: which change to try next, and what is known by now.
//!
//! ```text
//!   remove blocks:    all │ halves │ quarters │ … │ single bytes
//!   simplify blocks:        halves │ quarters │ … │ single bytes     to '0'; single bytes to ' ' and 0, too
//!   and again, until a whole round changes nothing
//! ```
//!
//! It ends: a change that is kept makes the input shorter, or as long with simpler bytes. In the end no
//! single byte can be taken away or be made simpler.
//!
//! It does not run anything. Whoever does may look many changes ahead, since most of them fail, and
//! says how many did before one was kept.

/// What a byte is made, best first.
const SIMPLE: [u8; 3] = [b'0', b' ', 0];

/// How plain a byte is: its place in [`SIMPLE`], or behind that.
fn rank(byte: u8) -> usize {
    SIMPLE.iter().position(|&simple| simple == byte).unwrap_or(SIMPLE.len())
}

/// One change to an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Takes `len` bytes away.
    Remove { at: usize, len: usize },
    /// Makes `len` bytes `byte`.
    Fill { at: usize, len: usize, byte: u8 },
}

impl Edit {
    /// The input with this change.
    pub(crate) fn apply(self, input: &[u8]) -> Vec<u8> {
        match self {
            Self::Remove { at, len } => [&input[..at], &input[at + len..]].concat(),
            Self::Fill { at, len, byte } => {
                let mut changed = input.to_vec();
                changed[at..at + len].fill(byte);
                changed
            }
        }
    }
}

/// The next change of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    fill: bool,
    size: usize,
    at: usize,
    // Which of `SIMPLE`, for single bytes.
    choice: usize,
}

impl Cursor {
    fn start(len: usize) -> Self {
        Self { fill: false, size: len.max(1), at: 0, choice: 0 }
    }

    /// The next change to `input`, as if it were to fail; `None` at the end of the round.
    fn next(&mut self, input: &[u8]) -> Option<Edit> {
        loop {
            if self.at >= input.len() {
                self.smaller(input.len())?;
                continue;
            }
            let (at, len) = (self.at, self.size.min(input.len() - self.at));
            if !self.fill {
                self.at += len;
                return Some(Edit::Remove { at, len });
            }
            let plainest = input[at..at + len].iter().map(|&byte| rank(byte)).max().unwrap_or(0);
            let (choice, choices) = (self.choice, if len == 1 { plainest } else { plainest.min(1) });
            if choice >= choices {
                self.at += len;
                self.choice = 0;
                continue;
            }
            self.choice += 1;
            return Some(Edit::Fill { at, len, byte: SIMPLE[choice] });
        }
    }

    /// Goes on to smaller blocks, or to the next pass.
    fn smaller(&mut self, len: usize) -> Option<()> {
        let (fill, size) = match (self.size, self.fill) {
            (1, true) => return None,
            (1, false) => (true, len.div_ceil(2).max(1)),
            (size, fill) => (fill, size.div_ceil(2)),
        };
        *self = Self { fill, size, at: 0, choice: 0 };
        Some(())
    }
}

/// An input on its way to its smallest form.
#[derive(Debug)]
pub(crate) struct Shrink {
    best: Vec<u8>,
    cursor: Cursor,
    changed: bool,
}

impl Shrink {
    /// Starts with `input`.
    pub(crate) fn new(input: Vec<u8>) -> Self {
        Self { cursor: Cursor::start(input.len()), best: input, changed: false }
    }

    /// The smallest so far.
    pub(crate) fn best(&self) -> &[u8] {
        &self.best
    }

    /// The changes to try next, in order and at most `most`, for as long as each fails; none when done.
    pub(crate) fn ahead(&mut self, most: usize) -> Vec<Edit> {
        let edits = self.look(most);
        if !edits.is_empty() || !std::mem::take(&mut self.changed) {
            return edits;
        }
        self.cursor = Cursor::start(self.best.len());
        self.look(most)
    }

    fn look(&self, most: usize) -> Vec<Edit> {
        let mut cursor = self.cursor;
        std::iter::from_fn(|| cursor.next(&self.best)).take(most).collect()
    }

    /// The first `failed` changes ahead failed.
    pub(crate) fn failed(&mut self, failed: usize) {
        for _ in 0..failed {
            self.cursor.next(&self.best);
        }
    }

    /// The first change ahead is kept.
    pub(crate) fn keep(&mut self) {
        let Some(edit) = self.cursor.next(&self.best) else { return };
        self.best = edit.apply(&self.best);
        self.changed = true;
        match edit {
            // What was behind the block is now in its place.
            Edit::Remove { at, .. } => self.cursor.at = at,
            Edit::Fill { at, len, .. } => (self.cursor.at, self.cursor.choice) = (at + len, 0),
        }
    }

    /// What is being tried, in words.
    pub(crate) fn pass(&self) -> String {
        let what = if self.cursor.fill { "simplifying" } else { "removing" };
        match self.cursor.size {
            1 => format!("{what} single bytes"),
            size => format!("{what} blocks of {size} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shrinks `input` while `keeps` holds, looking `ahead`; returns it and how many were tried.
    fn shrink(input: &[u8], ahead: usize, keeps: impl Fn(&[u8]) -> bool) -> (Vec<u8>, usize) {
        let mut shrink = Shrink::new(input.to_vec());
        let mut tried = 0;
        loop {
            let edits = shrink.ahead(ahead);
            if edits.is_empty() {
                return (shrink.best().to_vec(), tried);
            }
            let kept = edits.iter().position(|edit| keeps(&edit.apply(shrink.best())));
            tried += kept.map_or(edits.len(), |at| at + 1);
            shrink.failed(kept.unwrap_or(edits.len()));
            if kept.is_some() {
                shrink.keep();
            }
        }
    }

    #[test]
    fn the_bytes_that_matter_are_left_and_the_others_are_gone_or_simple() {
        let input: Vec<u8> = (0..1000).map(|i: u32| (i * 7 % 251) as u8).collect();
        assert_eq!(shrink(&input, 16, |_| true).0, b"");
        let mut marked = input.clone();
        marked[700..704].copy_from_slice(b"X<>Y");
        let both = |input: &[u8]| input.windows(4).any(|four| four[0] == b'X' && four[3] == b'Y');
        let (best, tried) = shrink(&marked, 16, both);
        assert_eq!(best, b"X00Y");
        assert!(tried < 200, "{tried}");
    }

    #[test]
    fn a_byte_that_must_not_be_zero_as_text_becomes_the_next_best() {
        assert_eq!(shrink(b"abc", 4, |input| input.len() == 3 && input[1] != b'0').0, b"0 0");
        let last = |input: &[u8]| input.len() == 1 && input[0] != b'0' && input[0] != b' ';
        assert_eq!(shrink(b"a", 4, last).0, b"\0");
        assert_eq!(shrink(b"", 4, |_| true), (Vec::new(), 0));
        assert_eq!(shrink(b"ab", 4, |input| input == b"ab").0, b"ab");
    }

    #[test]
    fn how_far_one_looks_ahead_changes_nothing() {
        let input: Vec<u8> = (0..300).map(|i: u32| (i * i % 13) as u8 + b'0').collect();
        let keeps = |input: &[u8]| input.iter().filter(|&&byte| byte == b'3').count() >= 5;
        let one = shrink(&input, 1, keeps);
        assert_eq!(one.0, b"33333");
        for ahead in [2, 7, 100, 10_000] {
            assert_eq!(shrink(&input, ahead, keeps), one);
        }
    }

    /// Something that is needed only while something else is there takes a second round.
    #[test]
    fn rounds_go_on_until_nothing_changes() {
        let keeps = |input: &[u8]| {
            let digits = input.iter().filter(|byte| byte.is_ascii_digit()).count();
            input.ends_with(b"!") && digits % 2 == 0 && input.iter().all(|&byte| byte != b'b' || digits > 2)
        };
        assert_eq!(shrink(b"1b2b3b4!", 3, keeps).0, b"!");
    }
}
