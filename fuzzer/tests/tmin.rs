//! `unifork tmin` on real KVM: the known minimum is reached, and the end stays the same.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::coverage::Frozen;
use common::{Ran, image, names, run, text, unifork};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Bytes that stand for an input found by havoc.
fn noise(bytes: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(5);
    (0..bytes).map(|_| rng.random()).collect()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn name_of(input: &Path, image: &Path) -> String {
    let args = ["--json", "repro", text(input), "--image", text(image), "--runs", "1", "--deadline", "250ms"];
    run(&args).expect(0).json()["name"].as_str().unwrap().to_owned()
}

#[test]
fn planted_bugs_shrink_to_their_triggers_and_keep_their_names() {
    for (harness, trigger) in [
        ("magic", "fork"),
        ("null-write", "NU"),
        ("wild-jump", "JM"),
        ("abort", "AB"),
        ("infinite-loop", "IN"),
    ] {
        let image = image(&format!("planted/{harness}"));
        let dir = tempfile::tempdir().unwrap();
        let input = write(dir.path(), "poc", &[trigger.as_bytes(), &noise(3000)].concat());
        let args = ["--json", "tmin", text(&input), "--image", text(&image), "--deadline", "250ms"];
        let told = run(&args).expect(0).json();
        let small = dir.path().join("poc.min");
        println!("{harness}: {told}");
        assert_eq!(String::from_utf8_lossy(&fs::read(&small).unwrap()), trigger, "{harness}");
        assert_eq!(told["bytes_before"], trigger.len() + 3000);
        assert_eq!(told["bytes"], trigger.len());
        // A timeout is named by where it was stopped.
        if harness != "infinite-loop" {
            assert_eq!(name_of(&small, &image), name_of(&input, &image));
            assert_eq!(told["name"], name_of(&small, &image));
        }
        assert_eq!(names(dir.path()), ["poc", "poc.min"], "nothing else is left behind");
    }
}

#[test]
fn a_finding_needs_no_flags_and_is_left_as_it_is() {
    let image = image("planted/null-write");
    let dir = tempfile::tempdir().unwrap();
    let args = ["--execs", "100000", "--until", "finding", "--seed", "1", "--output", text(dir.path())];
    run(&[&["fuzz", text(&image)], &args[..]].concat()).expect(0);
    let findings = dir.path().join("findings");
    let finding = findings.join(&names(&findings)[0]);
    let before = fs::read(finding.join("input")).unwrap();
    run(&["tmin", text(&finding)]).expect(0);
    assert_eq!(fs::read(finding.join("input.min")).unwrap(), b"NU");
    assert_eq!(fs::read(finding.join("input")).unwrap(), before);
    run(&["repro", text(&finding), "--runs", "1"]).expect(0);
}

#[test]
fn an_input_that_ends_well_keeps_its_edges() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let json = br#"  {"first" : [1, 2.5e3, true, "a\u00e9b\n", null], "second" : {"deeper" : {"x" : -17}}, "third" : "a long text that says nothing at all"}  "#;
    let input = write(dir.path(), "seed.json", json);
    let args = ["--json", "tmin", text(&input), "--image", text(&image), "--edges"];
    let told = run(&args).expect(0).json();
    println!("{told}");
    let small = fs::read(dir.path().join("seed.json.min")).unwrap();
    assert!(small.len() * 2 < json.len(), "{}", String::from_utf8_lossy(&small));
    let frozen = Frozen::open(&image);
    let edges = |input: &[u8]| -> BTreeSet<usize> {
        frozen.reached(input).into_iter().map(|(edge, _)| edge).collect()
    };
    let (before, after) = (edges(json), edges(&small));
    assert!(before.len() > 50, "it is to be an input that reaches something");
    assert!(before.is_subset(&after), "{:?} are lost", before.difference(&after));
    // It is the smallest: without any one byte, an edge is lost.
    for at in 0..small.len() {
        let without = [&small[..at], &small[at + 1..]].concat();
        assert!(!before.is_subset(&edges(&without)), "byte {at} of {}", String::from_utf8_lossy(&small));
    }
}

#[test]
fn what_ends_well_or_cannot_be_read_is_said_in_a_sentence_and_writes_nothing() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let input = write(dir.path(), "good", b"hello");
    let ran = run(&["tmin", text(&input), "--image", text(&image)]).expect(1);
    assert!(ran.stdout.contains("ends well") && ran.stdout.contains("--edges"), "{}", ran.stdout);
    let missing = dir.path().join("missing");
    let nowhere = dir.path().join("none/x");
    for args in [
        vec!["tmin", text(&missing), "--image", text(&image)],
        vec!["tmin", text(&input)],
        vec!["tmin", text(&input), "--image", text(&missing)],
        vec!["tmin", text(&input), "--image", text(&image), "--edges", "-o", text(&nowhere)],
    ] {
        let ran = run(&args).expect(2);
        assert!(ran.stderr.lines().count() <= 2 && ran.stderr.starts_with("unifork: "), "{}", ran.stderr);
    }
    assert_eq!(names(dir.path()), ["good"]);
}

#[test]
fn ctrl_c_keeps_the_smallest_so_far() {
    let image = image("planted/infinite-loop");
    let dir = tempfile::tempdir().unwrap();
    let bytes = [b"IN".as_slice(), &noise(20_000)].concat();
    let input = write(dir.path(), "poc", &bytes);
    let small = dir.path().join("poc.min");
    // Each step takes two deadlines, so it is at work for long.
    let args = ["tmin", text(&input), "--image", text(&image), "--deadline", "400ms"];
    let child = unifork(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    common::wait_until("a smaller one on disk", || {
        fs::metadata(&small).is_ok_and(|file| file.len() < bytes.len() as u64)
    });
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ran = Ran::new(&args, child.wait_with_output().unwrap()).expect(0);
    let best = fs::read(&small).unwrap();
    assert!(best.starts_with(b"IN") && best.len() < bytes.len(), "{}", best.len());
    assert!(ran.stderr.contains("bytes"), "no progress: {}", ran.stderr);
}
