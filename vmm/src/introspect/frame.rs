//! One frame of a backtrace.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::symbols::Place;

/// How a frame was found, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Method {
    /// The stopped instruction itself.
    Start,
    /// By DWARF call-frame information of the frame inside it: exact.
    Cfi,
    /// The interrupted code, from the record that the kernel pushed for a signal handler.
    Signal,
    /// By following what the instructions of the frame inside it do to the stack pointer: as good as
    /// exact for what compilers emit. It is what libraries built without call-frame information need.
    Code,
    /// By the chain of saved `rbp`.
    FramePointer,
    /// The nearest word on the stack that looks like a return address: a guess, and frames between may
    /// be missing.
    Scan,
    /// Inlined into the frame below it in the list, whose stack frame it shares.
    Inline,
}

/// One line of a backtrace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Where the frame is: the stopped instruction, or the return address.
    pub address: u64,
    /// The stack pointer in this frame.
    pub stack: u64,
    /// How it was found.
    pub method: Method,
    /// What is there; `None` when the address is in no image, as after a wild jump.
    pub place: Option<Place>,
}

impl Frame {
    /// The function's name, if there is one.
    pub fn function(&self) -> Option<&str> {
        self.place.as_ref()?.function.as_deref()
    }
}

/// `0x0000000000201234 in parse+0x14 (parse.c:12:3) [app]`
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x} in ", self.address)?;
        let Some(place) = &self.place else {
            return write!(f, "?? (no image here)");
        };
        match (&place.function, self.method) {
            (Some(name), Method::Inline) => write!(f, "{name} inlined")?,
            (Some(name), _) => write!(f, "{name}+{:#x}", place.offset)?,
            (None, _) => write!(f, "??")?,
        }
        if let Some(file) = &place.file {
            write!(f, " ({file}")?;
            if let Some(line) = place.line {
                write!(f, ":{line}")?;
                if let Some(column) = place.column {
                    write!(f, ":{column}")?;
                }
            }
            write!(f, ")")?;
        }
        write!(f, " [{}]", place.module)?;
        match self.method {
            Method::Scan => write!(f, " (by stack scan)"),
            Method::Signal => write!(f, " (interrupted by a signal)"),
            _ => Ok(()),
        }
    }
}

/// A run of frames that repeats: `period` frames from `start`, `count` times over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub start: usize,
    pub period: usize,
    pub count: usize,
}

/// The longest cycle of mutually recursive functions that is recognised.
const PERIOD_MAX: usize = 8;

/// Cuts a list into runs, so that recursion is one run. A run of one item has period and count 1.
pub(super) fn runs<T: PartialEq>(items: &[T]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut start = 0;
    while let Some(rest) = items.get(start..).filter(|rest| !rest.is_empty()) {
        let best = (1..=PERIOD_MAX.min(rest.len()))
            .map(|period| Run { start, period, count: repeats(rest, period) })
            .filter(|run| run.count > 1)
            .max_by_key(|run| (run.count * run.period, std::cmp::Reverse(run.period)))
            .unwrap_or(Run { start, period: 1, count: 1 });
        start += best.period * best.count;
        runs.push(best);
    }
    runs
}

/// How often the first `period` items come one after the other at the front of `items`.
fn repeats<T: PartialEq>(items: &[T], period: usize) -> usize {
    let mut chunks = items.chunks_exact(period);
    let Some(first) = chunks.next() else { return 0 };
    1 + chunks.take_while(|chunk| *chunk == first).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> Vec<(usize, usize)> {
        runs(text.as_bytes()).iter().map(|run| (run.period, run.count)).collect()
    }

    #[test]
    fn recursion_of_one_or_more_functions_is_one_run() {
        assert_eq!(folded("aaaa"), [(1, 4)]);
        assert_eq!(folded("xababab"), [(1, 1), (2, 3)]);
        assert_eq!(folded("abcm"), [(1, 1), (1, 1), (1, 1), (1, 1)]);
        assert_eq!(folded("aabaabaab"), [(3, 3)]);
        assert_eq!(folded(""), []);
    }

    #[test]
    fn runs_cover_the_list_without_gaps() {
        let items: Vec<u32> = (0..200).map(|n: u32| n.wrapping_mul(2_654_435_761) >> 31).collect();
        let mut next = 0;
        for run in runs(&items) {
            assert_eq!(run.start, next);
            next += run.period * run.count;
        }
        assert_eq!(next, items.len());
    }
}
