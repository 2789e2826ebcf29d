//! Kernels as Debian ships them, up to their first sign of life: loader and devices, with images that nobody made for
//! this. `scripts/test-images.sh` fetches them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use unifork_vmm::foreign::{
    Agentless, Base, Config, End, EndAt, Fork, InputTo, Machine, Outside as _, Panics, Power, Protocol,
    Recorder, SnapshotAt, Terms,
};
use unifork_vmm::{CrashKind, Engine, Kvm, Outcome};

#[path = "common/until.rs"]
mod until;

use until::Until;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(240);

fn folder() -> PathBuf {
    let cache = env::var_os("UNIFORK_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from);
    cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).join("debian")
}

/// The file of `package` with this name, or one that begins like this if `*` follows; `None` where it is not there and
/// need not be.
fn image(package: &str, wanted: &str) -> Option<Vec<u8>> {
    let folder = folder().join(package);
    let parts = [folder.join("boot"), folder.join("usr/lib/grub-xen")];
    let files = parts.iter().filter_map(|part| fs::read_dir(part).ok()).flatten().flatten();
    let found = files.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        wanted.strip_suffix('*').map_or(name == wanted, |start| name.starts_with(start))
    });
    if found.is_none() {
        let missing =
            format!("Debian's {package} is not in {}; scripts/test-images.sh fetches it", folder.display());
        assert!(env::var_os("CI").is_none(), "{missing}");
        println!("not tested: {missing}");
    }
    found.map(|path| fs::read(path).unwrap())
}

/// An initial RAM disk with `debian/init.S` as its `/init`, and a console for that.
fn initrd() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/debian/init.S");
    let (object, init) = (folder.path().join("init.o"), folder.path().join("init"));
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("clang-16").args(["--target=x86_64-none-elf", "-c"]).arg(source).arg("-o").arg(&object));
    run(Command::new("ld.lld-16").arg("-static").arg(&object).arg("-o").arg(&init));
    let character = 0o020_600;
    let entries = [
        ("dev", 0o040_755, (0, 0), Vec::new()),
        ("dev/console", character, (5, 1), Vec::new()),
        ("init", 0o100_755, (0, 0), fs::read(&init).unwrap()),
        ("TRAILER!!!", 0, (0, 0), Vec::new()),
    ];
    let mut bytes = Vec::new();
    for (number, (name, mode, (major, minor), data)) in entries.iter().enumerate() {
        let name_bytes = name.len() + 1;
        // Number, mode, owner, group, links, time, size, device, device that it is, name's length, checksum.
        let fields = [number, *mode, 0, 0, 1, 0, data.len(), 0, 0, *major, *minor, name_bytes, 0];
        bytes.extend(b"070701");
        bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn says(image: &[u8], append: &str, at: &'static str) -> (End, Protocol) {
    let kvm = Kvm::open().unwrap();
    let config = Config { append: append.into(), memory_bytes: 512 << 20, ..Config::default() };
    let mut machine = Machine::boot(&kvm, "kernel", image, &config).unwrap();
    let mut outside = Until { console: Vec::new(), at };
    let end = machine.run(DEADLINE, &mut outside).unwrap();
    let console = String::from_utf8_lossy(&outside.console);
    assert!(outside.stopped(), "{end:?}: {console}");
    (end, machine.protocol())
}

#[test]
fn grub_for_pvh_starts_and_misses_its_xen() {
    let Some(image) = image("grub-xen-host", "grub-i386-xen_pvh.bin") else { return };
    assert_eq!(says(&image, "", "Found no Xen signature!").1, Protocol::Pvh);
}

#[test]
fn memtest_draws_its_screen_on_the_serial_port() {
    let Some(image) = image("memtest86+", "memtest86+x64.bin") else { return };
    let (end, protocol) = says(&image, "console=ttyS0,115200", "Memtest86+ v");
    assert_eq!((end, protocol), (End::Stopped, Protocol::BzImage));
}

#[test]
fn xen_prints_its_banner() {
    let Some(image) = image("xen-hypervisor-4.17-amd64", "xen-4.17-amd64") else { return };
    let (end, protocol) = says(&image, "no-real-mode console=com1 com1=115200,8n1", "Xen version 4.17");
    assert_eq!((end, protocol), (End::Stopped, Protocol::Multiboot));
}

#[test]
fn linux_prints_its_banner() {
    let Some(image) = image("linux-image-cloud-amd64", "vmlinuz-*") else { return };
    let (end, protocol) = says(&image, "earlyprintk=ttyS0 console=ttyS0", "Linux version ");
    assert_eq!((end, protocol), (End::Stopped, Protocol::BzImage));
}

#[test]
fn linux_comes_to_user_space_and_is_switched_off_from_there() {
    let Some(image) = image("linux-image-cloud-amd64", "vmlinuz-*") else { return };
    let config = Config {
        append: "console=ttyS0 quiet -- off".into(),
        memory_bytes: 256 << 20,
        initrd: Some(initrd()),
        ..Config::default()
    };
    let mut machine = Machine::boot(&Kvm::open().unwrap(), "linux", &image, &config).unwrap();
    let mut recorder = Recorder::default();
    let end = machine.run(DEADLINE, &mut recorder).unwrap();
    let console = String::from_utf8_lossy(&recorder.console);
    assert!(console.contains("init: off\r\n"), "{end:?}: {console}");
    assert_eq!(end, End::Power(Power::Off), "{console}");
}

#[test]
fn forks_of_linux_hear_their_inputs_and_panic_when_init_ends() {
    let Some(image) = image("linux-image-cloud-amd64", "vmlinuz-*") else { return };
    let kvm = Kvm::open().unwrap();
    let config = Config {
        append: "console=ttyS0 quiet".into(),
        memory_bytes: 256 << 20,
        initrd: Some(initrd()),
        ..Config::default()
    };
    let agentless = Agentless {
        snapshot: SnapshotAt::Console(b"init: user space\r\n".to_vec()),
        input: InputTo::Serial { max: 100 },
        ends: vec![EndAt::Console(b"init: heard ".to_vec())],
    };
    // As `fuzzer/panics/linux.toml` has it.
    let panics = Panics { console: vec!["Kernel panic - not syncing".into()], ..Panics::default() };
    let terms = Terms { agentless: Some(agentless), panics, ..Terms::default() };
    let base = Base::boot(&kvm, "linux", image.into(), &config, &terms, DEADLINE).unwrap();
    let mut fork = Fork::spawn(&kvm, &base, Engine::HotSet).unwrap();
    let (frozen, ram) = (fork.state().unwrap(), fork.ram().to_vec());
    for _ in 0..2 {
        assert_eq!(fork.run(b"a line\n", DEADLINE).unwrap(), Outcome::Done { code: 0 });
        let Outcome::Crash(crash) = fork.run(b"exit\n", DEADLINE).unwrap() else { panic!("init has ended") };
        assert_eq!(crash.kind, CrashKind::KernelPanic);
        let said = format!("{:?}", crash.cause);
        assert!(said.contains("Attempted to kill init! exitcode=0x00000300"), "{said}");
        fork.reset().unwrap();
        assert!(fork.state().unwrap() == frozen, "CPU and devices are put back");
        assert!(fork.ram() == ram, "memory is put back");
    }
}
