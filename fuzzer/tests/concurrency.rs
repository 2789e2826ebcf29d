//! Threads and signal handlers inside a harness: each run is what it is by itself, in a batch or not,
//! under every engine, and a crash has the name it has without them.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_abi::Filter;
use unifork_harnesses::BuildRequest;
use unifork_vmm::{
    BatchEnd, BatchTime, BootEnd, CrashKind, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica,
    Snapshot,
};

const DEADLINE: Duration = Duration::from_secs(5);

/// The machine of a C file of ours, frozen.
fn frozen(source: &str) -> (Kvm, Arc<Snapshot>) {
    common::need_kvm();
    let file = common::root().join("fuzzer/tests/guests").join(source);
    let output: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source).with_extension("img");
    let request = BuildRequest::new(&[file], &[], output.clone()).unwrap();
    if let Err(error) = unifork_harnesses::build(&request) {
        panic!("cannot build {source}: {error}: {:?}", error.diagnostics());
    }
    let kvm = Kvm::open().unwrap();
    let guest = GuestImage::open(&output).unwrap();
    let config = MachineConfig {
        memory_bytes: 24 << 20,
        input_max: 4096,
        stack_bytes: 1 << 20,
        ..MachineConfig::default()
    };
    let boot = unifork_vmm::boot(&kvm, unifork_guest::KERNEL, &guest, &config).unwrap();
    match boot.end {
        BootEnd::Snapshot(snapshot) => (kvm, snapshot),
        BootEnd::Ended(outcome) => panic!("{source} asks for no input: {outcome:?}"),
    }
}

/// Runs each input by itself under every engine, and all of them in batches; `expected` says what each
/// returns, or that it crashes as what.
fn check(source: &str, inputs: &[Vec<u8>], expected: impl Fn(&[u8]) -> Result<i64, CrashKind>) {
    let (kvm, snapshot) = frozen(source);
    for engine in Engine::ALL {
        let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        for input in inputs.iter().take(40) {
            let outcome = fork.run(input, DEADLINE).unwrap();
            let seen = match &outcome {
                Outcome::Done { code } => Ok(*code),
                Outcome::Crash(crash) => Err(crash.kind),
                other => panic!("{source}, {engine}, {input:?}: {other:?}"),
            };
            assert_eq!(seen, expected(input), "{source}, {engine}, {input:?}: {outcome:?}");
            fork.reset().unwrap();
            assert_eq!(fork.differing_pages(), Vec::<u64>::new(), "{source}, {engine}, {input:?}");
        }
    }
    let mut fork = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
    let (mut runs, mut vouched, mut at) = (Vec::new(), 0, 0);
    while at < inputs.len() {
        let batch = inputs[at..].iter().take(50).map(Vec::as_slice);
        let report = fork.run_batch(batch, BatchTime::each(DEADLINE), Filter::Off, &mut runs).unwrap();
        if !matches!(report.end, BatchEnd::Spoiled) {
            for (run, input) in runs.iter().zip(&inputs[at..]) {
                assert_eq!(Ok(run.code), expected(input), "{source}, in a batch, {input:?}");
            }
            vouched += runs.len();
        }
        at += match report.end {
            BatchEnd::Stopped { at: stopped, .. } => {
                assert!(expected(&inputs[at + stopped]).is_err(), "{source}: {:?}", inputs[at + stopped]);
                stopped + 1
            }
            _ => report.taken,
        };
    }
    assert!(vouched * 2 > inputs.len(), "{source}: only {vouched} of {} runs vouched for", inputs.len());
    assert_eq!(fork.differing_pages(), Vec::<u64>::new(), "{source}");
}

fn drawn(count: usize, letters: &[u8], rare: &[u8]) -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(9);
    let mut draw = |_| {
        let bytes = rng.random_range(0..12);
        let mut input: Vec<u8> = (0..bytes).map(|_| letters[rng.random_range(0..letters.len())]).collect();
        if rng.random_ratio(1, 40) {
            input.push(rare[rng.random_range(0..rare.len())]);
        }
        input
    };
    (0..count).map(&mut draw).collect()
}

#[test]
fn threads_are_put_back_and_take_the_same_turns() {
    let letters: Vec<u8> = (b'a'..=b'z').collect();
    check("pool.c", &drawn(600, &letters, b"X"), |input| {
        if input.contains(&b'X') {
            return Err(CrashKind::NullWrite);
        }
        let sum: i64 = input.iter().enumerate().map(|(i, &byte)| i64::from(byte) * (i as i64 % 3 + 1)).sum();
        let all: i64 = input.iter().map(|&byte| i64::from(byte)).sum();
        Ok(1000 + sum * 2 + all)
    });
}

#[test]
fn handlers_see_what_they_should_and_a_signal_without_one_is_a_crash() {
    check("handlers.c", &drawn(400, b"sdutora.", b"NBK"), |input| {
        let (mut faults, mut right, mut others) = (0, 0, 0);
        for byte in input {
            match byte {
                b's' => (faults, right) = (faults + 1, right + 2),
                b'd' | b'u' | b't' | b'o' => (faults, right) = (faults + 1, right + 1),
                b'r' => others += 10,
                b'a' => others += 14,
                b'N' | b'B' => return Err(CrashKind::NullWrite),
                b'K' => return Err(CrashKind::Signal(10)),
                _ => {}
            }
        }
        Ok(1 + faults + right * 100 + others * 10_000)
    });
}
