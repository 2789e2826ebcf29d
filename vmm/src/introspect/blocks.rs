//! Where blocks of code begin: places that a branch can lead to, in functions of an image without instrumentation.
//!
//! A function is decoded from its first byte to its last, as its symbol has them. Compilers for x86-64 put no data in
//! between; where something cannot be decoded, the rest of the function is left out. Symbols without a type or a size are
//! left out, too: kernels have page tables and descriptors among their code. A block begins
//!
//! - with the function,
//! - where a direct branch leads to, if an instruction begins there,
//! - behind a conditional branch, and
//! - behind what never goes on (a jump, a return), and behind padding there: cases of a jump table lie there.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use serde::{Deserialize, Serialize};

use super::symbols::Symbols;

/// Functions longer than this are left out: their symbol covers something else.
const FUNCTION_BYTES_MAX: u64 = 4 << 20;

/// The first instruction of a block of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its address.
    pub address: u64,
    /// How many bytes it has.
    pub length: u8,
    /// Them; a breakpoint is set only where memory has the same.
    pub code: [u8; 15],
}

impl Block {
    /// The instruction's bytes.
    #[must_use]
    pub fn code(&self) -> &[u8] {
        self.code.get(..usize::from(self.length)).unwrap_or(&self.code)
    }
}

/// The blocks of the functions that are `wanted`, by symbol-table name and range; by address.
pub fn blocks(symbols: &Symbols, wanted: impl Fn(&str, &Range<u64>) -> bool) -> Vec<Block> {
    let functions = symbols.certain_functions().filter(|(name, function)| wanted(name, function));
    let mut functions: Vec<Range<u64>> = functions.map(|(_, function)| function).collect();
    functions.sort_by_key(|function| function.start);
    functions.dedup();
    let mut found = Vec::new();
    let mut reached = 0;
    for function in functions {
        // One inside another is part of that.
        if function.start >= reached {
            found.extend(of_function(symbols, &function));
            reached = function.end;
        }
    }
    found
}

fn of_function(symbols: &Symbols, function: &Range<u64>) -> Vec<Block> {
    let bytes = function.end.saturating_sub(function.start);
    if bytes == 0 || bytes > FUNCTION_BYTES_MAX {
        return Vec::new();
    }
    let code = symbols.code(function.start, usize::try_from(bytes).unwrap_or(0));
    let mut decoder = Decoder::with_ip(64, code, function.start, DecoderOptions::NONE);
    let mut instructions = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        instructions.push(instruction);
    }
    let mut leaders = BTreeSet::from([function.start]);
    for (i, instruction) in instructions.iter().enumerate() {
        let next = instructions.get(i + 1);
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                leaders.insert(instruction.near_branch_target());
                leaders.extend(next.map(Instruction::ip));
            }
            FlowControl::UnconditionalBranch => {
                leaders.insert(instruction.near_branch_target());
                leaders.extend(behind_padding(&instructions[i + 1..]));
            }
            FlowControl::IndirectBranch | FlowControl::Return => {
                leaders.extend(behind_padding(&instructions[i + 1..]));
            }
            _ => {}
        }
    }
    let begins = instructions.iter().filter(|instruction| leaders.contains(&instruction.ip()));
    begins.map(|instruction| block(code, function.start, instruction)).collect()
}

fn block(code: &[u8], start: u64, instruction: &Instruction) -> Block {
    let from = usize::try_from(instruction.ip() - start).unwrap_or(0);
    let mut bytes = [0; 15];
    let length = instruction.len().min(15);
    bytes[..length].copy_from_slice(&code[from..from + length]);
    Block { address: instruction.ip(), length: length as u8, code: bytes }
}

/// The first of `instructions` that is not there to align the next.
fn behind_padding(instructions: &[Instruction]) -> Option<u64> {
    let padding = |i: &&Instruction| i.code() == Code::Int3 || i.mnemonic() == Mnemonic::Nop;
    instructions.iter().find(|i| !padding(i)).map(Instruction::ip)
}
