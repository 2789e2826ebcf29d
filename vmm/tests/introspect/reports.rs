//! What a crash looks like on paper, and what it is filed under.

use unifork_vmm::introspect::{CrashReport, Stop, signature, stack_hash};

use crate::build::{Toolchain, build};
use crate::tracee::Tracee;

fn report(tracee: &Tracee, cause: &str) -> CrashReport {
    let stop = Stop {
        cause: cause.to_owned(),
        registers: tracee.registers,
        fault_address: Some(tracee.fault),
        console: b"parsing\n\x1b[31mdone".to_vec(),
    };
    CrashReport::collect(&stop, tracee, &tracee.symbols)
}

#[test]
fn a_report_has_everything_in_order() {
    let tracee = Tracee::crash(&build(Toolchain::MuslClang, "crashes.c", &["-g", "-O1"]), "write");
    let text = report(&tracee, "page fault").to_string();
    let expected = [
        "crash: page fault\n",
        "access: write of 4 bytes at 0x0 (rax+0x0)\n",
        "stack hash: ",
        "registers:\n  rax 0000000000000000  rbx ",
        "backtrace:\n  #0   0x0000000000",
        " in poke inlined (",
        "programs/crashes.c:",
        ") [app]\n  #1   0x0000000000",
        " in write_null+0x",
        " in main+0x",
        "code:\n",
        "  => 0x0000000000",
        "mov dword ptr [rax], 7\n",
        "console:\n  parsing\n  \\u{1b}[31mdone\n",
    ];
    let mut rest = text.as_str();
    for part in expected {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is not next in\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn recursion_is_folded() {
    let program = build(Toolchain::MuslClang, "crashes.c", &["-g", "-O0"]);
    let text = report(&Tracee::crash(&program, "runaway"), "stack overflow").to_string();
    assert!(text.contains("more frames of runaway\n  (the first 512 frames; there may be more)"), "{text}");
    assert!(text.lines().count() < 45, "{text}");
    let text = report(&Tracee::crash(&program, "mutual"), "page fault").to_string();
    assert!(text.contains("16 more frames of even, odd\n"), "{text}");
    assert!(text.contains("in main+"), "{text}");
}

#[test]
fn a_report_survives_serde() {
    let tracee = Tracee::crash(&build(Toolchain::MuslClang, "crashes.c", &["-g", "-O1"]), "call-null");
    let report = report(&tracee, "jump to nowhere");
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<CrashReport>(&json).unwrap(), report);
}

#[test]
fn a_stack_hash_is_that_of_the_crash_and_not_of_the_build() {
    let crashes = ["write", "abort", "assert", "call-null", "callback", "signal", "runaway"];
    let hashes = |toolchain, level| {
        let program = build(toolchain, "crashes.c", &["-g", level]);
        crashes.map(|mode| stack_hash(&Tracee::crash(&program, mode).frames()))
    };
    let first = hashes(Toolchain::MuslClang, "-O1");
    assert_eq!(hashes(Toolchain::MuslClang, "-O2"), first);
    assert_eq!(hashes(Toolchain::MuslGcc, "-O1"), first);
    for (index, hash) in first.iter().enumerate() {
        assert!(!first[..index].contains(hash), "{}", crashes[index]);
    }
}

#[test]
fn an_abort_is_filed_under_who_called_it() {
    for toolchain in [Toolchain::MuslClang, Toolchain::MuslGcc, Toolchain::Glibc] {
        let program = build(toolchain, "crashes.c", &["-g", "-O1"]);
        let names = |mode| signature(&Tracee::crash(&program, mode).frames());
        assert_eq!(names("abort"), ["how", "c", "b", "a", "main"], "{toolchain:?}");
        assert_eq!(names("assert"), ["fail_assertion", "how", "c", "b", "a"], "{toolchain:?}");
    }
}
