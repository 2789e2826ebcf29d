//! The hot set learns what most runs dirty, forgets it when the campaign moves on, and is never
//! wrong.

use unifork_abi::ARENA_VA;
use unifork_vmm::testing::snapshot_then;
use unifork_vmm::{Engine, MachineConfig, Outcome, Replica};

use crate::common::{DEADLINE, fork, frozen_image, kvm, small};
use crate::interpreter::{self, Op, Program};

/// An input whose run dirties `pages` pages from page `first` of the arena on. It writes the low byte of
/// a count, so that every 256th of them is written but does not change.
fn dirty(first: u64, pages: u64) -> Vec<u8> {
    Program::new(&[(Op::Scatter, [ARENA_VA + first * 4096, 4096, pages])]).bytes()
}

/// Runs `input`, puts it back and checks that; returns pages copied, and those of them that were cold.
fn round(fork: &mut Replica, input: &[u8], changed: usize) -> (usize, usize) {
    assert!(matches!(fork.run(input, DEADLINE).unwrap(), Outcome::Done { .. }));
    assert_eq!(fork.differing_pages().len(), changed);
    let stats = fork.reset().unwrap();
    assert!(fork.differing_pages().is_empty());
    (stats.pages, stats.cold)
}

#[test]
fn a_page_that_is_dirtied_again_becomes_hot_and_is_no_longer_missed() {
    let mut fork = fork(interpreter::code(), Engine::HotSet);
    if !kvm().caps().manual_dirty_log {
        return; // Pages cannot stay writable on this host, so none is hot.
    }
    assert_eq!(round(&mut fork, &dirty(0, 5), 5), (5, 5), "the first time is cold");
    assert_eq!(round(&mut fork, &dirty(0, 5), 5), (5, 5), "the second time they join");
    let before = fork.hot_stats();
    assert_eq!((before.pages, before.hits, before.misses), (5, 0, 2));
    for _ in 0..10 {
        assert_eq!(round(&mut fork, &dirty(0, 5), 5), (5, 0), "then they are copied unasked");
    }
    assert_eq!(round(&mut fork, &dirty(0, 3), 3), (5, 0), "all of them, even those that were not written");
    assert_eq!(round(&mut fork, &dirty(3, 4), 4), (7, 2), "a cold page is found beside hot ones");
    let after = fork.hot_stats();
    assert_eq!((after.pages, after.hits, after.misses), (5, 11, 3));
}

#[test]
fn the_set_is_learned_anew_when_an_epoch_is_over() {
    let mut fork = fork(interpreter::code(), Engine::HotSet);
    if !kvm().caps().manual_dirty_log {
        return;
    }
    for _ in 0..3 {
        round(&mut fork, &dirty(0, 8), 8);
    }
    assert_eq!(fork.hot_stats().pages, 8);
    let mut resets = 0;
    while fork.hot_stats().pages == 8 {
        fork.reset().unwrap();
        resets += 1;
        assert!(resets < 100_000, "the set never changes");
    }
    assert_eq!(fork.hot_stats().pages, 0);
    // The old pages are tracked again: one of them written now is found, and so are new ones.
    assert_eq!(round(&mut fork, &dirty(4, 8), 8), (8, 8));
    assert_eq!(round(&mut fork, &dirty(4, 8), 8), (8, 8));
    assert_eq!(round(&mut fork, &dirty(4, 8), 8), (8, 0));
    assert_eq!(fork.hot_stats().pages, 8);
}

#[test]
fn one_odd_run_does_not_burden_those_that_follow() {
    let config = MachineConfig { memory_bytes: 16 << 20, ..small() };
    let snapshot = frozen_image(&snapshot_then(interpreter::code()), &config);
    let mut fork = Replica::spawn(&kvm(), &snapshot, Engine::HotSet).unwrap();
    for _ in 0..3 {
        round(&mut fork, &dirty(0, 4), 4);
    }
    round(&mut fork, &dirty(100, 2000), 2000 - 2000 / 256);
    for _ in 0..3 {
        assert_eq!(round(&mut fork, &dirty(0, 4), 4).0, 4);
    }
}

/// More pages than the dirty ring has entries, and more than the hot set may have.
#[test]
fn a_run_that_dirties_most_of_memory_is_put_back_by_every_engine() {
    let config = MachineConfig { memory_bytes: 32 << 20, ..small() };
    let snapshot = frozen_image(&snapshot_then(interpreter::code()), &config);
    for engine in Engine::ALL {
        let mut fork = Replica::spawn(&kvm(), &snapshot, engine).unwrap();
        for _ in 0..3 {
            round(&mut fork, &dirty(0, 7000), 7000 - 7000 / 256);
        }
        round(&mut fork, &dirty(6000, 100), 100);
    }
}

/// Software KVM emulates code whose stack pointer is not canonical, from its next exit on, and does not
/// look at the dirty ring while it does. Pages were lost, in that run and silently in all later ones.
#[test]
fn a_guest_that_overruns_the_dirty_ring_is_put_back_or_refused() {
    let bad_stack = (Op::Registers, [0, 1 << 63, 0]);
    let fill = |at: u64, bytes: u64| (Op::Fill, [at, 0x55, bytes]);
    let fills = (1..10).map(|i| fill(ARENA_VA + i * 8192, 8000));
    let ops: Vec<_> = [bad_stack, fill(ARENA_VA, 8)].into_iter().chain(fills).collect();
    let program = Program::new(&ops).bytes();
    for engine in Engine::ALL {
        let mut fork = fork(interpreter::code(), engine);
        for _ in 0..3 {
            fork.run(&program, DEADLINE).unwrap();
            if fork.reset().is_err() {
                assert_eq!(engine, Engine::DirtyRing, "the others cannot overrun");
                assert!(fork.reset().is_err() && fork.run(&program, DEADLINE).is_err(), "for ever");
                break;
            }
            assert_eq!(fork.differing_pages(), [0; 0], "{engine}");
            round(&mut fork, &dirty(0, 5), 5);
        }
    }
}
