//! Calibration: runs a new entry again, to see what of its coverage repeats and what a run costs.
//!
//! LibAFL's stage times runs with the wall clock, which a seeded campaign must not, and fails the
//! campaign over an entry that covers no edge. This one keeps the same books
//! (`SchedulerMetadata`, `SchedulerTestcaseMetadata`), which the power schedule reads. A fork that
//! is put back exactly repeats exactly, so two more runs are enough until one differs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use libafl::corpus::SchedulerTestcaseMetadata;
use libafl::executors::{Executor, ExitKind, HasObservers};
use libafl::feedbacks::MapFeedbackMetadata;
use libafl::inputs::BytesInput;
use libafl::observers::ObserversTuple;
use libafl::schedulers::powersched::SchedulerMetadata;
use libafl::stages::{Restartable, Stage};
use libafl::state::HasCurrentTestcase;
use libafl::{Error, HasMetadata, HasNamedMetadata};
use serde::{Deserialize, Serialize};

use crate::campaign::State;
use crate::clock::Clock;
use crate::edges;
use crate::fork::Frozen;
use crate::observer::{Observers, SharedRun, edge_counts};
use crate::output::{self, OutputError};

/// Runs of an entry whose runs agree.
const ROUNDS: u32 = 3;
/// Runs of an entry whose runs differ; more of them find more of its unstable edges.
const ROUNDS_UNSTABLE: u32 = 9;

/// The edges whose hit counts differed between two runs of one input.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct UnstableEdges {
    indices: BTreeSet<usize>,
}

libafl_bolts::impl_serdeany!(UnstableEdges);

/// The share of covered edges that is stable, of one.
pub(crate) fn stability(state: &State, covered: usize) -> f64 {
    let unstable = unstable_count(state);
    if covered == 0 { 1.0 } else { covered.saturating_sub(unstable) as f64 / covered as f64 }
}

impl UnstableEdges {
    /// Whether an edge is one.
    pub(crate) fn contains(&self, edge: usize) -> bool {
        self.indices.contains(&edge)
    }
}

/// How many edges are unstable.
pub(crate) fn unstable_count(state: &State) -> usize {
    state.metadata::<UnstableEdges>().map_or(0, |unstable| unstable.indices.len())
}

/// The unstable edges, in order.
pub(crate) fn unstable(state: &State) -> Vec<usize> {
    state
        .metadata::<UnstableEdges>()
        .map_or_else(|_| Vec::new(), |unstable| unstable.indices.iter().copied().collect())
}

/// Keeps the list of unstable edges in the campaign's folder.
#[derive(Debug)]
pub(crate) struct UnstableList {
    pub(crate) frozen: Frozen,
    pub(crate) path: PathBuf,
}

impl UnstableList {
    fn write(&self, state: &State) -> Result<(), OutputError> {
        let mut text = String::from(
            "# Edges whose count differed between two runs of one input, and where they are. They count as new\n\
             # no more. See docs/determinism.md.\n",
        );
        for edge in edges::find(&self.frozen, unstable(state)) {
            let _ = writeln!(text, "edge {} {}", edge.edge, edge.place());
        }
        output::write_whole(&self.path, text.as_bytes())
    }
}

/// The stage.
#[derive(Debug)]
pub(crate) struct Calibrate {
    clock: Clock,
    last: SharedRun,
    list: UnstableList,
}

impl Calibrate {
    /// A stage that measures with `clock` and writes what is not stable to `list`.
    pub(crate) fn new(clock: Clock, last: SharedRun, list: UnstableList) -> Self {
        Self { clock, last, list }
    }
}

impl<E, EM, Z> Stage<E, EM, State, Z> for Calibrate
where
    E: Executor<EM, BytesInput, State, Z> + HasObservers<Observers = Observers>,
{
    fn perform(
        &mut self,
        fuzzer: &mut Z,
        executor: &mut E,
        state: &mut State,
        manager: &mut EM,
    ) -> Result<(), Error> {
        if state.current_testcase()?.scheduled_count() > 0 {
            return Ok(());
        }
        let input = state.current_input_cloned()?;
        let (mut rounds, mut round) = (ROUNDS, 0);
        let mut effort = std::time::Duration::ZERO;
        let mut first: Option<Vec<u8>> = None;
        let mut unstable: Vec<usize> = Vec::new();
        while round < rounds {
            executor.observers_mut().pre_exec_all(state, &input)?;
            self.last.count_all.set(true);
            let exit = executor.run_target(fuzzer, state, manager, &input);
            self.last.count_all.set(false);
            let exit = exit?;
            executor.observers_mut().post_exec_all(state, &input, &exit)?;
            round += 1;
            let observers = executor.observers();
            let counts = edge_counts(&observers);
            effort += self.clock.effort(self.last.elapsed.get(), counts);
            match &first {
                None => first = Some(counts.to_vec()),
                // A timeout stops where it stops; that says nothing about the edges.
                Some(_) if exit == ExitKind::Timeout => {}
                Some(first) => {
                    unstable.extend(differences(first, counts));
                    if !unstable.is_empty() {
                        rounds = ROUNDS_UNSTABLE;
                    }
                }
            }
        }
        if !unstable.is_empty() {
            ignore_from_now_on(state, &unstable)?;
            let known = &mut state.metadata_or_insert_with(UnstableEdges::default).indices;
            let before = known.len();
            known.extend(unstable);
            if known.len() > before {
                self.list.write(state).map_err(|error| self.last.stop_with(error))?;
            }
        }
        let covered = first.map_or(0, |counts| counts.iter().filter(|&&count| count != 0).count());
        keep_books(state, effort, rounds, covered.max(1) as u64)
    }
}

impl Restartable<State> for Calibrate {
    fn should_restart(&mut self, _: &mut State) -> Result<bool, Error> {
        Ok(true)
    }
    fn clear_progress(&mut self, _: &mut State) -> Result<(), Error> {
        Ok(())
    }
}

fn differences<'a>(one: &'a [u8], other: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    one.iter().zip(other).enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| index)
}

/// Sets the history of unstable edges to the maximum, so that they are never new again.
fn ignore_from_now_on(state: &mut State, unstable: &[usize]) -> Result<(), Error> {
    let history = state.named_metadata_mut::<MapFeedbackMetadata<u8>>("edges")?;
    for &index in unstable {
        if let Some(seen) = history.history_map.get_mut(index) {
            history.num_covered_map_indexes += usize::from(*seen == 0);
            *seen = u8::MAX;
        }
    }
    Ok(())
}

/// Tells the power schedule what the entry costs and covers.
fn keep_books(
    state: &mut State,
    effort: std::time::Duration,
    rounds: u32,
    covered: u64,
) -> Result<(), Error> {
    let books = state.metadata_mut::<SchedulerMetadata>()?;
    let handicap = books.queue_cycles();
    books.set_exec_time(books.exec_time() + effort);
    books.set_cycles(books.cycles() + u64::from(rounds));
    books.set_bitmap_size(books.bitmap_size() + covered);
    books.set_bitmap_size_log(books.bitmap_size_log() + (covered as f64).log2());
    books.set_bitmap_entries(books.bitmap_entries() + 1);
    let mut entry = state.current_testcase_mut()?;
    entry.set_exec_time(effort / rounds);
    let own = entry.metadata_mut::<SchedulerTestcaseMetadata>()?;
    own.set_cycle_and_time((effort, rounds as usize));
    own.set_bitmap_size(covered);
    own.set_handicap(handicap);
    Ok(())
}
