//! The programs of `guest/tests/linux`, which say a line for each check: on the host, so far.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use common::linux::{Libc, compile, on_host};
use common::root;

/// The programs.
const PROGRAMS: [&str; 11] = [
    "memory",
    "files",
    "directories",
    "descriptors",
    "polling",
    "clock",
    "signals",
    "threads",
    "sockets",
    "process",
    "special",
];

fn sources() -> PathBuf {
    root().join("guest/tests/linux")
}

/// One line of `deviations.txt`.
#[derive(Debug)]
struct Deviation {
    program: String,
    check: String,
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
            Deviation { program: program.to_owned(), check: check.to_owned() }
        })
        .collect()
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
    assert!(checks.len() > 1_300, "{} checks", checks.len());
    for Deviation { program, check } in deviations() {
        assert!(checks.contains(&(program.clone(), check.clone())), "deviations.txt: no {program}: {check}");
    }
}
