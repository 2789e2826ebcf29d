//! Starting a process, and QEMU, from nothing to the first instruction and back.
//!
//! QEMU is given 39 bytes that ask it to exit at once, so what is measured is QEMU, its firmware and its
//! loader, and no operating system.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use unifork_vmm::bench::Sample;

use super::super::plot::{Bar, Bars, Panel};
use super::super::report::{Cell, Table};
use super::need;
use crate::cmd::{BlameExt as _, Failure};

/// A multiboot image, loaded as it is at 1 MiB: the header (multiboot specification 0.6.96, 3.1.1 and
/// 3.1.2), then `mov al, 0; out 0xf4, al; hlt; jmp .`
const EXIT_AT_ONCE: [u8; 39] = {
    let words: [u32; 8] = [0x1bad_b002, 1 << 16, 0xe451_4ffe, 1 << 20, 1 << 20, 0, 0, (1 << 20) + 32];
    let mut bytes = [0; 39];
    let mut i = 0;
    while i < 32 {
        bytes[i] = words[i / 4].to_le_bytes()[i % 4];
        i += 1;
    }
    let code = [0xb0, 0, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
    while i < 39 {
        bytes[i] = code[i - 32];
        i += 1;
    }
    bytes
};
/// What QEMU exits with when the guest writes 0 to the debug port.
const EXIT_CODE: i32 = 1;
/// The smallest machine that QEMU has, and the port that ends it.
const QEMU: [&str; 14] = [
    "-M",
    "microvm,pit=off,pic=off,rtc=off,isa-serial=off",
    "-m",
    "64",
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-device",
    "isa-debug-exit,iobase=0xf4,iosize=0x01",
    "-kernel",
    "IMAGE",
    "-accel",
];
/// Longest that anything may take once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every peer, `rounds` times or a tenth of that for QEMU. `program`, if it is one, is run as a process.
pub(in super::super) fn measure(
    rounds: u32,
    program: Option<&Path>,
) -> Result<(Table, Vec<String>), Failure> {
    let mut notes = Vec::new();
    let mut rows = Vec::new();
    let mut image = tempfile::NamedTempFile::new().context("cannot make a temporary file").or_host()?;
    image.write_all(&EXIT_AT_ONCE).context("cannot write a temporary file").or_host()?;
    let mut add = |name: &str, sample: Result<Sample, String>| match sample {
        Ok(sample) => rows.push(vec![
            Cell::text(name),
            Cell::micros(Some(&sample)),
            Cell::Number(sample.count() as f64, 0),
        ]),
        Err(why) => notes.push(format!("not measured: {name}: {why}")),
    };
    add("fork + exec of /bin/true", times(rounds, &mut Command::new("/bin/true"), 0));
    if let Some(program) = program.filter(|path| crate::machine::is_elf(path).unwrap_or(false)) {
        // An image is a Linux program that runs the harness on the files it is given.
        let empty = tempfile::NamedTempFile::new().context("cannot make a temporary file").or_host()?;
        // A name without a slash would be looked for on PATH.
        let program = std::path::absolute(program).context("cannot tell the current folder").or_host()?;
        add("fork + exec of the image", times(rounds, Command::new(program).arg(empty.path()), 0));
    }
    let mut lacking = Vec::new();
    for (name, accelerator) in [("QEMU microvm, KVM", "kvm"), ("QEMU microvm, TCG", "tcg")] {
        if let Err(why) = need("qemu-system-x86_64", "qemu-system-x86") {
            lacking.push(format!("not measured: {name}: {why}"));
            continue;
        }
        let mut command = Command::new("qemu-system-x86_64");
        for argument in QEMU {
            if argument == "IMAGE" {
                command.arg(image.path())
            } else {
                command.arg(argument)
            };
        }
        add(name, times(rounds.div_ceil(10).max(4), command.arg(accelerator), EXIT_CODE));
    }
    notes.append(&mut lacking);
    notes.push(
        "peers: from fork to wait; QEMU boots 39 bytes that end it at once, with no operating system".into(),
    );
    let table = Table {
        name: "peers",
        title: "Other ways to something that runs, us, p50/p90/p99".into(),
        columns: vec!["peer", "start to end us", "samples"],
        rows,
    };
    Ok((table, notes))
}

fn times(rounds: u32, command: &mut Command, code: i32) -> Result<Sample, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let failed = |error: std::io::Error| format!("it does not start: {error}");
    // The first may never end: it is watched. It also fills caches.
    let mut child = command.spawn().map_err(failed)?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if start.elapsed() > PATIENCE {
            // It may just have ended; either way it is waited for.
            let _ended = child.kill();
            let _status = child.wait();
            return Err(format!("it did not end in {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if status.code() != Some(code) {
        return Err(format!("it ended with {status}"));
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        command.status().map_err(failed)?;
        times.push(start.elapsed());
    }
    Sample::new(times).ok_or_else(|| "no samples".into())
}

/// The peers, with `fork`, a row of the main table, before them.
pub(in super::super) fn panel(table: &Table, fork: Option<&Vec<Cell>>) -> Panel {
    let mut bars = Vec::new();
    let mut add = |label: &str, us: f64| {
        let note = if us < 1e4 { format!("{us:.0} us") } else { format!("{:.1} ms", us / 1e3) };
        bars.push(Bar { label: label.to_owned(), values: vec![us], note, range: None });
    };
    // To the first instruction, and back out of it.
    if let Some(us) = fork.and_then(|row| row.get(super::super::spawn::TO_FIRST)).and_then(Cell::middle) {
        add("unifork, pooled fork", us);
    }
    for row in &table.rows {
        if let (Cell::Text(name), Some(us)) = (&row[0], row[1].middle()) {
            add(name, us);
        }
    }
    Panel::Bars(Bars {
        heading: "Other ways, from the request to the end of a program that does nothing: p50".into(),
        unit: "us".into(),
        segments: Vec::new(),
        log: true,
        bars,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multiboot_header_adds_up() {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| EXIT_AT_ONCE[at + i]));
        assert_eq!(word(0).wrapping_add(word(4)).wrapping_add(word(8)), 0);
    }
}
