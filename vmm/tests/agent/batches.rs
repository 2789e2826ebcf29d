//! Batches of images with an agent, held to runs by themselves; and mistakes in what puts forks back, which must be
//! noticed.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_abi::Filter;
use unifork_vmm::foreign::{Base, Fork, Ring0};
use unifork_vmm::reset::Mutation;
use unifork_vmm::{BatchEnd, BatchRun, BatchTime, Engine, Outcome};

use super::forks::{COVERAGE, DEADLINE, base, kvm, program_steps};

/// What a run was: outcome, counters and the pages it dirtied.
type Seen = (Outcome, Vec<u8>, Vec<u64>);

/// In a fork that nobody has put back.
fn exact(base: &Arc<Base>, input: &[u8]) -> Seen {
    let mut fresh = Fork::spawn(kvm(), base, Engine::CopyAll).unwrap();
    let outcome = fresh.run(input, DEADLINE).unwrap();
    (outcome, fresh.counters().to_vec(), fresh.differing_pages())
}

/// Steps of the kernel in `changes.c`, few of which stop the guest.
fn quiet_steps(random: &mut StdRng) -> Vec<u8> {
    let bytes = 2 * random.random_range(1..30);
    let odd = random.random_bool(0.04);
    let step = |random: &mut StdRng| match (odd, random.random_range(0..8)) {
        (true, 0) => random.random_range(0..20),
        (_, 1 | 2) => 4,
        (_, 3) => 5,
        (_, 4) => 11,
        (_, 5) => 12,
        _ => 0,
    };
    (0..bytes).map(|i| if i % 2 == 0 { step(random) } else { random.random() }).collect()
}

/// Steps that map a few pages, each to several frames, and use them: what is left of a mapping is met soon.
fn mapping_steps(random: &mut StdRng) -> Vec<u8> {
    let count = random.random_range(4..40);
    let step = |random: &mut StdRng| [1, 4, 5][random.random_range(0..3)];
    (0..count).flat_map(|_| [step(random), random.random::<u8>() & 0xc7]).collect()
}

/// Runs `inputs` in batches until each was dealt with. What is not as in a fresh fork is said; and how many runs
/// were parts of batches of several.
fn differences(fork: &mut Fork, inputs: &[Vec<u8>]) -> (Vec<String>, usize) {
    let base = Arc::clone(fork.base());
    let (mut wrong, mut together) = (Vec::new(), 0);
    let mut runs: Vec<BatchRun> = Vec::new();
    let mut next = 0;
    while next < inputs.len() {
        let batch = inputs[next..].iter().map(Vec::as_slice);
        let (report, pages) = fork.run_batch_and_look(batch, BatchTime::each(DEADLINE), &mut runs).unwrap();
        assert!(report.taken > 0);
        let (finished, alone) = match &report.end {
            BatchEnd::Complete => (report.taken, 0),
            BatchEnd::Stopped { at, .. } => (*at, 1),
            BatchEnd::Spoiled => (0, report.taken),
        };
        together += if report.taken > 1 { finished } else { 0 };
        for (at, run) in runs.iter().enumerate().take(finished) {
            let (outcome, counters, dirty) = exact(&base, &inputs[next + at]);
            let stored = run.slot.map_or_else(|| fork.counters(), |slot| fork.batch_counters(slot));
            if outcome != (Outcome::Done { code: run.code }) || stored != counters {
                wrong.push(format!("run {at} of {}: {} instead of {outcome:?}", report.taken, run.code));
            }
            if at + 1 == report.taken && dirty != pages {
                wrong.push(format!("run {at} of {} dirtied {pages:?} and not {dirty:?}", report.taken));
            }
        }
        next += finished;
        for input in &inputs[next..next + alone] {
            let outcome = fork.run(input, DEADLINE).unwrap();
            let seen = (outcome, fork.counters().to_vec(), fork.differing_pages());
            let exact = exact(&base, input);
            if seen != exact {
                wrong
                    .push(format!("alone: {:?} {:?} instead of {:?} {:?}", seen.0, seen.2, exact.0, exact.2));
            }
        }
        next += alone;
    }
    (wrong, together)
}

fn changes() -> Arc<Base> {
    base(&[("changes.c", None)], Ring0::Monitor)
}

#[test]
fn batches_of_random_images_are_as_runs_by_themselves() {
    random_batches(&changes(), |random, round| match round % 4 {
        3 => mapping_steps(random),
        _ => quiet_steps(random),
    });
}

#[test]
fn batches_of_a_program_at_cpl_3_are_as_runs_by_themselves() {
    // Few of them call the kernel, which stops the guest.
    let quiet = |random: &mut StdRng, _| {
        let odd = random.random_bool(0.04);
        let mut steps = program_steps(random);
        steps.chunks_mut(2).filter(|_| !odd).for_each(|step| step[0] = [1, 2, 3, 4, 7][step[0] as usize % 5]);
        steps
    };
    random_batches(&base(&[("user.c", None)], Ring0::Monitor), quiet);
}

fn random_batches(base: &Arc<Base>, input: impl Fn(&mut StdRng, usize) -> Vec<u8>) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    assert!(base.has_batches());
    let mut fork = Fork::spawn(kvm(), base, Engine::HotSet).unwrap();
    let (frozen, ram) = (fork.state().unwrap(), fork.ram().to_vec());
    let mut together = 0;
    for round in 0..12 {
        let inputs: Vec<_> = (0..40).map(|_| input(&mut random, round)).collect();
        let (wrong, batched) = differences(&mut fork, &inputs);
        assert_eq!(wrong, [""; 0], "seed {seed}, round {round}");
        together += batched;
        fork.reset().unwrap();
        assert_eq!(fork.state().unwrap(), frozen, "seed {seed}, round {round}");
        assert!(fork.ram() == ram, "seed {seed}, round {round}: memory is not put back");
    }
    println!("of 480 runs {together} were parts of batches");
    assert!(together > 100, "seed {seed}: {together}");
}

/// A campaign's way: with a novelty map, and crashes among the inputs.
#[test]
fn news_is_stored_and_a_crash_stops_its_batch() {
    let base = base(&[("kernel.c", None), ("parse.c", Some(COVERAGE))], Ring0::Monitor);
    let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
    let time = BatchTime::each(DEADLINE);
    let (dull, odd, crash) = (&b"short"[..], &b"not the magic"[..], &b"\x78\x56\x34\x12!   "[..]);
    let mut runs = Vec::new();
    // The hot set is learned.
    for _ in 0..4 {
        fork.run_batch([dull, odd, dull, odd], time, Filter::Application, &mut runs).unwrap();
    }
    fork.run(dull, DEADLINE).unwrap();
    let known = fork.counters().to_vec();
    fork.novelty_mut().copy_from_slice(&known);
    let report = fork.run_batch([dull, odd, dull, odd, dull], time, Filter::Application, &mut runs).unwrap();
    assert_eq!((report.taken, report.end), (5, BatchEnd::Complete));
    let codes: Vec<_> = runs.iter().map(|run| (run.code, run.slot)).collect();
    assert_eq!(codes, [(-1, None), (1, Some(0)), (-1, None), (1, Some(1)), (-1, None)]);
    assert!(fork.is_news(&exact(&base, odd).1) && !fork.is_news(&known));
    assert_eq!(fork.batch_counters(1), exact(&base, odd).1);
    let report = fork.run_batch([dull, odd, crash, dull], time, Filter::Off, &mut runs).unwrap();
    let BatchEnd::Stopped { at: 2, outcome } = report.end else { panic!("{report:?}") };
    assert!(matches!(*outcome, Outcome::Crash(_)), "{outcome:?}");
    assert_eq!(runs.iter().map(|run| run.code).collect::<Vec<_>>(), [-1, 1]);
    assert_eq!(fork.counters(), exact(&base, crash).1);
}

/// Each mistake must be seen within some rounds of what the tests above do.
#[test]
fn mistakes_in_batches_and_in_what_is_put_back_are_noticed() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let base = changes();
    for mistake in [
        Mutation::SkipPage,
        Mutation::SkipHotPage,
        Mutation::ForgetHostWrites,
        Mutation::KeepBus,
        Mutation::KeepVirtual,
        Mutation::KeepShadow,
        Mutation::KeepXsave,
        Mutation::HideHotPage,
        Mutation::TrustBatch,
        Mutation::IgnoreStops,
    ] {
        // What the host writes is written by batches, too, and is hot then.
        let engine = match mistake {
            Mutation::ForgetHostWrites => Engine::DirtyLog,
            _ => Engine::HotSet,
        };
        let mut fork = Fork::spawn(kvm(), &base, engine).unwrap();
        let (frozen, ram) = (fork.state().unwrap(), fork.ram().to_vec());
        fork.plant(mistake);
        let noticed = (0..60).any(|round| {
            let inputs: Vec<_> = match round % 3 {
                0 => (0..40).map(|_| quiet_steps(&mut random)).collect(),
                1 => (0..8).map(|_| super::forks::steps(&mut random, Ring0::Monitor)).collect(),
                _ => (0..20).map(|_| mapping_steps(&mut random)).collect(),
            };
            let (wrong, _) = differences(&mut fork, &inputs);
            fork.reset().unwrap();
            !wrong.is_empty() || fork.state().unwrap() != frozen || fork.ram() != ram
        });
        assert!(noticed, "seed {seed}: nobody notices {mistake:?}");
    }
}

/// At CPL 0, where everything but memory and devices is loaded anew each time.
#[test]
fn mistakes_at_ring_0_are_noticed() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let base = base(&[("changes.c", None)], Ring0::Native);
    assert!(!base.has_batches(), "nothing tells of what CPL 0 changes without an exit");
    for mistake in [Mutation::KeepBus, Mutation::KeepMsrs] {
        let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
        let frozen = fork.state().unwrap();
        fork.plant(mistake);
        let noticed = (0..40).any(|_| {
            let inputs = [super::forks::steps(&mut random, Ring0::Native)];
            let (wrong, _) = differences(&mut fork, &inputs);
            fork.reset().unwrap();
            !wrong.is_empty() || fork.state().unwrap() != frozen
        });
        assert!(noticed, "seed {seed}: nobody notices {mistake:?}");
    }
}
