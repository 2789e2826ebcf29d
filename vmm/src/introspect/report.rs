//! All there is to say about a crash, as text or through serde.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::access::{Access, access};
use super::disassemble::{Disassembly, Lines, disassemble};
use super::frame::{Frame, Run, runs};
use super::hash::{StackHash, stack_hash};
use super::memory::ReadMemory;
use super::registers::Registers;
use super::symbols::Symbols;
use super::unwind::unwind;

/// How many frames are kept. Runaway recursion has a hundred thousand that say nothing new.
const FRAMES: usize = 512;

/// How many instructions are shown on either side.
const LINES: Lines = Lines { before: 8, after: 5 };

/// How much of the end of the console is kept.
const CONSOLE_BYTES_MAX: usize = 64 << 10;

/// How often a repeating run of frames is printed before the rest is only counted.
const REPEATS_SHOWN: usize = 2;

/// Why a guest stopped, with its registers.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// What happened, in words: `page fault`, `abort`, `divide error`.
    pub cause: String,
    /// The registers at the instruction that caused it.
    pub registers: Registers,
    /// The address that the processor reported, if it does for this cause (`CR2`).
    pub fault_address: Option<u64>,
    /// What the guest wrote to its console during this run.
    pub console: Vec<u8>,
}

/// A crash, worked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashReport {
    /// What happened, in words.
    pub cause: String,
    /// The memory access that caused it.
    pub access: Option<Access>,
    /// The same for all crashes that are likely to have the same cause.
    pub stack_hash: StackHash,
    /// The registers.
    pub registers: Registers,
    /// How it got there, innermost first.
    pub frames: Vec<Frame>,
    /// The instructions around it.
    pub disassembly: Disassembly,
    /// The end of the console, with what is not printable escaped.
    pub console: String,
}

impl CrashReport {
    /// Works out a crash.
    pub fn collect(stop: &Stop, memory: &dyn ReadMemory, symbols: &Symbols) -> Self {
        let frames = unwind(&stop.registers, memory, symbols, FRAMES);
        Self {
            cause: stop.cause.clone(),
            access: access(&stop.registers, memory, stop.fault_address),
            stack_hash: stack_hash(&frames),
            registers: stop.registers,
            frames,
            disassembly: disassemble(stop.registers.rip, memory, symbols, LINES),
            console: printable(&stop.console),
        }
    }

    /// The backtrace, with recursion folded.
    fn fmt_frames(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.frames.iter().map(recursion_key).collect();
        for run in runs(&keys) {
            let total = run.period * run.count;
            let shown = if run.count > REPEATS_SHOWN + 1 { run.period * REPEATS_SHOWN } else { total };
            for (index, frame) in self.frames.iter().enumerate().skip(run.start).take(shown) {
                writeln!(f, "  #{index:<3} {frame}")?;
            }
            if shown < total {
                writeln!(f, "  …    {} more frames of {}", total - shown, self.cycle(run))?;
            }
        }
        if self.frames.len() == FRAMES {
            writeln!(f, "  (the first {FRAMES} frames; there may be more)")?;
        }
        Ok(())
    }

    /// The functions of a run.
    fn cycle(&self, run: Run) -> String {
        let cycle = self.frames.iter().skip(run.start).take(run.period);
        cycle.map(|frame| frame.function().unwrap_or("??")).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "crash: {}", self.cause)?;
        if let Some(access) = &self.access {
            writeln!(f, "access: {access}")?;
        }
        writeln!(f, "stack hash: {}", self.stack_hash)?;
        writeln!(f, "\nregisters:\n{}", indented(&self.registers.to_string()))?;
        writeln!(f, "\nbacktrace:")?;
        self.fmt_frames(f)?;
        writeln!(f, "\ncode:\n{}", indented(&self.disassembly.to_string()))?;
        if !self.console.is_empty() {
            writeln!(f, "\nconsole:\n{}", indented(&self.console))?;
        }
        Ok(())
    }
}

/// What makes two frames part of one recursion: the function, or the address if it has no name.
fn recursion_key(frame: &Frame) -> (Option<&str>, u64) {
    let function = frame.function();
    (function, if function.is_some() { 0 } else { frame.address })
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// The end of the console as text: whatever is not printable is escaped, so that it cannot drive the
/// terminal it is shown on.
fn printable(console: &[u8]) -> String {
    let skipped = console.len().saturating_sub(CONSOLE_BYTES_MAX);
    let mut text = if skipped > 0 { format!("({skipped} bytes before)\n") } else { String::new() };
    for chunk in console.get(skipped..).unwrap_or_default().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' | '\t' => text.push(character),
                control if control.is_control() => text.extend(control.escape_default()),
                other => text.push(other),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_cannot_drive_the_terminal() {
        assert_eq!(printable(b"a\x1b[2J\r\n\xff\xc3\xa9\0"), "a\\u{1b}[2J\\r\n\\xff\u{e9}\\u{0}");
    }

    #[test]
    fn a_long_console_keeps_its_end() {
        let mut console = vec![b'x'; CONSOLE_BYTES_MAX + 7];
        console.extend(b"last");
        let text = printable(&console);
        assert!(text.starts_with("(11 bytes before)\nx") && text.ends_with("xlast"));
    }
}
