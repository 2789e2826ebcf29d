//! Arguments that cannot be used: each is refused at once, in one sentence, with the command's own exit code.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::linux::{Libc, compile, folder};
use common::{Ran, need_kvm, root, text};

/// Runs the program; one that waits for what never comes is ended after a minute, with 124.
fn run(args: &[&str]) -> Ran {
    let mut command = Command::new("timeout");
    command.arg("60").arg(env!("CARGO_BIN_EXE_unifork")).args(args);
    let output = command.env_remove("UNIFORK_LOG").stdin(std::process::Stdio::null()).output();
    Ran::new(args, output.expect("coreutils are there"))
}

/// Asserts that these arguments are refused, for this reason and with this help.
#[track_caller]
fn refused(args: &[&str], code: i32, why: &str, help: &str) {
    let ran = run(args).expect(code);
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{args:?}: {}", ran.stderr);
    assert!(lines[0].starts_with("unifork: ") && lines[0].contains(why), "{why}: {}", ran.stderr);
    assert!(lines[1].starts_with("  help: ") && lines[1].contains(help), "{help}: {}", ran.stderr);
}

/// A file that says that it is a kernel, by a multiboot header, and halts.
fn kernel(folder: &Path) -> PathBuf {
    let (flags, magic, base) = (0x1_0000_u32, 0x1bad_b002_u32, 0x10_0000_u32);
    let words = [magic, flags, 0_u32.wrapping_sub(magic).wrapping_sub(flags), base, base, 0, 0, base + 32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend([0xfa, 0xf4]);
    let path = folder.join("kernel");
    fs::write(&path, bytes).unwrap();
    let seeds = folder.join("kernel.seeds");
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("one"), "one").unwrap();
    path
}

/// A static program for Linux, which is no kernel.
fn program() -> PathBuf {
    let path = folder().join("arguments.c");
    let fresh = tempfile::NamedTempFile::new_in(folder()).unwrap();
    fs::write(&fresh, "int main(void) { return 7; }\n").unwrap();
    fresh.persist(&path).unwrap();
    compile(&path, Libc::Musl, &[])
}

/// A FIFO was opened, and so waited for, for ever; `fuzz` did not even end at SIGTERM then.
#[test]
fn a_fifo_is_no_file_wherever_one_is_named() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let image = kernel(dir.path());
    let image = text(&image);
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let fifo = text(&fifo);
    let read_only = format!("{fifo},ro");
    let finding = dir.path().join("finding");
    fs::create_dir(&finding).unwrap();
    assert!(Command::new("mkfifo").arg(finding.join("input")).status().unwrap().success());
    let finding = text(&finding);
    let places = ["--snapshot-at", "addr:0x100000", "--input-to", "serial"];
    for (args, code) in [
        (&["fuzz", image, "--dict", fifo][..], 2),
        (&["fuzz", image, "--grammar", fifo], 2),
        (&["fuzz", image, "--disk", fifo], 2),
        (&["fuzz", image, "--initrd", fifo], 2),
        (&["fuzz", image, "--module", fifo], 2),
        (&["fuzz", image, "--symbols", fifo], 2),
        (&[&["fuzz", image, "--panic-profile", fifo], &places[..]].concat(), 2),
        (&["run", "--disk", fifo, image], 125),
        (&["run", "--disk", &read_only, image], 125),
        (&["run", "--initrd", fifo, image], 125),
        (&["run", "--module", fifo, image], 125),
        (&["run", fifo], 125),
        (&["repro", fifo, "--image", image], 2),
        (&["repro", finding, "--image", image], 2),
        (&["repro", image, "--image", fifo], 2),
        (&["tmin", fifo, "--image", image], 2),
        (&["snapshot", fifo], 2),
        (&["snapshot", "info", fifo], 2),
    ] {
        refused(args, code, "it is not a regular file", "");
    }
    let program = program();
    refused(&["run", "--root", fifo, text(&program)], 125, "it is not a regular file", "");
    // These take folders, and say so.
    for args in [&["triage", fifo][..], &["fuzz", image, "--seeds", fifo], &["cmin", fifo, "--image", image]]
    {
        let output = dir.path().join("output");
        let more = if args[0] == "cmin" { &["-o", text(&output)][..] } else { &[] };
        let ran = run(&[args, more].concat()).expect(2);
        assert!(ran.stderr.contains("\n  help: "), "{}", ran.stderr);
    }
}

/// An ordinary program was booted as a kernel, and ended in a triple fault.
#[test]
fn flags_for_kernels_make_no_kernel_of_a_program() {
    need_kvm();
    let program = program();
    let program = text(&program);
    let manifest = root().join("Cargo.toml");
    let manifest = text(&manifest);
    for flag in [
        ["--disk", manifest],
        ["--net", "isolated"],
        ["--device", "entropy"],
        ["--initrd", manifest],
        ["--module", manifest],
        ["--append", "x"],
        ["--ring0", "monitor"],
        ["--symbols", program],
    ] {
        let why = format!("does not say that it is a kernel, and {} is for kernels", flag[0]);
        refused(&["run", flag[0], flag[1], program], 125, &why, "--profile pc");
        refused(&["fuzz", program, flag[0], flag[1]], 2, &why, "--profile pc");
    }
    refused(&["run", "--disk", manifest, "/bin/true"], 125, "does not say that it is a kernel", "--profile");
    refused(&["fuzz", program, "--end-at", "halt"], 2, "and --end-at is for kernels", "--profile");
    let args = ["repro", manifest, "--image", program, "--cover", "all"];
    refused(&args, 2, "and --cover is for kernels", "--profile");
    run(&["run", program]).expect(7);
}

/// Nothing was fuzzed, without a word.
#[test]
fn frames_need_a_network_card() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let image = kernel(dir.path());
    let args = ["fuzz", text(&image), "--snapshot-at", "after:10ms", "--input-to", "net"];
    refused(&[&args[..], &["--cover", "none"]].concat(), 2, "the machine has none", "--net isolated");
}

/// The low codes belong to the program that is run, those of the parser's complaints included.
#[test]
fn usage_errors_of_run_end_with_125() {
    for args in [
        &["run"][..],
        &["run", "--mem", "0", "X"],
        &["run", "--net", "x", "X"],
        &["run", "--profile", "xx", "X"],
        &["run", "--no-such-flag"],
        &["run", "--env", "x", "X"],
    ] {
        refused(args, 125, "", "");
        let told = run(&[&["--json"], args].concat()).expect(125).json();
        assert_eq!(told["exit_code"], 125, "{args:?}: {told}");
    }
    assert_eq!(run(&["--json", "fuzz"]).expect(2).json()["exit_code"], 2);
    run(&["run", "--help"]).expect(0);
}

/// `run` never looked at them.
#[test]
fn symbols_are_read_whatever_they_are_for() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let image = kernel(dir.path());
    let image = text(&image);
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let program = program();
    let [odd, far] = ["zz", "0xffffffffffffffff"].map(|bias| format!("{},bias={bias}", text(&program)));
    for symbols in ["/nonexistent", text(&empty), &odd, &far] {
        refused(&["run", "--symbols", symbols, image], 125, symbols.split(',').next().unwrap(), "");
        refused(&["fuzz", image, "--symbols", symbols], 2, symbols.split(',').next().unwrap(), "");
    }
    run(&["run", "--symbols", text(&program), image]).expect(0);
}

#[test]
fn terms_that_contradict_themselves_are_refused() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let image = kernel(dir.path());
    let at = ["fuzz", text(&image), "--snapshot-at", "after:10ms", "--input-to"];
    for (more, why) in [
        (&["regs:rdi,rdi"][..], "one register"),
        (&["serial,max=4K,max=5K"], "`max` is there twice"),
        (&["addr:0xffffffffffffffff,max=16"], "do not fit there"),
        (&["serial", "--end-at", "return"], "no function is known"),
    ] {
        refused(&[&at[..], more].concat(), 2, why, "docs/agentless.md");
    }
    let profile = dir.path().join("profile.toml");
    fs::write(&profile, "\nexit = 1\n").unwrap();
    let args = [&at[..], &["serial", "--panic-profile", text(&profile)]].concat();
    refused(&args, 2, "line 2: unknown field `exit`", "docs/agentless.md");
}
