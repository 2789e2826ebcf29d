//! Names and frames of C++ and Rust programs.

use std::process::Command;

use unifork_vmm::introspect::signature;

use crate::build::{Program, Toolchain, build, run};
use crate::tracee::Tracee;

#[test]
fn cxx_names_are_demangled() {
    for level in ["-O0", "-O2"] {
        let tracee = Tracee::crash(&build(Toolchain::Cxx, "crashes.cpp", &["-g", level]), "virtual");
        let names = tracee.functions();
        assert_eq!(names[0], "shapes::Square<int>::area(int) const", "{names:?}");
        assert!(names[1].starts_with("shapes::total(std::vector<std::unique_ptr<shapes::Shape"), "{names:?}");
        assert_eq!(names[2], "main");
    }
}

#[test]
fn line_tables_alone_still_give_full_names() {
    let program = build(Toolchain::Cxx, "crashes.cpp", &["-gline-tables-only", "-O1"]);
    let tracee = Tracee::crash(&program, "virtual");
    let frame = &tracee.frames()[0];
    assert_eq!(frame.function(), Some("shapes::Square<int>::area(int) const"));
    assert_eq!(frame.place.as_ref().unwrap().line, Some(21));
}

#[test]
fn an_uncaught_exception_leads_back_to_who_threw_it() {
    let tracee = Tracee::crash(&build(Toolchain::Cxx, "crashes.cpp", &["-g", "-O1"]), "throw");
    let names = tracee.functions();
    assert!(names.contains(&"__cxa_throw".to_owned()), "{names:?}");
    let signature = signature(&tracee.frames());
    assert!(signature[0].starts_with("complain("), "{signature:?}");
    assert_eq!(signature[1..], ["main"]);
}

#[test]
fn a_lambda_has_a_name() {
    let tracee = Tracee::crash(&build(Toolchain::Cxx, "crashes.cpp", &["-g", "-O1"]), "lambda");
    let names = tracee.functions();
    assert!(names[0].starts_with("main::") && names[0].contains("operator()"), "{names:?}");
    assert_eq!(names[1], "main");
}

/// A Rust program that aborts when it panics.
fn build_rust(flags: &[&str]) -> Program {
    let (program, source) = Program::place("panics.rs");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args([
        "--edition=2024",
        "-Cpanic=abort",
        "-Ctarget-feature=+crt-static",
        "-Crelocation-model=static",
    ]);
    run(rustc.args(flags).arg("-o").arg(&program.path).arg(source));
    program
}

#[test]
fn a_rust_panic_is_named_after_who_caused_it() {
    for flags in [&["-g", "-Copt-level=0"][..], &["-g", "-O"], &["-O", "-Csymbol-mangling-version=v0"]] {
        let tracee = Tracee::crash(&build_rust(flags), "out of range");
        let signature = signature(&tracee.frames());
        assert_eq!(signature[0], "panics::pick", "{:?}", tracee.functions());
        assert!(signature[1].starts_with("panics::parser::parse"), "{signature:?}");
        assert_eq!(signature[2], "panics::main");
    }
}
