//! `unifork triage` on real KVM: what is one is grouped, what is said is so, and pages are whole.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{image, names, need_kvm, run, text};
use serde_json::Value;
use unifork_harnesses::BuildRequest;

/// An image whose crashes are steered by the input.
fn reach(folder: &Path) -> PathBuf {
    need_kvm();
    let source = common::root().join("fuzzer/tests/guests/reach.c");
    let output = folder.join("reach.img");
    let request = BuildRequest::new(&[source], &[], output.clone()).unwrap();
    unifork_harnesses::build(&request).unwrap();
    output
}

fn group<'a>(told: &'a Value, kind: &str) -> &'a Value {
    let groups = told["triage"]["groups"].as_array().unwrap();
    let of_kind: Vec<_> = groups.iter().filter(|group| group["kind"] == kind).collect();
    assert_eq!(of_kind.len(), 1, "groups of {kind}: {groups:#?}");
    of_kind[0]
}

/// The bytes of the input that reach `what`.
fn bytes(group: &Value, what: &str) -> Vec<u64> {
    let reach = group["facts"]["reach"].as_array().unwrap().iter().find(|reach| reach["what"] == what);
    let ranges = reach.map(|reach| reach["bytes"].as_array().unwrap().clone()).unwrap_or_default();
    let number = |range: &Value, end: &str| range[end].as_u64().unwrap();
    ranges.iter().flat_map(|range| number(range, "start")..number(range, "end")).collect()
}

#[test]
fn findings_are_grouped_and_what_is_said_of_them_is_so() {
    let dir = tempfile::tempdir().unwrap();
    let image = reach(dir.path());
    let inputs = dir.path().join("crashes");
    fs::create_dir(&inputs).unwrap();
    for (name, bytes) in [
        ("read", b"RD..\x00\x00\x34\x12\x05\x00\x00\x00tail".as_slice()),
        ("read-null", b"RD..\x00\x00\x00\x00\x00\x00\x00\x00and a tail"),
        ("jump", b"JP..\x40\x41\x42\x43\x44\x00\x00\x00"),
        ("null-1", b"NW1.12345678 and more"),
        ("null-2", b"NW2.12345678"),
        ("loop-1", b"LP1.12345678"),
        ("loop-2", b"LP2.12345678 and more"),
        ("good", b"nothing to see"),
    ] {
        fs::write(inputs.join(name), bytes).unwrap();
    }
    let pages = dir.path().join("pages");
    let args = ["--json", "triage", text(&inputs), "--image", text(&image), "-o", text(&pages)];
    let told = run(&[&args[..], &["--deadline", "200ms"]].concat()).expect(1).json();

    let read = group(&told, "wild-read");
    assert_eq!(read["members"].as_array().unwrap().len(), 2, "one instruction, wherever it points");
    assert_eq!(read["facts"]["access"]["kind"], "Read");
    assert_eq!(read["facts"]["access"]["size"], 1);
    assert_eq!(read["facts"]["access"]["address"], 0x5_1234_0010_u64);
    assert_eq!(read["facts"]["near_null"], false);
    assert_eq!(read["facts"]["rip"], "in_code");
    // A change of the upper bytes makes it another exception, at the same instruction.
    assert_eq!(bytes(read, "address"), (4..12).collect::<Vec<_>>());
    assert_eq!(read["facts"]["bytes_changed"], 16);
    let held = read["facts"]["held"].as_array().unwrap();
    assert!(
        held.iter().any(|held| held["at"]["start"] == 4 && held["value"] == 0x5_1234_0000_u64),
        "{held:?}"
    );

    let jump = group(&told, "wild-jump");
    assert_eq!(jump["facts"]["rip"], "controlled");
    assert!(bytes(jump, "rip").starts_with(&[4, 5, 6, 7, 8]), "{jump:#}");
    let held = jump["facts"]["held"].as_array().unwrap();
    assert!(held.iter().any(|held| held["register"] == "rip" && held["at"]["start"] == 4), "{held:?}");

    // Two lines of one function, two ways into one loop.
    let null = group(&told, "null-write");
    assert_eq!(null["facts"]["near_null"], true);
    assert_eq!(bytes(null, "address"), Vec::<u64>::new());
    assert_eq!(null["members"].as_array().unwrap().len(), 2);
    assert_eq!(null["members"][0]["bytes"], 12, "the smallest comes first");
    let endless = group(&told, "timeout");
    assert_eq!(endless["members"].as_array().unwrap().len(), 2);
    assert_eq!(endless["stack"][0], "spin");

    let lost = told["triage"]["not_reproduced"].as_array().unwrap();
    assert_eq!(lost.len(), 1);
    assert!(lost[0]["path"].as_str().unwrap().ends_with("good"));
    check_pages(&pages, &told);
}

/// Each group has its pages, which are whole and need nothing else.
fn check_pages(pages: &Path, told: &Value) {
    let groups = told["triage"]["groups"].as_array().unwrap();
    let index = fs::read_to_string(pages.join("index.html")).unwrap();
    let plain = fs::read_to_string(pages.join("index.txt")).unwrap();
    assert_eq!(names(pages).len(), groups.len() + 3, "{:?}", names(pages));
    for group in groups {
        let name = group["name"].as_str().unwrap();
        let folder = pages.join(name);
        assert_eq!(names(&folder), ["index.html", "input", "report.json", "report.txt"]);
        assert!(index.contains(&format!("href=\"{name}/index.html\"")) && plain.contains(name));
        let html = fs::read_to_string(folder.join("index.html")).unwrap();
        for wanted in
            ["<!doctype html>", "viewport", "prefers-color-scheme", "unifork repro ", "Backtrace", "</html>"]
        {
            assert!(html.contains(wanted), "{name} has no {wanted}");
        }
        for outside in ["http:", "https:", "<script", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{name} needs something else: {outside}");
        }
        let report: Value = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
        assert_eq!(&report, group);
        assert_eq!(fs::metadata(folder.join("input")).unwrap().len(), report["input"]);
        assert!(fs::read_to_string(folder.join("report.txt")).unwrap().contains("backtrace:"));
    }
}

#[test]
fn a_campaign_is_sorted_into_its_own_folder_and_again() {
    let image = image("planted/abort");
    let dir = tempfile::tempdir().unwrap();
    let campaign = dir.path().join("c");
    let args = ["--execs", "100000", "--until", "finding", "--seed", "1", "--output", text(&campaign)];
    run(&[&["fuzz", text(&image)], &args[..]].concat()).expect(0);
    let finding = names(&campaign.join("findings"))[0].clone();
    for _ in 0..2 {
        let ran = run(&["triage", text(&campaign)]).expect(0);
        assert!(ran.stdout.contains("1 finding in 1 group"), "{}", ran.stdout);
        assert_eq!(names(&campaign.join("triage")), [&finding, "index.html", "index.json", "index.txt"]);
    }
    let smallest = fs::read(campaign.join("triage").join(&finding).join("input")).unwrap();
    assert_eq!(smallest, fs::read(campaign.join("findings").join(&finding).join("input")).unwrap());
    let report = fs::read(campaign.join("triage").join(&finding).join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["facts"]["access"], Value::Null, "abort() is no access");
    // One that is damaged is named; the others are sorted.
    let broken = campaign.join("findings/broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("input"), b"x").unwrap();
    fs::write(broken.join("report.json"), b"{").unwrap();
    let ran = run(&["triage", text(&campaign)]).expect(1);
    assert!(ran.stderr.contains(text(&broken)), "{}", ran.stderr);
    assert!(names(&campaign.join("triage")).contains(&finding));
}

#[test]
fn what_cannot_be_sorted_is_said_in_a_sentence() {
    let image = image("planted/noop");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    fs::create_dir_all(dir.path().join("none/findings")).unwrap();
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/precious"), b"1").unwrap();
    fs::write(dir.path().join("input"), b"1").unwrap();
    let (input, mine, out) = (path("input"), path("mine"), path("out"));
    for args in [
        vec!["triage", &path("missing"), "-o", &out],
        vec!["triage", &input, "--image", text(&image)],
        vec!["triage", &input, "-o", &out],
        vec!["triage", &input, "--image", text(&image), "-o", &mine],
        vec!["triage", &input, "--image", text(&image), "-o", &path("no/where")],
    ] {
        let ran = run(&args).expect(2);
        assert!(ran.stderr.lines().count() == 2 && ran.stderr.starts_with("unifork: "), "{}", ran.stderr);
    }
    let ran = run(&["triage", &path("none")]).expect(1);
    assert!(ran.stdout.contains("no findings"), "{}", ran.stdout);
    assert_eq!(names(dir.path()), ["input", "mine", "none"]);
    assert_eq!(names(Path::new(&mine)), ["precious"]);
}
