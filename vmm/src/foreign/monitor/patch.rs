//! Instructions that tell a guest at CPL 3 the truth, and do not trap: `pushf` shows the real
//! interrupt flag, `popf` does not change it, `xgetbv` shows the host's XCR0, `rdrand` and `rdseed`
//! are the host's randomness, `rdtscp` and `rdpid` name the host's CPU,
//! `iretq` returns to the monitor's own selectors, `xsave` and `xrstor` move what the host's
//! XCR0 has. They are found in the guest's code and their first byte is replaced by
//! `hlt`, which traps; [`super::state::Virtual::patches`] remembers what was there.
//!
//! Code is found by decoding it from its start to its end. A byte that only looks like one of these
//! is in the middle of another instruction or in data, so `pushf` and `popf`, which are one byte, are
//! believed only next to an instruction that they are used with.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::addr::PAGE_BYTES;

/// What the first byte becomes.
pub(crate) const HLT: u8 = 0xf4;

/// What is looked for in code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Of how many bits the code is.
    pub bits: u32,
    /// `xsave` and `xrstor` as well.
    pub xstate: bool,
}

/// Offsets in `code`, which begins at `address`, of instructions that must trap.
pub(crate) fn find(code: &[u8], address: u64, wanted: Wanted) -> Vec<usize> {
    let mut found = Vec::new();
    let mut decoder = Decoder::with_ip(wanted.bits, code, address, DecoderOptions::NONE);
    let mut before = Instruction::default();
    let mut this = Instruction::default();
    let mut at = 0;
    if decoder.can_decode() {
        decoder.decode_out(&mut this);
    }
    while !this.is_invalid() || decoder.can_decode() {
        let next_at = decoder.position();
        let mut after = Instruction::default();
        if decoder.can_decode() {
            decoder.decode_out(&mut after);
        }
        let moves_state = matches!(
            this.mnemonic(),
            Mnemonic::Xsave | Mnemonic::Xsave64 | Mnemonic::Xrstor | Mnemonic::Xrstor64
        );
        if must_trap(&before, &this, &after) || wanted.xstate && moves_state {
            found.push(at);
        }
        (before, this, at) = (this, after, next_at);
    }
    found
}

fn must_trap(before: &Instruction, this: &Instruction, after: &Instruction) -> bool {
    use Mnemonic as M;
    let is_push = |i: &Instruction| matches!(i.mnemonic(), M::Push | M::Pushad | M::Pusha);
    let is_pop = |i: &Instruction| matches!(i.mnemonic(), M::Pop | M::Popad | M::Popa);
    match this.mnemonic() {
        M::Pushfq | M::Pushfd | M::Pushf => {
            // Linux makes frames to return to itself: `pushf; mov eax, cs; push rax`.
            let selector = after.mnemonic() == M::Mov && after.op1_register().is_segment_register();
            is_pop(after) || matches!(after.mnemonic(), M::Cli | M::Sti) || is_push(after) || selector
        }
        M::Popfq | M::Popfd | M::Popf => {
            is_push(before) || is_pop(before) || is_pop(after) || matches!(after.mnemonic(), M::Ret)
        }
        // Software KVM has selectors of its own, and those that 64-bit Linux has for its user mode are the same: a
        // return with them does not trap, and CS and SS read as they are.
        M::Iretq => true,
        M::Mov if matches!(this.op1_register(), Register::CS | Register::SS) => {
            if this.op0_kind() == OpKind::Memory {
                // Nanos puts them into a frame that it goes on with later, beside other registers.
                let base = this.memory_base();
                let beside = |i: &Instruction| {
                    i.mnemonic() == M::Mov && i.op0_kind() == OpKind::Memory && i.memory_base() == base
                };
                return base.is_gpr64() && (beside(before) || beside(after));
            }
            let to = this.op0_register().full_register();
            to.is_gpr64() && (0..2).any(|operand| after.op_register(operand).full_register() == to)
        }
        M::Xgetbv | M::Rdrand | M::Rdseed | M::Rdtscp | M::Rdpid => true,
        _ => false,
    }
}

/// Bytes before and behind a patch that a copy of it has as well.
const AROUND: usize = 8;

/// Patches that came into `page`, which is at `gpa`, with code that the guest copied when it had been patched, to the
/// same place in another page: offset of each, and the byte that was there.
pub(crate) fn copied(
    patches: &BTreeMap<u64, u8>,
    page: &[u8],
    gpa: u64,
    read: impl Fn(u64, &mut [u8]),
) -> Vec<(usize, u8)> {
    let mut found = Vec::new();
    for (&at, &byte) in patches {
        let offset = (at % PAGE_BYTES) as usize;
        if page[offset] != HLT || at - offset as u64 == gpa {
            continue;
        }
        let range = offset.saturating_sub(AROUND)..(offset + AROUND + 1).min(page.len());
        let mut original = [0; 2 * AROUND + 1];
        let original = &mut original[..range.len()];
        read(at - (offset - range.start) as u64, original);
        if *original == page[range] {
            found.push((offset, byte));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Wanted = Wanted { bits: 64, xstate: false };

    #[test]
    fn what_must_trap_is_found_and_what_looks_like_it_is_not() {
        let code = [
            0x9c, 0x58, // pushfq; pop rax
            0x48, 0xb8, 0x9c, 0x9d, 0x9c, 0x9d, 0x9c, 0x58, 0x50, 0x9d, // mov rax, imm64
            0x50, 0x9d, // push rax; popfq
            0x0f, 0xc7, 0xf0, // rdrand eax
            0x0f, 0x01, 0xd0, // xgetbv
            0x90, 0x9d, 0x90, // nop; a lone popfq; nop
            0x9c, 0x8c, 0xc8, 0x50, // pushfq; mov eax, cs; push rax
            0x8c, 0xd0, 0xc3, // mov eax, ss; ret
            0x48, 0xcf, // iretq
        ];
        assert_eq!(find(&code, 0x1000, LONG), [0, 13, 14, 17, 23, 24, 30]);
        assert_eq!(find(&[0x9c, 0xfa], 0, Wanted { bits: 32, ..LONG }), [0]);
        assert!(find(&[], 0, LONG).is_empty());
        let state = [
            0x0f, 0xae, 0x27, // xsave [rdi]
            0x48, 0x0f, 0xae, 0x6c, 0x24, 0x40, // xrstor64 [rsp+64]
            0x0f, 0xae, 0xe8, // lfence
            0x0f, 0xae, 0x07, // fxsave [rdi]
        ];
        assert_eq!(find(&state, 0, Wanted { xstate: true, ..LONG }), [0, 3]);
        assert!(find(&state, 0, LONG).is_empty());
    }

    #[test]
    fn any_bytes_are_looked_through_to_the_end() {
        for byte in 0..=255u8 {
            for bits in [16, 32, 64] {
                let mut code = vec![byte; 40];
                code.extend([0x90; 16]);
                code.extend([0x50, 0x9d]);
                assert_eq!(find(&code, 0, Wanted { bits, ..LONG }).last(), Some(&57), "{byte:#x}");
            }
        }
    }
}
