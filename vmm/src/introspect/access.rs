//! What memory the stopped instruction touches.

use std::fmt;

use iced_x86::{
    Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    OpKind, Register, UsedMemory,
};
use serde::{Deserialize, Serialize};

use super::memory::{ReadMemory, read_prefix, read_u64};
use super::registers::Registers;

/// The longest instruction, in bytes (SDM volume 2, 2.3.11).
const INSTRUCTION_BYTES_MAX: usize = 15;

/// How far an operand reaches whose size the instruction does not tell, as for `xsave`: a page is more
/// than any of them.
const UNKNOWN_BYTES: u64 = 4096;

/// How an instruction touches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AccessKind {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It reads and then writes the same bytes.
    ReadWrite,
    /// It is fetched from there, or goes there.
    Execute,
}

/// One operand in memory of the stopped instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// What is done to it.
    pub kind: AccessKind,
    /// The first byte.
    pub address: u64,
    /// How many bytes, of one element if a string instruction repeats; 0 if the instruction does not tell.
    pub size: u64,
    /// How the address is made: `rax+0x8`.
    pub operand: String,
}

/// `write of 4 bytes at 0x0 (rax+0x0)`
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::ReadWrite => "read and write",
            AccessKind::Execute => "execution",
        })?;
        match self.size {
            0 => (),
            1 => f.write_str(" of 1 byte")?,
            size => write!(f, " of {size} bytes")?,
        }
        write!(f, " at {:#x} ({})", self.address, self.operand)
    }
}

/// The access that stopped the guest.
///
/// `fault` is the address that the processor reported, as it does for page faults (`CR2`). Without one,
/// as for general protection faults, it is the operand that cannot be reached: one whose address is not
/// canonical, or not readable, or else the first. `None` if the instruction touches no memory, or none
/// at `fault`.
pub fn access(registers: &Registers, memory: &dyn ReadMemory, fault: Option<u64>) -> Option<Access> {
    let fetch = |address, operand: &str| {
        Some(Access { kind: AccessKind::Execute, address, size: 0, operand: operand.to_owned() })
    };
    let rip = registers.rip;
    let code = read_prefix(memory, rip, INSTRUCTION_BYTES_MAX);
    if code.is_empty() || fault == Some(rip) {
        return fetch(rip, "rip");
    }
    let mut decoder = Decoder::with_ip(64, &code, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if decoder.last_error() == DecoderError::NoMoreBytes {
        return fetch(rip.wrapping_add(code.len() as u64), "rip");
    }

    let operands = operands(&instruction, registers, memory);
    let chosen = match fault {
        Some(fault) => operands.into_iter().find(|operand| operand.covers(fault)),
        None => {
            let unreachable = |operand: &Operand| !is_canonical(operand.access.address);
            let unreadable = |operand: &Operand| !operand.is_readable(memory);
            let position = operands.iter().position(unreachable);
            let position = position.or_else(|| operands.iter().position(unreadable)).unwrap_or(0);
            operands.into_iter().nth(position)
        }
    };
    chosen.map(|operand| operand.access)
}

/// An access and how far it reaches when it repeats.
struct Operand {
    access: Access,
    first: u64,
    bytes: u64,
}

impl Operand {
    fn covers(&self, address: u64) -> bool {
        address.wrapping_sub(self.first) < self.bytes
    }

    fn is_readable(&self, memory: &dyn ReadMemory) -> bool {
        let length = usize::try_from(self.access.size.clamp(1, UNKNOWN_BYTES)).unwrap_or(1);
        read_prefix(memory, self.access.address, length).len() == length
    }
}

/// Every operand in memory, those on the stack of `push` and `call` included, and the target of an
/// indirect branch if it cannot be branched to.
fn operands(instruction: &Instruction, registers: &Registers, memory: &dyn ReadMemory) -> Vec<Operand> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut operands: Vec<Operand> =
        info.used_memory().iter().filter_map(|used| operand(used, instruction, registers)).collect();
    if let Some((address, text)) = target(instruction, registers, memory).filter(|(to, _)| !is_canonical(*to))
    {
        let access = Access { kind: AccessKind::Execute, address, size: 0, operand: text };
        operands.push(Operand { access, first: address, bytes: 1 });
    }
    operands
}

fn operand(used: &UsedMemory, instruction: &Instruction, registers: &Registers) -> Option<Operand> {
    let kind = match used.access() {
        OpAccess::Read | OpAccess::CondRead => AccessKind::Read,
        OpAccess::Write | OpAccess::CondWrite => AccessKind::Write,
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => AccessKind::ReadWrite,
        OpAccess::None | OpAccess::NoMemAccess => return None,
    };
    let address = used.virtual_address(0, |register, _, _| value(registers, register))?;
    let mut size = used.memory_size().size() as u64;
    let mut text = describe(used);
    let (mut first, mut bytes) = (address, if size == 0 { UNKNOWN_BYTES } else { size });
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if instruction.is_string_instruction() && repeats {
        size = instruction.memory_size().size().max(1) as u64;
        bytes = registers.rcx.saturating_mul(size);
        // With the direction flag, it goes down from the element at `address`.
        const DIRECTION_FLAG: u64 = 1 << 10;
        if registers.rflags & DIRECTION_FLAG != 0 {
            first = address.wrapping_sub(bytes.saturating_sub(size));
        }
        text = format!("{text}, {} to go", registers.rcx);
    }
    Some(Operand { access: Access { kind, address, size, operand: text }, first, bytes })
}

/// Where an indirect branch or a return goes.
fn target(
    instruction: &Instruction,
    registers: &Registers,
    memory: &dyn ReadMemory,
) -> Option<(u64, String)> {
    match (instruction.flow_control(), instruction.op0_kind()) {
        (FlowControl::Return, _) => Some((read_u64(memory, registers.rsp)?, "[rsp+0x0]".to_owned())),
        (FlowControl::IndirectBranch | FlowControl::IndirectCall, OpKind::Register) => {
            let register = instruction.op0_register();
            Some((value(registers, register)?, name(register)))
        }
        (FlowControl::IndirectBranch | FlowControl::IndirectCall, OpKind::Memory) => {
            let at = instruction.virtual_address(0, 0, |register, _, _| value(registers, register))?;
            Some((read_u64(memory, at)?, format!("[{at:#x}]")))
        }
        _ => None,
    }
}

/// A register's value, a segment register's base; `None` for vector registers.
fn value(registers: &Registers, register: Register) -> Option<u64> {
    let full = match register.full_register() {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::RIP => registers.rip,
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    };
    Some(match register.size() {
        1 if [Register::AH, Register::BH, Register::CH, Register::DH].contains(&register) => {
            (full >> 8) & 0xff
        }
        1 => full & 0xff,
        2 if !register.is_segment_register() => full & 0xffff,
        4 => full & 0xffff_ffff,
        _ => full,
    })
}

/// `fs:rax+rbx*4+0x10`
fn describe(used: &UsedMemory) -> String {
    let mut parts = Vec::new();
    if used.base() != Register::None {
        parts.push(name(used.base()));
    }
    if used.index() != Register::None {
        parts.push(format!("{}*{}", name(used.index()), used.scale()));
    }
    let displacement = used.displacement().cast_signed();
    let segment = match used.segment() {
        segment @ (Register::FS | Register::GS) => format!("{}:", name(segment)),
        _ => String::new(),
    };
    if parts.is_empty() {
        return format!("{segment}{displacement:#x}");
    }
    let sign = if displacement < 0 { '-' } else { '+' };
    format!("{segment}{}{sign}{:#x}", parts.join("+"), displacement.unsigned_abs())
}

fn name(register: Register) -> String {
    format!("{register:?}").to_lowercase()
}

/// Whether bits 47 to 63 are equal, as they must be with four levels of page tables.
fn is_canonical(address: u64) -> bool {
    let top = address.cast_signed() >> 47;
    top == 0 || top == -1
}
