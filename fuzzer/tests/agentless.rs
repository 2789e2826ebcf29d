//! A kernel that knows nothing of unifork, from the plain command line to its planted bugs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unifork(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unifork")).args(args).output().unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}

/// The kernel in `vmm/tests/agent/agentless.c`, stripped, with its symbols in a file beside it.
fn kernel(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vmm/tests/agent/agentless.c");
    let (object, image) = (folder.join("kernel.o"), folder.join("kernel"));
    let mut compile = Command::new("clang-16");
    compile.args(["-c", "-O1", "-g", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-mno-red-zone"]);
    compile.args(["-mno-sse", "-fcf-protection=none", "-o"]);
    run(compile.arg(&object).arg(source));
    let link = ["-static", "-nostdlib", "-Ttext-segment=0x200000", "-z", "noexecstack", "-o"];
    run(Command::new("ld").args(link).arg(&image).arg(&object));
    fs::copy(&image, folder.join("kernel.dbg")).unwrap();
    run(Command::new("strip").arg(&image));
    fs::create_dir(folder.join("kernel.seeds")).unwrap();
    fs::write(folder.join("kernel.seeds/one"), "BU, kernel").unwrap();
    image
}

const PROFILE: &str = "
assertions = ['assertion failed: ']
[[panic]]
symbol = 'panic'
message = ['rdi', 'rsi']
";

#[test]
fn a_kernel_without_an_agent_is_fuzzed_to_its_bugs_and_a_finding_made_again_without_flags() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let profile = folder.path().join("own.toml");
    fs::write(&profile, PROFILE).unwrap();
    let (image, profile) = (image.to_str().unwrap(), profile.to_str().unwrap());
    let root = folder.path().join("campaign");
    let machine = ["fuzz", image, "--profile", "pc", "--ring0", "monitor", "--memory", "8M"];
    let terms = ["--snapshot-at", "symbol:parse", "--input-to", "regs:rdi,rsi,max=64"];
    let more = ["--panic-profile", profile, "--output", root.to_str().unwrap()];
    let limits = ["--seed", "1", "--execs", "300000", "--until", "finding"];
    let output = unifork(&[&machine[..], &terms, &more, &limits].concat());
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    let findings: Vec<_> = fs::read_dir(root.join("findings")).unwrap().map(|e| e.unwrap().path()).collect();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    let input = fs::read(finding.join("input")).unwrap();
    assert!(input.windows(3).any(|part| part == b"BUG"), "{input:?}");
    // From another folder, and without flags: they are on record.
    let mut repro = Command::new(env!("CARGO_BIN_EXE_unifork"));
    let output = repro.current_dir("/").args(["repro", finding.to_str().unwrap()]).output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains("in deeper+") && said.contains("agentless.c:"), "{said}");
    assert!(said.contains("10 of 10 runs in fresh forks agree"), "{said}");
}

/// A run that passed by blocks which were seen before is held to one that counts them all.
#[test]
fn runs_with_breakpoints_are_audited() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let root = folder.path().join("campaign");
    for ring0 in ["monitor", "native"] {
        let execs = if ring0 == "monitor" { "4000" } else { "300" };
        let output = unifork(&[
            "--json",
            "fuzz",
            image.to_str().unwrap(),
            "--profile",
            "pc",
            "--ring0",
            ring0,
            "--memory",
            "8M",
            "--snapshot-at",
            "symbol:parse",
            "--input-to",
            "regs:rdi,rsi,max=64",
            "--panic-profile",
            "none",
            "--output",
            root.join(ring0).to_str().unwrap(),
            "--seed",
            "1",
            "--execs",
            execs,
            "--audit",
            "20",
        ]);
        let said = text(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        let summary: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
        let summary = &summary["summary"];
        assert!(summary["audits"].as_u64() > Some(5), "{ring0}: {said}{}", text(&output.stderr));
        assert_eq!(summary["audit_differences"].as_u64(), Some(0), "{ring0}: {said}{}", text(&output.stderr));
    }
}

#[test]
fn what_a_crash_is_called_comes_from_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let profile = folder.path().join("own.toml");
    fs::write(&profile, PROFILE).unwrap();
    let input = folder.path().join("input");
    let explain = |ring0: &str, bytes: &[u8], profile: &str| {
        fs::write(&input, bytes).unwrap();
        let output = unifork(&[
            "repro",
            input.to_str().unwrap(),
            "--image",
            image.to_str().unwrap(),
            "--runs",
            "1",
            "--profile",
            "pc",
            "--ring0",
            ring0,
            "--memory",
            "8M",
            "--snapshot-at",
            "symbol:parse",
            "--input-to",
            "regs:rdi,rsi,max=64",
            "--panic-profile",
            profile,
        ]);
        text(&output.stdout)
    };
    let own = profile.to_str().unwrap();
    for ring0 in ["monitor", "native"] {
        let said = explain(ring0, b"BUG!.", own);
        assert!(
            said.contains("page fault: write to 0x123456789000") && said.contains("wild-write-"),
            "{said}"
        );
        let said = explain(ring0, b"BUGp.", own);
        assert!(said.contains("assertion failed: data[3] != 'p'") && said.contains("in panic+"), "{said}");
        let said = explain(ring0, b"BUGp.", "none");
        assert!(said.contains("no crash") && said.contains("42"), "{said}");
        let said = explain(ring0, b"hello", own);
        assert!(said.contains("no crash"), "{said}");
    }
}

/// A program that the kernel is handed and loads somewhere: its symbols are known there.
#[test]
fn a_program_in_an_initial_ram_disk_has_names_where_it_was_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vmm/tests/agent");
    let path = |name: &str| folder.path().join(name);
    let build = |name: &str, compile: &[&str], link: &[&str]| {
        let object = path(name).with_extension("o");
        let common =
            ["-c", "-O1", "-g", "-ffreestanding", "-fno-stack-protector", "-mno-red-zone", "-mno-sse"];
        let mut clang = Command::new("clang-16");
        clang.args(common).args(["-fcf-protection=none"]).args(compile).arg("-o").arg(&object);
        run(clang.arg(sources.join(name).with_extension("c")));
        run(Command::new("ld")
            .args(["-nostdlib", "-z", "noexecstack"])
            .args(link)
            .arg("-o")
            .arg(path(name))
            .arg(object));
    };
    build("starter", &["-fno-pic"], &["-static", "-Ttext-segment=0x200000"]);
    build("program", &["-fPIE"], &["-pie", "--no-dynamic-linker"]);
    fs::write(path("input"), "BU").unwrap();
    let text_of = |name: &str| path(name).to_str().unwrap().to_owned();
    let explain = |initrd: &str| {
        unifork(&[
            "repro",
            &text_of("input"),
            "--image",
            &text_of("starter"),
            "--runs",
            "1",
            "--profile",
            "firecracker",
            "--memory",
            "16M",
            "--boot-deadline",
            "60s",
            "--initrd",
            &text_of(initrd),
            "--snapshot-at",
            "symbol:parse",
            "--input-to",
            "regs:rdi,rsi",
        ])
    };
    let output = explain("program");
    let said = text(&output.stdout);
    assert!(said.contains("page fault: write to 0x123456789000"), "{said}{}", text(&output.stderr));
    assert!(
        said.contains("in parse+") && said.contains("program.c:") && said.contains("[program]"),
        "{said}"
    );
    // What it is handed is no such program, and it has none of its own.
    fs::write(path("other"), "an initial RAM disk").unwrap();
    let said = text(&explain("other").stderr);
    assert!(said.contains("no symbol is called `parse`"), "{said}");
}

#[test]
fn flags_that_cannot_be_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let image = image.to_str().unwrap();
    let common = ["fuzz", image, "--profile", "pc", "--memory", "8M", "--boot-deadline", "2s"];
    for (flags, reason) in [
        (&["--snapshot-at", "symbol:parse"][..], "needs both"),
        (&["--snapshot-at", "symbol:nothing", "--input-to", "serial"], "no symbol is called `nothing`"),
        (&["--snapshot-at", "here", "--input-to", "serial"], "it is symbol:NAME"),
        (&["--snapshot-at", "symbol:parse", "--input-to", "regs:rdi,eax"], "no register is called `eax`"),
        (&["--snapshot-at", "console:never", "--input-to", "serial"], "after saying"),
        (&["--snapshot-at", "symbol:parse", "--input-to", "addr:0xdead0000000,max=4"], "is not mapped"),
        (&["--snapshot-at", "symbol:parse", "--input-to", "serial", "--cover", "no*"], "no function"),
        (
            &["--snapshot-at", "symbol:parse", "--input-to", "serial", "--panic-profile", "bsd"],
            "panic profile bsd",
        ),
    ] {
        let output = unifork(&[&common[..], flags].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(reason), "{flags:?}: {said}");
    }
}
