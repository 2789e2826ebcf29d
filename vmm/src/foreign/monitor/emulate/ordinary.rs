//! Instructions that need no emulation: done here all the same where they stand between two that do, because a
//! trap costs as much as hundreds of them ([`super::super::ahead`]).
//!
//! Each is done entirely, or not at all ([`Done::Unknown`]): where one would fault, or reach anything but RAM, the
//! CPU does it. Results and flags are the CPU's own ([`alu`]).

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::{Done, memory_bytes};
use crate::addr::PAGE_BYTES;
use crate::foreign::monitor::guest::{FLAG_CF, FLAG_DF, Fault, Guest};
use crate::foreign::monitor::walk::Use;
use crate::sys::alu::{self, Op};
use crate::sys::tsc;

/// Repetitions of a string instruction that are done here, at most; of more the CPU does all.
const REPEATED_MAX: u64 = 256;

const FLAG_PF: u64 = 1 << 2;
const FLAG_ZF: u64 = 1 << 6;
const FLAG_SF: u64 = 1 << 7;
const FLAG_OF: u64 = 1 << 11;

/// Whether an address has the upper bits that it must have.
pub(crate) fn is_canonical(address: u64) -> bool {
    let high = address.cast_signed() >> 47;
    high == 0 || high == -1
}

/// `value`, `bytes` wide, with its sign.
fn signed(value: u64, bytes: usize) -> u64 {
    let unused = 64 - 8 * bytes as u32;
    (value << unused).cast_signed().wrapping_shr(unused).cast_unsigned()
}

fn mask(bytes: usize) -> u64 {
    u64::MAX >> (64 - 8 * bytes)
}

impl Guest<'_> {
    /// Does `i`, in 64-bit mode, if it is one of those that this knows, and goes behind it.
    ///
    /// # Errors
    ///
    /// None of the guest's: what would fault is unknown.
    pub(crate) fn ordinary(&mut self, i: &Instruction) -> Result<Done, Fault> {
        use Mnemonic as M;
        let op = match i.mnemonic() {
            M::Add => Op::Add,
            M::Or => Op::Or,
            M::Adc => Op::Adc,
            M::Sbb => Op::Sbb,
            M::And | M::Test => Op::And,
            M::Sub | M::Cmp => Op::Sub,
            M::Xor => Op::Xor,
            M::Shl | M::Sal => Op::Shl,
            M::Shr => Op::Shr,
            M::Sar => Op::Sar,
            M::Rol => Op::Rol,
            M::Ror => Op::Ror,
            M::Inc => Op::Inc,
            M::Dec => Op::Dec,
            M::Neg => Op::Neg,
            M::Bt => Op::Bt,
            M::Bts => Op::Bts,
            M::Btr => Op::Btr,
            M::Btc => Op::Btc,
            M::Imul if i.op_count() > 1 => Op::Imul,
            _ => return self.ordinary_move(i),
        };
        let bits = matches!(op, Op::Bt | Op::Bts | Op::Btr | Op::Btc);
        // CPUs make another OF of a number in the instruction than of one in CL, by which it is done here.
        if matches!(op, Op::Rol | Op::Ror) && i.op1_kind() == OpKind::Immediate8 && i.immediate8() != 1 {
            return Ok(Done::Unknown);
        }
        let writes = !matches!(i.mnemonic(), M::Cmp | M::Test | M::Bt);
        if bits && i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register {
            return self.bit_string(i, op, writes);
        }
        if !self.reaches(i, 0, writes) || i.op_count() > 1 && !self.reaches(i, 1, false) {
            return Ok(Done::Unknown);
        }
        let bytes = self.operand_bytes(i, 0);
        let (from, by) = match (op, i.op_count()) {
            (Op::Imul, 3) => (self.operand(i, 1)?, self.operand(i, 2)?),
            (_, 1) => (self.operand(i, 0)?, 0),
            _ => (self.operand(i, 0)?, self.operand(i, 1)?),
        };
        let (result, flags) = alu::apply(op, bytes, from, by, self.regs.rflags);
        if writes {
            self.set_operand(i, 0, result & mask(bytes))?;
        }
        self.regs.rflags = flags;
        self.regs.rip = i.next_ip();
        Ok(Done::Jumped)
    }

    /// A bit of memory, which may be far from the operand's address.
    fn bit_string(&mut self, i: &Instruction, op: Op, writes: bool) -> Result<Done, Fault> {
        let bytes = memory_bytes(i);
        let index = signed(self.register(i.op1_register()), bytes).cast_signed();
        let bits = 8 * bytes as i64;
        let at = self.address(i, 0).wrapping_add_signed(index.div_euclid(bits) * bytes as i64);
        if !self.reaches_at(at, bytes, writes) {
            return Ok(Done::Unknown);
        }
        let before = self.read_number(at, bytes)?;
        let bit = index.rem_euclid(bits).cast_unsigned();
        let (result, flags) = alu::apply(op, bytes, before, bit, self.regs.rflags);
        if writes {
            self.write_number(at, result, bytes)?;
        }
        self.regs.rflags = flags;
        self.regs.rip = i.next_ip();
        Ok(Done::Jumped)
    }

    fn ordinary_move(&mut self, i: &Instruction) -> Result<Done, Fault> {
        use Mnemonic as M;
        match i.mnemonic() {
            M::Nop | M::Endbr64 | M::Pause | M::Lfence | M::Mfence | M::Sfence => {}
            M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchnta | M::Prefetchw => {}
            M::Cld => self.regs.rflags &= !FLAG_DF,
            M::Clc => self.regs.rflags &= !FLAG_CF,
            M::Stc => self.regs.rflags |= FLAG_CF,
            M::Bsf | M::Bsr => {
                if !self.reaches(i, 1, false) {
                    return Ok(Done::Unknown);
                }
                let op = if i.mnemonic() == M::Bsf { Op::Bsf } else { Op::Bsr };
                let (before, from) = (self.register(i.op0_register()), self.operand(i, 1)?);
                let bytes = i.op0_register().size();
                let (result, flags) = alu::apply(op, bytes, before, from, self.regs.rflags);
                // Of nothing there is no first bit, and all of the register stays.
                if from & mask(bytes) != 0 {
                    self.set_register(i.op0_register(), result & mask(bytes));
                }
                self.regs.rflags = flags;
            }
            M::Rdtsc => {
                let now = tsc::read();
                self.set_register(Register::EAX, now & 0xffff_ffff);
                self.set_register(Register::EDX, now >> 32);
            }
            M::Mov | M::Movzx | M::Movsx | M::Movsxd => {
                let general = |register: Register| register == Register::None || register.is_gpr();
                if !general(i.op0_register()) || !general(i.op1_register()) {
                    return Ok(Done::Unknown);
                }
                if !self.reaches(i, 0, true) || !self.reaches(i, 1, false) {
                    return Ok(Done::Unknown);
                }
                let value = self.operand(i, 1)?;
                let narrow = self.operand_bytes(i, 1);
                let extends = matches!(i.mnemonic(), M::Movsx | M::Movsxd);
                self.set_operand(i, 0, if extends { signed(value, narrow) } else { value })?;
            }
            M::Lea => {
                let address = i.virtual_address(1, 0, |register, _, _| {
                    Some(if register.is_segment_register() { 0 } else { self.register(register) })
                });
                self.set_register(i.op0_register(), address.unwrap_or(0));
            }
            M::Not => {
                if !self.reaches(i, 0, true) {
                    return Ok(Done::Unknown);
                }
                let value = self.operand(i, 0)?;
                self.set_operand(i, 0, !value)?;
            }
            M::Cwde => self.set_register(Register::EAX, signed(self.regs.rax & 0xffff, 2)),
            M::Cdqe => self.set_register(Register::RAX, signed(self.regs.rax & 0xffff_ffff, 4)),
            M::Cdq => self.set_register(Register::EDX, signed(self.regs.rax & 0xffff_ffff, 4) >> 32),
            M::Cqo => self.regs.rdx = if self.regs.rax.cast_signed() < 0 { u64::MAX } else { 0 },
            M::Bswap if i.op0_register().size() == 8 => {
                self.set_register(i.op0_register(), self.register(i.op0_register()).swap_bytes());
            }
            M::Bswap if i.op0_register().size() == 4 => {
                let value = self.register(i.op0_register()) as u32;
                self.set_register(i.op0_register(), value.swap_bytes().into());
            }
            M::Xchg | M::Xadd | M::Cmpxchg => return self.exchange(i),
            M::Movsb | M::Movsw | M::Movsd | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
                return self.string(i);
            }
            _ if i.condition_code() != ConditionCode::None
                && matches!(i.op0_kind(), OpKind::Register | OpKind::Memory) =>
            {
                let holds = self.holds(i.condition_code());
                if i.op_count() > 2 {
                    return Ok(Done::Unknown);
                }
                if i.op_count() == 1 {
                    if !self.reaches(i, 0, true) {
                        return Ok(Done::Unknown);
                    }
                    self.set_operand(i, 0, holds.into())?;
                } else {
                    if !self.reaches(i, 1, false) {
                        return Ok(Done::Unknown);
                    }
                    // Without a move, 32 bits still clear the rest.
                    let from = if holds { 1 } else { 0 };
                    let value = self.operand(i, from)?;
                    self.set_operand(i, 0, value)?;
                }
            }
            _ => return self.ordinary_jump(i),
        }
        self.regs.rip = i.next_ip();
        Ok(Done::Jumped)
    }

    /// Jumps, calls, and what else moves the stack pointer.
    fn ordinary_jump(&mut self, i: &Instruction) -> Result<Done, Fault> {
        use Mnemonic as M;
        let rsp = self.regs.rsp;
        let target = match i.mnemonic() {
            _ if i.is_jcc_short_or_near() => {
                if self.holds(i.condition_code()) {
                    i.near_branch_target()
                } else {
                    i.next_ip()
                }
            }
            M::Jmp if i.is_jmp_short_or_near() => i.near_branch_target(),
            M::Call if i.is_call_near() => {
                if !self.reaches_stack(-8) {
                    return Ok(Done::Unknown);
                }
                self.push(i.next_ip(), 8)?;
                i.near_branch_target()
            }
            M::Jmp | M::Call if i.is_jmp_near_indirect() || i.is_call_near_indirect() => {
                let call = i.mnemonic() == M::Call;
                if self.operand_bytes(i, 0) != 8
                    || !self.reaches(i, 0, false)
                    || call && !self.reaches_stack(-8)
                {
                    return Ok(Done::Unknown);
                }
                let target = self.operand(i, 0)?;
                if !is_canonical(target) {
                    return Ok(Done::Unknown);
                }
                if call {
                    self.push(i.next_ip(), 8)?;
                }
                target
            }
            M::Ret if i.op_count() == 0 && i.stack_pointer_increment() == 8 => {
                if !self.reaches_stack(0) {
                    return Ok(Done::Unknown);
                }
                let target = self.peek(0, 8)?;
                if !is_canonical(target) {
                    return Ok(Done::Unknown);
                }
                self.drop_stack(8);
                target
            }
            M::Push if i.stack_pointer_increment() == -8 => {
                let plain = i.op0_kind() != OpKind::Register || i.op0_register().is_gpr();
                if !plain || !self.reaches(i, 0, false) || !self.reaches_stack(-8) {
                    return Ok(Done::Unknown);
                }
                let value = self.operand(i, 0)?;
                self.push(value, 8)?;
                i.next_ip()
            }
            M::Pop if i.stack_pointer_increment() == 8 && i.op0_register().is_gpr() => {
                if !self.reaches_stack(0) {
                    return Ok(Done::Unknown);
                }
                let value = self.peek(0, 8)?;
                self.drop_stack(8);
                self.set_register(i.op0_register(), value);
                i.next_ip()
            }
            M::Leave if i.op_count() == 0 => {
                self.regs.rsp = self.regs.rbp;
                if !self.reaches_stack(0) {
                    self.regs.rsp = rsp;
                    return Ok(Done::Unknown);
                }
                self.regs.rbp = self.peek(0, 8)?;
                self.drop_stack(8);
                i.next_ip()
            }
            _ => return Ok(Done::Unknown),
        };
        self.regs.rip = target;
        Ok(Done::Jumped)
    }

    fn exchange(&mut self, i: &Instruction) -> Result<Done, Fault> {
        if i.mnemonic() == Mnemonic::Cmpxchg && i.op0_kind() != OpKind::Memory {
            return Ok(Done::Unknown);
        }
        if !self.reaches(i, 0, true) || !self.reaches(i, 1, true) {
            return Ok(Done::Unknown);
        }
        let bytes = self.operand_bytes(i, 0);
        let (one, other) = (self.operand(i, 0)?, self.operand(i, 1)?);
        match i.mnemonic() {
            Mnemonic::Xchg => {
                self.set_operand(i, 0, other)?;
                self.set_operand(i, 1, one)?;
            }
            Mnemonic::Xadd => {
                let (sum, flags) = alu::apply(Op::Add, bytes, one, other, self.regs.rflags);
                self.set_operand(i, 1, one)?;
                self.set_operand(i, 0, sum & mask(bytes))?;
                self.regs.rflags = flags;
            }
            _ => {
                let accumulator = match bytes {
                    1 => Register::AL,
                    2 => Register::AX,
                    4 => Register::EAX,
                    _ => Register::RAX,
                };
                let expected = self.register(accumulator);
                let (_, flags) = alu::apply(Op::Sub, bytes, expected, one, self.regs.rflags);
                if flags & FLAG_ZF != 0 {
                    self.set_operand(i, 0, other)?;
                } else {
                    self.set_register(accumulator, one);
                }
                self.regs.rflags = flags;
            }
        }
        self.regs.rip = i.next_ip();
        Ok(Done::Jumped)
    }

    /// `movs` and `stos`, forwards.
    fn string(&mut self, i: &Instruction) -> Result<Done, Fault> {
        use Mnemonic as M;
        let moves = matches!(i.mnemonic(), M::Movsb | M::Movsw | M::Movsd | M::Movsq);
        let plain = i.op0_kind() == OpKind::MemoryESRDI
            && (!moves || i.op1_kind() == OpKind::MemorySegRSI && i.memory_segment() == Register::DS);
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        let count = if repeated { self.regs.rcx } else { 1 };
        if !plain || self.is_backwards() || count > REPEATED_MAX {
            return Ok(Done::Unknown);
        }
        let bytes = memory_bytes(i);
        for _ in 0..count {
            let (to, from) = (self.regs.rdi, self.regs.rsi);
            if !self.reaches_at(to, bytes, true) || moves && !self.reaches_at(from, bytes, false) {
                // What is done is done, and the CPU goes on from there.
                return Ok(Done::Unknown);
            }
            let value = if moves { self.read_number(from, bytes)? } else { self.regs.rax };
            self.write_number(to, value, bytes)?;
            self.regs.rdi = to.wrapping_add(bytes as u64);
            if moves {
                self.regs.rsi = from.wrapping_add(bytes as u64);
            }
            if repeated {
                self.regs.rcx -= 1;
            }
        }
        self.regs.rip = i.next_ip();
        Ok(Done::Jumped)
    }

    /// Bytes of a general register or memory operand.
    fn operand_bytes(&self, i: &Instruction, operand: u32) -> usize {
        match i.op_kind(operand) {
            OpKind::Register => i.op_register(operand).size(),
            _ => memory_bytes(i),
        }
    }

    /// Whether an operand is a register, a number, or RAM that can be used so.
    fn reaches(&mut self, i: &Instruction, operand: u32, write: bool) -> bool {
        match i.op_kind(operand) {
            OpKind::Register => i.op_register(operand).is_gpr(),
            OpKind::Memory => {
                let at = self.address(i, operand);
                self.reaches_at(at, memory_bytes(i), write)
            }
            _ => true,
        }
    }

    /// The same of the 8 bytes at `offset` from the top of the stack; what is below it is written.
    fn reaches_stack(&mut self, offset: i64) -> bool {
        let at = self.regs.rsp.wrapping_add_signed(offset);
        self.reaches_at(at, 8, offset < 0)
    }

    fn reaches_at(&mut self, at: u64, bytes: usize, write: bool) -> bool {
        let last = at.wrapping_add(bytes as u64 - 1);
        let ends: &[u64] = if at / PAGE_BYTES == last / PAGE_BYTES { &[at] } else { &[at, last] };
        let wanted = Use { write, ..self.as_now(write) };
        ends.iter().all(|&end| {
            is_canonical(end)
                && self
                    .translate(end, wanted)
                    .is_ok_and(|to| to.gpa < self.memory.len() && !(write && self.cpu.is_code(to.gpa)))
        })
    }

    fn holds(&self, condition: ConditionCode) -> bool {
        use ConditionCode as C;
        let is = |flag: u64| self.regs.rflags & flag != 0;
        let less = is(FLAG_SF) != is(FLAG_OF);
        match condition {
            C::None => false,
            C::o => is(FLAG_OF),
            C::no => !is(FLAG_OF),
            C::b => is(FLAG_CF),
            C::ae => !is(FLAG_CF),
            C::e => is(FLAG_ZF),
            C::ne => !is(FLAG_ZF),
            C::be => is(FLAG_CF) || is(FLAG_ZF),
            C::a => !is(FLAG_CF) && !is(FLAG_ZF),
            C::s => is(FLAG_SF),
            C::ns => !is(FLAG_SF),
            C::p => is(FLAG_PF),
            C::np => !is(FLAG_PF),
            C::l => less,
            C::ge => !less,
            C::le => less || is(FLAG_ZF),
            C::g => !less && !is(FLAG_ZF),
        }
    }
}
