//! What is seen of a run: the two coverage maps, and the facts beside them.
//!
//! The maps lie in the fork's own counters: with our own guest the windows that it counts in, so nothing is
//! copied. They begin each run at zero, and LibAFL buckets the hit counts in place after it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use libafl::Error;
use libafl::executors::ExitKind;
use libafl::observers::map::ExplicitTracking;
use libafl::observers::{CanTrack, HitcountsMapObserver, StdMapObserver};
use libafl_bolts::tuples::{tuple_list, tuple_list_type};
use unifork_vmm::Space;

use crate::campaign::CampaignError;
use crate::fork::Fork;

/// Hit counts, bucketed.
pub(crate) type Map = HitcountsMapObserver<StdMapObserver<'static, u8, false>>;
/// The application's, with the indices of each testcase kept for the scheduler.
pub(crate) type Edges = ExplicitTracking<Map, true, false>;
/// All observers: application, libOS.
pub(crate) type Observers = tuple_list_type!(Edges, Map);

/// Observes the counters of `replica`. The observers must not outlive it.
pub(crate) fn observe(replica: &mut Fork) -> Observers {
    let mut map = |name: &'static str, space| {
        let (start, bytes) = replica.counters_ptr(space);
        if bytes == 0 {
            // A map of no entries is not a slice LibAFL takes; this one stays zero.
            return HitcountsMapObserver::new(StdMapObserver::owned(name, vec![0; 2]));
        }
        // SAFETY:
        // 1. `start` is readable and writable for `bytes` and stays mapped there for the replica's
        //    life; the executor, the only owner of both, drops the observers first.
        // 2. The guest writes it only inside `Replica::run`, during which no observer is used.
        HitcountsMapObserver::new(unsafe { StdMapObserver::from_mut_ptr(name, start, bytes) })
    };
    let edges = map("edges", Space::Application).track_indices();
    let kernel = map("kernel", Space::Kernel);
    tuple_list!(edges, kernel)
}

/// The application's counters after the last run, bucketed.
pub(crate) fn edge_counts(observers: &Observers) -> &[u8] {
    let map: &Map = observers.0.as_ref();
    map
}

/// The libOS's counters after the last run, bucketed.
pub(crate) fn kernel_counts(observers: &Observers) -> &[u8] {
    &observers.1.0
}

/// What the last run did beside its counters: written by the executor, read by feedbacks and
/// stages.
#[derive(Debug, Default)]
pub(crate) struct LastRun {
    /// How long it took.
    pub(crate) elapsed: Cell<Duration>,
    /// How it ended.
    pub(crate) exit: Cell<Option<ExitKind>>,
    /// The harness returned -1: not to be kept in the corpus, whatever it covers.
    pub(crate) rejected: Cell<bool>,
    /// It ended in a finding that was not known and is now kept.
    pub(crate) found: Cell<bool>,
    /// What a stage asks for: all coverage, also where counting costs and only news would be looked for.
    pub(crate) count_all: Cell<bool>,
    /// What stops the campaign, where it is more than LibAFL's error can carry.
    fault: RefCell<Option<CampaignError>>,
}

impl LastRun {
    /// Keeps `fault` for the campaign, and gives LibAFL the error that stops everything.
    pub(crate) fn stop_with(&self, fault: impl Into<CampaignError>) -> Error {
        *self.fault.borrow_mut() = Some(fault.into());
        Error::shutting_down()
    }

    /// What stopped the campaign, if something did.
    pub(crate) fn take_fault(&self) -> Option<CampaignError> {
        self.fault.borrow_mut().take()
    }
}

/// Shared by the executor and those who judge its runs.
pub(crate) type SharedRun = Rc<LastRun>;
