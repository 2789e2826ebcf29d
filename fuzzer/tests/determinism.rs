//! One input gives one result, whatever ran before it and however the fork is put back.

mod common;

use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;
use std::time::Duration;

use unifork_vmm::{BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica, Space};

const DEADLINE: Duration = Duration::from_secs(5);

/// What is compared of a run.
#[derive(Debug, PartialEq)]
struct Result {
    outcome: Outcome,
    coverage: u64,
    kernel_coverage: u64,
    memory: u64,
    console: Vec<u8>,
}

fn run(replica: &mut Replica, input: &[u8]) -> Result {
    let outcome = replica.run(input, DEADLINE).unwrap();
    let hash = |space| {
        let mut hasher = DefaultHasher::new();
        hasher.write(replica.counters(space));
        hasher.finish()
    };
    Result {
        outcome,
        coverage: hash(Space::Application),
        kernel_coverage: hash(Space::Kernel),
        memory: replica.memory_hash(),
        console: replica.console(),
    }
}

/// Each seed of a harness: a hundred runs of the first one, in one replica of each engine, with
/// other inputs between them, all equal to a run in a fresh fork.
fn repeats(name: &str, memory_bytes: u64, runs: usize) {
    let image = common::image(name);
    let kvm = Kvm::open().unwrap();
    let guest = GuestImage::open(&image).unwrap();
    let config =
        MachineConfig { memory_bytes, stack_bytes: 1 << 20, input_max: 64 << 10, ..MachineConfig::default() };
    let boot = unifork_vmm::boot(&kvm, unifork_guest::KERNEL, &guest, &config).unwrap();
    let BootEnd::Snapshot(snapshot) = boot.end else { panic!("{name} asks for no input: {:?}", boot.end) };
    let seeds = seeds(&image.with_extension("seeds"));
    let (input, others) = seeds.split_first().expect("every harness has a seed");
    let expected = run(&mut Replica::spawn(&kvm, &snapshot, Engine::CopyAll).unwrap(), input);
    for engine in Engine::ALL {
        let mut replica = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        for round in 0..runs {
            assert_eq!(run(&mut replica, input), expected, "{name}, {engine}, run {round}");
            if let Some(other) = others.get(round % (others.len() + 1)) {
                replica.run(other, DEADLINE).unwrap();
            }
        }
    }
}

fn seeds(folder: &Path) -> Vec<Vec<u8>> {
    let names = common::names(folder);
    names.iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect()
}

#[test]
fn one_input_a_hundred_times_is_one_result() {
    for name in ["planted/noop", "planted/abort", "cjson"] {
        repeats(name, 6 << 20, 100);
    }
}

#[test]
fn large_harnesses_repeat_as_well() {
    for name in ["sqlite", "png", "tinyxml"] {
        repeats(name, 24 << 20, 3);
    }
}
