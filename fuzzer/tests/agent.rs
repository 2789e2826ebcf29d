//! An image with a kernel and an agent of its own, from the plain command line to its planted bug.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unifork(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unifork")).args(args).output().unwrap()
}

/// The kernel in `vmm/tests/agent`, whose `parse` has a bug behind a magic number.
fn kernel(folder: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let run = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    };
    let coverage = Some("-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp");
    let objects = [("kernel.c", None), ("parse.c", coverage)].map(|(source, coverage)| {
        let object = folder.join(source).with_extension("o");
        let mut compile = Command::new("clang-16");
        compile.args([
            "-c",
            "-O1",
            "-g",
            "-ffreestanding",
            "-fno-pic",
            "-fno-stack-protector",
            "-mno-red-zone",
        ]);
        compile.args(["-mno-sse", "-fcf-protection=none", "-I"]).arg(root.join("guest/runtime/include"));
        run(compile.args(coverage).arg("-o").arg(&object).arg(root.join("vmm/tests/agent").join(source)));
        object
    });
    let image = folder.join("kernel");
    let mut link = Command::new("ld");
    link.args(["-static", "-nostdlib", "-Ttext-segment=0x200000", "-z", "noexecstack", "-o"]);
    run(link.arg(&image).args(objects));
    image
}

#[test]
fn a_kernel_with_an_agent_is_fuzzed_to_its_bug_and_the_finding_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let (image, seeds) = (image.to_str().unwrap(), folder.path().join("kernel.seeds"));
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("one"), "hello, kernel").unwrap();
    for ring0 in ["monitor", "native"] {
        let root = folder.path().join(ring0);
        let out = root.to_str().unwrap();
        let flags = ["--profile", "pc", "--ring0", ring0, "--memory", "8M"];
        let campaign = [
            &["fuzz", image, "--output", out, "--seed", "1", "--execs", "20000", "--until", "finding"],
            &flags[..],
        ];
        let output = unifork(&campaign.concat());
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.contains("assertion failed: data[4] != '!'"), "{said}");
        assert!(said.contains("stability") && !said.contains("libOS"), "it has none: {said}");
        let findings: Vec<_> =
            fs::read_dir(root.join("findings")).unwrap().map(|e| e.unwrap().path()).collect();
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        let input = fs::read(finding.join("input")).unwrap();
        assert_eq!(input[..5], *b"\x78\x56\x34\x12!");
        let repro = [&["repro", finding.to_str().unwrap()], &flags[..4]].concat();
        let output = unifork(&repro);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}{}", text(&output.stderr));
        assert!(said.contains("in parse+") && said.contains("parse.c:13"), "{said}");
        assert!(said.contains("10 of 10 runs in fresh forks agree"), "{said}");
    }
}

#[test]
fn a_stripped_image_has_names_and_lines_from_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let crash = folder.path().join("crash");
    fs::write(&crash, b"\x78\x56\x34\x12!   ").unwrap();
    let (image, crash) = (image.to_str().unwrap(), crash.to_str().unwrap());
    let beside = format!("{image}.dbg");
    let explained = |more: &[&str]| {
        let flags = ["repro", crash, "--image", image, "--runs", "1", "--profile", "pc", "--memory", "8M"];
        let output = unifork(&[&flags[..], more].concat());
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        let said = text(&output.stdout);
        said.contains("in parse+") && said.contains("parse.c:13")
    };
    let run = |tool: &str, arguments: &[&str]| {
        assert!(Command::new(tool).args(arguments).status().unwrap().success(), "{tool} {arguments:?}");
    };
    let whole = folder.path().join("whole.elf");
    fs::copy(image, &whole).unwrap();
    run("objcopy", &["--only-keep-debug", image, &beside]);
    run("strip", &[image]);
    assert!(explained(&[]), "debug information alone, beside the image");
    fs::remove_file(&beside).unwrap();
    assert!(!explained(&[]), "without");
    let whole = whole.to_str().unwrap();
    assert!(explained(&["--symbols", whole]), "a whole file");
    assert!(!explained(&["--symbols", &format!("{whole},bias=0x10000000")]), "that is elsewhere");
    let output = unifork(&["repro", crash, "--image", image, "--profile", "pc", "--symbols", crash]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn an_image_without_an_agent_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    // hlt, with interrupts off: an ELF64 file of one segment at 2 MiB.
    let source = folder.path().join("halt.s");
    fs::write(&source, ".globl _start\n_start: cli\nhlt\n").unwrap();
    let (object, image) = (folder.path().join("halt.o"), folder.path().join("halt"));
    assert!(Command::new("as").arg("-o").arg(&object).arg(&source).status().unwrap().success());
    let link = ["-static", "-nostdlib", "-Ttext-segment=0x200000", "-o"];
    assert!(Command::new("ld").args(link).arg(&image).arg(&object).status().unwrap().success());
    let seeds = folder.path().join("halt.seeds");
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("one"), "x").unwrap();
    let output = unifork(&["fuzz", image.to_str().unwrap(), "--profile", "pc"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("asked for no snapshot, and has no agent") && said.contains("docs/agent.md"),
        "{said}"
    );
}
