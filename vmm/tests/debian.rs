//! Kernels as Debian ships them, up to their first sign of life: loader and devices, with images that nobody made for
//! this. `scripts/test-images.sh` fetches them.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use unifork_vmm::Kvm;
use unifork_vmm::foreign::{Config, End, Machine, Outside as _, Protocol};

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
