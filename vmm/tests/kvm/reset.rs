//! A fork that was put back is the snapshot again, whatever ran in it.

use std::time::Instant;

use unifork_vmm::Engine;

use crate::common::fork;
use crate::equivalence::{Forks, rounds, same_state, seed};
use crate::interpreter;

/// The slow, obviously right engine is the specification: whatever a guest does, every engine
/// must let it run the same way and put the same back.
#[test]
fn every_engine_puts_back_what_copying_everything_does() {
    let started = Instant::now();
    let base = seed();
    let mut forks = Forks::new(&Engine::ALL);
    let rounds = rounds(2000);
    for round in 0..rounds {
        let seed = base.wrapping_add(round);
        forks.round(seed).unwrap_or_else(|e| panic!("round {round}, seed {seed:#x}: {e}"));
    }
    println!("{rounds} rounds in {:?}; {:?}", started.elapsed(), forks.kinds());
    assert!(
        rounds < 1000 || forks.kinds().len() >= 12,
        "the programs are too much alike: {:?}",
        forks.kinds()
    );
}

#[test]
fn a_new_fork_is_the_snapshot() {
    for engine in Engine::ALL {
        let mut fork = fork(interpreter::code(), engine);
        assert!(fork.differing_pages().is_empty());
        let now = fork.vcpu_state().unwrap();
        same_state(fork.snapshot().vcpu(), &now).unwrap_or_else(|e| panic!("{engine}: {e}"));
    }
}
