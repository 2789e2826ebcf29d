//! Backtraces of programs whose nesting is known.

use unifork_vmm::introspect::{Method, Symbols};

use crate::build::{Toolchain, build};
use crate::tracee::Tracee;

/// What all of a program's crashes lead back to.
const BELOW: [&str; 5] = ["how", "c", "b", "a", "main"];

/// Each way to crash, with the functions from the crash to `how`; `…` is any number of libc's functions.
const CRASHES: [(&str, &[&str]); 11] = [
    ("write", &["poke", "write_null"]),
    ("abort", &["…", "abort"]),
    ("assert", &["…", "abort", "…", "__assert_fail", "fail_assertion"]),
    ("call-null", &["??", "call_null"]),
    ("mutual", &["poke", "write_null", "…", "even", "odd", "even"]),
    ("huge-frame", &["…", "huge_frame"]),
    ("alloca", &["poke", "write_null", "variable_frame"]),
    ("signal", &["poke", "write_null", "on_signal", "…", "signal_handler"]),
    ("callback", &["poke", "write_null", "compare", "…", "callback"]),
    ("divide", &["divide"]),
    ("trap", &[]),
];

/// Whether `names` is `pattern`, where `…` stands for any number of names.
fn matches(pattern: &[&str], names: &[String]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        (["…", rest @ ..], _) => {
            matches(rest, names) || (!names.is_empty() && matches(pattern, &names[1..]))
        }
        ([first, rest @ ..], [name, names @ ..]) => first == name && matches(rest, names),
        _ => false,
    }
}

/// Compiles the program, crashes it in every way, and asserts that the backtraces are right.
fn assert_backtraces(toolchain: Toolchain, flags: &[&str]) {
    let program = build(toolchain, "crashes.c", flags);
    // Only debug information tells of functions that were inlined.
    let hidden: &[&str] = if flags.contains(&"-g") { &[] } else { &["poke", "divide"] };
    let mut failures = Vec::new();
    for (mode, inner) in CRASHES {
        let tracee = Tracee::crash(&program, mode);
        // gcc moves what runs rarely into a part of its own.
        let names: Vec<_> = tracee.functions().iter().map(|name| name.replace(".cold", "")).collect();
        let inner = inner.iter().filter(|name| !hidden.contains(name));
        let pattern: Vec<&str> = inner.chain(&BELOW).copied().chain(["…"]).collect();
        if !matches(&pattern, &names) {
            let frames: Vec<String> =
                tracee.frames().iter().map(|f| format!("\n    {f} {:?}", f.method)).collect();
            failures.push(format!("{toolchain:?} {flags:?} {mode}: expected {pattern:?}{}", frames.concat()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn clang_and_musl_at_every_level_with_and_without_frame_pointers() {
    for level in ["-O0", "-O1", "-O2"] {
        for pointers in ["-fomit-frame-pointer", "-fno-omit-frame-pointer"] {
            assert_backtraces(Toolchain::MuslClang, &["-g", level, pointers]);
        }
    }
}

#[test]
fn gcc_and_musl_at_every_level_with_and_without_frame_pointers() {
    for level in ["-O0", "-O1", "-O2"] {
        for pointers in ["-fomit-frame-pointer", "-fno-omit-frame-pointer"] {
            assert_backtraces(Toolchain::MuslGcc, &["-g", level, pointers]);
        }
    }
}

/// Switches off the tables that are loaded with the program.
const NO_TABLES: [&str; 2] = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];

#[test]
fn without_unwind_tables_the_debug_information_has_the_same() {
    for toolchain in [Toolchain::MuslClang, Toolchain::MuslGcc] {
        assert_backtraces(toolchain, &["-g", "-O1", NO_TABLES[0], NO_TABLES[1]]);
    }
}

#[test]
fn without_any_call_frame_information_the_instructions_are_read() {
    for toolchain in [Toolchain::MuslClang, Toolchain::MuslGcc] {
        for pointers in ["-fomit-frame-pointer", "-fno-omit-frame-pointer"] {
            for level in ["-O0", "-O1", "-O2"] {
                assert_backtraces(toolchain, &[level, pointers, NO_TABLES[0], NO_TABLES[1]]);
            }
        }
    }
}

#[test]
fn glibc_with_its_own_call_frame_information() {
    for level in ["-O0", "-O2"] {
        assert_backtraces(Toolchain::Glibc, &["-g", level]);
        assert_backtraces(Toolchain::Glibc, &[level, NO_TABLES[0], NO_TABLES[1]]);
    }
}

#[test]
fn a_stripped_program_still_leads_back_to_where_it_started() {
    let program = build(Toolchain::Glibc, "crashes.c", &["-g", "-O1"]);
    let mut full = Symbols::new();
    full.load("app", program.bytes(), 0).unwrap();
    for mode in ["write", "call-null", "alloca"] {
        let mut symbols = Symbols::new();
        symbols.load("app", program.stripped("--strip-all"), 0).unwrap();
        let tracee = Tracee::crash_with(&program, mode, symbols);
        let names: Vec<_> = tracee
            .frames()
            .iter()
            .filter(|frame| frame.method != Method::Start)
            .map(|frame| full.places(frame.address - 1).pop().unwrap().function.unwrap())
            .collect();
        let outer = ["how", "c", "b", "a", "main"].map(str::to_owned);
        assert!(names.windows(5).any(|window| window == outer), "{mode}: {names:?}");
    }
}

#[test]
fn a_stack_overflow_is_walked_to_its_beginning() {
    for (toolchain, flags) in [
        (Toolchain::MuslClang, ["-g", "-O0"]),
        (Toolchain::MuslGcc, ["-g", "-O1"]),
        (Toolchain::Glibc, ["-g", "-fno-omit-frame-pointer"]),
    ] {
        let tracee = Tracee::crash(&build(toolchain, "crashes.c", &flags), "runaway");
        let names = tracee.functions();
        assert!(names.len() > 50_000, "{toolchain:?}: {} frames", names.len());
        assert!(names.iter().take(50_000).all(|name| name == "runaway"));
        assert!(names.len() == 1 << 16 || names.contains(&"main".to_owned()));
    }
}

#[test]
fn an_overwritten_return_address_is_shown_and_its_callers_are_found() {
    let program = build(Toolchain::MuslClang, "crashes.c", &["-g", "-O1", "-fno-omit-frame-pointer"]);
    let tracee = Tracee::crash(&program, "smash");
    let frames = tracee.frames();
    assert_eq!(frames[0].address, 0x4141_4141_4141);
    assert_eq!(frames[0].place, None);
    let names = tracee.functions();
    assert!(matches(&["??", "…", "b", "a", "main", "…"], &names), "{names:?}");
}

#[test]
fn each_frame_says_how_it_was_found() {
    let program = build(Toolchain::MuslClang, "crashes.c", &["-g", "-O1"]);
    let methods = |mode| -> Vec<(String, Method)> {
        let frames = Tracee::crash(&program, mode).frames();
        frames.iter().map(|frame| (frame.function().unwrap_or("??").to_owned(), frame.method)).collect()
    };
    let found = |name: &str, method| (name.to_owned(), method);
    let write = methods("write");
    assert_eq!(
        write[..3],
        [found("poke", Method::Inline), found("write_null", Method::Start), found("how", Method::Cfi)]
    );
    let abort = methods("abort");
    // musl blocks signals while it sends itself one, which therefore arrives in __restore_sigs.
    assert_eq!(abort[..2], [found("__restore_sigs", Method::Start), found("raise", Method::Code)]);
    assert_eq!(abort[2..4], [found("abort", Method::Code), found("how", Method::Code)]);
    assert_eq!(abort[4], found("c", Method::Cfi));
    let null = methods("call-null");
    assert_eq!(null[..2], [found("??", Method::Start), found("call_null", Method::Scan)]);
    assert!(methods("signal").contains(&found("__restore_sigs", Method::Signal)));
}

#[test]
fn frames_know_their_file_line_and_the_lines_of_inlined_calls() {
    let program = build(Toolchain::MuslClang, "crashes.c", &["-g", "-O1"]);
    let frames = Tracee::crash(&program, "write").frames();
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/introspect/programs/crashes.c"))
            .unwrap();
    let text = |index: usize| {
        let place = frames[index].place.as_ref().unwrap();
        assert!(place.file.as_ref().unwrap().ends_with("programs/crashes.c"));
        source.lines().nth(place.line.unwrap() as usize - 1).unwrap().trim().to_owned()
    };
    assert_eq!(text(0), "*to = 7; /* the fault of \"write\" */");
    assert_eq!(text(1), "poke(nowhere);");
    assert_eq!(text(2), "if (!strcmp(mode, \"write\")) write_null();");
    assert_eq!(text(3), "how(mode);");
}

#[test]
fn a_relocated_program_is_found_by_its_bias() {
    let program = build(Toolchain::GlibcPie, "crashes.c", &["-g", "-O1"]);
    // Where it is loaded is known only once it runs.
    let mut tracee = Tracee::crash_with(&program, "write", Symbols::new());
    let bias = tracee.lowest_mapping();
    assert_ne!(bias, 0);
    tracee.symbols.load("app", program.bytes(), bias).unwrap();
    let names = tracee.functions();
    assert!(matches(&["poke", "write_null", "how", "c", "b", "a", "main", "…"], &names), "{names:?}");
    let main = tracee.symbols.find("main").unwrap();
    assert!(main > bias);
    assert_eq!(tracee.symbols.places(main).pop().unwrap().offset, 0);
}

#[test]
fn no_more_frames_than_asked_for() {
    let tracee = Tracee::crash(&build(Toolchain::MuslClang, "crashes.c", &["-g", "-O1"]), "write");
    let unwind = |count| unifork_vmm::introspect::unwind(&tracee.registers, &tracee, &tracee.symbols, count);
    assert_eq!(unwind(0).len(), 0);
    assert_eq!(unwind(1).len(), 1);
    assert_eq!(unwind(3)[..], unwind(100)[..3]);
}

#[test]
fn rules_by_expression_and_by_register_are_followed() {
    let tracee = Tracee::crash(&build(Toolchain::MuslClang, "frames.S", &[]), "rules");
    // `main` says that nothing called it, although something did.
    assert_eq!(tracee.functions(), ["by_register", "by_expression", "main"]);
}

#[test]
fn a_kernel_in_the_same_address_space_leads_back_to_the_system_call() {
    let tracee = Tracee::crash(&build(Toolchain::MuslClang, "frames.S", &[]), "system call");
    assert_eq!(tracee.functions(), ["kernel", "as_system_call", "main"]);
}

#[test]
fn a_scan_prefers_a_return_from_the_function_to_a_stale_one() {
    let tracee = Tracee::crash(&build(Toolchain::MuslClang, "frames.S", &[]), "variable");
    assert_eq!(tracee.functions(), ["variable", "main"]);
    assert_eq!(tracee.frames()[1].method, Method::Scan);
}
