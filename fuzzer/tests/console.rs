//! The console of `unifork run IMAGE` for a kernel: keys reach it as they are typed, what nobody can read is said, and
//! signals end it with their own codes.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::pty::OnTerminal;
use common::{need_kvm, text, unifork, wait_until};

/// A kernel for multiboot that runs `code` in protected mode.
fn kernel(folder: &Path, code: &[u8]) -> PathBuf {
    need_kvm();
    let (flags, magic, base) = (0x1_0000_u32, 0x1bad_b002_u32, 0x10_0000_u32);
    let words = [magic, flags, 0_u32.wrapping_sub(magic).wrapping_sub(flags), base, base, 0, 0, base + 32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(code);
    let path = folder.join("kernel");
    fs::write(&path, bytes).unwrap();
    path
}

/// Says for each byte that is typed the one that follows it.
///
/// again: mov dx, 0x3fd; wait: in al, dx; test al, 1; jz wait; mov dx, 0x3f8; in al, dx; inc al; out dx, al; jmp again
const NEXT: [u8; 19] = [
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xfe, 0xc0, 0xee,
    0xeb, 0xed,
];
/// mov dx, 0x3f8; mov al, 'A'; out dx, al; jmp $
const SAYS: [u8; 9] = [0x66, 0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0xeb, 0xfe];

/// Lines were buffered, and echoed.
#[test]
fn a_key_reaches_a_kernel_at_once_and_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path(), &NEXT);
    let mut on = OnTerminal::start(&mut unifork(&["run", text(&image)]));
    wait_until("raw input", || on.is_taken());
    on.write(b"m");
    on.expect("n");
    // A carriage return, which a terminal would make a line feed.
    on.write(b"\r");
    on.expect("\x0e");
    assert_eq!(on.said(), "n\x0e", "nothing is echoed");
    on.write(b"\x03");
    assert_eq!(on.finish(), 130);
    assert!(!on.is_taken(), "the terminal is as it was");
}

/// All ended with 130.
#[test]
fn each_signal_has_its_own_code_and_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path(), &SAYS);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut on = OnTerminal::start(&mut unifork(&["run", text(&image)]));
        on.expect("A");
        assert!(on.is_taken());
        on.signal(signal);
        assert_eq!(on.finish(), 128 + signal);
        assert!(!on.is_taken(), "the terminal is as it was");
    }
}

/// It was lost, without a word.
#[test]
fn a_console_that_cannot_be_written_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let image = kernel(folder.path(), &SAYS);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ran = unifork(&["run", text(&image)]).stdout(full).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(125), "{told}");
    assert!(told.contains("No space left") && told.contains("\n  help: "), "{told}");

    let mut child =
        unifork(&["run", text(&image)]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!((ran.status.code(), told.as_str()), (Some(141), ""));
}
