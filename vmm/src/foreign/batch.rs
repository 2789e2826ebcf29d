//! Inputs one behind the other, by the interface that our own guest's batches have ([`crate::replica`]).

use unifork_abi::Filter;

use super::replica::{Fork, ForkError};
use crate::outcome::Outcome;
use crate::replica::{BatchEnd, BatchReport, BatchRun, BatchTime};
use crate::reset::ResetStats;

impl Fork {
    /// Runs the first of `inputs`, for less than its deadline, and puts the fork back. `runs` has it if it
    /// returned normally; its coverage is in [`Self::counters`].
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_batch<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        _filter: Filter,
        runs: &mut Vec<BatchRun>,
    ) -> Result<BatchReport, ForkError> {
        let (taken, end) = self.go_through(inputs, time, runs)?;
        let reset = if taken > 0 { self.reset()? } else { ResetStats::default() };
        Ok(BatchReport { taken, end, reset })
    }

    /// The same; also returns the pages that differ from the frozen machine's before it is put back.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_batch_and_look<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        runs: &mut Vec<BatchRun>,
    ) -> Result<(BatchReport, Vec<u64>), ForkError> {
        let (taken, end) = self.go_through(inputs, time, runs)?;
        let pages = self.differing_pages();
        let reset = if taken > 0 { self.reset()? } else { ResetStats::default() };
        Ok((BatchReport { taken, end, reset }, pages))
    }

    fn go_through<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        runs: &mut Vec<BatchRun>,
    ) -> Result<(usize, BatchEnd), ForkError> {
        runs.clear();
        let Some(input) = inputs.into_iter().next() else { return Ok((0, BatchEnd::Complete)) };
        Ok(match self.run(input, time.deadline)? {
            Outcome::Done { code } => {
                runs.push(BatchRun { code, slot: None });
                (1, BatchEnd::Complete)
            }
            outcome => (1, BatchEnd::Stopped { at: 0, outcome: Box::new(outcome) }),
        })
    }
}
