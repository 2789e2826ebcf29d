//! The command line: help texts, bad input, exit codes. Each error is one sentence with what to do.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use common::{Ran, image, run, text, unifork};

/// The help texts are part of the interface; `UNIFORK_UPDATE_HELP=1` writes them anew.
#[test]
fn help_texts_are_as_stored() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    for command in [
        "",
        "doctor",
        "run",
        "snapshot",
        "fuzz",
        "repro",
        "report",
        "triage",
        "tmin",
        "cmin",
        "export",
        "serve",
        "bench",
        "bench spawn",
        "bench reset",
        "bench exec",
        "bench control",
        "bench syscall",
    ] {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let shown = run(&args).expect(0).stdout;
        let name = if command.is_empty() { "unifork".to_owned() } else { command.replace(' ', "-") };
        let path = folder.join(format!("{name}.txt"));
        if std::env::var_os("UNIFORK_UPDATE_HELP").is_some() {
            fs::write(&path, &shown).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shown, stored, "unifork {command} --help differs from {}", path.display());
    }
}

#[test]
fn flags_that_make_no_sense_are_usage_errors() {
    for args in [
        &["fuzz"][..],
        &["no-such-command"],
        &["fuzz", "x.img", "--for", "soon"],
        &["fuzz", "x.img", "--memory", "0"],
        &["fuzz", "x.img", "--engine", "magic"],
        &["fuzz", "x.img", "--until", "tomorrow"],
        &["repro", "x", "--runs", "0"],
        &["snapshot"],
    ] {
        let ran = run(args).expect(2);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
}

/// Every command that takes an image, on everything that is none.
#[test]
fn what_is_not_an_image_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        text(&path).to_owned()
    };
    fs::create_dir(dir.path().join("seeds")).unwrap();
    write("seeds/one", b"1");
    let seeds = text(&dir.path().join("seeds")).to_owned();
    let output = text(&dir.path().join("out")).to_owned();
    let own = fs::read(env!("CARGO_BIN_EXE_unifork")).unwrap();
    let mut of_arm = own[..4096].to_vec();
    of_arm[18] = 183;
    let files = [
        dir.path().join("missing.img").to_str().unwrap().to_owned(),
        write("empty.img", b""),
        write("text.img", b"#!/bin/sh\necho hello\n"),
        write("magic.img", b"\x7fELF"),
        write("cut.img", &own[..100]),
        write("arm.img", &of_arm),
    ];
    for file in &files {
        for args in [
            vec!["fuzz", file, "--seeds", &seeds, "--output", &output, "--execs", "1"],
            vec!["repro", &seeds, "--image", file],
            vec!["snapshot", file, "-o", &output],
        ] {
            let args = if args[0] == "repro" {
                vec!["repro", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--image", file]
            } else {
                args
            };
            one_sentence(&run(&args).expect(2).stderr);
        }
        one_sentence(&run(&["run", file]).expect(125).stderr);
    }
    assert!(!Path::new(&output).exists(), "nothing is half-written");
}

/// One `unifork: …` line and one line of help.
#[track_caller]
fn one_sentence(stderr: &str) {
    let lines: Vec<_> = stderr.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("unifork: ") && lines[1].starts_with("  help: "),
        "{stderr}"
    );
}

#[test]
fn seeds_that_cannot_be_used_are_said_plainly() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::create_dir(dir.path().join("good")).unwrap();
    fs::write(dir.path().join("good/seed"), b"x").unwrap();
    fs::write(dir.path().join("bad.dict"), b"\"good\"\nnot a token\n").unwrap();
    let (output, good) = (path("out"), path("good"));
    let fuzz = |more: &[&str]| {
        let mut args = vec!["fuzz", text(&image), "--execs", "1", "--output", &output];
        args.extend(more);
        let ran = run(&args).expect(2);
        one_sentence(&ran.stderr);
        ran.stderr
    };
    assert!(fuzz(&["--seeds", &path("missing")]).contains("cannot read seed folder"));
    assert!(fuzz(&["--seeds", &path("empty")]).contains("no seeds in"));
    assert!(fuzz(&["--seeds", &good, "--dict", &path("none.dict")]).contains("cannot read dictionary"));
    assert!(
        fuzz(&["--seeds", &good, "--dict", &path("bad.dict")]).contains("bad.dict:2: not a dictionary entry")
    );
    assert!(!Path::new(&output).exists(), "nothing is half-written");
}

#[test]
fn a_folder_that_cannot_be_made_and_a_full_disk_are_said_plainly() {
    let image = image("planted/noop");
    let ran = run(&["fuzz", text(&image), "--execs", "10", "--output", "/proc/none/out"]).expect(2);
    one_sentence(&ran.stderr);

    let dir = tempfile::tempdir().unwrap();
    // Every write to this device says that it is full.
    std::os::unix::fs::symlink("/dev/full", dir.path().join("stats.jsonl")).unwrap();
    let ran = run(&["fuzz", text(&image), "--execs", "10", "--output", text(dir.path())]).expect(3);
    one_sentence(&ran.stderr);
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
}

#[test]
fn a_second_campaign_on_one_folder_is_refused() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let args = ["fuzz", text(&image), "--for", "60s", "--output", text(dir.path())];
    let mut first = common::unifork(&args).stdout(std::process::Stdio::null()).spawn().unwrap();
    let stats = dir.path().join("stats.jsonl");
    common::wait_until("the first campaign", || stats.exists());
    let second = run(&args).expect(2);
    first.kill().unwrap();
    first.wait().unwrap();
    one_sentence(&second.stderr);
    assert!(second.stderr.contains(&format!("process {}", first.id())), "{}", second.stderr);
}

#[test]
fn errors_are_json_with_json() {
    let ran = run(&["--json", "fuzz", "/nonexistent.img"]).expect(2);
    let error = ran.json();
    assert_eq!(error["exit_code"], 2);
    assert!(error["error"].as_str().unwrap().contains("/nonexistent.img"), "{error}");
}

#[test]
fn doctor_says_whether_images_can_be_run() {
    let ran = run(&["--json", "doctor"]);
    let usable = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    assert_eq!(ran.code, if usable { 0 } else { 3 }, "{ran:?}");
    let first: serde_json::Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["usable"], usable);
}

#[test]
fn a_damaged_snapshot_file_ends_a_campaign_however_short_it_is() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let (snap, seeds) = (dir.path().join("x.snap"), dir.path().join("seeds"));
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("one"), "1").unwrap();
    run(&["snapshot", text(&image), "-o", text(&snap)]).expect(0);
    // The last byte that is not zero is far into the memory section.
    let mut bytes = fs::read(&snap).unwrap();
    let at = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[at] ^= 0x10;
    fs::write(&snap, &bytes).unwrap();
    let output = dir.path().join("out");
    for execs in ["1", "1000000000"] {
        let args =
            ["fuzz", text(&snap), "--seeds", text(&seeds), "--execs", execs, "--output", text(&output)];
        let ran = run(&args).expect(2);
        assert!(ran.stderr.contains("x.snap") && ran.stderr.contains("damaged"), "{}", ran.stderr);
    }
}

/// A snapshot file was cut off under a running campaign, which died of SIGBUS without a word.
#[test]
fn a_snapshot_file_cut_off_under_a_campaign_is_named() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let (snap, output) = (dir.path().join("x.snap"), dir.path().join("campaign"));
    run(&["snapshot", text(&image), "-o", text(&snap)]).expect(0);
    let seeds = image.with_extension("seeds");
    let args = [
        "fuzz",
        text(&snap),
        "--output",
        text(&output),
        "--seeds",
        text(&seeds),
        "--for",
        "60s",
        "--no-batch",
    ];
    let child = unifork(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    common::wait_until("the first input", || !common::names(&output.join("queue")).is_empty());
    File::options().write(true).open(&snap).unwrap().set_len(0).unwrap();
    let ran = Ran::new(&args, child.wait_with_output().unwrap()).expect(3);
    assert!(ran.stderr.contains("x.snap was changed while it was in use"), "{}", ran.stderr);
}

#[test]
fn a_snapshot_file_stands_in_for_its_image() {
    let image = image("planted/null-write");
    let dir = tempfile::tempdir().unwrap();
    let snap = dir.path().join("x.snap");
    let written = run(&["--json", "snapshot", text(&image), "-o", text(&snap)]).expect(0).json();
    let read = run(&["--json", "snapshot", "info", text(&snap)]).expect(0).json();
    assert_eq!(written, read);
    assert_eq!(read["memory_bytes"], 64 << 20);
    let input = dir.path().join("input");
    fs::write(&input, b"NUL").unwrap();
    let repro = |file| run(&["--json", "repro", text(&input), "--image", text(file)]).expect(0).json();
    assert_eq!(repro(&snap)["name"], repro(&image)["name"]);
}

#[test]
fn run_shows_the_console_and_says_what_a_harness_is() {
    let image = image("planted/noop");
    let ran = run(&["run", text(&image)]).expect(0);
    assert!(ran.stderr.contains("it asks for an input"), "{}", ran.stderr);
}
