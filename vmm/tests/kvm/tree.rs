//! Snapshot trees: what a node holds, what it costs, and how a replica goes from one to another.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_abi::{ARENA_VA, Hypercall, INPUT_RING_VA};
use unifork_vmm::introspect::ReadMemory as _;
use unifork_vmm::testing::{DONE, call};
use unifork_vmm::tree::ROOT;
use unifork_vmm::{Advance, Engine, NodeId, Outcome, Replica, SnapshotTree, TreeError};

use crate::common::{DEADLINE, frozen, kvm};

/// Takes a byte of the input ring; 0xff ends the run, any other adds 1 to the first byte of that
/// page of the arena, and asks for a snapshot.
fn counter_guest() -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend_from_slice(&INPUT_RING_VA.to_le_bytes()); //  mov rax, INPUT_RING_VA
    code.extend_from_slice(&[0x0f, 0xb6, 0x10]); //           movzx edx, byte [rax]
    code.extend_from_slice(&[0x80, 0xfa, 0xff]); //           cmp dl, 0xff
    let jump_at = code.len();
    code.extend_from_slice(&[0x74, 0]); //                    je done
    code.extend_from_slice(&[0xc1, 0xe2, 12]); //             shl edx, 12
    code.extend_from_slice(&[0x48, 0xbb]);
    code.extend_from_slice(&ARENA_VA.to_le_bytes()); //       mov rbx, ARENA_VA
    code.extend_from_slice(&[0xfe, 0x04, 0x13]); //           inc byte [rbx + rdx]
    code.extend_from_slice(&call(Hypercall::Snapshot));
    let back = -i8::try_from(code.len() + 2).unwrap();
    code.extend_from_slice(&[0xeb, back.cast_unsigned()]); // jmp start
    code[jump_at + 1] = u8::try_from(code.len() - jump_at - 2).unwrap();
    code.extend_from_slice(&DONE);
    code
}

/// The slow, obvious model: which byte each page of the arena begins with.
type Model = BTreeMap<u8, u8>;

fn step(replica: &mut Replica, page: u8) {
    assert_eq!(replica.begin(&[page], DEADLINE).unwrap(), Advance::Checkpoint);
}

fn assert_is(replica: &Replica, model: &Model, what: &str) {
    for page in 0..200u8 {
        let mut byte = [0];
        assert!(replica.read(ARENA_VA + u64::from(page) * 4096, &mut byte));
        assert_eq!(byte[0], model.get(&page).copied().unwrap_or(0), "{what}: page {page}");
    }
}

#[test]
fn a_replica_is_at_every_node_what_it_was_when_the_node_was_taken() {
    let snapshot = frozen(&counter_guest());
    for (i, engine) in Engine::ALL.into_iter().enumerate() {
        let rounds = if engine == Engine::CopyAll { 60 } else { 400 };
        let seed = 0x5eed + i as u64;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut tree = SnapshotTree::new(snapshot.clone(), u64::MAX);
        let mut replica = Replica::spawn(&kvm(), &snapshot, engine).unwrap();
        let mut models: Vec<(NodeId, Model)> = vec![(ROOT, Model::new())];
        for round in 0..rounds {
            let what = format!("{engine}, seed {seed:#x}, round {round}");
            let (node, mut model) = models[rng.random_range(0..models.len())].clone();
            tree.go(&mut replica, node).unwrap();
            assert_is(&replica, &model, &what);
            for _ in 0..rng.random_range(1..4) {
                let page = rng.random_range(0..200);
                step(&mut replica, page);
                *model.entry(page).or_default() += 1;
                if rng.random_range(0..4) > 0 && model.values().all(|&n| n < 200) {
                    // The next step must begin at the new node: only a reset or `go` says so.
                    break;
                }
                replica.reset().unwrap();
                model.clone_from(&models.iter().find(|(id, _)| *id == node).unwrap().1);
                assert_is(&replica, &model, &what);
            }
            if rng.random_range(0..3) > 0 {
                let before = model.clone();
                let id = tree.take(&mut replica, node).unwrap();
                assert_is(&replica, &before, &what);
                models.push((id, before));
            }
        }
        tree.go(&mut replica, ROOT).unwrap();
        assert_eq!(replica.differing_pages(), Vec::<u64>::new());
        assert_eq!(replica.run(&[0xff], DEADLINE).unwrap(), Outcome::Done { code: 0 });
    }
}

/// What a node takes besides pages: a vCPU, and the windows as far as they are in use.
fn fixed_bytes() -> u64 {
    let snapshot = frozen(&counter_guest());
    let mut tree = SnapshotTree::new(snapshot.clone(), u64::MAX);
    let mut replica = Replica::spawn(&kvm(), &snapshot, Engine::CopyAll).unwrap();
    step(&mut replica, 0);
    let node = tree.take(&mut replica, ROOT).unwrap();
    let bytes = tree.own_bytes(node).unwrap() - 4096;
    assert!(bytes < 24 << 10, "{bytes}");
    bytes
}

#[test]
fn a_node_costs_the_pages_that_its_parent_does_not_have() {
    let snapshot = frozen(&counter_guest());
    let mut tree = SnapshotTree::new(snapshot.clone(), u64::MAX);
    let mut replica = Replica::spawn(&kvm(), &snapshot, Engine::HotSet).unwrap();
    step(&mut replica, 7);
    let a = tree.take(&mut replica, ROOT).unwrap();
    let own = |tree: &SnapshotTree, node| tree.own_bytes(node).unwrap() - fixed_bytes();
    assert_eq!((own(&tree, a), tree.depth(a)), (4096, Some(1)));
    step(&mut replica, 9);
    let b = tree.take(&mut replica, a).unwrap();
    assert_eq!((own(&tree, b), tree.depth(b)), (4096, Some(2)), "page 7 is its parent's");
    tree.go(&mut replica, a).unwrap();
    step(&mut replica, 7);
    let c = tree.take(&mut replica, a).unwrap();
    assert_eq!(own(&tree, c), 4096, "its own version of page 7");
    assert_eq!(tree.bytes(), 3 * (4096 + fixed_bytes()));
    assert_eq!((tree.common_ancestor(b, c), tree.common_ancestor(a, ROOT)), (a, ROOT));
    let went = tree.go(&mut replica, b).unwrap();
    assert!(went.pages <= 6, "from c to b two pages differ, and one was hot: {went:?}");
}

#[test]
fn the_least_recently_used_node_goes_when_the_tree_is_full() {
    let snapshot = frozen(&counter_guest());
    let one = 4096 + fixed_bytes();
    let mut tree = SnapshotTree::new(snapshot.clone(), 3 * one);
    let mut replica = Replica::spawn(&kvm(), &snapshot, Engine::DirtyLog).unwrap();
    let mut nodes = Vec::new();
    for page in 0..3 {
        tree.go(&mut replica, ROOT).unwrap();
        step(&mut replica, page);
        nodes.push(tree.take(&mut replica, ROOT).unwrap());
    }
    tree.go(&mut replica, nodes[0]).unwrap();
    tree.go(&mut replica, ROOT).unwrap();
    step(&mut replica, 50);
    tree.take(&mut replica, ROOT).unwrap();
    assert!(matches!(tree.go(&mut replica, nodes[1]), Err(TreeError::Evicted(_))));
    tree.go(&mut replica, nodes[0]).unwrap();
    assert_is(&replica, &Model::from([(0, 1)]), "used just before");
    assert_eq!((tree.len(), tree.bytes()), (3, 3 * one));
}

#[test]
fn a_child_outlives_its_parent_and_another_roots_replica_is_refused() {
    let snapshot = frozen(&counter_guest());
    let mut tree = SnapshotTree::new(snapshot.clone(), u64::MAX);
    let mut replica = Replica::spawn(&kvm(), &snapshot, Engine::HotSet).unwrap();
    step(&mut replica, 1);
    let parent = tree.take(&mut replica, ROOT).unwrap();
    step(&mut replica, 2);
    let child = tree.take(&mut replica, parent).unwrap();
    let fixed = tree.own_bytes(child).unwrap() - 4096;
    assert_eq!(tree.bytes(), 2 * 4096 + 2 * fixed);
    tree.evict(parent);
    assert_eq!(tree.bytes(), 2 * 4096 + fixed, "the child has both pages");
    tree.go(&mut replica, ROOT).unwrap();
    tree.go(&mut replica, child).unwrap();
    assert_is(&replica, &Model::from([(1, 1), (2, 1)]), "the child has its parent's pages");
    let other = frozen(&counter_guest());
    let mut stranger = Replica::spawn(&kvm(), &other, Engine::HotSet).unwrap();
    assert!(matches!(tree.go(&mut stranger, child), Err(TreeError::OtherRoot)));
}

#[test]
fn a_chain_longer_than_the_limit_keeps_its_latest_and_no_more_bytes_than_it_may() {
    let snapshot = frozen(&counter_guest());
    let fixed = fixed_bytes();
    let max = 4 * 4096 + 2 * fixed;
    let mut tree = SnapshotTree::new(snapshot.clone(), max);
    let mut replica = Replica::spawn(&kvm(), &snapshot, Engine::HotSet).unwrap();
    let mut at = ROOT;
    // Each node inherits all that its ancestors changed: a chain of two of them fits.
    for page in 0..4 {
        step(&mut replica, page);
        at = tree.take(&mut replica, at).unwrap();
        let kept = (u64::from(page) + 1).min(2);
        assert_eq!((tree.len() as u64, tree.bytes()), (kept, (u64::from(page) + 1) * 4096 + kept * fixed));
    }
    // A node that cannot fit even alone is refused, and costs nothing.
    let mut last = tree.len();
    for page in 4.. {
        step(&mut replica, page);
        match tree.take(&mut replica, at) {
            Ok(node) => at = node,
            Err(error) => {
                assert!(
                    matches!(error, TreeError::TooLarge { bytes, max: limit } if bytes > max && limit == max)
                );
                break;
            }
        }
        assert!(tree.bytes() <= max);
        last = tree.len();
    }
    assert_eq!(tree.len(), last);
    // Elsewhere there is room, once those who have all the pages are gone.
    tree.go(&mut replica, ROOT).unwrap();
    step(&mut replica, 99);
    let other = tree.take(&mut replica, ROOT).unwrap();
    assert_eq!((tree.len(), tree.bytes()), (1, 4096 + fixed));
    tree.go(&mut replica, other).unwrap();
    assert_is(&replica, &Model::from([(99, 1)]), "the only one");
}
