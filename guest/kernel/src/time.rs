//! Time: deterministic. The clock moves by events, not by the TSC: each look at it takes a
//! microsecond, and when nothing can run it jumps to the next thing that is waited for.

pub(crate) mod clock;
pub(crate) mod posix;
pub(crate) mod sleep;
pub(crate) mod timers;
