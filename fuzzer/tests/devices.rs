//! `unifork run` with devices: disks that stay as they are, a network card on a socket, a console.

mod common;

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{need_kvm, unifork};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kernel in `vmm/tests/devices`, which drives the devices that its command line names.
fn kernel(folder: &Path) -> PathBuf {
    compile(folder, "kernel", &[])
}

/// The kernel of this name, there.
fn compile(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    need_kvm();
    let source = common::root().join("vmm/tests/devices").join(name).with_extension("c");
    let (object, image) = (folder.join(name).with_extension("o"), folder.join(name));
    let compile = ["-c", "-O1", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-mno-red-zone"];
    let link = ["-static", "-nostdlib", "-Ttext-segment=0x200000", "-z", "noexecstack", "-o"];
    let mut clang = Command::new("clang-16");
    clang
        .args(compile)
        .args(flags)
        .args(["-mgeneral-regs-only", "-fcf-protection=none", "-o"])
        .arg(&object)
        .arg(source);
    assert!(clang.status().unwrap().success(), "{clang:?}");
    assert!(Command::new("ld").args(link).arg(&image).arg(&object).status().unwrap().success());
    image
}

/// Runs the kernel with these flags and words; says what it said, and how `unifork` ended.
fn run(image: &Path, flags: &[&str], words: &str) -> (String, String, Option<i32>) {
    let timeout = format!("{}s", PATIENCE.as_secs());
    let args =
        [&["run", "--timeout", &timeout], flags, &["--append", words, image.to_str().unwrap()]].concat();
    let output = unifork(&args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[test]
fn a_disk_is_read_and_written_and_its_image_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let disk = folder.path().join("disk.img");
    let mut bytes = vec![b'.'; 20 * 512];
    bytes[512..525].copy_from_slice(b"from a file\n\0");
    fs::write(&disk, &bytes).unwrap();
    let disk = disk.to_str().unwrap();
    let read_only = format!("{disk},ro");
    for (profile, way) in [("firecracker", "mmio"), ("pc", "modern"), ("pc", "legacy")] {
        let flags = ["--profile", profile, "--disk", disk, "--disk", &read_only, "--device", "entropy"];
        let (said, told, code) = run(&image, &flags, &format!("{way} d d e"));
        let expected = "disk 14\nfrom a file\ndisk 14\nfrom a file\nit cannot be written\nentropy ";
        assert!(said.starts_with(expected) && said.ends_with("\ndone\n"), "{way}: {said}{told}");
        assert_eq!(code, Some(0));
    }
    assert!(fs::read(disk).unwrap() == bytes, "the image was changed");
}

/// A frame is the text `ping`; what comes is said.
#[test]
fn frames_travel_by_datagrams() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    here.set_read_timeout(Some(PATIENCE)).unwrap();
    // A port that was free a moment ago.
    let there = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wire = format!("udp:{there},{}", here.local_addr().unwrap());
    let answer = std::thread::spawn(move || {
        let mut frame = [0; 64];
        let (bytes, from) = here.recv_from(&mut frame).unwrap();
        here.send_to(b"pong by udp", from).unwrap();
        frame[..bytes].to_vec()
    });
    let (said, told, code) = run(&image, &["--profile", "pc", "--net", &wire], "modern n");
    assert_eq!(answer.join().unwrap(), b"ping", "{said}{told}");
    assert_eq!((said.as_str(), code), ("net 525400554601\npong by udp\ndone\n", Some(0)), "{told}");

    let [local, remote] = ["local", "remote"].map(|name| folder.path().join(name));
    let here = UnixDatagram::bind(&remote).unwrap();
    here.set_read_timeout(Some(PATIENCE)).unwrap();
    let wire = format!("unix:{},{}", local.display(), remote.display());
    let to = local.clone();
    let answer = std::thread::spawn(move || {
        let mut frame = [0; 64];
        let bytes = here.recv(&mut frame).unwrap();
        here.send_to(b"pong by path", to).unwrap();
        frame[..bytes].to_vec()
    });
    let (said, told, code) = run(&image, &["--net", &wire, "--profile", "firecracker"], "mmio n");
    assert_eq!(answer.join().unwrap(), b"ping", "{said}{told}");
    assert_eq!((said.as_str(), code), ("net 525400554601\npong by path\ndone\n", Some(0)), "{told}");
    assert!(!local.exists(), "the socket is left behind");
}

/// A kernel for Solo5's hvt, which wants a disk and two network cards.
#[test]
fn an_image_that_calls_its_devices_gets_what_its_manifest_names() {
    let folder = tempfile::tempdir().unwrap();
    let include = format!("-I{}", common::root().join("guest/runtime/include").display());
    let image = compile(folder.path(), "calls", &[&include]);
    let disk = folder.path().join("disk.img");
    let mut bytes = vec![b'.'; 20 * 512];
    bytes[512..525].copy_from_slice(b"from a file\n\0");
    fs::write(&disk, &bytes).unwrap();
    let disk = disk.to_str().unwrap();
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    here.set_read_timeout(Some(PATIENCE)).unwrap();
    let there = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wire = format!("udp:{there},{}", here.local_addr().unwrap());
    let answer = std::thread::spawn(move || {
        let mut frame = [0; 64];
        let (bytes, from) = here.recv_from(&mut frame).unwrap();
        here.send_to(b"ping", from).unwrap();
        frame[..bytes].to_vec()
    });
    let (said, told, code) = run(&image, &["--net", "isolated", "--disk", disk, "--net", &wire], "show");
    assert_eq!((said.as_str(), code), ("from a file\n.wwping\n", Some(7)), "{told}");
    assert_eq!(answer.join().unwrap(), b"gnip", "by the second card");
    assert!(fs::read(disk).unwrap() == bytes, "the image was changed");

    let (_, told, code) = run(&image, &["--disk", disk, "--net", "isolated"], "show");
    assert_eq!(code, Some(125), "{told}");
    let names = "1 block device (data) and 2 network devices (first, second)";
    assert!(told.contains(&format!("names {names}, and the machine is given 1 and 1 of these")), "{told}");
    assert!(told.contains("--disk and --net"), "{told}");
}

#[test]
fn what_is_typed_reaches_a_virtio_console() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let image = image.to_str().unwrap();
    let args = ["run", "--profile", "pc", "--device", "console", "--append", "legacy c", image];
    let mut child = unifork(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed before it was asked for\n").unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said, "console: typed before it was asked for\ndone\n");
}

#[test]
fn devices_that_cannot_be_had_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path());
    let taken = folder.path().join("taken");
    fs::write(&taken, "").unwrap();
    let wire = format!("unix:{},{}", taken.display(), taken.display());
    let many: Vec<&str> = (0..17).flat_map(|_| ["--device", "entropy"]).collect();
    for (flags, code, why) in [
        (&["--disk", "/nonexistent"][..], 125, "cannot use /nonexistent as a disk"),
        (&["--disk", "/dev/null"], 125, "it is not a regular file"),
        (&["--net", &wire], 125, "cannot make the socket"),
        (&["--net", "udp:192.0.2.1:9,127.0.0.1:9"], 125, "cannot send from 192.0.2.1:9"),
        (&["--net", "tap0"], 125, "expected isolated"),
        (&many, 125, "17 devices"),
    ] {
        let (_, told, ended) = run(&image, &[&["--profile", "pc"], flags].concat(), "modern");
        assert!(told.contains(why), "{flags:?}: {told}");
        assert_eq!(ended, Some(code), "{flags:?}: {told}");
    }
    let seeds = folder.path().join("kernel.seeds");
    fs::create_dir(&seeds).unwrap();
    fs::write(seeds.join("one"), "one").unwrap();
    let args = ["fuzz", image.to_str().unwrap(), "--profile", "pc", "--net", "udp:127.0.0.1:1,127.0.0.1:2"];
    let output = unifork(&args).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--net isolated"), "{output:?}");
    assert_eq!(output.status.code(), Some(2));
}
