//! Whole campaigns on real KVM: planted bugs are found, runs repeat, and a kill loses nothing.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Ran, image, names, run, text, wait_until};
use serde_json::Value;

/// A planted bug, what its findings are called, and the executions it is found within.
const PLANTED: [(&str, &str, &str); 11] = [
    ("abort", "abort", "100000"),
    ("assert", "assertion", "100000"),
    ("div-zero", "divide-by-zero", "100000"),
    ("heap-exhaustion", "out-of-memory", "100000"),
    ("infinite-loop", "timeout", "100000"),
    ("magic", "null-write", "400000"),
    ("null-write", "null-write", "100000"),
    ("stack-overflow-guard", "stack-overflow", "100000"),
    ("unbounded-recursion", "stack-overflow", "100000"),
    ("unifork-assert", "assertion", "100000"),
    ("wild-jump", "wild-jump", "100000"),
];

/// Fuzzes until the first finding, and gives its name and the executions it took.
fn find(image: &Path, output: &Path, execs: &str, deadline: &str) -> (String, u64) {
    let args = [
        "--json",
        "fuzz",
        text(image),
        "--output",
        text(output),
        "--seed",
        "1",
        "--execs",
        execs,
        "--until",
        "finding",
        "--deadline",
        deadline,
    ];
    let summary = run(&args).expect(0).json();
    let found = names(&output.join("findings"));
    assert_eq!(found.len(), 1, "{found:?}");
    (found[0].clone(), summary["summary"]["execs"].as_u64().unwrap())
}

#[test]
fn each_planted_bug_is_found_with_its_cause_and_reproduces() {
    let mut wrong = Vec::new();
    for (name, kind, execs) in PLANTED {
        let image = image(&format!("planted/{name}"));
        let dir = tempfile::tempdir().unwrap();
        let (found, took) = find(&image, dir.path(), execs, if kind == "timeout" { "250ms" } else { "10s" });
        println!("{name}: {found} after {took} executions");
        if found.rsplit_once('-').is_none_or(|(found, _)| found != kind) {
            wrong.push(format!("{name}: {found}, not {kind}"));
        }
        let finding = dir.path().join("findings").join(&found);
        assert_eq!(names(&finding), ["input", "report.json", "report.txt"]);
        let repro = run(&["--json", "repro", text(&finding), "--runs", "3"]).expect(0).json();
        assert_eq!(repro["agreement"]["agree"], 3, "{name}: {repro}");
        assert_eq!(repro["reproduced"], true);
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_known_zlib_bug_is_found_from_ordinary_seeds() {
    let image = image("zlib-cve-2022-37434");
    let dir = tempfile::tempdir().unwrap();
    let (found, took) = find(&image, dir.path(), "50000", "10s");
    println!("{found} after {took} executions");
    let finding = dir.path().join("findings").join(&found);
    let repro = run(&["--json", "repro", text(&finding), "--runs", "3"]).expect(0).json();
    assert!(repro["report"].to_string().contains("inflate.c"), "{repro}");
}

/// The queue's files with their bytes.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    names(folder)
        .into_iter()
        .map(|name| (name.clone(), fs::read(folder.join(name)).unwrap_or_default()))
        .collect()
}

/// Figures, queue and findings.
type Ended = (Vec<Value>, Vec<(String, Vec<u8>)>, Vec<String>);

/// What a campaign with these flags ends with, of as many sessions as there are limits.
fn campaign(image: &Path, how: &[&str], sessions: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let mut figures = Vec::new();
    for execs in sessions {
        let args = ["--json", "fuzz", text(image), "--output", text(dir.path()), "--seed", "7"];
        let summary = run(&[&args[..], &["--execs", execs], how].concat()).expect(0).json();
        figures = ["execs", "corpus", "edges", "findings", "duplicates", "stability"]
            .iter()
            .map(|name| summary["summary"][name].clone())
            .collect();
    }
    (figures, contents(&dir.path().join("queue")), names(&dir.path().join("findings")))
}

/// With every mechanism: comparisons, words, and for cJSON and SQLite a grammar; tokens, weights and MOpt.
#[test]
fn the_same_seed_gives_the_same_campaign() {
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("cjson", &[], &["8000"]),
        ("cjson", &[], &["3000", "8000"]),
        ("cjson", &["--no-batch", "--with", "mopt"], &["3000"]),
        ("cjson", &["--without", "cover,operators", "--with", "power,weights,tokens,words"], &["3000"]),
        ("sqlite", &[], &["1500", "2500"]),
    ];
    for (name, how, sessions) in cases {
        let image = image(name);
        let (one, other) = (campaign(&image, how, sessions), campaign(&image, how, sessions));
        assert_eq!(one.0[0].to_string(), sessions[sessions.len() - 1], "{name} {how:?}: executions");
        assert!(one.1.len() > 20, "{name} {how:?}: it is to be a campaign that finds something");
        assert_eq!(one, other, "{name} {how:?} {sessions:?}");
    }
}

fn start(image: &Path, output: &Path) -> Child {
    let args = ["--json", "fuzz", text(image), "--output", text(output), "--seed", "1"];
    common::unifork(&args).stdout(Stdio::piped()).spawn().unwrap()
}

fn last_execs(output: &Path) -> u64 {
    let stats = fs::read_to_string(output.join("stats.jsonl")).unwrap_or_default();
    // Other lines say what was chosen at the start; the last one may be half written.
    let execs = |line| serde_json::from_str::<Value>(line).ok()?["execs"].as_u64();
    stats.lines().rev().find_map(execs).unwrap_or(0)
}

#[test]
fn a_kill_at_any_moment_loses_no_input_and_no_finding() {
    // Found within half a second from this seed, so that some of the kills come after it.
    let image = image("planted/unbounded-recursion");
    let dir = tempfile::tempdir().unwrap();
    let (queue, findings) = (dir.path().join("queue"), dir.path().join("findings"));
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..4u64 {
        let execs_before = last_execs(dir.path());
        let mut child = start(&image, dir.path());
        // Killed at a different moment each time: while it starts, and later and later.
        if round > 0 {
            wait_until("the first statistics", || last_execs(dir.path()) > execs_before);
        }
        std::thread::sleep(Duration::from_millis(130 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = contents(&queue);
        for entry in &kept {
            assert!(now.contains(entry), "round {round} lost {}", entry.0);
        }
        kept = now.into_iter().filter(|(name, _)| !name.starts_with('.')).collect();
        assert!(last_execs(dir.path()) >= execs_before, "it counts on");
    }
    assert!(!kept.is_empty() && !names(&findings).is_empty());
    let execs = last_execs(dir.path());
    let known = names(&findings);
    let limit = (execs + 2_000).to_string();
    let ran =
        run(&["--json", "fuzz", text(&image), "--output", text(dir.path()), "--execs", &limit]).expect(0);
    let summary = ran.json();
    assert_eq!(summary["summary"]["execs"], execs + 2_000);
    assert!(summary["summary"]["corpus"].as_u64().unwrap() >= kept.len() as u64, "{summary} {kept:?}");
    for name in known.iter().filter(|name| !name.starts_with('.')) {
        assert!(findings.join(name).join("report.json").exists(), "{name}");
    }
    let leftovers: Vec<_> =
        [&queue, &findings].iter().flat_map(|dir| names(dir)).filter(|name| name.starts_with('.')).collect();
    assert_eq!(leftovers, Vec::<String>::new());
}

#[test]
fn an_interrupt_saves_and_sums_up() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let child = start(&image, dir.path());
    wait_until("the first statistics", || last_execs(dir.path()) > 0);
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ran = Ran::new(&["fuzz"], child.wait_with_output().unwrap()).expect(0);
    let summary = ran.json();
    assert!(summary["session_execs"].as_u64().unwrap() > 0);
    assert!(dir.path().join("state.postcard").exists());
    assert_eq!(names(&dir.path().join("findings")), Vec::<String>::new(), "a stop is no timeout");
}

#[test]
fn a_damaged_input_is_set_aside_and_named() {
    let image = image("cjson");
    let dir = tempfile::tempdir().unwrap();
    let fuzz = |execs: &str| {
        run(&["--json", "fuzz", text(&image), "--output", text(dir.path()), "--seed", "3", "--execs", execs])
            .expect(0)
    };
    fuzz("300");
    let queue = dir.path().join("queue");
    let victim = names(&queue)[0].clone();
    fs::write(queue.join(&victim), b"flipped").unwrap();
    fs::write(dir.path().join("state.postcard"), b"UFSTATE\x01 and then nonsense").unwrap();
    let ran = fuzz("600");
    assert!(ran.stderr.contains(&format!("queue/{victim} is damaged")), "{}", ran.stderr);
    assert!(ran.stderr.contains("no saved state is used (it is damaged)"), "{}", ran.stderr);
    assert!(dir.path().join("corrupt").join(&victim).exists());
}

#[test]
fn nothing_found_is_a_negative_result() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let args = ["fuzz", text(&image), "--output", text(dir.path()), "--execs", "50", "--until", "finding"];
    let ran = run(&args).expect(1);
    assert!(ran.stdout.contains("no findings"), "{}", ran.stdout);
}

#[test]
fn seeds_that_all_crash_are_said_plainly() {
    let image = image("planted/null-write");
    let dir = tempfile::tempdir().unwrap();
    let (seeds, output) = (dir.path().join("seeds"), dir.path().join("out"));
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("bad"), b"NUL").unwrap();
    let args = ["fuzz", text(&image), "--seeds", text(&seeds), "--output", text(&output)];
    let ran = run(&args).expect(2);
    assert!(ran.stderr.contains("of 1 seed, none ends well: 1 crash"), "{}", ran.stderr);
    assert_eq!(names(&output.join("findings")).len(), 1, "the crash is kept nevertheless");
}

/// `corpora/regressions/ID/` holds an `input`, and `expected` with two words: harness and kind.
#[test]
fn every_stored_regression_reproduces() {
    let regressions = common::root().join("corpora/regressions");
    let ids = names(&regressions);
    assert!(!ids.is_empty(), "there are stored regressions");
    for id in ids.iter().filter(|id| regressions.join(id).is_dir()) {
        let folder = regressions.join(id);
        let expected = fs::read_to_string(folder.join("expected")).unwrap();
        let (harness, kind) = expected.trim().split_once(' ').expect("two words");
        let (input, image) = (folder.join("input"), image(harness));
        let args =
            ["--json", "repro", text(&input), "--image", text(&image), "--runs", "3", "--deadline", "250ms"];
        let repro = run(&args).expect(0).json();
        let name = repro["name"].as_str().unwrap_or_default();
        assert!(name.rsplit_once('-').is_some_and(|(found, _)| found == kind), "{id}: {name}, not {kind}");
    }
}

#[test]
fn audits_of_live_campaigns_find_every_run_as_it_is_in_a_new_fork() {
    for (name, how) in [("cjson", "in batches"), ("png", "in batches"), ("cjson", "--no-batch")] {
        let dir = tempfile::tempdir().unwrap();
        let image = image(name);
        let mut args = vec!["--json", "fuzz", text(&image), "--output", text(dir.path())];
        args.extend(["--seed", "1", "--execs", "20000", "--audit", "300"]);
        args.extend((how == "--no-batch").then_some(how));
        let summary = run(&args).expect(0).json()["summary"].clone();
        let figure = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("no {name}: {summary}"));
        assert!(figure("audits") >= 40, "{name} {how}: {summary}");
        assert_eq!(figure("audit_differences"), 0, "{name} {how}");
        assert_eq!(figure("batches") == 0, how == "--no-batch", "{name} {how}");
    }
}

#[test]
fn comparisons_lead_through_magic_numbers_lengths_sums_and_words() {
    let image = image("planted/comparisons");
    let fuzz = |how: &[&str], execs: &str| {
        let dir = tempfile::tempdir().unwrap();
        let args = ["--json", "fuzz", text(&image), "--output", text(dir.path()), "--seed", "1"];
        let limits = ["--execs", execs, "--until", "finding"];
        let ran = run(&[&args[..], &limits[..], how].concat());
        (ran, names(&dir.path().join("findings")))
    };
    for how in [&[][..], &["--no-batch"]] {
        let (ran, found) = fuzz(how, "3000000");
        let summary = ran.expect(0).json()["summary"].clone();
        println!("{how:?}: {} executions", summary["execs"]);
        assert!(found.len() == 1 && found[0].starts_with("null-write-"), "{how:?}: {found:?}");
    }
    // Without them there is no way through: 2^64 to 1 against the first number alone.
    let (ran, found) = fuzz(&["--without", "comparisons"], "300000");
    ran.expect(1);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_grammar_leads_to_what_bytes_alone_do_not() {
    let image = image("planted/nested");
    let fuzz = |how: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let args = ["--json", "fuzz", text(&image), "--output", text(dir.path()), "--seed", "1"];
        let limits = ["--execs", "200000", "--until", "finding"];
        let ran = run(&[&args[..], &limits[..], how].concat());
        (ran, names(&dir.path().join("findings")))
    };
    for how in [&[][..], &["--no-batch"]] {
        let (ran, found) = fuzz(how);
        println!("{how:?}: {} executions", ran.expect(0).json()["summary"]["execs"]);
        assert!(found.len() == 1 && found[0].starts_with("null-write-"), "{how:?}: {found:?}");
    }
    let (ran, found) = fuzz(&["--without", "grammar,tokens"]);
    ran.expect(1);
    assert_eq!(found, Vec::<String>::new());
}
