//! The instructions around the one where the guest stopped.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter as _, Instruction, IntelFormatter};
use serde::{Deserialize, Serialize};

use super::memory::{ReadMemory, read_prefix};
use super::symbols::Symbols;

/// The longest instruction, in bytes (SDM volume 2, 2.3.11).
const INSTRUCTION_BYTES_MAX: u64 = 15;

/// The most lines on either side.
const LINES_MAX: usize = 1000;

/// A function that starts further back than this is not decoded from its start.
const FUNCTION_BYTES_MAX: u64 = 64 << 10;

/// How many instructions are shown on either side of the one where the guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    /// Ahead of it.
    pub before: usize,
    /// Behind it.
    pub after: usize,
}

/// Instructions around the one where the guest stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disassembly {
    /// The instructions, by address.
    pub lines: Vec<CodeLine>,
    /// What could not be shown, and why.
    pub note: Option<String>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeLine {
    /// Its first byte.
    pub address: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// In Intel syntax, with the function that a direct branch leads to.
    pub text: String,
    /// Whether the guest stopped here.
    pub here: bool,
}

/// `=> 0x0000000000201234  c7 00 01 00 00 00        mov dword ptr [rax], 0x1`
impl fmt::Display for CodeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mark = if self.here { "=>" } else { "  " };
        write!(f, "{mark} {:#018x}  {:<24} {}", self.address, bytes.join(" "), self.text)
    }
}

impl fmt::Display for Disassembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines.iter().map(ToString::to_string);
        let note = self.note.iter().map(|note| format!("({note})"));
        f.write_str(&lines.chain(note).collect::<Vec<_>>().join("\n"))
    }
}

/// Decodes the instructions around `rip` from guest memory.
///
/// Those before it are found by decoding from the start of the function, or, where that is not known or
/// does not lead to `rip`, from the furthest point back that does.
pub fn disassemble(rip: u64, memory: &dyn ReadMemory, symbols: &Symbols, lines: Lines) -> Disassembly {
    let before = lines.before.min(LINES_MAX);
    let after = lines.after.min(LINES_MAX);
    let wanted = (after + 1) * 15;
    let code = read_prefix(memory, rip, wanted);
    if code.is_empty() {
        return Disassembly { lines: Vec::new(), note: Some(format!("memory at {rip:#x} is not readable")) };
    }

    let mut instructions = preceding(rip, memory, symbols, before);
    let mut decoder = Decoder::with_ip(64, &code, rip, DecoderOptions::NONE);
    let mut note = None;
    for _ in 0..=after {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        // An instruction that is cut off by the end of what was read is cut off by unreadable memory,
        // because enough was asked for.
        if instruction.is_invalid() && decoder.position() == code.len() && code.len() < wanted {
            note = Some(format!("memory at {:#x} is not readable", rip.wrapping_add(code.len() as u64)));
            break;
        }
        let start = decoder.position() - instruction.len();
        let bytes = code.get(start..decoder.position()).unwrap_or_default().to_vec();
        instructions.push((instruction, bytes));
    }

    let mut formatter = formatter();
    let lines = instructions.into_iter().map(|(instruction, bytes)| {
        let mut text = String::new();
        if instruction.is_invalid() {
            text.push_str("(bad)");
        } else {
            formatter.format(&instruction, &mut text);
            text.push_str(&destination(&instruction, symbols));
        }
        CodeLine { address: instruction.ip(), bytes, text, here: instruction.ip() == rip }
    });
    Disassembly { lines: lines.collect(), note }
}

/// The instructions before `rip`, at most `count`.
fn preceding(
    rip: u64,
    memory: &dyn ReadMemory,
    symbols: &Symbols,
    count: usize,
) -> Vec<(Instruction, Vec<u8>)> {
    let function = symbols.function_range(rip).map(|range| range.start);
    let near = rip.saturating_sub(FUNCTION_BYTES_MAX);
    if let Some(mut found) =
        function.filter(|start| *start >= near).and_then(|start| decode(start, rip, memory))
    {
        return found.split_off(found.len().saturating_sub(count));
    }
    let furthest = count as u64 * INSTRUCTION_BYTES_MAX;
    // Never across the start of a function: what lies before it may be data.
    let lowest = function.filter(|start| *start >= near).unwrap_or(0).max(rip.saturating_sub(furthest));
    (lowest..rip)
        .find_map(|start| decode(start, rip, memory))
        .map(|mut found| found.split_off(found.len().saturating_sub(count)))
        .unwrap_or_default()
}

/// The instructions from `start` to `end`, if they are valid and the last ends there.
fn decode(start: u64, end: u64, memory: &dyn ReadMemory) -> Option<Vec<(Instruction, Vec<u8>)>> {
    let length = usize::try_from(end.checked_sub(start)?).ok()?;
    let code = read_prefix(memory, start, length);
    if code.len() < length {
        return None;
    }
    let mut decoder = Decoder::with_ip(64, &code, start, DecoderOptions::NONE);
    let mut found = Vec::new();
    while decoder.can_decode() {
        let from = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        found.push((instruction, code.get(from..decoder.position())?.to_vec()));
    }
    Some(found)
}

/// ` <function+0x10>` for a direct branch.
fn destination(instruction: &Instruction, symbols: &Symbols) -> String {
    let direct = matches!(
        instruction.flow_control(),
        FlowControl::Call | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    let target = instruction.near_branch_target();
    let place = if direct { symbols.places(target).pop() } else { None };
    place.and_then(|place| Some(format!(" <{}+{:#x}>", place.function?, place.offset))).unwrap_or_default()
}

fn formatter() -> IntelFormatter {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    formatter
}
