//! The check of reset notices mistakes: planted ones, in each engine that tracks.

use unifork_vmm::Engine;
use unifork_vmm::reset::Mutation;

use crate::equivalence::{Forks, seed};

/// Rounds within which a mistake must be noticed: the check's own number. Most are within 30, and the search ends
/// with the first; the programs are random, so a smaller number would be missed once in a while.
const ROUNDS: u64 = 2000;

/// The round in which the check fails on a fork with this mistake.
fn noticed(engine: Engine, mutation: Mutation) -> Option<u64> {
    let mut forks = Forks::new(&[engine]);
    forks.checked().plant(mutation);
    let base = seed();
    (0..ROUNDS).find(|round| forks.round(base.wrapping_add(*round)).is_err())
}

fn all_are_noticed(engine: Engine, mutations: &[Mutation]) {
    for &mutation in mutations {
        let round = noticed(engine, mutation);
        println!("{engine}: {mutation:?} noticed in round {round:?}");
        assert!(round.is_some(), "{engine}: {mutation:?} went unnoticed for {ROUNDS} rounds");
    }
}

const OF_ALL: [Mutation; 6] = [
    Mutation::SkipPage,
    Mutation::ForgetHostWrites,
    Mutation::KeepXsave,
    Mutation::KeepBases,
    Mutation::KeepEvents,
    Mutation::KeepDebug,
];

#[test]
fn mistakes_planted_in_the_dirty_log_engine_are_noticed() {
    all_are_noticed(Engine::DirtyLog, &OF_ALL);
}

#[test]
fn mistakes_planted_in_the_dirty_ring_engine_are_noticed() {
    all_are_noticed(Engine::DirtyRing, &OF_ALL);
}

#[test]
fn mistakes_planted_in_the_hot_set_engine_are_noticed() {
    all_are_noticed(Engine::HotSet, &OF_ALL);
    all_are_noticed(Engine::HotSet, &[Mutation::SkipHotPage]);
}
