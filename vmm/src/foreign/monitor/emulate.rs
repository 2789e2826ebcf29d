//! The instructions that the guest cannot execute by itself, because the real CPU is at CPL 3: decoded
//! by iced-x86 and done to the guest's own idea of a CPU.
//!
//! Source: Intel SDM volume 2, one entry per mnemonic.

use iced_x86::{Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::guest::{FLAG_CF, FLAG_DF, FLAG_IF, FLAGS_SETTABLE, Fault, GP, Guest, UD, gp, read_physical};
use super::patch;
use super::state::{CS, DS, ES, FS, GS, Mode, SS, Segment, Table};
use super::walk::Use;
use crate::addr::PAGE_BYTES;

mod control;
mod flow;
mod ordinary;
mod ports;

pub(super) use ordinary::is_canonical;

/// The longest x86 instruction.
const INSTRUCTION_BYTES_MAX: usize = 15;

/// How an instruction that was looked at went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// RIP goes behind it.
    Next,
    /// RIP is where it is to be.
    Jumped,
    /// It is not one that the monitor knows.
    Unknown,
}

impl Guest<'_> {
    /// The bytes at RIP, up to where nothing is mapped.
    pub(crate) fn fetch(&mut self) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; INSTRUCTION_BYTES_MAX];
        let mut done = 0;
        while done < bytes.len() {
            let wanted = Use { execute: true, ..self.as_now(false) };
            let at = self.base(CS).wrapping_add(self.regs.rip).wrapping_add(done as u64);
            let gpa = match self.translate(at, wanted) {
                Ok(translation) => translation.gpa,
                Err(fault) if done == 0 => return Err(fault),
                Err(_) => break,
            };
            let piece = ((PAGE_BYTES - gpa % PAGE_BYTES) as usize).min(bytes.len() - done);
            let piece = &mut bytes[done..done + piece];
            read_physical(self.memory, gpa, piece);
            // The guest's own byte, where a patch is.
            for (&at, &byte) in self.cpu.patches.range(gpa..gpa + piece.len() as u64) {
                let here = &mut piece[(at - gpa) as usize];
                if *here == patch::HLT {
                    *here = byte;
                }
            }
            done += piece.len();
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// Decodes the instruction at RIP.
    pub(crate) fn decode(&mut self) -> Result<Instruction, Fault> {
        let bits = self.cpu.mode().bits();
        let wanted = Use { execute: true, ..self.as_now(false) };
        let gpa = self.translate(self.base(CS).wrapping_add(self.regs.rip), wanted)?.gpa;
        let offset = (gpa % PAGE_BYTES) as usize;
        if let Some(bytes) = self
            .memory
            .page(gpa / PAGE_BYTES)
            .and_then(|page| page.get(offset..offset + INSTRUCTION_BYTES_MAX))
            && bytes[0] != patch::HLT
        {
            let mut decoder = Decoder::with_ip(bits, bytes, self.regs.rip, DecoderOptions::NONE);
            return Ok(decoder.decode());
        }
        let bytes = self.fetch()?;
        let mut decoder = Decoder::with_ip(bits, &bytes, self.regs.rip, DecoderOptions::NONE);
        Ok(decoder.decode())
    }

    /// Emulates the instruction at RIP.
    ///
    /// # Errors
    ///
    /// The exception that it raises in the guest.
    pub(crate) fn emulate(&mut self) -> Result<Done, Fault> {
        let instruction = self.decode()?;
        let done = self.execute(&instruction)?;
        if done == Done::Next {
            self.regs.rip = instruction.next_ip();
        }
        Ok(done)
    }

    pub(crate) fn execute(&mut self, i: &Instruction) -> Result<Done, Fault> {
        use Mnemonic as M;
        match i.mnemonic() {
            M::In | M::Out => self.port(i)?,
            M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => return self.port_string(i),
            M::Hlt => {
                self.need_supervisor()?;
                self.asks.halt = true;
            }
            M::Cli | M::Sti => {
                if u64::from(self.cpu.cpl()) > self.cpu.iopl {
                    return Err(GP);
                }
                if i.mnemonic() == M::Cli {
                    self.regs.rflags &= !FLAG_IF;
                } else {
                    self.regs.rflags |= FLAG_IF;
                    self.regs.rip = i.next_ip();
                    let waits = self.decode().is_ok_and(|next| next.mnemonic() == M::Hlt);
                    self.cpu.sti_before_hlt = waits.then_some(self.regs.rip);
                    return Ok(Done::Jumped);
                }
            }
            M::Pushf | M::Pushfd | M::Pushfq => {
                let flags = self.cpu.flags(self.regs.rflags) & !0x3_0000;
                self.push(flags, stack_bytes(i))?;
            }
            M::Popf | M::Popfd | M::Popfq => {
                let size = stack_bytes(i);
                let flags = self.peek(0, size)?;
                self.drop_stack(size as u64);
                self.set_flags(flags, size);
            }
            M::Clac | M::Stac => {
                self.need_supervisor()?;
                let ac = 1 << 18;
                self.regs.rflags = self.regs.rflags & !ac | if i.mnemonic() == M::Stac { ac } else { 0 };
            }
            M::Wbinvd | M::Invd | M::Wbnoinvd => self.need_supervisor()?,
            M::Invlpg => {
                self.need_supervisor()?;
                self.asks.flush_page = Some(self.address(i, 0));
            }
            M::Invpcid => {
                self.need_supervisor()?;
                self.asks.flush = true;
            }
            M::Clts
            | M::Lmsw
            | M::Smsw
            | M::Rdmsr
            | M::Wrmsr
            | M::Xsetbv
            | M::Xgetbv
            | M::Cpuid
            | M::Rdrand
            | M::Rdseed
            | M::Swapgs
            | M::Rdpmc => return self.control(i),
            // No CPU model has them.
            M::Rdtscp | M::Rdpid => return Err(UD),
            M::Lgdt | M::Lidt => {
                self.need_supervisor()?;
                let at = self.address(i, 0);
                let limit = self.read_number(at, 2)? as u16;
                let wide = if self.cpu.mode() == Mode::Bits64 { 8 } else { 4 };
                let base = self.read_number(at.wrapping_add(2), wide)?;
                let table = Table { base, limit };
                if i.mnemonic() == M::Lgdt { self.cpu.gdt = table } else { self.cpu.idt = table }
            }
            M::Sgdt | M::Sidt => {
                let table = if i.mnemonic() == M::Sgdt { self.cpu.gdt } else { self.cpu.idt };
                let at = self.address(i, 0);
                let wide = if self.cpu.mode() == Mode::Bits64 { 8 } else { 4 };
                self.write_number(at, u64::from(table.limit), 2)?;
                self.write_number(at.wrapping_add(2), table.base, wide)?;
            }
            M::Lldt | M::Ltr => {
                self.need_supervisor()?;
                let selector = self.operand(i, 0)? as u16;
                self.load_system(i.mnemonic() == M::Ltr, selector)?;
            }
            M::Sldt => self.set_operand(i, 0, self.cpu.ldt.selector.into())?,
            M::Str => self.set_operand(i, 0, self.cpu.task.selector.into())?,
            M::Mov => return self.mov(i),
            M::Xsave | M::Xsave64 | M::Xrstor | M::Xrstor64 => return self.xstate(i),
            M::Pop => {
                let Some(index) = segment_index(i.op0_register()) else { return Ok(Done::Unknown) };
                let size = stack_bytes(i);
                let selector = self.peek(0, size)? as u16;
                self.load_data(index, selector)?;
                self.drop_stack(size as u64);
            }
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
                let index = match i.mnemonic() {
                    M::Lds => DS,
                    M::Les => ES,
                    M::Lfs => FS,
                    M::Lgs => GS,
                    _ => SS,
                };
                let at = self.address(i, 1);
                let size = i.op0_register().size();
                let offset = self.read_number(at, size)?;
                let selector = self.read_number(at.wrapping_add(size as u64), 2)? as u16;
                self.load_data(index, selector)?;
                self.set_register(i.op0_register(), offset);
            }
            M::Iretq
            | M::Iretd
            | M::Iret
            | M::Retf
            | M::Jmp
            | M::Call
            | M::Int
            | M::Syscall
            | M::Sysret
            | M::Sysretq => return self.flow(i),
            // Without monitoring hardware, waiting for a store is waiting for an interrupt.
            M::Monitor => self.need_supervisor()?,
            M::Mwait => {
                self.need_supervisor()?;
                self.asks.halt = true;
            }
            _ => return Ok(Done::Unknown),
        }
        Ok(Done::Next)
    }

    pub(crate) fn need_supervisor(&self) -> Result<(), Fault> {
        if self.cpu.cpl() == 0 { Ok(()) } else { Err(GP) }
    }

    /// Sets RFLAGS as `popf` and `iret` do, from `size` bytes.
    pub(crate) fn set_flags(&mut self, flags: u64, size: usize) {
        let mut may = FLAGS_SETTABLE & if size == 2 { 0xffff } else { u64::MAX };
        if u64::from(self.cpu.cpl()) > self.cpu.iopl {
            may &= !FLAG_IF;
        }
        if self.cpu.cpl() == 0 {
            self.cpu.iopl = flags >> 12 & 3;
        }
        self.regs.rflags = self.regs.rflags & !may | flags & may | 2;
    }

    fn mov(&mut self, i: &Instruction) -> Result<Done, Fault> {
        let (to, from) = (i.op0_register(), i.op1_register());
        if to.is_cr() || from.is_cr() || to.is_dr() || from.is_dr() {
            return self.mov_control(i);
        }
        if let Some(index) = segment_index(from).filter(|&index| index == CS || index == SS) {
            self.set_operand(i, 0, self.cpu.segments[index].selector.into())?;
            return Ok(Done::Next);
        }
        let Some(index) = segment_index(to) else { return Ok(Done::Unknown) };
        if index == CS {
            return Err(UD);
        }
        let selector = self.operand(i, 1)? as u16;
        self.load_data(index, selector)?;
        Ok(Done::Next)
    }

    fn load_system(&mut self, task: bool, selector: u16) -> Result<(), Fault> {
        if selector & !3 == 0 && !task {
            self.cpu.ldt = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(gp(selector));
        }
        let (mut segment, at) = self.descriptor(selector)?;
        let kind = segment.attributes & 0x1f;
        // A task that is busy, or for 16 bits in long mode, is none.
        let right = if task { kind == 9 || kind == 1 && !self.cpu.is_long() } else { kind == 2 };
        if !right {
            return Err(gp(selector));
        }
        if !segment.is_present() {
            return Err(Fault { vector: 11, ..gp(selector) });
        }
        if task {
            // Marked busy.
            segment.attributes |= 2;
            let at = at.wrapping_add(5);
            let mut byte = [0];
            self.read_as(at, &mut byte, Use::default())?;
            self.write_as(at, &[byte[0] | 2], Use { write: true, ..Use::default() })?;
            self.cpu.task = segment;
        } else {
            self.cpu.ldt = segment;
        }
        Ok(())
    }

    // Operands.

    /// The linear address of memory operand `operand`.
    pub(crate) fn address(&self, i: &Instruction, operand: u32) -> u64 {
        let get = |register: Register, _, _| {
            Some(match segment_index(register) {
                Some(index) => self.base(index),
                None => self.register(register),
            })
        };
        let address = i.virtual_address(operand, 0, get).unwrap_or(0);
        if self.cpu.mode() == Mode::Bits64 { address } else { address & 0xffff_ffff }
    }

    /// The value of a register or memory operand.
    pub(crate) fn operand(&mut self, i: &Instruction, operand: u32) -> Result<u64, Fault> {
        match i.op_kind(operand) {
            OpKind::Register => Ok(self.register(i.op_register(operand))),
            OpKind::Memory => {
                let size = memory_bytes(i);
                let at = self.address(i, operand);
                self.read_number(at, size)
            }
            _ => Ok(i.immediate(operand)),
        }
    }

    pub(crate) fn set_operand(&mut self, i: &Instruction, operand: u32, value: u64) -> Result<(), Fault> {
        if i.op_kind(operand) == OpKind::Register {
            self.set_register(i.op_register(operand), value);
            return Ok(());
        }
        let at = self.address(i, operand);
        self.write_number(at, value, memory_bytes(i))
    }

    /// A general register's value, zero-extended.
    pub(crate) fn register(&self, register: Register) -> u64 {
        if register == Register::RIP || register == Register::EIP {
            return self.regs.rip;
        }
        if !register.is_gpr() {
            return 0;
        }
        let full = *self.slot(register.full_register());
        match register.size() {
            1 if is_high_byte(register) => full >> 8 & 0xff,
            1 => full & 0xff,
            2 => full & 0xffff,
            4 => full & 0xffff_ffff,
            _ => full,
        }
    }

    /// Writes a general register as an instruction would: 32 bits clear the rest, 8 and 16 do not.
    pub(crate) fn set_register(&mut self, register: Register, value: u64) {
        if !register.is_gpr() {
            return;
        }
        let high = is_high_byte(register);
        let slot = self.slot_mut(register.full_register());
        *slot = match register.size() {
            1 if high => *slot & !0xff00 | (value & 0xff) << 8,
            1 => *slot & !0xff | value & 0xff,
            2 => *slot & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    fn slot(&self, full: Register) -> &u64 {
        let r = &*self.regs;
        let all = [
            &r.rax, &r.rcx, &r.rdx, &r.rbx, &r.rsp, &r.rbp, &r.rsi, &r.rdi, &r.r8, &r.r9, &r.r10, &r.r11,
            &r.r12, &r.r13, &r.r14, &r.r15,
        ];
        all[full.number() & 15]
    }

    fn slot_mut(&mut self, full: Register) -> &mut u64 {
        let r = &mut *self.regs;
        match full.number() & 15 {
            0 => &mut r.rax,
            1 => &mut r.rcx,
            2 => &mut r.rdx,
            3 => &mut r.rbx,
            4 => &mut r.rsp,
            5 => &mut r.rbp,
            6 => &mut r.rsi,
            7 => &mut r.rdi,
            8 => &mut r.r8,
            9 => &mut r.r9,
            10 => &mut r.r10,
            11 => &mut r.r11,
            12 => &mut r.r12,
            13 => &mut r.r13,
            14 => &mut r.r14,
            _ => &mut r.r15,
        }
    }

    pub(crate) fn set_carry(&mut self, carry: bool) {
        // As RDRAND does: the other arithmetic flags are cleared.
        self.regs.rflags = self.regs.rflags & !0x8d5 | if carry { FLAG_CF } else { 0 };
    }

    pub(crate) fn is_backwards(&self) -> bool {
        self.regs.rflags & FLAG_DF != 0
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// The index of a segment register.
pub(crate) fn segment_index(register: Register) -> Option<usize> {
    Some(match register {
        Register::ES => ES,
        Register::CS => CS,
        Register::SS => SS,
        Register::DS => DS,
        Register::FS => FS,
        Register::GS => GS,
        _ => return None,
    })
}

/// Bytes that a push or a pop moves.
fn stack_bytes(i: &Instruction) -> usize {
    i.stack_pointer_increment().unsigned_abs() as usize
}

fn memory_bytes(i: &Instruction) -> usize {
    match i.memory_size() {
        MemorySize::Unknown => 2,
        size => size.size().clamp(1, 8),
    }
}
