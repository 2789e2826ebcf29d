//! The pool: whatever a fork comes from, it is exactly its snapshot.

use std::sync::Arc;

use unifork_abi::ARENA_VA;
use unifork_vmm::introspect::ReadMemory as _;
use unifork_vmm::testing::DONE;
use unifork_vmm::{Engine, Origin, Outcome, Pool, Replica, Snapshot};

use crate::common::{DEADLINE, frozen, kvm};

/// A machine that before its snapshot writes `mark` to the arena, and in each fork adds 1 to it and to
/// 40 pages behind it.
fn marked(mark: u8) -> Arc<Snapshot> {
    let mut code = vec![0x48, 0xbb];
    code.extend_from_slice(&ARENA_VA.to_le_bytes()); //       mov rbx, ARENA_VA
    code.extend_from_slice(&[0xb9, 40, 0, 0, 0]); //          mov ecx, 40
    code.extend_from_slice(&[0x80, 0x03, mark]); //           add byte [rbx], mark
    code.extend_from_slice(&[0x48, 0x81, 0xc3, 0, 16, 0, 0]); // add rbx, 4096
    code.extend_from_slice(&[0xff, 0xc9, 0x75, 0xf2]); //     dec ecx; jnz
    code.extend_from_slice(&DONE);
    frozen(&code)
}

fn assert_runs_like_new(replica: &mut Replica, mark: u8, what: &str) {
    assert_eq!(replica.differing_pages(), Vec::<u64>::new(), "{what}");
    assert_eq!(replica.vcpu_state().unwrap(), *replica.snapshot().vcpu(), "{what}");
    assert_eq!(replica.run(b"", DEADLINE).unwrap(), Outcome::Done { code: 0 }, "{what}");
    for page in 0..40 {
        let mut byte = [0];
        assert!(replica.read(ARENA_VA + page * 4096, &mut byte));
        assert_eq!(byte[0], mark, "{what}: page {page}");
    }
}

#[test]
fn a_fork_is_its_snapshot_wherever_it_comes_from() {
    let kvm = kvm();
    let snapshots = [marked(1), marked(2)];
    for engine in Engine::ALL {
        let mut pool = Pool::new(engine, 2);
        let (mut made, origin) = pool.fork(&kvm, &snapshots[0]).unwrap();
        assert_eq!(origin, Origin::Made);
        for round in 0..20 {
            assert_runs_like_new(&mut made, 1, &format!("{engine}, round {round}"));
            made.reset().unwrap();
        }
        pool.give_back(made).unwrap();
        let (mut kept, origin) = pool.fork(&kvm, &snapshots[0]).unwrap();
        assert_eq!(origin, Origin::Kept);
        assert_runs_like_new(&mut kept, 1, &format!("{engine}, kept"));
        pool.give_back(kept).unwrap();
        for turn in 0..6u8 {
            let which = usize::from((turn + 1) % 2);
            let (mut moved, origin) = pool.fork(&kvm, &snapshots[which]).unwrap();
            assert_eq!(origin, Origin::Retargeted, "{engine}, turn {turn}");
            for _ in 0..3 {
                assert_runs_like_new(&mut moved, which as u8 + 1, &format!("{engine}, turn {turn}"));
                moved.reset().unwrap();
            }
            pool.give_back(moved).unwrap();
        }
    }
}

#[test]
fn a_pool_keeps_no_more_than_it_may_and_forks_live_side_by_side() {
    let kvm = kvm();
    let snapshot = marked(3);
    let mut pool = Pool::new(Engine::HotSet, 4);
    pool.warm(&kvm, &snapshot, 100).unwrap();
    assert_eq!(pool.len(), 4);
    let mut forks: Vec<Replica> = (0..12).map(|_| pool.fork(&kvm, &snapshot).unwrap().0).collect();
    assert!(pool.is_empty());
    for (i, fork) in forks.iter_mut().enumerate() {
        assert_runs_like_new(fork, 3, &format!("fork {i}"));
    }
    for fork in forks {
        pool.give_back(fork).unwrap();
    }
    assert_eq!(pool.len(), 4);
}
