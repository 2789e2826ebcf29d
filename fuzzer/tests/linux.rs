//! The library OS held to Linux, call by call: each program of `guest/tests/linux` runs on the host and
//! in a guest, and says the same line for each check.
//!
//! Where it does not, and is not meant to, `deviations.txt` says why; what is in there must differ.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use common::linux::{Difference, Ended, Libc, compile, differences, in_guest, on_host};
use common::{need_kvm, root};

/// Calls of each randomised run.
const RANDOM_CALLS: &str = "4000";
/// Differences shown of one program.
const SHOWN_MAX: usize = 400;

fn sources() -> PathBuf {
    root().join("guest/tests/linux")
}

/// One line of `deviations.txt`.
#[derive(Debug)]
struct Deviation {
    program: String,
    check: String,
    call: String,
}

fn deviations() -> Vec<Deviation> {
    let text = fs::read_to_string(sources().join("deviations.txt")).unwrap();
    let is_entry = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    text.lines()
        .filter(is_entry)
        .map(|line| {
            let fields: Vec<_> = line.splitn(4, ": ").collect();
            let [program, check, call, reason] = fields[..] else {
                panic!("deviations.txt: not `program: check: call: reason`: {line}")
            };
            assert!(!reason.trim().is_empty() && !call.is_empty(), "deviations.txt: why? {line}");
            Deviation { program: program.to_owned(), check: check.to_owned(), call: call.to_owned() }
        })
        .collect()
}

/// Both sides of one run, each in a fresh empty folder.
fn both(program: &std::path::Path, args: &[&str]) -> (Ended, Ended) {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let host = on_host(program, args, here.path());
    (host, in_guest(program, args, there.path()))
}

fn tell(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences.iter().take(SHOWN_MAX) {
        let _ = writeln!(text, "  {difference}");
    }
    if differences.len() > SHOWN_MAX {
        let _ = writeln!(text, "  and {} more", differences.len() - SHOWN_MAX);
    }
    text
}

/// Runs a program with both C libraries, and fails with every line that differs and should not, or
/// should and does not.
fn check(program: &str) {
    need_kvm();
    let all = deviations();
    let expected: BTreeSet<&str> =
        all.iter().filter(|d| d.program == program).map(|d| d.check.as_str()).collect();
    let mut met = BTreeSet::new();
    let mut complaints = String::new();
    for libc in Libc::ALL {
        let path = compile(&sources().join(format!("{program}.c")), libc, &[]);
        let (host, guest) = both(&path, &[]);
        assert!(host.stdout.ends_with("end\n"), "{program} does not end on the host:\n{}", host.stdout);
        let (listed, surprising): (Vec<_>, Vec<_>) =
            differences(&host, &guest).into_iter().partition(|d| expected.contains(d.check.as_str()));
        met.extend(listed.into_iter().map(|difference| difference.check));
        if !surprising.is_empty() {
            let lines = host.stdout.lines().count();
            let _ = writeln!(
                complaints,
                "{program}, {}: {} of {lines} lines differ\n{}{}",
                libc.name(),
                surprising.len(),
                tell(&surprising),
                guest.stderr
            );
        }
    }
    for check in expected.iter().filter(|check| !met.contains(**check)) {
        let _ =
            writeln!(complaints, "{program}: {check}: is in deviations.txt, but does not differ any more");
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

macro_rules! programs {
    ($($program:ident)*) => {
        /// Every program that [`check`] is run on.
        const PROGRAMS: &[&str] = &[$(stringify!($program)),*];
        $(
            #[test]
            fn $program() {
                check(stringify!($program));
            }
        )*
    };
}

programs! { memory files directories descriptors polling clock signals threads sockets process registers special }

/// Sequences of calls that nobody thought of.
fn check_random(program: &str, seeds: std::ops::RangeInclusive<u32>) {
    need_kvm();
    let path = compile(&sources().join(format!("{program}.c")), Libc::Musl, &[]);
    for seed in seeds {
        let (host, guest) = both(&path, &[&seed.to_string(), RANDOM_CALLS]);
        assert!(host.stdout.ends_with("end\n"), "{program} {seed} does not end: {}", host.stdout);
        let found = differences(&host, &guest);
        // One difference leads to others: the first ones matter.
        let first = &found[..found.len().min(5)];
        assert!(
            found.is_empty(),
            "{program} {seed}: {} lines differ\n{}{}",
            found.len(),
            tell(first),
            guest.stderr
        );
    }
}

#[test]
fn random_files() {
    check_random("random_files", 1..=16);
}

#[test]
fn random_memory() {
    check_random("random_memory", 1..=16);
}

/// What `exit`, the end of the last thread and fatal signals leave behind.
#[test]
fn exit_codes_are_those_of_linux() {
    need_kvm();
    let process = compile(&sources().join("process.c"), Libc::Musl, &[]);
    let signals = compile(&sources().join("signals.c"), Libc::Musl, &[]);
    let mut runs: Vec<(&PathBuf, Vec<String>)> = ["0", "1", "123", "255", "256", "-1"]
        .into_iter()
        .map(|code| (&process, vec!["exit".to_owned(), code.to_owned()]))
        .collect();
    runs.push((&process, vec!["thread-exit".to_owned()]));
    // Every signal but those that stop or are ignored.
    let fatal = (1..=16).chain([24, 25, 26, 27, 29, 30, 31, 34, 64]);
    runs.extend(fatal.map(|signal: u32| (&signals, vec!["die".to_owned(), signal.to_string()])));
    for (program, args) in runs {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (host, guest) = both(program, &args);
        assert_eq!((host.code, &host.stdout), (guest.code, &guest.stdout), "{args:?}\n{}", guest.stderr);
    }
}

/// The host's own lines: enough of them, all of programs that are compared, and every deviation names one.
#[test]
fn there_are_many_checks_and_deviations_name_them() {
    let mut checks = BTreeSet::new();
    for program in PROGRAMS {
        let path = compile(&sources().join(format!("{program}.c")), Libc::Musl, &[]);
        let folder = tempfile::tempdir().unwrap();
        let host = on_host(&path, &[], folder.path());
        let names = host.stdout.lines().filter_map(|line| line.split_once(": ").map(|(check, _)| check));
        checks.extend(names.map(|check| (program.to_string(), check.to_owned())));
    }
    assert!(checks.len() > 1_550, "{} checks", checks.len());
    let page = fs::read_to_string(root().join("docs/syscalls.md")).unwrap();
    for Deviation { program, check, call } in deviations() {
        assert!(checks.contains(&(program.clone(), check.clone())), "deviations.txt: no {program}: {check}");
        let row = page.lines().find(|line| line.contains(&format!("| `{call}` |")));
        assert!(
            !row.is_some_and(|row| row.contains("| full |")),
            "docs/syscalls.md: {call} differs: {check}"
        );
    }
}
