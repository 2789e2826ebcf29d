//! Which corpus entry is next: any, or by LibAFL's weighted schedule, over a smallest cover of the edges.
//!
//! LibAFL's `MinimizerScheduler` chooses that cover by walking a hash map whose order differs from
//! process to process, never takes the mark off an entry that lost its place, walks it before every
//! entry, and compares whole milliseconds, of which our runs have none. So its bookkeeping is used,
//! and the choice is made here: in order of edges, when the corpus changed.

use std::num::NonZero;

use libafl::corpus::{Corpus, CorpusId, Testcase};
use libafl::feedbacks::MapIndexesMetadata;
use libafl::inputs::BytesInput;
use libafl::observers::CanTrack;
use libafl::schedulers::minimizer::{DEFAULT_SKIP_NON_FAVORED_PROB, IsFavoredMetadata, TopRatedsMetadata};
use libafl::schedulers::powersched::PowerSchedule;
use libafl::schedulers::testcase_score::CorpusWeightTestcaseScore;
use libafl::schedulers::{MinimizerScheduler, Scheduler, TestcasePenalty, TestcaseScore, WeightedScheduler};
use libafl::state::{HasCorpus, HasRand};
use libafl::{Error, HasMetadata};
use libafl_bolts::HasLen;
use libafl_bolts::rands::Rand;
use libafl_bolts::tuples::MatchName;

use crate::campaign::State;
use crate::observer::{Edges, Map};
use crate::stage::calibrate::UnstableEdges;
use crate::strategy::{Mechanism, Strategy};

/// Prefers short inputs that take little: among those that cover an edge, the one with the
/// smallest product stands for it.
#[derive(Debug)]
pub(crate) struct LengthTimesEffort;

impl TestcasePenalty<BytesInput, State> for LengthTimesEffort {
    fn compute(_state: &State, entry: &mut Testcase<BytesInput>) -> Result<f64, Error> {
        let bytes = entry.input().as_ref().map_or(0, HasLen::len).max(1);
        let effort = entry.exec_time().map_or(1, |time| time.as_nanos().max(1));
        Ok(bytes as f64 * effort as f64)
    }
}

/// AFL's weight, with its divisions by zero taken out.
#[derive(Debug)]
pub(crate) struct Weight;

impl TestcaseScore<BytesInput, State> for Weight {
    fn compute(state: &State, entry: &mut Testcase<BytesInput>) -> Result<f64, Error> {
        // Nothing covers anything yet: LibAFL would divide by the number of covered edges.
        if state.metadata::<TopRatedsMetadata>().is_ok_and(|top| top.map().is_empty()) {
            return Ok(1.0);
        }
        CorpusWeightTestcaseScore::compute(state, entry)
    }
}

type Weighted = WeightedScheduler<Edges, Weight, Map>;

/// The scheduler of a campaign.
#[derive(Debug)]
pub(crate) struct CoverScheduler {
    minimizer: MinimizerScheduler<Weighted, LengthTimesEffort, BytesInput, MapIndexesMetadata, Edges>,
    strategy: Strategy,
    // The corpus changed since the cover was chosen.
    stale: bool,
}

impl CoverScheduler {
    /// A scheduler over the map that `edges` observes. Without weights, every entry is as likely as any
    /// other; without a cover, none is passed over.
    pub(crate) fn new(state: &mut State, edges: &Edges, strategy: Strategy) -> Self {
        const { assert!(Edges::INDICES) };
        let weighted = WeightedScheduler::with_schedule(state, edges, Some(PowerSchedule::fast()));
        Self { minimizer: MinimizerScheduler::new(edges, weighted), strategy, stale: true }
    }

    /// Marks a small set of entries that covers every edge, in order of edges.
    fn choose_cover(state: &State) -> Result<(), Error> {
        for id in state.corpus().ids() {
            _ = state.corpus().get(id)?.borrow_mut().metadata_map_mut().remove::<IsFavoredMetadata>();
        }
        let Ok(top) = state.metadata::<TopRatedsMetadata>() else { return Ok(()) };
        let mut best: Vec<(usize, CorpusId)> = top.map().iter().map(|(&edge, &id)| (edge, id)).collect();
        // An edge that comes and goes is no reason to prefer an entry.
        if let Ok(unstable) = state.metadata::<UnstableEdges>() {
            best.retain(|&(edge, _)| !unstable.contains(edge));
        }
        best.sort_unstable_by_key(|&(edge, _)| edge);
        let mut covered = vec![false; best.last().map_or(0, |&(edge, _)| edge + 1)];
        for (edge, id) in best {
            if covered[edge] {
                continue;
            }
            let mut entry = state.corpus().get(id)?.borrow_mut();
            for &index in &entry.metadata::<MapIndexesMetadata>()?.list {
                if let Some(edge) = covered.get_mut(index) {
                    *edge = true;
                }
            }
            entry.add_metadata(IsFavoredMetadata {});
        }
        Ok(())
    }
}

impl Scheduler<BytesInput, State> for CoverScheduler {
    fn on_add(&mut self, state: &mut State, id: CorpusId) -> Result<(), Error> {
        self.stale = true;
        self.minimizer.on_add(state, id)
    }

    fn on_evaluation<OT: MatchName>(
        &mut self,
        state: &mut State,
        input: &BytesInput,
        observers: &OT,
    ) -> Result<(), Error> {
        self.minimizer.on_evaluation(state, input, observers)
    }

    fn next(&mut self, state: &mut State) -> Result<CorpusId, Error> {
        if self.stale {
            Self::choose_cover(state)?;
            self.stale = false;
        }
        loop {
            let id = if self.strategy.has(Mechanism::Weights) {
                self.minimizer.base_mut().next(state)?
            } else {
                let Some(count) = NonZero::new(state.corpus().count()) else {
                    return Err(Error::empty("there is no entry to choose"));
                };
                let nth = state.rand_mut().below(count);
                let id = state.corpus().nth(nth);
                self.minimizer.base_mut().set_current_scheduled(state, Some(id))?;
                id
            };
            if !self.strategy.has(Mechanism::Cover) {
                return Ok(id);
            }
            let favored = state.corpus().get(id)?.borrow().has_metadata::<IsFavoredMetadata>();
            if favored || !state.rand_mut().coinflip(DEFAULT_SKIP_NON_FAVORED_PROB) {
                return Ok(id);
            }
        }
    }

    fn set_current_scheduled(&mut self, _: &mut State, _: Option<CorpusId>) -> Result<(), Error> {
        // The weighted scheduler inside does it.
        Ok(())
    }
}
