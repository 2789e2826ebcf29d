//! Comparisons: which numbers and strings a run compared, for the fuzzer to put one where the other is.
//!
//! Code compiled with `trace-cmp` calls a function at each comparison. That costs a tenth of the speed
//! even when the function does nothing, and only a few runs need it. So there are two machines:
//!
//! ```text
//!   boot ── calls replaced by no-ops ──► Snapshot ── with_comparisons() ──► Snapshot with the calls
//!           nearly all runs                          a run for each new corpus entry
//! ```
//!
//! They are alike but for those bytes of code and one flag, `uf_comparisons`, that the runtime asks
//! before it logs. The log is in a window of the guest's, so all that is read from it is a claim.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use unifork_abi::{self as abi, COMPARISON_BYTES, COMPARISONS_MAX, ComparisonLog};

use crate::addr::Gpa;
use crate::direct::Patch;
use crate::elf::GuestImage;
use crate::memory::GuestMemory;
use crate::windows;

/// `nopl 0(%rax,%rax)`, as long as a call.
const NOP: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/// The runtime's flag.
const FLAG: &str = "uf_comparisons";
/// The functions that are called.
const CALLBACKS: [&str; 9] = [
    "__sanitizer_cov_trace_cmp1",
    "__sanitizer_cov_trace_cmp2",
    "__sanitizer_cov_trace_cmp4",
    "__sanitizer_cov_trace_cmp8",
    "__sanitizer_cov_trace_const_cmp1",
    "__sanitizer_cov_trace_const_cmp2",
    "__sanitizer_cov_trace_const_cmp4",
    "__sanitizer_cov_trace_const_cmp8",
    "__sanitizer_cov_trace_switch",
];
const LOG_BYTES: u64 = size_of::<ComparisonLog>() as u64;
const RECORD_BYTES: u64 = size_of::<abi::Comparison>() as u64;

/// Bytes of the window.
pub(crate) const WINDOW_BYTES: u64 = LOG_BYTES + COMPARISONS_MAX as u64 * RECORD_BYTES;

/// Where in an image comparisons are logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sites {
    /// The flag's address.
    flag: u64,
    /// Each call, as it is in the file.
    calls: Vec<Patch>,
}

impl Sites {
    /// The sites of `image`; `None` when its runtime logs no comparisons.
    pub(crate) fn find(image: &GuestImage) -> Option<Self> {
        let data: &[u8] = image.bytes();
        let file = object::File::parse(data).ok()?;
        let flag = flag(image)?;
        let symbols: BTreeMap<&str, u64> = file
            .symbols()
            .filter(|symbol| symbol.is_definition())
            .filter_map(|symbol| Some((symbol.name().ok()?, symbol.address().wrapping_add(image.bias()))))
            .filter(|(name, _)| CALLBACKS.contains(name))
            .collect();
        let mut callbacks: Vec<u64> = symbols.into_values().collect();
        callbacks.sort_unstable();
        let mut functions: Vec<(u64, u64)> = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
            .map(|symbol| (symbol.address().wrapping_add(image.bias()), symbol.size()))
            .collect();
        functions.sort_unstable();
        functions.dedup_by_key(|function| function.0);
        let mut calls = Vec::new();
        for (start, bytes) in functions {
            let Some(code) = image.code(start, bytes) else { continue };
            find_calls(start, code, &callbacks, &mut calls);
        }
        calls.sort_unstable_by_key(|call| call.at);
        calls.dedup_by_key(|call| call.at);
        Some(Self { flag, calls })
    }

    /// What takes the calls out.
    pub(crate) fn without(&self) -> impl Iterator<Item = Patch> {
        self.calls.iter().map(|call| Patch { at: call.at, bytes: NOP.to_vec() })
    }

    /// What puts the calls back in and sets the flag.
    pub(crate) fn with(&self) -> impl Iterator<Item = Patch> {
        let flag = Patch { at: self.flag, bytes: 1u32.to_le_bytes().to_vec() };
        self.calls.iter().cloned().chain([flag])
    }
}

/// The address of the runtime's flag.
fn flag(image: &GuestImage) -> Option<u64> {
    let data: &[u8] = image.bytes();
    let file = object::File::parse(data).ok()?;
    let flag = file.symbol_by_name(FLAG).filter(|symbol| symbol.is_definition())?;
    Some(flag.address().wrapping_add(image.bias()))
}

/// Whether `image`'s runtime can log comparisons.
pub(crate) fn logged_by(image: &GuestImage) -> bool {
    flag(image).is_some()
}

/// Finds calls of `callbacks` in one function, whose code is all decoded: the bytes of a call may also
/// be part of another instruction.
fn find_calls(start: u64, code: &[u8], callbacks: &[u64], calls: &mut Vec<Patch>) {
    // Most of the C library's functions have none.
    let end = start + code.len() as u64;
    let near = |i: usize, bytes: &[u8]| {
        let distance = i64::from(i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]));
        let target = (start + i as u64 + 5).wrapping_add_signed(distance);
        bytes[0] == 0xe8 && callbacks.binary_search(&target).is_ok()
    };
    if !code.windows(5).enumerate().any(|(i, bytes)| near(i, bytes)) {
        return;
    }
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() && decoder.ip() < end {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return;
        }
        let call = instruction.code() == Code::Call_rel32_64
            && instruction.len() == NOP.len()
            && callbacks.binary_search(&instruction.near_branch_target()).is_ok();
        if call {
            let at = usize::try_from(instruction.ip() - start).unwrap_or(usize::MAX);
            if let Some(bytes) = code.get(at..at + NOP.len()) {
                calls.push(Patch { at: instruction.ip(), bytes: bytes.to_vec() });
            }
        }
    }
}

/// What was compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operands {
    /// Two numbers of so many bytes: 1, 2, 4 or 8.
    Numbers {
        /// Bytes of each.
        bytes: u8,
        /// One of them.
        left: u64,
        /// The other.
        right: u64,
        /// Whether `left` is a constant in the code.
        constant: bool,
    },
    /// The beginnings of two strings of bytes.
    Strings {
        /// One of them.
        left: Text,
        /// The other.
        right: Text,
    },
}

impl Operands {
    /// Whether the two were not equal.
    #[must_use]
    pub fn differ(&self) -> bool {
        match self {
            Self::Numbers { left, right, .. } => left != right,
            Self::Strings { left, right } => left.bytes() != right.bytes(),
        }
    }
}

/// Up to [`COMPARISON_BYTES`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Text {
    bytes: [u8; COMPARISON_BYTES],
    len: u8,
    /// Where in the guest it was.
    pub at: u64,
}

impl Text {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(COMPARISON_BYTES)]
    }
}

/// One comparison of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The address behind the call that logged it.
    pub site: u64,
    /// What was compared.
    pub operands: Operands,
}

/// Empties the log, before a run.
pub(crate) fn clear(memory: &mut GuestMemory, at: Gpa) {
    windows::slice(memory, at, LOG_BYTES).fill(0);
}

/// Reads the log, after a run. Records that make no sense are left out.
pub(crate) fn read(memory: &GuestMemory, at: Gpa) -> Vec<Comparison> {
    let head = windows::slice_ref(memory, at, 8);
    let claimed = head.first_chunk().map_or(0, |count| u64::from_le_bytes(*count));
    let count = claimed.min(COMPARISONS_MAX as u64);
    decode(windows::slice_ref(memory, at, LOG_BYTES + count * RECORD_BYTES))
}

/// The comparisons in `log`, a [`ComparisonLog`] and its records, as many as there are. Records that make
/// no sense are left out.
#[must_use]
pub fn decode(log: &[u8]) -> Vec<Comparison> {
    let claimed = log.first_chunk().map_or(0, |count| u64::from_le_bytes(*count));
    let count = usize::try_from(claimed).unwrap_or(usize::MAX);
    let records = log.get(LOG_BYTES as usize..).unwrap_or_default();
    records.chunks_exact(RECORD_BYTES as usize).take(count).filter_map(parse).collect()
}

fn parse(record: &[u8]) -> Option<Comparison> {
    let word = |at: usize| record[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let half = |at: usize| record[at..].first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
    let kind = record[24..].first_chunk().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes));
    let (left_len, right_len) = (half(28), half(30));
    let operands = if kind == abi::ComparisonKind::Bytes as u32 {
        let text = |at: usize, len: u16, from: usize| {
            let len = u8::try_from(len).ok().filter(|&len| usize::from(len) <= COMPARISON_BYTES)?;
            Some(Text { bytes: *record[from..].first_chunk()?, len, at: word(at) })
        };
        Operands::Strings { left: text(8, left_len, 32)?, right: text(16, right_len, 64)? }
    } else {
        let constant = kind == abi::ComparisonKind::Constant as u32;
        let numbers = constant || kind == abi::ComparisonKind::Numbers as u32;
        if !numbers || left_len != right_len || !matches!(left_len, 1 | 2 | 4 | 8) {
            return None;
        }
        let mask = u64::MAX >> (64 - 8 * u32::from(left_len));
        let bytes = u8::try_from(left_len).ok()?;
        Operands::Numbers { bytes, left: word(32) & mask, right: word(64) & mask, constant }
    };
    Some(Comparison { site: word(0), operands })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_found_and_the_same_bytes_inside_another_instruction_are_not() {
        let (start, callback) = (0x20_0000, 0x20_1000);
        let distance = |at: u64| u32::try_from(callback - (start + at + 5)).unwrap().to_le_bytes();
        // mov edi, 1; call callback; movabs rax, "e8 distance ..." ; ret
        let mut code = vec![0xbf, 1, 0, 0, 0, 0xe8];
        code.extend(distance(5));
        code.extend([0x48, 0xb8]);
        let at = code.len() as u64;
        code.push(0xe8);
        code.extend(distance(at));
        code.extend([0, 0, 0, 0xc3]);
        let mut calls = Vec::new();
        find_calls(start, &code, &[callback], &mut calls);
        let [call] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((call.at, call.bytes.len()), (start + 5, 5));
        let mut none = Vec::new();
        find_calls(start, &code, &[callback + 1], &mut none);
        assert_eq!(none, []);
    }

    #[test]
    fn records_that_make_no_sense_are_left_out() {
        let mut record = [0u8; RECORD_BYTES as usize];
        record[28] = 4;
        record[30] = 4;
        record[32..36].copy_from_slice(&7u32.to_le_bytes());
        record[36] = 0xff;
        let numbers = Operands::Numbers { bytes: 4, left: 7, right: 0, constant: false };
        assert_eq!(parse(&record).map(|c| c.operands), Some(numbers));
        for (at, value) in [(24, 9), (28, 3), (28, 8), (30, 200)] {
            let mut bad = record;
            bad[at] = value;
            assert_eq!(parse(&bad), None, "{at} {value}");
        }
        record[24] = 2;
        record[28] = 32;
        record[30] = 33;
        assert_eq!(parse(&record), None);
        record[30] = 32;
        let Some(Comparison { operands: Operands::Strings { left, .. }, .. }) = parse(&record) else {
            panic!("two strings");
        };
        assert_eq!(left.bytes().len(), 32);
    }
}
