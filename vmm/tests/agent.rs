//! `unifork.h` and what compilers say to it; and what it does where there is no unifork.

#[path = "agent/agentless.rs"]
mod agentless;
#[path = "agent/batches.rs"]
mod batches;
#[path = "agent/build.rs"]
mod build;
#[path = "agent/forks.rs"]
mod forks;
#[path = "agent/hostile.rs"]
mod hostile;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const C: [&str; 2] = ["gcc", "clang-16"];
const CXX: [&str; 2] = ["g++", "clang++-16"];
const WARNINGS: [&str; 7] =
    ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion", "-Werror"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn compile(compiler: &str, arguments: &[&str], source: &Path, output: &Path) {
    let mut command = Command::new(compiler);
    command.args(arguments).arg("-I").arg(root().join("../guest/runtime/include"));
    let result = command.arg("-c").arg(source).arg("-o").arg(output).output();
    let result = result.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(result.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&result.stderr));
}

#[test]
fn no_compiler_warns_in_any_language() {
    let folder = tempfile::tempdir().unwrap();
    let user = "int user(int x);\nint user(int x) { UNIFORK_ASSERT(x > 1); UNIFORK_REPORT(\"x\"); return UNIFORK_ACTIVE(); }\n";
    for (name, before) in [("uses", ""), ("implements", "#define UNIFORK_IMPLEMENTATION\n")] {
        for (compilers, extension, standards) in [
            (C, "c", ["-std=c99", "-std=c11", "-std=gnu17"]),
            (CXX, "cc", ["-std=c++11", "-std=c++17", "-std=gnu++20"]),
        ] {
            let source: PathBuf = folder.path().join(name).with_extension(extension);
            fs::write(&source, format!("{before}#include <unifork.h>\n{user}")).unwrap();
            for (compiler, standard) in compilers.iter().flat_map(|c| standards.map(|s| (*c, s))) {
                for mode in [
                    &["-O2", "-fPIE"][..],
                    &["-O0", "-ffreestanding", "-nostdinc", "-mno-sse", "-mcmodel=kernel", "-fno-pic"],
                ] {
                    let arguments = [&WARNINGS[..], mode, &[standard]].concat();
                    compile(compiler, &arguments, &source, &folder.path().join("object.o"));
                }
            }
        }
    }
}

#[test]
fn nothing_happens_on_the_hosts_kernel() {
    let folder = tempfile::tempdir().unwrap();
    for (compiler, coverage) in [
        ("clang-16", "-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp"),
        ("clang-16", "-fsanitize-coverage=trace-pc-guard,trace-cmp"),
        ("gcc", "-fsanitize-coverage=trace-pc,trace-cmp"),
    ] {
        let objects = [("elsewhere", "-O1"), ("parse", coverage)].map(|(name, flag)| {
            let object = folder.path().join(name).with_extension("o");
            compile(compiler, &[flag], &root().join(format!("tests/agent/{name}.c")), &object);
            object
        });
        let program = folder.path().join("program");
        assert!(Command::new(compiler).arg("-o").arg(&program).args(objects).status().unwrap().success());
        let output = Command::new(&program).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            (output.status.code(), &*said),
            (Some(0), "went on with \"ordinary input\"\n"),
            "{coverage}"
        );
    }
}

/// `unifork.h` says in C what `guest/abi` says in Rust.
#[test]
fn the_protocol_is_the_same_in_c_and_in_rust() {
    use unifork_abi::agent::{CALL_TAG, CPUID_LEAF, Call, PORT, SIGNATURE, VERSION};
    let text = fs::read_to_string(root().join("../guest/runtime/include/unifork.h")).unwrap();
    let value = |name: &str| {
        let line =
            text.lines().find_map(|line| line.trim().trim_start_matches("#define ").strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("unifork.h does not define {name}"));
        value.trim_start_matches([' ', '=']).trim_end_matches([',', 'u']).to_owned()
    };
    let number = |name: &str| {
        let text = value(name);
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.unwrap_or_else(|error| panic!("{name} {text}: {error}"))
    };
    assert_eq!(number("UNIFORK_VERSION "), VERSION);
    assert_eq!(number("UNIFORK_CPUID_LEAF "), CPUID_LEAF);
    assert_eq!(number("UNIFORK_PORT "), u32::from(PORT));
    assert_eq!(number("UNIFORK_CALL_TAG "), CALL_TAG);
    assert_eq!(value("UNIFORK_SIGNATURE ").trim_matches('"').as_bytes(), SIGNATURE);
    for (name, call) in [
        ("UNIFORK_HELLO ", Call::Hello),
        ("UNIFORK_INPUT ", Call::Input),
        ("UNIFORK_SNAPSHOT ", Call::Snapshot),
        ("UNIFORK_DONE ", Call::Done),
        ("UNIFORK_REPORTED ", Call::Report),
        ("UNIFORK_COUNTERS ", Call::Counters),
        ("UNIFORK_COUNTER_PCS ", Call::CounterPcs),
        ("UNIFORK_COMPARISON_LOG ", Call::Comparisons),
        ("UNIFORK_AGAIN ", Call::Again),
    ] {
        assert_eq!(number(name), call as u32, "{name}");
    }
}
