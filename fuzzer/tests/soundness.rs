//! Every harness under every engine: after a run and a reset the machine is its snapshot again, as after
//! copying everything, and the run itself was the same.
//!
//! The randomised guests of `vmm/tests/kvm/equivalence.rs` go further in what they do; here are the
//! machines that are really fuzzed, with the libOS. Their x87, SSE and AVX state is loaded by the guest
//! itself before each run (`tests/batches.rs` holds that), so it is the one thing not compared here.

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_harnesses::Manifest;
use unifork_vmm::{
    BatchEnd, BatchTime, BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica, Snapshot, Space,
};

const DEADLINE: Duration = Duration::from_secs(5);
/// Of an input that never ends: how far it comes does not matter.
const SHORT: Duration = Duration::from_millis(50);
/// Rounds of an ordinary run, over all engines and harnesses.
const ROUNDS: usize = 2_000;

/// A harness and the input that makes it end badly, if a bug is planted in it.
struct Harness {
    name: String,
    trigger: Option<Vec<u8>>,
    endless: bool,
}

/// It reads the host's time-stamp counter, so that no two runs of it need be the same.
const UNSTABLE: &str = "planted/unstable";

/// Every folder below `harnesses/`, but for the unstable one.
fn harnesses() -> Vec<Harness> {
    let folders = unifork_harnesses::list(&common::root().join("harnesses")).unwrap();
    let harness = |folder: &PathBuf| {
        let manifest = Manifest::read(folder).unwrap();
        let endless = manifest.planted.as_ref().is_some_and(|planted| planted.cause == "timeout");
        let trigger = manifest.planted.map(|planted| planted.trigger.into_bytes());
        Harness { name: manifest.name, trigger, endless }
    };
    let all: Vec<Harness> = folders.iter().map(harness).filter(|harness| harness.name != UNSTABLE).collect();
    assert!(all.len() >= 17, "harnesses are missing: {}", all.len());
    all
}

impl Harness {
    fn deadline(&self) -> Duration {
        if self.endless { SHORT } else { DEADLINE }
    }

    /// One of the seeds, with up to three bytes of it changed; or now and then what ends badly.
    fn input(&self, seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
        let mut input = seeds[rng.random_range(0..seeds.len())].clone();
        if let Some(trigger) = self.trigger.as_ref().filter(|_| rng.random_ratio(1, 2)) {
            input = [trigger, input.as_slice()].concat();
        }
        for _ in 0..rng.random_range(0..4) {
            if !input.is_empty() {
                let at = rng.random_range(0..input.len());
                input[at] = rng.random();
            }
        }
        input
    }
}

/// What is compared of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    outcome: Outcome,
    counters: [Vec<u8>; 2],
    console: Vec<u8>,
    dirtied: Vec<u64>,
}

fn run(replica: &mut Replica, input: &[u8], deadline: Duration) -> Seen {
    let outcome = replica.run(input, deadline).unwrap();
    if outcome == Outcome::Timeout {
        // Where it was stopped is up to the host's clock.
        return Seen { outcome, counters: Default::default(), console: Vec::new(), dirtied: Vec::new() };
    }
    Seen {
        outcome,
        counters: [Space::Application, Space::Kernel].map(|space| replica.counters(space).to_vec()),
        console: replica.console(),
        dirtied: replica.differing_pages(),
    }
}

/// Rounds of each of `forks` forks of each of `harnesses` harnesses.
fn rounds(harnesses: usize, forks: usize) -> usize {
    let all = std::env::var("UNIFORK_ROUNDS")
        .map_or(ROUNDS, |text| text.parse::<usize>().expect("UNIFORK_ROUNDS is a number"));
    all.div_ceil(harnesses * forks)
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

#[test]
fn every_harness_is_put_back_by_every_engine() {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
    let harnesses = harnesses();
    let rounds = rounds(harnesses.len(), Engine::ALL.len());
    for (i, harness) in harnesses.iter().enumerate() {
        let name = &harness.name;
        let (snapshot, seeds) = freeze(&kvm, name);
        let mut forks = Engine::ALL.map(|engine| Replica::spawn(&kvm, &snapshot, engine).unwrap());
        let mut rng = StdRng::seed_from_u64(i as u64);
        let mut bad = 0;
        for round in 0..rounds {
            let input = match &harness.trigger {
                Some(trigger) if round == 0 => trigger.clone(),
                _ => harness.input(&seeds, &mut rng),
            };
            let mut specification: Option<Seen> = None;
            for fork in &mut forks {
                let what = format!("{name}, {}, round {round}", fork.engine());
                let seen = run(fork, &input, harness.deadline());
                bad += usize::from(!matches!(seen.outcome, Outcome::Done { .. }));
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
        let bad = bad / forks.len();
        println!("{name}: {rounds} rounds of {} forks, {bad} of them ended badly", forks.len());
        assert!(bad > 0 || harness.trigger.is_none(), "{name}: the bug in it was never met");
    }
}

/// The guest puts itself back between the runs of a batch, and not after the last: what differs from
/// the snapshot then is what that run dirtied, and whatever was not put back before it.
#[test]
fn a_batch_leaves_behind_what_its_last_run_alone_would() {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
    // One that never ends spends its time waiting for that, twice in each batch.
    let harnesses: Vec<Harness> = harnesses().into_iter().filter(|harness| !harness.endless).collect();
    // Each round is some dozen runs.
    let rounds = rounds(harnesses.len(), 12);
    for (i, harness) in harnesses.iter().enumerate() {
        let name = &harness.name;
        let (snapshot, seeds) = freeze(&kvm, name);
        let mut batched = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
        let mut exact = Replica::spawn(&kvm, &snapshot, Engine::CopyAll).unwrap();
        let mut rng = StdRng::seed_from_u64(i as u64);
        let (mut runs, mut compared) = (Vec::new(), 0);
        for round in 0..rounds {
            // What ends a batch at its first run says nothing of batches.
            let tame = Harness { name: name.clone(), trigger: None, endless: false };
            let source = if rng.random_ratio(1, 4) { harness } else { &tame };
            let inputs: Vec<Vec<u8>> =
                (0..rng.random_range(2..24)).map(|_| source.input(&seeds, &mut rng)).collect();
            // The hot set is learned from the first of them.
            for input in &inputs {
                batched.run(input, DEADLINE).unwrap();
            }
            let all = inputs.iter().map(Vec::as_slice);
            let (report, pages) =
                batched.run_batch_and_look(all, BatchTime::each(DEADLINE), &mut runs).unwrap();
            let good = report.end == BatchEnd::Complete && report.taken == inputs.len();
            assert_eq!(batched.differing_pages(), Vec::<u64>::new(), "{name}, round {round}: memory");
            if !good {
                continue;
            }
            let alone = run(&mut exact, &inputs[inputs.len() - 1], DEADLINE);
            assert_eq!(pages, alone.dirtied, "{name}, round {round}: {} runs", inputs.len());
            exact.reset().unwrap();
            compared += 1;
        }
        println!("{name}: {compared} batches of {rounds} compared");
        assert!(compared > 0, "{name}: no batch was whole");
    }
}
