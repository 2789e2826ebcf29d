//! Batches: each run in one is what it is by itself.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_abi::Filter;
use unifork_abi::INPUT_VA;
use unifork_harnesses::BuildRequest;
use unifork_vmm::introspect::ReadMemory as _;
use unifork_vmm::tree::ROOT;
use unifork_vmm::{
    Advance, BatchEnd, BatchTime, BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica,
    Snapshot, SnapshotTree, Space,
};

const DEADLINE: Duration = Duration::from_secs(5);

fn frozen(image: &Path) -> (Kvm, Arc<Snapshot>) {
    let kvm = Kvm::open().unwrap();
    let guest = GuestImage::open(image).unwrap();
    let config = MachineConfig { memory_bytes: 24 << 20, input_max: 64 << 10, ..MachineConfig::default() };
    let boot = unifork_vmm::boot(&kvm, unifork_guest::KERNEL, &guest, &config).unwrap();
    match boot.end {
        BootEnd::Snapshot(snapshot) => (kvm, snapshot),
        BootEnd::Ended(outcome) => panic!("asks for no input: {outcome:?}"),
    }
}

/// Seeds and mutants of them, some of which crash.
fn inputs(image: &Path, count: usize, rng: &mut StdRng) -> Vec<Vec<u8>> {
    let folder = image.with_extension("seeds");
    let seeds: Vec<Vec<u8>> =
        common::names(&folder).iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect();
    let mut all = seeds.clone();
    while all.len() < count {
        let mut input = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..rng.random_range(1..6) {
            match rng.random_range(0..4) {
                0 if !input.is_empty() => input.truncate(rng.random_range(0..=input.len())),
                1 => input.push(rng.random()),
                2 => input.extend_from_within(..),
                _ if !input.is_empty() => {
                    let at = rng.random_range(0..input.len());
                    input[at] = rng.random();
                }
                _ => {}
            }
        }
        input.truncate(16 << 10);
        all.push(input);
    }
    all
}

/// What is known of one run.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    outcome: Outcome,
    counters: Vec<u8>,
}

fn by_itself(replica: &mut Replica, input: &[u8]) -> Run {
    let outcome = replica.run(input, DEADLINE).unwrap();
    let counters = [replica.counters(Space::Application), replica.counters(Space::Kernel)].concat();
    Run { outcome, counters }
}

/// Runs all of `inputs` in batches of random sizes; a run that a batch does not vouch for is `None`.
fn in_batches(replica: &mut Replica, inputs: &[Vec<u8>], rng: &mut StdRng) -> Vec<Option<Run>> {
    let mut results = Vec::new();
    let mut runs = Vec::new();
    while results.len() < inputs.len() {
        let rest = &inputs[results.len()..];
        let size = rng.random_range(1..200).min(rest.len());
        let batch = rest[..size].iter().map(Vec::as_slice);
        let report = replica.run_batch(batch, BatchTime::each(DEADLINE), Filter::Off, &mut runs).unwrap();
        if report.taken == 1 {
            // A batch of one stores nothing.
            results.push(None);
            continue;
        }
        for run in &runs {
            let counters = replica.batch_counters(run.slot.expect("nothing was filtered")).to_vec();
            results.push(Some(Run { outcome: Outcome::Done { code: run.code }, counters }));
        }
        match report.end {
            BatchEnd::Complete => assert_eq!(runs.len(), report.taken),
            BatchEnd::Stopped { at, outcome } => {
                assert_eq!(runs.len(), at);
                assert!(!matches!(*outcome, Outcome::Done { .. }), "{outcome:?}");
                results.push(None);
            }
            BatchEnd::Spoiled => results.extend(std::iter::repeat_n(None, report.taken)),
        }
    }
    results
}

#[test]
fn every_run_of_a_batch_is_what_it_is_by_itself() {
    let names = ["cjson", "png", "tinyxml", "zlib-cve-2022-37434", "planted/abort", "planted/null-write"];
    for (i, name) in names.into_iter().enumerate() {
        let image = common::image(name);
        let (kvm, snapshot) = frozen(&image);
        let mut rng = StdRng::seed_from_u64(i as u64);
        let inputs = inputs(&image, 1500, &mut rng);
        let mut alone = Replica::spawn(&kvm, &snapshot, Engine::DirtyLog).unwrap();
        let mut batched = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
        let results = in_batches(&mut batched, &inputs, &mut rng);
        let vouched = results.iter().flatten().count();
        assert!(vouched * 2 > inputs.len(), "{name}: only {vouched} of {} runs vouched for", inputs.len());
        for (n, (input, result)) in inputs.iter().zip(&results).enumerate() {
            let expected = by_itself(&mut alone, input);
            if let Some(result) = result {
                assert!(
                    *result == expected,
                    "{name}, input {n}: {:?} {:?}",
                    result.outcome,
                    expected.outcome
                );
            }
        }
        assert_eq!(batched.differing_pages(), Vec::<u64>::new(), "{name}");
    }
}

/// AFL's buckets.
fn bucket(count: u8) -> u8 {
    match count {
        0..=2 => count,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        _ => 128,
    }
}

/// What a campaign keeps of its inputs: the corpus, as indices, and the history of buckets.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    corpus: Vec<usize>,
    history: Vec<u8>,
    crashed: BTreeSet<usize>,
}

impl Kept {
    fn judge(&mut self, index: usize, run: &Run) {
        self.history.resize(run.counters.len(), 0);
        if !matches!(run.outcome, Outcome::Done { .. }) {
            self.crashed.insert(index);
            return;
        }
        let mut new = false;
        for (seen, &count) in self.history.iter_mut().zip(&run.counters) {
            new |= bucket(count) > *seen;
            *seen = bucket(count).max(*seen);
        }
        if new {
            self.corpus.push(index);
        }
    }

    /// For each counter the largest value that is no news, the slow way.
    fn thresholds(&self) -> Vec<u8> {
        let no_news = |seen: &u8| (0..=255u8).rev().find(|&count| bucket(count) <= *seen).unwrap_or(0);
        self.history.iter().map(no_news).collect()
    }
}

#[test]
fn corpus_and_coverage_are_those_of_the_one_by_one_path() {
    for (i, name) in ["cjson", "png", "planted/magic", "planted/div-zero"].into_iter().enumerate() {
        let image = common::image(name);
        let (kvm, snapshot) = frozen(&image);
        let mut rng = StdRng::seed_from_u64(100 + i as u64);
        let inputs = inputs(&image, 1500, &mut rng);
        let mut alone = Replica::spawn(&kvm, &snapshot, Engine::DirtyLog).unwrap();
        let mut expected = Kept::default();
        for (n, input) in inputs.iter().enumerate() {
            expected.judge(n, &by_itself(&mut alone, input));
        }
        let mut batched = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
        let mut kept = Kept::default();
        kept.judge(0, &by_itself(&mut batched, &inputs[0]));
        let (mut done, mut again) = (1, 0);
        let mut runs = Vec::new();
        while done < inputs.len() {
            let thresholds = kept.thresholds();
            batched.novelty_mut().copy_from_slice(&thresholds);
            let size = rng.random_range(2..200).min(inputs.len() - done);
            let batch = inputs[done..done + size].iter().map(Vec::as_slice);
            let report = batched.run_batch(batch, BatchTime::each(DEADLINE), Filter::All, &mut runs).unwrap();
            let mut news: Vec<usize> =
                runs.iter().enumerate().filter(|(_, run)| run.slot.is_some()).map(|(n, _)| n).collect();
            let dealt = match report.end {
                BatchEnd::Complete if report.taken > 1 => report.taken,
                BatchEnd::Stopped { at, .. } => {
                    news.push(at);
                    at + 1
                }
                BatchEnd::Complete | BatchEnd::Spoiled => {
                    news = (0..report.taken).collect();
                    report.taken
                }
            };
            again += news.len();
            for n in news {
                let run = by_itself(&mut batched, &inputs[done + n]);
                kept.judge(done + n, &run);
            }
            done += dealt;
        }
        assert_eq!(kept, expected, "{name}");
        assert!(again < inputs.len(), "{name}: the filter let everything through");
    }
}

/// An image of a C file of ours.
fn image_of(source: &str) -> PathBuf {
    common::need_kvm();
    let file = common::root().join("fuzzer/tests/guests").join(source);
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source).with_extension("img");
    let flags = ["-mavx".to_owned()];
    let request = BuildRequest::new(&[file], &flags, output.clone()).unwrap();
    if let Err(error) = unifork_harnesses::build(&request) {
        panic!("cannot build {source}: {error}: {:?}", error.diagnostics());
    }
    output
}

#[test]
fn x87_sse_and_avx_state_and_flags_are_put_back_before_every_run() {
    if !std::arch::is_x86_feature_detected!("avx") {
        panic!("this test needs a CPU with AVX");
    }
    let (kvm, snapshot) = frozen(&image_of("fpu.c"));
    let mut rng = StdRng::seed_from_u64(7);
    let noise: Vec<Vec<u8>> =
        (0..400).map(|_| (0..40).map(|_| rng.random_range(b'f'..=255)).collect()).collect();
    for engine in Engine::ALL {
        let mut replica = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        let entered = replica.run(b"", DEADLINE).unwrap();
        assert!(matches!(entered, Outcome::Done { .. }), "{entered:?}");
        let left = replica.run(b"e and noise that fills all of the registers", DEADLINE).unwrap();
        assert_ne!(left, entered, "the harness does change its state");
        for input in noise.iter().take(60) {
            assert_eq!(replica.run(input, DEADLINE).unwrap(), entered, "{engine}");
        }
        let mut results = in_batches(&mut replica, &noise, &mut rng);
        results.extend(in_batches(&mut replica, &noise, &mut rng));
        let vouched: Vec<&Run> = results.iter().flatten().collect();
        assert!(engine != Engine::HotSet || vouched.len() > noise.len(), "{engine}: {}", vouched.len());
        for run in vouched {
            assert_eq!(run.outcome, entered, "{engine}, in a batch");
        }
    }
}

#[test]
fn segment_selectors_are_put_back_before_every_run() {
    let (kvm, snapshot) = frozen(&image_of("selectors.c"));
    for engine in Engine::ALL {
        let mut replica = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        let entered = replica.run(b"", DEADLINE).unwrap();
        for _ in 0..20 {
            assert_eq!(replica.run(b"load them", DEADLINE).unwrap(), entered, "{engine}");
        }
        // The thread is the same, and so are its selectors unless somebody loads them.
        let mut fresh = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        assert_eq!(fresh.run(b"", DEADLINE).unwrap(), entered, "{engine}, in a new fork");
        let inputs = vec![b"load them".to_vec(); 50];
        let results = in_batches(&mut replica, &inputs, &mut StdRng::seed_from_u64(3));
        let vouched: Vec<&Run> = results.iter().flatten().collect();
        assert!(engine != Engine::HotSet || !vouched.is_empty());
        assert!(vouched.iter().all(|run| run.outcome == entered), "{engine}, in a batch");
    }
}

/// Runs `inputs` as one batch, the hot set known already.
fn one_batch(replica: &mut Replica, inputs: &[&[u8]], time: BatchTime) -> (BatchEnd, usize) {
    let mut runs = Vec::new();
    loop {
        let report = replica.run_batch(inputs.iter().copied(), time, Filter::Off, &mut runs).unwrap();
        if report.reset.cold == 0 {
            return (report.end, runs.len());
        }
    }
}

/// How long `input` takes by itself, at least: a busy host stretches a run, and never shortens it.
fn time_of(replica: &mut Replica, input: &[u8]) -> Duration {
    let once = |_| {
        let start = std::time::Instant::now();
        assert_eq!(replica.run(input, DEADLINE).unwrap(), Outcome::Done { code: 0 });
        start.elapsed()
    };
    (0..5).map(once).min().expect("five")
}

#[test]
fn a_run_that_takes_its_deadline_does_not_pass_in_a_batch_either() {
    /// A busy host may also stop the short runs: so often it is tried again.
    const TRIES: usize = 100;
    let (kvm, snapshot) = frozen(&image_of("sleeper.c"));
    let mut replica = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
    let slow = time_of(&mut replica, &[100]);
    // Well between one and two deadlines.
    let time = BatchTime::each(slow * 10 / 13);
    for at in 0..3 {
        let mut inputs: [&[u8]; 4] = [&[1]; 4];
        inputs[at] = &[100];
        let stopped_there = (0..TRIES).any(|_| {
            let (end, vouched) = one_batch(&mut replica, &inputs, time);
            let BatchEnd::Stopped { at: stopped, outcome } = end else { panic!("{end:?}") };
            assert_eq!((vouched, *outcome), (stopped, Outcome::Timeout));
            assert!(stopped <= at, "run {at} passed");
            stopped == at
        });
        assert!(stopped_there, "run {at} was never stopped");
    }
    // Together they may take longer than one deadline...
    let three: [&[u8]; 3] = [&[60]; 3];
    let pass = |_| one_batch(&mut replica, &three, BatchTime::each(slow * 4)) == (BatchEnd::Complete, 3);
    assert!((0..TRIES).any(pass), "three runs never passed together");
    // ...and not longer than the batch's budget.
    let budget = BatchTime { deadline: slow, budget: slow };
    let (end, vouched) = one_batch(&mut replica, &[&[60], &[60], &[60], &[60]], budget);
    let BatchEnd::Stopped { at, .. } = end else { panic!("{end:?}") };
    assert!(at < 3 && vouched == at, "{at}");
}

#[test]
fn a_batch_whose_guest_rewrites_its_records_is_thrown_away() {
    let (kvm, snapshot) = frozen(&image_of("sleeper.c"));
    let mut replica = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
    let good: [&[u8]; 3] = [&[1], &[2], &[1]];
    assert_eq!(one_batch(&mut replica, &good, BatchTime::each(DEADLINE)), (BatchEnd::Complete, 3));
    let bad: [&[u8]; 3] = [&[251], &[2], &[1]];
    assert_eq!(one_batch(&mut replica, &bad, BatchTime::each(DEADLINE)), (BatchEnd::Spoiled, 0));
}

#[test]
fn a_harness_whose_every_run_dirties_another_page_is_not_held_up_by_batches() {
    let image = image_of("scatter.c");
    let dir = tempfile::tempdir().unwrap();
    let seeds = dir.path().join("seeds");
    std::fs::create_dir(&seeds).unwrap();
    std::fs::write(seeds.join("a"), "some words").unwrap();
    let output = dir.path().join("out");
    let args = ["--json", "fuzz", common::text(&image), "--seeds", common::text(&seeds), "--execs", "40000"];
    let more = ["--seed", "1", "--memory", "96M", "--audit", "500", "--output", common::text(&output)];
    let summary = common::run(&[&args[..], &more[..]].concat()).expect(0).json()["summary"].clone();
    let figure = |name: &str| summary[name].as_u64().unwrap();
    assert!(figure("spoiled") > 5, "the harness does what its name says: {summary}");
    assert!(figure("spoiled") < 100, "batches went on: {summary}");
    assert!(figure("audits") > 0 && figure("audit_differences") == 0, "{summary}");
}

#[test]
fn the_input_of_a_tree_node_is_gone_for_runs_from_the_root() {
    let (kvm, snapshot) = frozen(&image_of("twice.c"));
    let mut tree = SnapshotTree::new(snapshot.clone(), u64::MAX);
    let mut replica = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
    let end = INPUT_VA + (64 << 10);
    let byte = |replica: &Replica| {
        let mut byte = [0];
        assert!(replica.read(end - 2048, &mut byte));
        byte[0]
    };
    let long = vec![b'c'; 4000];
    assert_eq!(replica.begin(&long, DEADLINE).unwrap(), Advance::Checkpoint);
    let node = tree.take(&mut replica, ROOT).unwrap();
    assert!(tree.own_bytes(node).unwrap() < 200 << 10, "{:?}", tree.own_bytes(node));
    for _ in 0..2 {
        tree.go(&mut replica, ROOT).unwrap();
        assert_eq!(replica.begin(b"s", DEADLINE).unwrap(), Advance::Ended(Outcome::Done { code: 0 }));
        assert_eq!(byte(&replica), 0, "at the root");
        tree.go(&mut replica, node).unwrap();
        assert_eq!(byte(&replica), b'c', "at the node");
    }
    // A longer input than the node's leaves nothing at the node.
    tree.go(&mut replica, ROOT).unwrap();
    replica.begin(&vec![b'd'; 9000], DEADLINE).unwrap();
    tree.go(&mut replica, node).unwrap();
    let mut below = [1; 4000];
    assert!(replica.read(end - 8000, &mut below));
    assert_eq!(below, [0; 4000]);
}
