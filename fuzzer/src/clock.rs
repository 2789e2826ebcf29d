//! What a run cost, in a measure that scheduling may use.
//!
//! With `--seed` a campaign has to be the same each time, so no decision may depend on the host's
//! clock; runs are then measured by what they covered.

use std::time::Duration;

/// Which measure a campaign uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Time between the start and the end of a run.
    Wall,
    /// The sum of the bucketed hit counts, as nanoseconds: grows with the work done, and is the
    /// same each time.
    Logical,
}

impl Clock {
    /// The cost of the run that took `elapsed` and left `counters`. Never zero: schedules divide by it.
    pub(crate) fn effort(self, elapsed: Duration, counters: &[u8]) -> Duration {
        match self {
            Self::Wall => elapsed.max(Duration::from_nanos(1)),
            Self::Logical => {
                Duration::from_nanos(1 + counters.iter().map(|&count| u64::from(count)).sum::<u64>())
            }
        }
    }
}
