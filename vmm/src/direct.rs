//! Rewrites `syscall` instructions into jumps to the libOS, which is in the same address space and at
//! the same privilege level: a trap costs 0.1 µs and more, and 10 to 30 µs under software KVM, a jump
//! nothing. It is what HermiTux and Unikraft's binary compatibility do.
//!
//! `syscall` has two bytes and a jump five, so the instructions before it move along:
//!
//! ```text
//!   mov eax, 9        ┐            jmp  site_17            site_17:  mov eax, 9
//!   syscall           ┘   ──────►  int3; int3                        lea rcx, [next]
//!   next: mov rdi, rax             next: mov rdi, rax                jmp  unifork_direct
//! ```
//!
//! The libOS returns to `next` by itself. A site is left alone, and traps as before, when something
//! jumps between the instructions that would move, when one of them is itself a jump or a call, or
//! when the function round it is not known. What jumps where is read off the function's own code; a
//! jump through a table into the middle of a system call's last instructions is not foreseen, and no
//! compiler makes one.

use iced_x86::{Code, Decoder, DecoderOptions, Encoder, FlowControl, Instruction};
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use unifork_abi::DIRECT_VA;

use crate::elf::GuestImage;

/// Bytes of a `jmp rel32`.
const JUMP_BYTES: usize = 5;
/// Functions larger than this are left alone: decoding them is not worth it.
const FUNCTION_BYTES_MAX: u64 = 1 << 20;

/// New bytes for the application's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    /// Where.
    pub at: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// All rewritten sites of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirectCalls {
    code: Vec<u8>,
    patches: Vec<Patch>,
}

impl DirectCalls {
    /// Finds the sites of `image` whose shape allows it, to jump to the libOS's `entry`.
    pub(crate) fn find(image: &GuestImage, entry: u64) -> Self {
        let mut calls = Self::default();
        let data: &[u8] = image.bytes();
        let Ok(file) = object::File::parse(data) else { return calls };
        let mut functions: Vec<(u64, u64)> = file
            .symbols()
            .filter(|s| s.kind() == SymbolKind::Text && (1..=FUNCTION_BYTES_MAX).contains(&s.size()))
            .map(|s| (s.address().wrapping_add(image.bias()), s.size()))
            .collect();
        functions.sort_unstable();
        functions.dedup_by_key(|f| f.0);
        for (start, bytes) in functions {
            if let Some(code) = image.code(start, bytes) {
                calls.rewrite_function(start, code, entry);
            }
        }
        calls
    }

    /// The code that the sites jump to, for [`DIRECT_VA`].
    pub(crate) fn code(&self) -> &[u8] {
        &self.code
    }

    /// The sites.
    pub(crate) fn patches(&self) -> &[Patch] {
        &self.patches
    }

    fn rewrite_function(&mut self, start: u64, code: &[u8], entry: u64) {
        if !code.windows(2).any(|pair| pair == [0x0f, 0x05]) {
            return;
        }
        let all: Vec<Instruction> =
            Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().collect();
        if all.iter().any(Instruction::is_invalid) {
            return;
        }
        let mut targets: Vec<u64> = all.iter().filter_map(branch_target).collect();
        targets.sort_unstable();
        let mut free_from = 0;
        for (i, call) in all.iter().enumerate().filter(|(_, instruction)| instruction.code() == Code::Syscall)
        {
            let moved = moved_before(&all[free_from..i], call, &targets);
            let Some(moved) = moved else { continue };
            let first = moved.first().map_or(call.ip(), Instruction::ip);
            if self.add_site(moved, first, call.next_ip(), entry).is_some() {
                free_from = i + 1;
            }
        }
    }

    /// Makes the code of one site and the jump to it; `None` when it cannot be encoded.
    fn add_site(&mut self, moved: &[Instruction], first: u64, next: u64, entry: u64) -> Option<()> {
        let site = DIRECT_VA + self.code.len() as u64;
        let mut encoder = Encoder::new(64);
        let mut at = site;
        for instruction in moved {
            at += encoder.encode(instruction, at).ok()? as u64;
        }
        let mut code = encoder.take_buffer();
        // lea rcx, [rip + next]
        code.extend_from_slice(&[0x48, 0x8d, 0x0d]);
        code.extend_from_slice(&distance(at + 7, next)?);
        code.push(0xe9);
        code.extend_from_slice(&distance(at + 7 + JUMP_BYTES as u64, entry)?);
        let mut bytes = vec![0xe9];
        bytes.extend_from_slice(&distance(first + JUMP_BYTES as u64, site)?);
        bytes.resize(usize::try_from(next - first).ok()?, 0xcc);
        self.code.extend_from_slice(&code);
        self.patches.push(Patch { at: first, bytes });
        Some(())
    }
}

/// The instructions before `call`, at the end of `before`, that have to move for a jump to fit.
fn moved_before<'a>(
    before: &'a [Instruction],
    call: &Instruction,
    targets: &[u64],
) -> Option<&'a [Instruction]> {
    let mut bytes = call.len();
    let mut from = before.len();
    // Something jumps right to the instruction that would be inside the patch.
    let mut inside = call.ip();
    while bytes < JUMP_BYTES {
        if targets.binary_search(&inside).is_ok() {
            return None;
        }
        from = from.checked_sub(1)?;
        let instruction = &before[from];
        if instruction.flow_control() != FlowControl::Next || instruction.next_ip() != inside {
            return None;
        }
        bytes += instruction.len();
        inside = instruction.ip();
    }
    Some(&before[from..])
}

fn branch_target(instruction: &Instruction) -> Option<u64> {
    match instruction.flow_control() {
        FlowControl::ConditionalBranch
        | FlowControl::UnconditionalBranch
        | FlowControl::Call
        | FlowControl::XbeginXabortXend => Some(instruction.near_branch_target()),
        _ => None,
    }
}

/// What a 32-bit displacement that is counted from `from` must be to name `to`.
fn distance(from: u64, to: u64) -> Option<[u8; 4]> {
    i32::try_from(to.wrapping_sub(from).cast_signed()).ok().map(i32::to_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x20_0000;
    const ENTRY: u64 = 0x6000_1000;

    fn rewrite(code: &[u8]) -> DirectCalls {
        let mut calls = DirectCalls::default();
        calls.rewrite_function(START, code, ENTRY);
        calls
    }

    fn decode(code: &[u8], ip: u64) -> Vec<Instruction> {
        Decoder::with_ip(64, code, ip, DecoderOptions::NONE).into_iter().collect()
    }

    #[test]
    fn the_number_moves_along_and_the_libos_returns_behind_the_call() {
        // mov eax, 9; syscall; ret
        let calls = rewrite(&[0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3]);
        let [patch] = calls.patches() else { panic!("one site") };
        assert_eq!((patch.at, patch.bytes.len()), (START, 7));
        assert_eq!(decode(&patch.bytes, patch.at)[0].near_branch_target(), DIRECT_VA);
        let code = decode(calls.code(), DIRECT_VA);
        assert_eq!(code[0].immediate32(), 9);
        assert_eq!(code[1].ip_rel_memory_address(), START + 7);
        assert_eq!(code[2].near_branch_target(), ENTRY);
    }

    #[test]
    fn an_address_relative_to_the_code_still_names_the_same_place() {
        // lea rdi, [rip + 0x100]; syscall
        let calls = rewrite(&[0x48, 0x8d, 0x3d, 0, 1, 0, 0, 0x0f, 0x05]);
        let code = decode(calls.code(), DIRECT_VA);
        assert_eq!(code[0].ip_rel_memory_address(), START + 7 + 0x100);
    }

    #[test]
    fn a_site_that_something_jumps_into_is_left_alone() {
        // mov eax, 9; syscall; jmp syscall
        assert_eq!(rewrite(&[0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xfc]), DirectCalls::default());
        // mov eax, 9; syscall; jmp mov: the jump to the site itself is fine.
        assert_eq!(rewrite(&[0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]).patches().len(), 1);
    }

    #[test]
    fn a_call_before_the_site_does_not_move() {
        // call +0; syscall
        assert_eq!(rewrite(&[0xe8, 0, 0, 0, 0, 0x0f, 0x05]), DirectCalls::default());
        // syscall as the first instruction
        assert_eq!(rewrite(&[0x0f, 0x05, 0xc3]), DirectCalls::default());
    }

    #[test]
    fn two_sites_in_a_row_do_not_share_instructions() {
        // mov eax, 9; syscall; mov rdi, rax; syscall
        let calls = rewrite(&[0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0x48, 0x89, 0xc7, 0x0f, 0x05]);
        let [a, b] = calls.patches() else { panic!("two sites") };
        assert_eq!(a.at + a.bytes.len() as u64, b.at);
        // mov eax, 9; syscall; nop; syscall: the second would need bytes of the first.
        assert_eq!(rewrite(&[0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0x90, 0x0f, 0x05]).patches().len(), 1);
    }
}
