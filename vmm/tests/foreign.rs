//! Other people's kernels, as far as small ones of our own can stand for them: each boot protocol, and
//! what a kernel does at its start, run in both ways.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use unifork_vmm::Kvm;
use unifork_vmm::foreign::{
    Config, End, Frozen, Machine, Module, Power, Profile, Protocol, Recorder, Ring0, runs_ring0,
};

#[path = "foreign/ahead.rs"]
mod ahead;
#[path = "foreign/steps.rs"]
mod steps;
#[path = "common/until.rs"]
mod until;

use until::Until;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A kernel on disk, for as long as the folder lives.
struct Kernel {
    bytes: Vec<u8>,
    _folder: tempfile::TempDir,
}

fn run(command: &mut Command) {
    let result = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(result.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&result.stderr));
}

/// Assembles `foreign/NAME.S` and links it for 1 MiB.
fn build(name: &str, target: &str, entry: &str, flags: &[&str]) -> Kernel {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name).with_extension("S");
    let path = |extension: &str| -> PathBuf { folder.path().join(name).with_extension(extension) };
    run(Command::new("clang-16")
        .arg(format!("--target={target}"))
        .args(flags)
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(path("o")));
    let script = path("ld");
    fs::write(
        &script,
        "SECTIONS { . = 0x100000; .text : { *(.head) *(.text) } .note : { *(.note.*) } .data : { *(.data) } .bss : { *(.bss) } }",
    )
    .unwrap();
    let mut link = Command::new("ld.lld-16");
    run(link.args(["-static", "-e", entry, "-T"]).arg(script).arg(path("o")).arg("-o").arg(path("elf")));
    Kernel { bytes: fs::read(path("elf")).unwrap(), _folder: folder }
}

const I386: &str = "i386-none-elf";
const X86_64: &str = "x86_64-none-elf";

fn protected(note_bytes: u32) -> Kernel {
    build("protected", I386, "multiboot", &[&format!("-DNOTE_BYTES={note_bytes}")])
}

fn long() -> Kernel {
    build("long", X86_64, "start", &[])
}

/// Both ways to run CPL 0, as far as they run everything here.
fn ways(kvm: &Kvm) -> Vec<Ring0> {
    if runs_ring0(kvm).unwrap() { vec![Ring0::Native, Ring0::Monitor] } else { vec![Ring0::Monitor] }
}

fn boot(kernel: &Kernel, config: &Config) -> (End, String, Protocol) {
    let kvm = Kvm::open().unwrap();
    let mut machine = Machine::boot(&kvm, "kernel", &kernel.bytes, config).unwrap();
    let mut recorder = Recorder::default();
    let end = machine.run(DEADLINE, &mut recorder).unwrap();
    (end, String::from_utf8(recorder.console).unwrap(), machine.protocol())
}

#[test]
fn a_multiboot_kernel_gets_its_command_line_and_module() {
    let kernel = protected(4);
    // Nothing in it is beyond KVM's emulator.
    for ring0 in [Ring0::Native, Ring0::Monitor] {
        let modules = vec![Module { command: "the module".into(), bytes: b"and its text\0".to_vec() }];
        let config = Config { append: "a b".into(), modules, ring0, ..Config::default() };
        let (end, console, protocol) = boot(&kernel, &config);
        assert_eq!((end, protocol), (End::Power(Power::Off), Protocol::Multiboot), "{ring0:?}: {console}");
        assert_eq!(console, "kernel a b\nand its text\nthe module\n");
    }
}

#[test]
fn a_pvh_kernel_is_started_by_its_note_of_either_width() {
    for (note_bytes, ring0) in
        [(4, Ring0::Native), (8, Ring0::Native), (4, Ring0::Monitor), (8, Ring0::Monitor)]
    {
        let kernel = protected(note_bytes);
        let initrd = Some(b"a disk\0".to_vec());
        // Firecracker's loader looks for no multiboot header.
        let profile = Profile::Firecracker;
        let config = Config { append: "a b".into(), initrd, ring0, profile, ..Config::default() };
        let (end, console, protocol) = boot(&kernel, &config);
        assert_eq!(protocol, Protocol::Pvh);
        assert_eq!(console, "a b\na disk\n");
        assert_eq!(end, End::Halted, "Firecracker has no port to switch off with");
    }
}

#[test]
fn a_kernel_for_solo5s_hvt_is_served_its_calls() {
    let kernel = build("hvt", X86_64, "start", &[]);
    // Nothing in it is beyond KVM's emulator.
    for ring0 in [Ring0::Native, Ring0::Monitor] {
        let config = Config { ring0, append: "a b".into(), ..Config::default() };
        let began = std::time::Instant::now();
        let (end, console, protocol) = boot(&kernel, &config);
        assert_eq!(
            (&*console, end, protocol),
            ("a b\n", End::Power(Power::Exit(7)), Protocol::Hvt),
            "{ring0:?}"
        );
        assert!(began.elapsed() >= Duration::from_millis(50), "it waits that long");
    }
}

const INTERRUPTS: &str = "one shot\nperiodic\nstorm\nio apic\nx2apic\npriority\nagain\n";

#[test]
fn a_kernel_gets_interrupts_from_local_and_io_apic() {
    let kvm = Kvm::open().unwrap();
    let kernel = build("apic", X86_64, "start", &[]);
    // Nothing in it is beyond KVM's emulator.
    for ring0 in [Ring0::Native, Ring0::Monitor] {
        let config = Config { ring0, ..Config::default() };
        let (end, console, _) = boot(&kernel, &config);
        assert_eq!((&*console, end), (INTERRUPTS, End::Power(Power::Off)), "{ring0:?}");
        for at in ["one shot\n", "periodic\n", "io apic\n", "x2apic\n", "priority\n"] {
            go_on_from(&kvm, &kernel, &config, at, INTERRUPTS);
        }
    }
}

const REWRITTEN: &str = "once\nbytes\npage\nalias\nroots\nchanges\nbits\n";

#[test]
fn a_kernel_rewrites_its_code_and_changes_its_page_tables() {
    let kvm = Kvm::open().unwrap();
    let kernel = build("rewrite", X86_64, "start", &[]);
    // Nothing in it is beyond KVM's emulator.
    for ring0 in [Ring0::Native, Ring0::Monitor] {
        let config = Config { ring0, ..Config::default() };
        let (end, console, _) = boot(&kernel, &config);
        assert_eq!((&*console, end), (REWRITTEN, End::Power(Power::Off)), "{ring0:?}");
        for at in ["once\n", "bytes\n", "page\n", "alias\n", "roots\n", "changes\n"] {
            go_on_from(&kvm, &kernel, &config, at, REWRITTEN);
        }
    }
}

const SAID: &str = "tables\nexceptions\nflags\nsse\navx\npaging\nuser\nsystem calls\ntimer\n";

#[test]
fn a_kernel_in_long_mode_finds_the_cpu_and_devices_that_it_expects() {
    let kernel = long();
    for ring0 in ways(&Kvm::open().unwrap()) {
        let config =
            Config { append: "long".into(), ring0, profile: Profile::Firecracker, ..Config::default() };
        let (end, console, protocol) = boot(&kernel, &config);
        assert_eq!(console, format!("long\n{SAID}"), "{end:?}");
        assert_eq!((end, protocol), (End::Power(Power::Reset), Protocol::Linux64));
    }
}

#[test]
fn forks_of_a_frozen_machine_go_on_where_it_was_and_alike() {
    let kvm = Kvm::open().unwrap();
    let kernel = long();
    for ring0 in ways(&kvm) {
        for at in ["long\n", "exceptions\n", "sse\n", "paging\n", "user\n", "system calls\n"] {
            let config =
                Config { append: "long".into(), ring0, profile: Profile::Firecracker, ..Config::default() };
            go_on_from(&kvm, &kernel, &config, at, &format!("long\n{SAID}"));
        }
    }
}

const USER_SAID: &str = "call\nprivilege\nflags\nmemory\ninterrupts\nmapping\nspaces\n";

#[test]
fn a_kernel_and_its_program_at_cpl_3_are_kept_apart() {
    let kvm = Kvm::open().unwrap();
    let kernel = build("user", X86_64, "start", &[]);
    for ring0 in ways(&kvm) {
        let config = Config { ring0, profile: Profile::Firecracker, ..Config::default() };
        let (end, console, _) = boot(&kernel, &config);
        assert_eq!((&*console, end), (USER_SAID, End::Power(Power::Reset)), "{ring0:?}");
        for at in ["call\n", "flags\n", "memory\n", "mapping\n"] {
            go_on_from(&kvm, &kernel, &config, at, USER_SAID);
        }
    }
}

#[test]
fn an_address_that_the_host_keeps_for_itself_is_named() {
    let kernel = build("high", X86_64, "start", &[]);
    let config = Config { ring0: Ring0::Monitor, profile: Profile::Firecracker, ..Config::default() };
    match boot(&kernel, &config) {
        (End::Power(Power::Reset), console, _) => assert_eq!(console, "high\n"),
        // Software KVM has its own tables there.
        (End::Stuck { reason }, console, _) => {
            assert!(reason.contains("0xffff800000100"), "{reason}");
            assert_eq!(console, "");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_guest_must_not_use_raises_its_exception() {
    let kernel = build("refused", X86_64, "start", &[]);
    // KVM's emulator does not know them.
    let config = Config { ring0: Ring0::Monitor, profile: Profile::Firecracker, ..Config::default() };
    let (end, console, _) = boot(&kernel, &config);
    assert_eq!((end, &*console), (End::Power(Power::Reset), ".NN.N.L.UU\n"));
}

/// Freezes `kernel` where it has written `at`, and sees that forks of that write the rest of `all`.
fn go_on_from(kvm: &Kvm, kernel: &Kernel, config: &Config, at: &'static str, all: &str) {
    let mut machine = Machine::boot(kvm, "kernel", &kernel.bytes, config).unwrap();
    let mut outside = Until { console: Vec::new(), at };
    assert_eq!(machine.run(DEADLINE, &mut outside).unwrap(), End::Stopped);
    let before = String::from_utf8(outside.console).unwrap();
    let frozen = Arc::new(machine.freeze().unwrap());
    let state = frozen.state().clone();
    for _ in 0..2 {
        let mut fork = frozen.fork(kvm).unwrap();
        assert!(fork.state().unwrap() == state, "a fork is what was frozen");
        // A fork of the fork.
        let again: Arc<Frozen> = Arc::new(fork.freeze().unwrap());
        for frozen in [&frozen, &again] {
            let mut recorder = Recorder::default();
            let end = frozen.fork(kvm).unwrap().run(DEADLINE, &mut recorder).unwrap();
            let after = String::from_utf8(recorder.console).unwrap();
            assert_eq!(format!("{before}{after}"), all, "{at:?}: {end:?}");
            assert!(matches!(end, End::Power(_)), "{at:?}: {end:?}");
        }
    }
}
