//! Prices of single operations: a round trip into the guest and back, a page dirtied under each
//! engine, a reset after 1 to 1,000 dirty pages, going about in a snapshot tree. `cargo bench --package unifork-vmm`; numbers that
//! are kept go to `docs/benchmarks.md`.

use std::cell::RefCell;
use std::time::Duration;

use divan::Bencher;
use unifork_abi::{ARENA_VA, Hypercall, INPUT_RING_VA};
use unifork_vmm::boot::boot_bare;
use unifork_vmm::testing::{DONE, call, snapshot_then};
use unifork_vmm::tree::ROOT;
use unifork_vmm::{Advance, BootEnd, Engine, Kvm, MachineConfig, NodeId, Outcome, Replica, SnapshotTree};

const DEADLINE: Duration = Duration::from_secs(10);
const PAGES: [u32; 4] = [1, 10, 100, 1000];

fn main() {
    divan::main();
}

/// A fork of a guest that dirties as many pages as the first word of its input says.
fn fork(engine: Engine) -> Replica {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("the benchmarks need KVM: {e}"));
    let mut code = vec![0x48, 0xbe]; // movabs rsi, INPUT_RING_VA
    code.extend_from_slice(&INPUT_RING_VA.to_le_bytes());
    code.extend_from_slice(&[0x8b, 0x0e, 0x48, 0xbf]); // mov ecx, [rsi]; movabs rdi, ARENA_VA
    code.extend_from_slice(&ARENA_VA.to_le_bytes());
    code.extend_from_slice(&[
        0xe3, 0x0e, //                               jrcxz done
        0x48, 0x89, 0x3f, //                         next: mov [rdi], rdi
        0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 4096
        0xff, 0xc9, //                               dec ecx
        0x75, 0xf2, //                               jnz next
    ]);
    code.extend_from_slice(&DONE);
    let config = MachineConfig { memory_bytes: 16 << 20, stack_bytes: 1 << 16, ..MachineConfig::default() };
    let boot = boot_bare(&kvm, &snapshot_then(&code), &config).expect("a valid machine boots");
    match boot.end {
        BootEnd::Snapshot(snapshot) => Replica::spawn(&kvm, &snapshot, engine).expect("a fork"),
        BootEnd::Ended(outcome) => panic!("ended before the snapshot: {outcome:?}"),
    }
}

/// A tree with two nodes that both dirtied `pages` pages below a common parent, and a replica at one.
fn tree(pages: u32) -> (SnapshotTree, Replica, [NodeId; 2]) {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("the benchmarks need KVM: {e}"));
    // mov ecx, PAGES; movabs rdi, ARENA_VA
    let mut code = vec![0xb9];
    code.extend_from_slice(&pages.to_le_bytes());
    code.extend_from_slice(&[0x48, 0xbf]);
    code.extend_from_slice(&ARENA_VA.to_le_bytes());
    let next = code.len();
    code.extend_from_slice(&[0x48, 0x83, 0x07, 0x01]); // next: add qword [rdi], 1
    code.extend_from_slice(&[0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]); // add rdi, 4096
    code.extend_from_slice(&[0xff, 0xc9]); // dec ecx
    let back = i8::try_from(next).expect("small") - i8::try_from(code.len() + 2).expect("small");
    code.extend_from_slice(&[0x75, back.cast_unsigned()]); // jnz next
    code.extend_from_slice(&call(Hypercall::Snapshot));
    let back = -i8::try_from(code.len() + 2).expect("small");
    code.extend_from_slice(&[0xeb, back.cast_unsigned()]); // jmp start
    let config = MachineConfig { memory_bytes: 16 << 20, stack_bytes: 1 << 16, ..MachineConfig::default() };
    let boot = boot_bare(&kvm, &snapshot_then(&code), &config).expect("a valid machine boots");
    let BootEnd::Snapshot(root) = boot.end else { panic!("ended before the snapshot: {:?}", boot.end) };
    let mut replica = Replica::spawn(&kvm, &root, Engine::HotSet).expect("a fork");
    let mut tree = SnapshotTree::new(root, u64::MAX);
    assert_eq!(replica.begin(&[], DEADLINE).expect("the host can run it"), Advance::Checkpoint);
    let parent = tree.take(&mut replica, ROOT).expect("a checkpoint");
    let nodes = [(); 2].map(|()| {
        tree.go(&mut replica, parent).expect("it is kept");
        assert_eq!(replica.advance(DEADLINE).expect("the host can run it"), Advance::Checkpoint);
        tree.take(&mut replica, parent).expect("a checkpoint")
    });
    (tree, replica, nodes)
}

/// Going from a node to its sibling, by the pages in which they differ.
#[divan::bench(args = PAGES)]
fn tree_to_a_sibling(bencher: Bencher<'_, '_>, pages: u32) {
    let (mut tree, mut replica, nodes) = tree(pages);
    let mut turn = 0;
    bencher.bench_local(|| {
        turn ^= 1;
        tree.go(&mut replica, nodes[turn]).expect("it is kept")
    });
}

/// Taking a node that dirtied so many pages, and dropping it.
#[divan::bench(args = PAGES)]
fn tree_take(bencher: Bencher<'_, '_>, pages: u32) {
    let (mut tree, mut replica, nodes) = tree(pages);
    bencher.bench_local(|| {
        tree.go(&mut replica, nodes[0]).expect("it is kept");
        assert_eq!(replica.advance(DEADLINE).expect("the host can run it"), Advance::Checkpoint);
        let node = tree.take(&mut replica, nodes[0]).expect("a checkpoint");
        tree.evict(node);
    });
}

fn run(fork: &mut Replica, pages: u32) {
    let outcome = fork.run(&pages.to_le_bytes(), DEADLINE).expect("the host can run it");
    assert_eq!(outcome, Outcome::Done { code: 0 });
}

/// A run that dirties nothing, and its reset: the floor.
#[divan::bench(args = Engine::ALL)]
fn round_trip(bencher: Bencher<'_, '_>, engine: Engine) {
    let mut fork = fork(engine);
    bencher.bench_local(|| run(&mut fork, 0));
}

/// A run that dirties 100 pages, without its reset: the faults that tracking costs.
#[divan::bench(args = Engine::ALL, sample_size = 1)]
fn run_that_dirties_100_pages(bencher: Bencher<'_, '_>, engine: Engine) {
    let fork = RefCell::new(fork(engine));
    bencher
        .with_inputs(|| fork.borrow_mut().reset().expect("it can be put back"))
        .bench_local_values(|_| run(&mut fork.borrow_mut(), 100));
}

fn reset(bencher: Bencher<'_, '_>, engine: Engine, pages: u32) {
    let fork = RefCell::new(fork(engine));
    bencher
        .with_inputs(|| run(&mut fork.borrow_mut(), pages))
        .bench_local_values(|()| fork.borrow_mut().reset().expect("it can be put back"));
}

#[divan::bench(args = PAGES, sample_size = 1)]
fn reset_copy_all(bencher: Bencher<'_, '_>, pages: u32) {
    reset(bencher, Engine::CopyAll, pages);
}

#[divan::bench(args = PAGES, sample_size = 1)]
fn reset_dirty_log(bencher: Bencher<'_, '_>, pages: u32) {
    reset(bencher, Engine::DirtyLog, pages);
}

#[divan::bench(args = PAGES, sample_size = 1)]
fn reset_dirty_ring(bencher: Bencher<'_, '_>, pages: u32) {
    reset(bencher, Engine::DirtyRing, pages);
}

#[divan::bench(args = PAGES, sample_size = 1)]
fn reset_hot_set(bencher: Bencher<'_, '_>, pages: u32) {
    reset(bencher, Engine::HotSet, pages);
}
