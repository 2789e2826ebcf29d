//! What is watched for in forks of an image: ends of runs, panics, exceptions, blocks of code.
//!
//! All of it is found in memory when the image is frozen, and stays there. Whatever is at an address by then that its
//! file does not have there is left alone.

use serde::{Deserialize, Serialize};

use super::Machine;
use super::terms::{EndAt, PanicPoint, Panics, Terms};
use crate::addr::PAGE_BYTES;
use crate::introspect::{ReadMemory, Symbols, read_prefix, read_u64};

/// Bytes of a text in guest memory that are read, at most.
const TEXT_MAX: usize = 200;
/// Bytes of code that are compared with the file's.
const CODE_BYTES: usize = 8;
/// Vectors of exceptions whose handlers are watched where the monitor does not deliver them: all but NMI, #DB and #BP.
const EXCEPTIONS: [u8; 16] = [0, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 21];

/// A byte that a breakpoint takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Point {
    pub gpa: u64,
    pub original: u8,
    /// The block that begins here.
    pub block: Option<u32>,
    /// Something else is watched for here, too: the breakpoint stays when the block has been seen.
    pub stays: bool,
}

/// What a breakpoint is for, besides blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// The run ends well, if the stack pointer is this.
    End { rsp: Option<u64> },
    /// The image panics.
    Panic(PanicPoint),
    /// Its handler for an exception begins.
    Exception { vector: u8 },
}

/// What is watched for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watch {
    // Invariant: sorted by address, one for each.
    pub points: Vec<Point>,
    purposes: Vec<(u64, Purpose)>,
    /// The address of each block.
    pub blocks: Vec<u64>,
    /// Blocks that memory does not have as the file has them.
    pub left_out: usize,
    /// A run ends well when the image halts with interrupts off.
    pub halt: bool,
    /// Console texts that end a run well.
    pub console: Vec<Vec<u8>>,
    pub panics: Panics,
}

/// What the image says of its panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Panic {
    pub message: String,
}

impl Watch {
    /// Finds all of it in `machine`, which is about to be frozen.
    pub(super) fn find(machine: &mut Machine, terms: &Terms, symbols: &Symbols) -> Self {
        let mut watch = Self { panics: terms.panics.clone(), ..Self::default() };
        for end in terms.agentless.iter().flat_map(|agentless| &agentless.ends) {
            match end {
                EndAt::Address(address) => {
                    watch.add(machine, *address, symbols, Purpose::End { rsp: None });
                }
                EndAt::Return => {
                    let rsp = machine.cpu.vcpu().regs_mut().rsp;
                    let returns = read_u64(&machine.linear(), rsp);
                    if let Some(address) = returns {
                        let rsp = Some(rsp.wrapping_add(8));
                        watch.add(machine, address, symbols, Purpose::End { rsp });
                    }
                }
                EndAt::Console(text) => watch.console.push(text.clone()),
                EndAt::Halt => watch.halt = true,
            }
        }
        for point in &terms.panics.points {
            watch.add(machine, point.address, symbols, Purpose::Panic(point.clone()));
        }
        if terms.panics != Panics::default() {
            watch.add_exceptions(machine, symbols);
        }
        for block in &terms.blocks {
            let found = machine.find_code(block.address, block.code(), None);
            let original = found.and_then(|gpa| machine.prepare_breakpoint(gpa, block.address));
            match found.zip(original).filter(|(_, original)| machine.cpu.breakpoint() != *original) {
                Some((gpa, original)) => {
                    let number = u32::try_from(watch.blocks.len()).unwrap_or(u32::MAX);
                    watch.blocks.push(block.address);
                    watch.points.push(Point { gpa, original, block: Some(number), stays: false });
                }
                None => watch.left_out += 1,
            }
        }
        watch.sort();
        watch
    }

    /// Where each block is that has a breakpoint.
    pub(super) fn block_places(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.points.iter().filter_map(|point| Some((point.gpa, point.block?)))
    }

    /// Whether nothing is watched for by breakpoints.
    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    fn add(&mut self, machine: &mut Machine, address: u64, symbols: &Symbols, purpose: Purpose) -> bool {
        let code = symbols.code(address, CODE_BYTES).to_vec();
        let Some(gpa) = machine.find_code(address, &code, None) else { return false };
        let original = machine.prepare_breakpoint(gpa, address);
        let Some(original) = original.filter(|byte| *byte != machine.cpu.breakpoint()) else { return false };
        self.points.push(Point { gpa, original, block: None, stays: true });
        self.purposes.push((gpa, purpose));
        true
    }

    /// Where the monitor does not see exceptions, their handlers are watched: what a panic is about.
    fn add_exceptions(&mut self, machine: &mut Machine, symbols: &Symbols) {
        let Some((table, limit)) = machine.cpu.exception_table() else { return };
        for vector in EXCEPTIONS {
            let offset = u64::from(vector) * 16;
            if offset + 15 > u64::from(limit) {
                continue;
            }
            let word = |machine: &mut Machine, at: u64| read_u64(&machine.linear(), at);
            let at = table.wrapping_add(offset);
            let low = word(machine, at);
            let Some((low, high)) = low.zip(word(machine, at.wrapping_add(8))) else { continue };
            let handler = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
            if low >> 47 & 1 != 0 {
                self.add(machine, handler, symbols, Purpose::Exception { vector });
            }
        }
    }

    /// One point for each address.
    fn sort(&mut self) {
        self.points.sort_by_key(|point| point.gpa);
        self.points.dedup_by(|gone, kept| {
            let same = gone.gpa == kept.gpa;
            if same {
                kept.block = kept.block.or(gone.block);
                kept.stays |= gone.stays;
            }
            same
        });
    }

    /// The point at `gpa`.
    pub(super) fn point(&self, gpa: u64) -> Option<&Point> {
        let index = self.points.binary_search_by_key(&gpa, |point| point.gpa).ok()?;
        self.points.get(index)
    }

    /// What is watched for at `gpa` besides blocks.
    pub(super) fn purposes(&self, gpa: u64) -> impl Iterator<Item = &Purpose> {
        self.purposes.iter().filter(move |(at, _)| *at == gpa).map(|(_, purpose)| purpose)
    }

    /// Pages with points, in order, and the points of each.
    pub(super) fn pages(&self) -> impl Iterator<Item = (u64, &[Point])> {
        let pages = self.points.chunk_by(|one, other| one.gpa / PAGE_BYTES == other.gpa / PAGE_BYTES);
        pages.map(|points| (points[0].gpa / PAGE_BYTES, points))
    }

    /// Where in `console`, of which the first `seen` bytes were looked at, a line begins that only a panicking image prints.
    pub(super) fn panic_line(&self, console: &[u8], seen: usize) -> Option<usize> {
        let longest = self.panics.console.iter().map(String::len).max()?;
        let from = seen.saturating_sub(longest);
        let found = self.panics.console.iter().filter_map(|text| find(&console[from..], text.as_bytes()));
        let at = from + found.min()?;
        let line = console[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        Some(line)
    }

    /// Whether `console`, of which the first `seen` bytes were looked at, has a text that ends the run well.
    pub(super) fn ends_run(&self, console: &[u8], seen: usize) -> bool {
        self.console.iter().any(|text| find(&console[seen.saturating_sub(text.len())..], text).is_some())
    }
}

/// What the beginning of `console` says of a panic: its line and, if that ends with a colon as in Rust, the next one; and
/// whether all of that has been written.
pub(super) fn panic_text(console: &[u8]) -> (String, bool) {
    let (mut said, mut rest) = (String::new(), console);
    for _ in 0..2 {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = String::from_utf8_lossy(&rest[..end.unwrap_or(rest.len())]);
        said = format!("{said} {}", line.trim()).trim().to_owned();
        let Some(end) = end else { return (said, false) };
        rest = &rest[end + 1..];
        if !said.ends_with(':') {
            break;
        }
    }
    (said, true)
}

/// Where `part` begins in `whole`.
pub(super) fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(whole, part)
}

/// What the image says at `point`, at which it is; `None` if that is no panic.
pub(super) fn panic_at(machine: &mut Machine, point: &PanicPoint) -> Option<Panic> {
    let regs = machine.cpu.vcpu().regs_mut();
    if let Some((register, bits, value)) = point.when {
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        if *register.of(regs) & mask != value & mask {
            return None;
        }
    }
    let addresses: Vec<u64> = point.message.iter().map(|register| *register.of(regs)).collect();
    let mut texts = addresses.iter().map(|&address| text_at(&machine.linear(), address));
    let mut message = texts.next().unwrap_or_default();
    for text in texts {
        message = message.replacen("%s", &text, 1);
    }
    let message = message.trim();
    Some(Panic { message: if message.is_empty() { point.name.clone() } else { message.to_owned() } })
}

/// The text at `address`, up to its zero byte.
fn text_at(memory: &dyn ReadMemory, address: u64) -> String {
    let bytes = read_prefix(memory, address, TEXT_MAX);
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_line_and_what_a_colon_announces() {
        for (console, said, whole) in [
            (&b"[PANIC] no me"[..], "[PANIC] no me", false),
            (b"[PANIC] no memory\r\nand more", "[PANIC] no memory", true),
            (b"panicked at a.rs:1:2:\n", "panicked at a.rs:1:2:", false),
            (b"panicked at a.rs:1:2:\nindex out", "panicked at a.rs:1:2: index out", false),
            (b"panicked at a.rs:1:2:\n it is:\nnote", "panicked at a.rs:1:2: it is:", true),
            (b"", "", false),
        ] {
            assert_eq!(panic_text(console), (said.to_owned(), whole));
        }
    }
}
