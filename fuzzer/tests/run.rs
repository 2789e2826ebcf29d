//! `unifork run`: its flags, and one clear error for each file that cannot be run.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::linux::{Libc, compile, folder};
use common::{need_kvm, root, run, text, unifork};

/// A static program for Linux.
fn program(name: &str, source: &str) -> PathBuf {
    let path = folder().join(format!("{name}.c"));
    // Other tests of this binary may be compiling the same.
    let fresh = tempfile::NamedTempFile::new_in(folder()).unwrap();
    fs::write(&fresh, source).unwrap();
    fresh.persist(&path).unwrap();
    compile(&path, Libc::Musl, &[])
}

const HELLO: &str = r#"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("argument %s\n", argv[i]);
    printf("A=%s B=%s\n", getenv("A") ? getenv("A") : "none", getenv("B") ? getenv("B") : "none");
    return 7;
}
"#;

#[test]
fn arguments_environment_and_exit_code_are_passed_on() {
    need_kvm();
    let hello = program("hello", HELLO);
    let ran = run(&["run", "--env", "A=one", "--env", "B=x=y", text(&hello), "--mem", "last one"]).expect(7);
    assert_eq!(ran.stdout, "argument --mem\nargument last one\nA=one B=x=y\n");
    assert_eq!(ran.stderr, "");
    let ran = run(&["run", text(&hello)]).expect(7);
    assert_eq!(ran.stdout, "A=none B=none\n", "nothing of our own environment is passed on");
}

#[test]
fn a_program_finds_its_own_file() {
    need_kvm();
    let source = r#"
#include <stdio.h>
#include <sys/stat.h>
int main(int argc, char **argv)
{
    struct stat by_link, by_name;
    if (stat("/proc/self/exe", &by_link) || stat(argv[0], &by_name))
        return 1;
    printf("%ld bytes, %s\n", (long)by_link.st_size, by_link.st_ino == by_name.st_ino ? "the same" : "another");
    return 0;
}
"#;
    let own = program("own", source);
    let bytes = fs::metadata(&own).unwrap().len();
    let ran = run(&["run", text(&own)]).expect(0);
    assert_eq!(ran.stdout, format!("{bytes} bytes, the same\n"));
}

#[test]
fn an_argument_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    need_kvm();
    let hello = program("hello", HELLO);
    let argument = std::ffi::OsStr::from_bytes(b"one\xff");
    let ran = unifork(&["run", text(&hello)]).arg(argument).output().unwrap();
    assert_eq!(ran.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("is not UTF-8"), "{ran:?}");
}

#[test]
fn memory_is_as_much_as_asked_for() {
    need_kvm();
    let source = r#"
#include <stdlib.h>
#include <string.h>
int main(void)
{
    char *room = malloc(100 << 20);
    if (!room)
        return 1;
    memset(room, 1, 100 << 20);
    return room[50 << 20] - 1;
}
"#;
    let hungry = program("hungry", source);
    run(&["run", "--mem", "192M", text(&hungry)]).expect(0);
    run(&["run", "--memory", "192M", text(&hungry)]).expect(0);
    let ran = run(&["run", "--mem", "64M", text(&hungry)]);
    assert_ne!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_program_that_takes_too_long_is_ended() {
    need_kvm();
    let endless = program("endless", "int main(void) { for (;;) __asm__ volatile(\"\"); }");
    let start = std::time::Instant::now();
    let ran = run(&["run", "--timeout", "300ms", text(&endless)]).expect(124);
    assert!(ran.stderr.contains("did not end before its deadline"), "{}", ran.stderr);
    assert!(start.elapsed().as_millis() >= 300);
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for args in [
        &["run", "--env", "NOVALUE", "x"][..],
        &["run", "--env", "=x", "x"],
        &["run", "--timeout", "0", "x"],
        &["run", "--mem", "many", "x"],
        &["run"],
    ] {
        run(args).expect(125);
    }
}

/// One line that says what and why, one that says what to do, and exit code 125.
#[track_caller]
fn refused(file: &str, why: &str, help: &str) {
    let ran = run(&["run", file]).expect(125);
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stderr);
    assert!(lines[0].starts_with("unifork: ") && lines[0].contains(why), "{why}: {}", ran.stderr);
    assert!(lines[1].starts_with("  help: ") && lines[1].contains(help), "{help}: {}", ran.stderr);
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
}

#[test]
fn files_that_cannot_be_run_are_each_refused_with_the_reason() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        text(&path).to_owned()
    };
    refused(text(&dir.path().join("missing")), "No such file or directory", "check the path");
    refused(text(dir.path()), "Is a directory", "check the path");
    refused(&write("empty", b""), "it is empty", "static x86-64");
    refused(&write("text", b"hello\n"), "is not an ELF executable", "static x86-64");
    refused(&write("script", b"#!/bin/sh -e\necho hello\n"), "is a script, for /bin/sh -e", "interpreter");
    refused(&write("nameless", b"#!\necho hello\n"), "is a script, for an interpreter", "name one");
    refused("/dev/null", "it is not a regular file", "check the path");
    refused("/dev/zero", "it is not a regular file", "check the path");
    let fifo = text(&dir.path().join("fifo")).to_owned();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(&fifo, "it is not a regular file", "check the path");
    refused(&write("letters", b"\x7fELF"), "truncated", "static x86-64");

    let elf = fs::read(program("hello", HELLO)).unwrap();
    let patched = |name: &str, at: usize, bytes: &[u8]| {
        let mut copy = elf.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        write(name, &copy)
    };
    refused(&patched("arm", 18, &[183, 0]), "is for aarch64, not for x86-64", "64-bit x86");
    refused(&patched("riscv", 18, &[243, 0]), "is for RISC-V", "64-bit x86");
    refused(&patched("unheard-of", 18, &[0xef, 0xbe]), "ELF machine 48879", "64-bit x86");
    refused(&patched("x32", 4, &[1]), "is a 32-bit executable", "64-bit x86");
    let mut of_386 = elf.clone();
    (of_386[4], of_386[18]) = (1, 3);
    refused(&write("i386", &of_386), "is a 32-bit executable", "64-bit x86");
    (of_386[4], of_386[18]) = (1, 40);
    refused(&write("arm32", &of_386), "is for 32-bit ARM", "64-bit x86");
    refused(&patched("big", 5, &[2]), "big-endian", "static x86-64");
    refused(&patched("object", 16, &[1, 0]), "not an executable", "static x86-64");
    // Cut in the header, in the program headers, and everywhere in what is loaded.
    for bytes in [5, 20, 63, 64, 100, 200, 1000, 4096, elf.len() / 3, elf.len() - 1] {
        refused(&write("cut", &elf[..bytes]), "is not a", "static x86-64");
    }
}

#[test]
fn a_dynamic_executable_is_told_how_to_become_one_that_runs() {
    need_kvm();
    let source = root().join("guest/tests/linux/process.c");
    let dir = tempfile::tempdir().unwrap();
    for flag in ["-pie", "-no-pie"] {
        let path = dir.path().join("dynamic");
        let status = Command::new("gcc").args([flag, "-w", "-o"]).args([&path, Path::new(&source)]).status();
        assert!(status.unwrap().success());
        refused(text(&path), "is dynamically linked: it asks for /lib", "link it statically");
    }
}

/// What a terminal or a pipe gives is not asked for; a closed output is no reason to fail.
#[test]
fn a_closed_stdout_changes_no_exit_code() {
    need_kvm();
    let hello = program("hello", HELLO);
    let mut child =
        unifork(&["run", text(&hello)]).stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

/// A kernel for multiboot, by address fields, that runs `code` in protected mode.
fn kernel(code: &[u8]) -> Vec<u8> {
    let flags = 0x1_0000u32;
    let magic = 0x1bad_b002u32;
    let base = 0x10_0000u32;
    let words = [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags), base, base, 0, 0, base + 32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend_from_slice(code);
    bytes
}

#[test]
fn a_kernel_shows_its_command_line_and_ends_as_it_says() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    // mov esi, [ebx + 16]; mov dx, 0x3f8
    // next: lodsb; test al, al; jz +3; out dx, al; jmp next
    // mov eax, 5; out 0xf4, eax
    let code = [
        0x8b, 0x73, 0x10, 0x66, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xb8, 5, 0,
        0, 0, 0xe7, 0xf4,
    ];
    fs::write(&path, kernel(&code)).unwrap();
    for how in ["native", "monitor"] {
        let ran = run(&["run", "--ring0", how, text(&path), "one", "two"]).expect(11);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("kernel one two", ""));
        let ran = run(&["run", "--ring0", how, "--append", "three", text(&path)]).expect(11);
        assert_eq!(ran.stdout, "kernel three");
    }
    let ran = run(&["--json", "run", text(&path)]).expect(11);
    let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((said["console"].as_str(), said["protocol"].as_str()), (Some("kernel"), Some("multiboot")));
    assert_eq!(said["exit_code"], 11);
}

#[test]
fn a_kernel_that_ends_badly_is_told_apart() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    for (code, exit, why) in [
        // cli; hlt
        (&[0xfa, 0xf4][..], 0, "halted with interrupts off"),
        // sti; hlt
        (&[0xfb, 0xf4], 0, "nothing will raise one"),
        // ud2
        (&[0x0f, 0x0b], 134, "exception 6"),
        // jmp $
        (&[0xeb, 0xfe], 124, "did not end in time"),
    ] {
        let path = dir.path().join("kernel");
        fs::write(&path, kernel(code)).unwrap();
        let ran = run(&["run", "--ring0", "monitor", "--timeout", "500ms", text(&path)]).expect(exit);
        assert!(ran.stderr.contains(why), "{why}: {}", ran.stderr);
    }
}

#[test]
fn kernels_that_cannot_be_booted_are_refused() {
    need_kvm();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    fs::write(&path, kernel(&[0xf4])).unwrap();
    for (args, why) in [
        (&["--mem", "8G"][..], "of memory"),
        (&["--env", "A=b"], "--env is for programs"),
        (&["--initrd", "/nonexistent"], "cannot read /nonexistent"),
    ] {
        let ran = run(&[&["run"], args, &[text(&path)]].concat()).expect(125);
        assert!(ran.stderr.contains(why) && ran.stderr.contains("\n  help: "), "{why}: {}", ran.stderr);
    }
    fs::write(&path, b"nothing").unwrap();
    let ran = run(&["run", "--profile", "pc", text(&path)]).expect(125);
    assert!(ran.stderr.contains("neither an ELF file"), "{}", ran.stderr);
}
