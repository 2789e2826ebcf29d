//! `unifork cmin` on real KVM: nothing that a corpus reaches is lost, and what ends badly is named.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::coverage::Frozen;
use common::{Ran, image, names, run, text, unifork};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The seeds of a harness and as many inputs made of them as make `count`, all different.
fn corpus(image: &Path, count: usize) -> Vec<Vec<u8>> {
    let folder = image.with_extension("seeds");
    let mut inputs: Vec<Vec<u8>> =
        names(&folder).iter().filter_map(|name| fs::read(folder.join(name)).ok()).collect();
    assert!(!inputs.is_empty(), "no seeds in {}", folder.display());
    let mut rng = StdRng::seed_from_u64(11);
    let mut known: BTreeSet<Vec<u8>> = inputs.iter().cloned().collect();
    while known.len() < count {
        let mut input = inputs[rng.random_range(0..inputs.len())].clone();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..=input.len());
            match rng.random_range(0..3) {
                0 => input.truncate(at),
                1 => input.insert(at, rng.random_range(b' '..b'~')),
                _ => input.extend_from_slice(b"[1,{\"a\":2}]"),
            }
        }
        if known.insert(input.clone()) {
            inputs.push(input);
        }
    }
    inputs
}

fn fill(folder: &Path, inputs: &[Vec<u8>]) {
    fs::create_dir_all(folder).unwrap();
    for (at, input) in inputs.iter().enumerate() {
        fs::write(folder.join(format!("{at:04}")), input).unwrap();
    }
}

fn read(folder: &Path) -> Vec<Vec<u8>> {
    names(folder).iter().map(|name| fs::read(folder.join(name)).unwrap()).collect()
}

#[test]
fn coverage_is_kept_exactly_and_no_input_is_left_over() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let inputs = corpus(&image, 700);
    // Half of it as libFuzzer keeps it, half as AFL++ does, and some twice.
    fill(&path("libfuzzer"), &inputs[..400]);
    fill(&path("afl/main/queue"), &inputs[350..]);
    for (name, text) in [
        ("afl/main/fuzzer_stats", "execs_done : 1"),
        ("afl/main/queue/.state/x", "{{{{{{{{{{"),
        ("afl/main/queue/README.txt", "[[[[[[[[[["),
    ] {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), text).unwrap();
    }
    let (one, other, out) = (path("libfuzzer"), path("afl"), path("small"));
    let args = ["--json", "cmin", text(&one), text(&other), "--image", text(&image), "-o", text(&out)];
    let told = run(&args).expect(0).json();
    println!("{told}");
    let small = read(&out);
    assert_eq!(told["inputs"], 750);
    assert_eq!(told["kept"], small.len());
    assert!(small.len() > 5 && small.len() < 300, "{}", small.len());

    let frozen = Frozen::open(&image);
    let reached = |inputs: &[Vec<u8>]| -> BTreeSet<(usize, u8)> {
        inputs.iter().flat_map(|input| frozen.reached(input)).collect()
    };
    let before = reached(&inputs);
    let after = reached(&small);
    assert_eq!(after.symmetric_difference(&before).collect::<Vec<_>>(), Vec::<&(usize, u8)>::new());
    assert_eq!(told["pairs"], before.len());
    for at in 0..small.len() {
        let others = [&small[..at], &small[at + 1..]].concat();
        assert!(reached(&others) != before, "{:?} is not needed", String::from_utf8_lossy(&small[at]));
    }
    // Its own result cannot be made smaller, and can be fuzzed from.
    let again = path("again");
    let told =
        run(&["--json", "cmin", text(&out), "--image", text(&image), "-o", text(&again)]).expect(0).json();
    assert_eq!(told["kept"], small.len());
    let campaign = path("campaign");
    let args = ["fuzz", text(&image), "--seeds", text(&out), "--output", text(&campaign), "--execs", "2000"];
    run(&args).expect(0);
}

#[test]
fn what_crashes_hangs_or_is_too_long_is_named_and_left_out() {
    for (harness, trigger, kind) in [("null-write", "NU", "null-write"), ("infinite-loop", "IN", "timeout")] {
        let image = image(&format!("planted/{harness}"));
        let dir = tempfile::tempdir().unwrap();
        let (folder, out) = (dir.path().join("in"), dir.path().join("out"));
        let bad = format!("{trigger}xx").into_bytes();
        fill(&folder, &[b"a".to_vec(), bad, b"bbb".to_vec(), vec![b'c'; 5000], b"dddd".to_vec()]);
        let args = [
            "cmin",
            text(&folder),
            "--image",
            text(&image),
            "-o",
            text(&out),
            "--deadline",
            "200ms",
            "--input-max",
            "4096",
        ];
        let ran = run(&args).expect(0);
        let named = |file: &str, why: &str| {
            let path = folder.join(file);
            ran.stderr.lines().any(|line| line.contains(text(&path)) && line.contains(why))
        };
        assert!(named("0001", kind), "{}", ran.stderr);
        assert!(named("0003", "--input-max"), "{}", ran.stderr);
        assert!(read(&out).iter().all(|input| !input.starts_with(trigger.as_bytes())));
        assert_eq!(names(dir.path()), ["in", "out"], "nothing else is left behind");
    }
}

#[test]
fn folders_that_cannot_be_used_are_said_in_a_sentence() {
    let image = image("planted/null-write");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    fill(&dir.path().join("bad"), &[b"NU".to_vec()]);
    fill(&dir.path().join("good"), &[b"x".to_vec()]);
    fs::create_dir(dir.path().join("empty")).unwrap();
    let (good, bad, empty, out) = (path("good"), path("bad"), path("empty"), path("out"));
    for (folder, output, why) in [
        (&empty, &out, "no seeds"),
        (&path("missing"), &out, "cannot read"),
        (&bad, &out, "none ends well"),
        (&good, &bad, "not an empty folder"),
        (&good, &path("none/out"), "is not a folder"),
    ] {
        let ran = run(&["cmin", folder, "--image", text(&image), "-o", output]).expect(2);
        let error: Vec<_> = ran.stderr.lines().filter(|line| !line.contains("warning")).collect();
        assert!(error.len() == 2 && error[0].contains(why) && error[1].contains("help"), "{}", ran.stderr);
    }
    let none = path("none.img");
    run(&["cmin", &good, "--image", &none, "-o", &out]).expect(2);
    assert_eq!(names(dir.path()), ["bad", "empty", "good"]);
    assert_eq!(names(Path::new(&bad)), ["0000"]);
    // An empty folder is as good as none.
    run(&["cmin", &good, "--image", text(&image), "-o", &empty]).expect(0);
    assert_eq!(read(Path::new(&empty)), [b"x"]);
}

#[test]
fn stopped_it_writes_nothing_and_it_says_how_far_it_is() {
    let image = image("planted/infinite-loop");
    let dir = tempfile::tempdir().unwrap();
    let (folder, out): (PathBuf, PathBuf) = (dir.path().join("in"), dir.path().join("out"));
    let hang = |at: u32| [b"IN".as_slice(), &at.to_le_bytes()].concat();
    fill(&folder, &(0..3000).map(hang).collect::<Vec<_>>());
    let args = ["cmin", text(&folder), "--image", text(&image), "-o", text(&out), "--deadline", "20ms"];
    let mut child = unifork(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "it is to be at work for long");
    let sent = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let start = std::time::Instant::now();
    let ran = Ran::new(&args, child.wait_with_output().unwrap()).expect(1);
    assert!(start.elapsed().as_secs() < 5, "it went on for {:?}", start.elapsed());
    assert!(ran.stdout.contains("nothing is written"), "{}", ran.stdout);
    assert!(ran.stderr.contains("inputs"), "no progress: {}", ran.stderr);
    assert_eq!(names(dir.path()), ["in"]);
}
