//! An image that does its worst to the batch that it runs in: control words, records, the lists of hot pages, inputs
//! and stored counters are rewritten while the batch runs, and left so for what comes behind. Whatever it does is an
//! outcome, and no run behind it is another than in a fork that is new.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_abi::Filter;
use unifork_vmm::foreign::{Base, Fork, Ring0};
use unifork_vmm::{BatchEnd, BatchRun, BatchTime, Engine, Outcome};

use super::forks::{base, kvm};

/// Deadline of a hostile run.
const SHORT: Duration = Duration::from_millis(40);
/// The same of one that is not to run into it, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const STEP_WORDS: usize = 4;
const KINDS: u64 = 9;

/// An address for the kernel: a place by its number, and an offset in it.
fn at(place: u64, offset: u64) -> u64 {
    place << 60 | offset & 0xfff_ffff_ffff
}

fn any_of<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    of[random.random_range(0..of.len())]
}

fn anywhere(random: &mut StdRng) -> u64 {
    let near = random.random_range(0..0x40);
    let word = 8 * random.random_range(0..64u64);
    match random.random_range(0..17) {
        // Control words, records, novelty map and what is behind.
        0..4 => at(1, 0x20_0000 + any_of(random, &[0, 8, 16, 24])),
        4..7 => at(1, 0x20_1000 + word),
        7 => at(1, 0x20_0000 + random.random_range(0..0x200_0000)),
        // Code, plan, registers, lists: they cannot be written.
        8 => at(1, any_of(random, &[0, 0x1000, 0x2000, 0x1_0000, 0x3_0000, 0x5_0000, 0x10_0000]) + near),
        9 => at(2, random.random_range(0..9 << 20)),
        10 => at(3, random.random_range(0..9 << 20)),
        11 => at(4, near.wrapping_sub(16)),
        12 => at(5, word),
        13 => at(any_of(random, &[6, 7]), random.random_range(0..0x4000)),
        14 => random.random_range(0..9 << 20),
        15 => random.random(),
        _ => any_of(random, &[0, u64::MAX, 1 << 47, 0xffff_8000_0000_0000, 0xfee0_0000]),
    }
}

fn value(random: &mut StdRng) -> u64 {
    match random.random_range(0..4) {
        0 => random.random(),
        1 => anywhere(random),
        2 => any_of(random, &[u64::MAX, u64::MAX / 2, 1 << 63, 1 << 32, 0x1_0000]),
        _ => random.random_range(0..1030),
    }
}

/// An input that tries to do harm, and goes on to an ordinary end if it can.
fn harm(random: &mut StdRng) -> Vec<u8> {
    let mut words = Vec::new();
    for _ in 0..random.random_range(1..8) {
        let kind = if random.random_range(0..3) == 0 { random.random_range(1..KINDS) } else { 1 };
        let place = if kind == 6 { random.random_range(0..20) } else { anywhere(random) };
        let bytes = match kind {
            2 | 3 => random.random_range(0..5000),
            // One that says all the time that it is another run.
            8 => any_of(random, &[1000, 1 << 30]),
            _ => value(random),
        };
        words.extend([kind, place, value(random), bytes]);
    }
    words.extend([0; STEP_WORDS]);
    words.iter().flat_map(|word: &u64| word.to_le_bytes()).chain([random.random(), 7]).collect()
}

fn quiet(random: &mut StdRng) -> Vec<u8> {
    let rest: Vec<u8> = (0..random.random_range(0..100)).map(|_| random.random()).collect();
    [vec![0; 8 * STEP_WORDS], rest].concat()
}

/// Runs `inputs` to their ends, in batches; whatever the image does, the host is not to blame, and does not wait for
/// ever. How many batches were complete, stopped and spoiled.
fn give(fork: &mut Fork, random: &mut StdRng, inputs: &[Vec<u8>]) -> [usize; 3] {
    let mut ends = [0; 3];
    let mut runs: Vec<BatchRun> = Vec::new();
    let mut next = 0;
    while next < inputs.len() {
        let filter = any_of(random, &[Filter::Off, Filter::Application]);
        let began = Instant::now();
        let batch = inputs[next..].iter().map(Vec::as_slice);
        let report = fork.run_batch(batch, BatchTime::each(SHORT), filter, &mut runs).unwrap();
        let limit = SHORT * report.taken as u32 + Duration::from_secs(20);
        assert!(began.elapsed() < limit, "{:?} for {} runs", began.elapsed(), report.taken);
        assert!(report.taken > 0 && runs.len() <= report.taken);
        for run in &runs {
            let counters = run.slot.map_or_else(|| fork.counters(), |slot| fork.batch_counters(slot));
            assert_eq!(counters.len(), fork.base().sites().len());
        }
        let alone = match report.end {
            BatchEnd::Complete => {
                ends[0] += 1;
                0
            }
            BatchEnd::Stopped { at, .. } => {
                ends[1] += 1;
                assert!(at < report.taken && runs.len() == at);
                1
            }
            BatchEnd::Spoiled => {
                ends[2] += 1;
                assert_eq!(runs, []);
                report.taken
            }
        };
        next += runs.len();
        for input in &inputs[next..next + alone] {
            let outcome = fork.run(input, SHORT).unwrap();
            if let Outcome::Crash(crash) = outcome {
                assert!(!crash.cause.to_string().is_empty());
            }
            assert_eq!(fork.counters().len(), fork.base().sites().len());
        }
        next += alone;
    }
    ends
}

/// An ordinary run: what it returns, counts and dirties.
fn seen(fork: &mut Fork, input: &[u8]) -> (Outcome, Vec<u8>, Vec<u64>) {
    let outcome = fork.run(input, LONG).unwrap();
    (outcome, fork.counters().to_vec(), fork.differing_pages())
}

/// Ordinary inputs in one batch, as often as it takes until it is complete.
fn together(fork: &mut Fork, inputs: &[Vec<u8>]) -> Vec<(Outcome, Vec<u8>)> {
    let mut runs = Vec::new();
    loop {
        let batch = inputs.iter().map(Vec::as_slice);
        let report = fork.run_batch(batch, BatchTime::each(LONG), Filter::Off, &mut runs).unwrap();
        match report.end {
            BatchEnd::Complete if report.taken == inputs.len() => break,
            // The hot set is learned anew, or batches pause.
            BatchEnd::Complete | BatchEnd::Spoiled => {}
            BatchEnd::Stopped { .. } => panic!("{report:?}"),
        }
    }
    let of = |run: &BatchRun| {
        let counters = run.slot.map_or_else(|| fork.counters(), |slot| fork.batch_counters(slot));
        (Outcome::Done { code: run.code }, counters.to_vec())
    };
    runs.iter().map(of).collect()
}

#[test]
fn an_image_that_rewrites_its_batch_harms_nobody_but_itself() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let base: Arc<Base> = base(&[("hostile.c", None)], Ring0::Monitor);
    assert!(base.has_batches());
    let ordinary: Vec<Vec<u8>> = (0..6).map(|_| quiet(&mut random)).collect();
    let expected: Vec<_> = ordinary
        .iter()
        .map(|input| seen(&mut Fork::spawn(kvm(), &base, Engine::CopyAll).unwrap(), input))
        .collect();
    let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
    let (frozen, ram) = (fork.state().unwrap(), fork.ram().to_vec());
    let mut ends = [0; 3];
    for round in 0..60 {
        let inputs: Vec<_> = (0..random.random_range(1..24))
            .map(|_| if random.random_range(0..3) == 0 { quiet(&mut random) } else { harm(&mut random) })
            .collect();
        for (sum, count) in ends.iter_mut().zip(give(&mut fork, &mut random, &inputs)) {
            *sum += count;
        }
        fork.reset().unwrap();
        assert_eq!(fork.state().unwrap(), frozen, "seed {seed}, round {round}");
        assert!(fork.ram() == ram, "seed {seed}, round {round}: memory is not put back");
        for (input, expected) in ordinary.iter().zip(&expected) {
            assert_eq!(seen(&mut fork, input), *expected, "seed {seed}, round {round}");
        }
        let expected: Vec<_> =
            expected.iter().map(|(outcome, counters, _)| (outcome.clone(), counters.clone())).collect();
        assert_eq!(together(&mut fork, &ordinary), expected, "seed {seed}, round {round}");
    }
    println!("batches complete, stopped, spoiled: {ends:?}");
    assert!(ends.iter().all(|&count| count > 10), "seed {seed}: {ends:?}");
}
