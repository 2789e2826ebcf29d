//! The kernel in `harnesses/kernels/records`, through all that is done with an image: fuzzed on one core and on
//! several, audited, its corpus and findings made smaller, grouped, exported and reported.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{names, need_kvm, root, run, text};

/// The kernel, built into `folder`, with its seeds beside it.
fn kernel(folder: &Path) -> PathBuf {
    kernel_with(folder, "")
}

/// The same with flags for the preprocessor.
fn kernel_with(folder: &Path, flags: &str) -> PathBuf {
    need_kvm();
    let source = root().join("harnesses/kernels/records");
    let mut make = Command::new("make");
    make.arg("-C").arg(&source).arg(format!("OUT={}", folder.display())).arg(format!("CPPFLAGS={flags}"));
    let output = make.output();
    let output = output.unwrap_or_else(|error| panic!("make: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seeds = folder.join("records.seeds");
    fs::create_dir(&seeds).unwrap();
    for name in names(&source.join("seeds")) {
        fs::copy(source.join("seeds").join(&name), seeds.join(&name)).unwrap();
    }
    folder.join("records")
}

fn folders(path: &Path) -> Vec<PathBuf> {
    names(path).iter().filter(|name| !name.starts_with('.')).map(|name| path.join(name)).collect()
}

#[test]
fn one_core_finds_the_bug_and_everything_is_done_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let campaign = folder.path().join("campaign");
    let args = ["--json", "fuzz", text(&image), "--mem", "16M", "--output", text(&campaign), "--seed", "7"];
    let more = ["--execs", "400000", "--until", "finding", "--audit", "500"];
    let summary = run(&[&args[..], &more].concat()).expect(0).json()["summary"].clone();
    assert!(summary["audits"].as_u64().unwrap() > 0, "{summary}");
    let found = folders(&campaign.join("findings"));
    let [finding] = &found[..] else { panic!("{found:?}") };
    let name = finding.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("wild-write-"), "{name}");

    // None of these is told how the kernel was booted: the finding says so.
    let ran = run(&["repro", text(finding)]).expect(0);
    assert!(ran.stdout.contains("records.c:55") && ran.stdout.contains("10 of 10 runs"), "{}", ran.stdout);
    let small = folder.path().join("small");
    let told = run(&["--json", "tmin", text(finding), "-o", text(&small)]).expect(0).json();
    assert_eq!(told["name"].as_str(), Some(&*name), "{told}");
    let bytes = fs::read(&small).unwrap();
    assert!(bytes.len() <= 21 && bytes.windows(6).any(|window| window == b"k!golj"), "{bytes:x?}");
    let told = run(&["--json", "triage", text(&campaign)]).expect(0).json();
    let groups = told["triage"]["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1, "{groups:?}");
    let reach = groups[0]["facts"]["reach"].as_array().unwrap();
    assert!(reach.iter().any(|reach| reach["what"] == "address"), "the jump decides where: {reach:?}");

    let corpus = folder.path().join("corpus");
    let queue = campaign.join("queue");
    let args = ["--json", "cmin", text(&queue), "--image", text(&image), "--mem", "16M"];
    let told = run(&[&args[..], &["-o", text(&corpus)]].concat()).expect(0).json();
    assert!(told["edges"].as_u64().unwrap() > 10, "{told}");
    let kept = told["kept"].as_u64().unwrap() as usize;
    assert!(kept > 3 && kept <= names(&queue).len(), "{told}");
    let exported = folder.path().join("afl");
    run(&["export", text(&campaign), "--as", "afl", "-o", text(&exported)]).expect(0);
    assert_eq!(names(&exported.join("crashes")).len(), 1);
    run(&["report", text(&campaign)]).expect(0);
}

#[test]
fn two_cores_fork_one_boot_and_find_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let mut found = Vec::new();
    for cores in [&["--cores", "2"][..], &["--ring0", "monitor"]] {
        let campaign = folder.path().join(format!("campaign-{}", cores[1]));
        let args =
            ["--json", "fuzz", text(&image), "--mem", "16M", "--output", text(&campaign), "--seed", "3"];
        let more = ["--execs", "800000", "--until", "finding"];
        let summary = run(&[&args[..], &more, cores].concat()).expect(0).json()["summary"].clone();
        assert!(summary["execs"].as_u64().unwrap() > 0, "{summary}");
        let names = names(&campaign.join("findings"));
        found.push(names.into_iter().find(|name| name.starts_with("wild-write-")).expect("the bug is found"));
    }
    assert_eq!(found[0], found[1], "a finding has one name");
}

#[test]
fn most_runs_are_parts_of_batches_and_audits_agree() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let campaign = folder.path().join("campaign");
    let args = ["--json", "fuzz", text(&image), "--mem", "16M", "--output", text(&campaign), "--seed", "5"];
    let more = ["--ring0", "monitor", "--execs", "40000", "--audit", "400"];
    let summary = run(&[&args[..], &more].concat()).expect(0).json()["summary"].clone();
    let figure = |name: &str| summary[name].as_u64().unwrap();
    assert!(figure("batched") > 20_000 && figure("batches") < 10_000, "{summary}");
    assert!(figure("audits") > 50 && figure("audit_differences") == 0, "{summary}");
}

#[test]
fn runs_that_use_a_device_are_audited_too() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel_with(folder.path(), "-DPOSTCODES");
    let campaign = folder.path().join("campaign");
    let args = ["--json", "fuzz", text(&image), "--mem", "16M", "--output", text(&campaign), "--seed", "5"];
    let more = ["--ring0", "monitor", "--execs", "6000", "--audit", "100"];
    let summary = run(&[&args[..], &more].concat()).expect(0).json()["summary"].clone();
    let figure = |name: &str| summary[name].as_u64().unwrap();
    assert!(figure("audits") > 30 && figure("audit_differences") == 0, "{summary}");
    assert!(figure("audits_skipped") < figure("audits") / 10, "{summary}");
}

#[test]
fn what_only_our_own_guest_has_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let ran = run(&["fuzz", text(&image), "--kernel-coverage"]).expect(2);
    assert!(ran.stderr.contains("no libOS"), "{}", ran.stderr);
}

/// It is a kernel anywhere: where there is no unifork it checks itself and switches its machine off.
#[test]
fn without_an_agents_host_it_runs_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let ran = run(&["run", "--mem", "16M", text(&image)]).expect(0);
    assert_eq!(ran.stdout, "records: up\nrecords: one record, as it should be\n");
}
