//! Steps by reading a function's own instructions.
//!
//! ```text
//!   push rbp             ; 8 bytes further from the frame's start
//!   sub  rsp, 0x98       ; and another 0x98
//!   ...
//! ► call other           ; the frame starts at rsp + 8 + 8 + 0x98, and rbp is saved below it
//! ```
//!
//! Instructions are followed in the order in which they are stored, not in which they run. That gives
//! the same stack pointer, because compilers keep its distance from the frame's start fixed at every
//! instruction. Behind one that does not go on (`ret`, `jmp`) the state is that of a jump which leads
//! there, or else of the deepest point so far: what follows is then a part of the body that was moved out
//! of the way. Functions that move the stack pointer by a variable amount have a frame pointer, which is
//! followed as well.

use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use super::super::memory::read_u64;
use super::{Cursor, Method, RBP, Walk};

/// How far into a function it is followed. The largest function of musl's `libc.a` is a tenth of this.
const BYTES_MAX: u64 = 64 << 10;

/// The registers that a function gives back as it found them (System V ABI for x86-64, 3.2.1), with
/// DWARF's number.
const SAVED: [(Register, usize); 6] = [
    (Register::RBX, 3),
    (Register::RBP, RBP),
    (Register::R12, 12),
    (Register::R13, 13),
    (Register::R14, 14),
    (Register::R15, 15),
];

/// The caller, by what the instructions before the frame's one did to the stack.
pub(super) fn step(walk: Walk<'_>, cursor: &Cursor) -> Option<Cursor> {
    let function = walk.symbols.function_range(cursor.inside())?;
    let layout = layout(walk, &function, cursor.pc)?;
    let frame = match (layout.rsp, layout.rbp) {
        (Some(distance), _) => cursor.sp.checked_add_signed(distance)?,
        (None, Some(distance)) if cursor.certain => cursor.registers[RBP]?.checked_add_signed(distance)?,
        _ => return None,
    };
    let pc = read_u64(walk.memory, frame.checked_sub(8)?)?;
    let mut caller = cursor.moved(pc, frame, Method::Code);
    for ((_, number), below) in SAVED.iter().zip(layout.saved) {
        if let Some(below) = below {
            caller.registers[*number] = read_u64(walk.memory, frame.checked_sub_signed(below)?);
            caller.certain |= *number == RBP;
        }
    }
    Some(caller)
}

/// Where the frame's start is from each of two registers, in bytes above it, and how far below it the
/// caller's registers are saved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    rsp: Option<i64>,
    rbp: Option<i64>,
    saved: [Option<i64>; 6],
}

/// The layout of the frame just before the instruction at `pc` runs.
fn layout(walk: Walk<'_>, function: &Range<u64>, pc: u64) -> Option<Layout> {
    let length = pc.checked_sub(function.start).filter(|length| *length <= BYTES_MAX)?;
    let code = walk.code(function.start, usize::try_from(length).ok()?);
    (code.len() as u64 == length).then(|| follow(&code, function.start)).flatten()
}

/// Follows all of `code`, which is what comes before the instruction of interest. `None` if its end is
/// inside an instruction.
fn follow(code: &[u8], start: u64) -> Option<Layout> {
    let mut layout = Layout { rsp: Some(8), rbp: None, saved: [None; 6] };
    let mut deepest = layout.clone();
    let mut jumps: BTreeMap<u64, Layout> = BTreeMap::new();
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        if layout.rsp > deepest.rsp || (layout.rsp.is_none() && deepest.rsp.is_some()) {
            deepest = layout.clone();
        }
        layout.apply(&instruction);
        let flow = instruction.flow_control();
        if matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
            jumps.entry(instruction.near_branch_target()).or_insert_with(|| layout.clone());
        }
        let goes_on = !matches!(
            flow,
            FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Exception
        );
        if !goes_on || instruction.mnemonic() == Mnemonic::Hlt {
            layout = jumps.get(&instruction.next_ip()).unwrap_or(&deepest).clone();
        }
    }
    Some(layout)
}

impl Layout {
    /// What one instruction does to the two registers and to the saved ones.
    fn apply(&mut self, instruction: &Instruction) {
        let target = (instruction.op0_kind() == OpKind::Register).then(|| instruction.op0_register());
        let to_rsp = target == Some(Register::RSP);
        let to_rbp = target == Some(Register::RBP);
        let constant = is_constant(instruction.op1_kind()).then(|| instruction.immediate(1).cast_signed());
        match instruction.mnemonic() {
            Mnemonic::Push | Mnemonic::Pushfq => self.push(target),
            Mnemonic::Pop | Mnemonic::Popfq => self.pop(target),
            Mnemonic::Leave => {
                self.rsp = self.rbp;
                self.pop(Some(Register::RBP));
            }
            Mnemonic::Sub if to_rsp => self.rsp = add(self.rsp, constant),
            Mnemonic::Add if to_rsp => self.rsp = add(self.rsp, constant.and_then(i64::checked_neg)),
            Mnemonic::Lea if to_rsp || to_rbp => {
                let moved = self.effective(instruction);
                *(if to_rsp { &mut self.rsp } else { &mut self.rbp }) = moved;
            }
            Mnemonic::Mov if to_rbp && instruction.op1_register() == Register::RSP => self.rbp = self.rsp,
            Mnemonic::Mov if to_rsp && instruction.op1_register() == Register::RBP => self.rsp = self.rbp,
            _ => match target.filter(|_| writes_first(instruction)).map(Register::full_register) {
                Some(Register::RSP) => self.rsp = None,
                Some(Register::RBP) => self.rbp = None,
                _ => (),
            },
        }
    }

    fn push(&mut self, register: Option<Register>) {
        let to = add(self.rsp, Some(8));
        self.rsp = to;
        if let Some(slot) = register.and_then(|register| self.slot(register))
            && slot.is_none()
        {
            *slot = to;
        }
    }

    fn pop(&mut self, register: Option<Register>) {
        let from = self.rsp;
        self.rsp = add(self.rsp, Some(-8));
        if let Some(slot) = register.and_then(|register| self.slot(register))
            && *slot == from
        {
            *slot = None;
        }
        match register {
            Some(Register::RBP) => self.rbp = None,
            Some(Register::RSP) => self.rsp = None,
            _ => (),
        }
    }

    /// The frame's start above `[rsp + n]` or `[rbp + n]`.
    fn effective(&self, instruction: &Instruction) -> Option<i64> {
        let base = match instruction.memory_base() {
            Register::RSP => self.rsp,
            Register::RBP => self.rbp,
            _ => None,
        };
        let plain = instruction.memory_index() == Register::None;
        let displacement = instruction.memory_displacement64().cast_signed();
        if plain { add(base, displacement.checked_neg()) } else { None }
    }

    fn slot(&mut self, register: Register) -> Option<&mut Option<i64>> {
        let index = SAVED.iter().position(|(saved, _)| *saved == register)?;
        self.saved.get_mut(index)
    }
}

fn add(distance: Option<i64>, change: Option<i64>) -> Option<i64> {
    distance?.checked_add(change?)
}

/// Whether the first operand is written: `cmp rbp, rax` and `call rbp` only read it.
fn writes_first(instruction: &Instruction) -> bool {
    let access = InstructionInfoFactory::new().info(instruction).op0_access();
    !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}

fn is_constant(kind: OpKind) -> bool {
    matches!(kind, OpKind::Immediate8to64 | OpKind::Immediate32to64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prologue_moves_the_frame_away_and_saves_registers() {
        // push rbp; push rbx; mov ebx, edi; sub rsp, 0x98; mov rbp, rsp
        let code = b"\x55\x53\x89\xfb\x48\x81\xec\x98\x00\x00\x00\x48\x89\xe5";
        let layout = follow(code, 0x1000).unwrap();
        assert_eq!((layout.rsp, layout.rbp), (Some(0xb0), Some(0xb0)));
        assert_eq!(layout.saved, [Some(24), Some(16), None, None, None, None]);
    }

    #[test]
    fn an_epilogue_brings_the_frame_back() {
        // push rbx; sub rsp, 0x10; add rsp, 0x10; pop rbx
        let layout = follow(b"\x53\x48\x83\xec\x10\x48\x83\xc4\x10\x5b", 0x1000).unwrap();
        assert_eq!(layout, Layout { rsp: Some(8), rbp: None, saved: [None; 6] });
    }

    #[test]
    fn code_behind_a_return_has_the_frame_of_the_jump_that_leads_there() {
        // sub rsp, 8; test edi, edi; jne over; add rsp, 8; ret; over:
        let code = b"\x48\x83\xec\x08\x85\xff\x75\x05\x48\x83\xc4\x08\xc3";
        assert_eq!(follow(code, 0x1000).unwrap().rsp, Some(16));
    }

    #[test]
    fn a_variable_stack_is_found_by_its_frame_pointer() {
        // push rbp; mov rbp, rsp; sub rsp, rax
        let layout = follow(b"\x55\x48\x89\xe5\x48\x29\xc4", 0x1000).unwrap();
        assert_eq!((layout.rsp, layout.rbp), (None, Some(16)));
        // and leave; what follows is as at the start.
        let layout = follow(b"\x55\x48\x89\xe5\x48\x29\xc4\xc9", 0x1000).unwrap();
        assert_eq!((layout.rsp, layout.rbp), (Some(8), None));
    }

    #[test]
    fn an_address_inside_an_instruction_is_refused() {
        assert_eq!(follow(b"\x48\x81\xec\x98", 0x1000), None);
    }
}
