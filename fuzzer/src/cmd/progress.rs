//! How far a command is, on stderr: a line a second, while there is something to say.

use std::time::{Duration, Instant};

/// Between two lines.
const PERIOD: Duration = Duration::from_secs(1);

/// When the command began, and when it last said something.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    last: Instant,
}

impl Progress {
    /// Begins now; a command that takes less than a second says nothing.
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self { start: now, last: now }
    }

    /// Whether it is time for a line; if so, the next is due a second from now.
    pub(crate) fn due(&mut self) -> bool {
        let due = self.last.elapsed() >= PERIOD;
        if due {
            self.last = Instant::now();
        }
        due
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
