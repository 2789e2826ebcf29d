//! Every harness under every engine: after a run and a reset the machine is its snapshot again, as after
//! copying everything, and the run itself was the same.
//!
//! The randomised guests of `vmm/tests/kvm/equivalence.rs` go further in what they do; here are the
//! machines that are really fuzzed, with the libOS. Their x87, SSE and AVX state is loaded by the guest
//! itself before each run (`tests/batches.rs` holds that), so it is the one thing not compared here.

mod common;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_vmm::{
    BatchEnd, BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica, Snapshot, Space,
};

const DEADLINE: Duration = Duration::from_secs(5);
const HARNESSES: [&str; 12] = [
    "cjson",
    "png",
    "tinyxml",
    "sqlite",
    "zlib-cve-2022-37434",
    "planted/abort",
    "planted/assert",
    "planted/div-zero",
    "planted/null-write",
    "planted/stack-overflow-guard",
    "planted/wild-jump",
    "planted/noop",
];

/// What is compared of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    outcome: Outcome,
    counters: [Vec<u8>; 2],
    console: Vec<u8>,
    dirtied: Vec<u64>,
}

fn run(replica: &mut Replica, input: &[u8]) -> Seen {
    let outcome = replica.run(input, DEADLINE).unwrap();
    Seen {
        outcome,
        counters: [Space::Application, Space::Kernel].map(|space| replica.counters(space).to_vec()),
        console: replica.console(),
        dirtied: replica.differing_pages(),
    }
}

fn rounds() -> usize {
    std::env::var("UNIFORK_ROUNDS").map_or(12, |text| {
        text.parse::<usize>().expect("UNIFORK_ROUNDS is a number").div_ceil(HARNESSES.len())
    })
}

/// A harness's machine, frozen, and its seeds.
fn freeze(kvm: &Kvm, name: &str) -> (Arc<Snapshot>, Vec<Vec<u8>>) {
    let image = common::image(name);
    let guest = GuestImage::open(&image).unwrap();
    let config = MachineConfig {
        memory_bytes: 16 << 20,
        stack_bytes: 1 << 20,
        input_max: 64 << 10,
        ..MachineConfig::default()
    };
    let boot = unifork_vmm::boot(kvm, unifork_guest::KERNEL, &guest, &config).unwrap();
    let BootEnd::Snapshot(snapshot) = boot.end else { panic!("{name}: {:?}", boot.end) };
    let folder = image.with_extension("seeds");
    let seeds = common::names(&folder).iter().map(|seed| std::fs::read(folder.join(seed)).unwrap()).collect();
    (snapshot, seeds)
}

/// One of the seeds, with up to three bytes of it changed.
fn mutated(seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(0..4) {
        if !input.is_empty() {
            let at = rng.random_range(0..input.len());
            input[at] = rng.random();
        }
    }
    input
}

#[test]
fn every_harness_is_put_back_by_every_engine() {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
    for (i, name) in HARNESSES.into_iter().enumerate() {
        let (snapshot, seeds) = freeze(&kvm, name);
        let mut forks = Engine::ALL.map(|engine| Replica::spawn(&kvm, &snapshot, engine).unwrap());
        let mut rng = StdRng::seed_from_u64(i as u64);
        for round in 0..rounds() {
            let input = mutated(&seeds, &mut rng);
            let mut specification: Option<Seen> = None;
            for fork in &mut forks {
                let what = format!("{name}, {}, round {round}", fork.engine());
                let seen = run(fork, &input);
                match &specification {
                    None => specification = Some(seen),
                    Some(specification) => assert!(seen == *specification, "{what}: {:?}", seen.outcome),
                }
                fork.reset().unwrap();
                assert_eq!(fork.differing_pages(), Vec::<u64>::new(), "{what}: memory");
                let (mut state, mut then) = (fork.vcpu_state().unwrap(), snapshot.vcpu().clone());
                state.xsave.clear();
                then.xsave.clear();
                assert!(state == then, "{what}: {state:?}\nbut the snapshot has\n{then:?}");
            }
        }
    }
}

/// The guest puts itself back between the runs of a batch, and not after the last: what differs from
/// the snapshot then is what that run dirtied, and whatever was not put back before it.
#[test]
fn a_batch_leaves_behind_what_its_last_run_alone_would() {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
    for (i, name) in HARNESSES.into_iter().enumerate() {
        let (snapshot, seeds) = freeze(&kvm, name);
        let mut batched = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
        let mut exact = Replica::spawn(&kvm, &snapshot, Engine::CopyAll).unwrap();
        let mut rng = StdRng::seed_from_u64(i as u64);
        let (mut runs, mut compared) = (Vec::new(), 0);
        for round in 0..rounds() {
            let inputs: Vec<Vec<u8>> =
                (0..rng.random_range(2..24)).map(|_| mutated(&seeds, &mut rng)).collect();
            // The hot set is learned from the first of them.
            for input in &inputs {
                batched.run(input, DEADLINE).unwrap();
            }
            let all = inputs.iter().map(Vec::as_slice);
            let (report, pages) = batched.run_batch_and_look(all, DEADLINE, &mut runs).unwrap();
            let good = report.end == BatchEnd::Complete && report.taken == inputs.len();
            assert_eq!(batched.differing_pages(), Vec::<u64>::new(), "{name}, round {round}: memory");
            if !good {
                continue;
            }
            let alone = run(&mut exact, &inputs[inputs.len() - 1]);
            assert_eq!(pages, alone.dirtied, "{name}, round {round}: {} runs", inputs.len());
            exact.reset().unwrap();
            compared += 1;
        }
        println!("{name}: {compared} batches compared");
        // Most planted bugs end every batch: nothing of it is believed.
        assert!(compared > 0 || name.starts_with("planted/"), "{name}: no batch was whole");
    }
}
