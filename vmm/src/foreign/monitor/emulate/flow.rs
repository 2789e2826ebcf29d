//! Far jumps, calls and returns, software interrupts, system calls.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::control::{MSR_LSTAR, MSR_STAR, MSR_SYSCALL_MASK};
use super::{Done, stack_bytes};
use crate::foreign::monitor::guest::{FLAGS_SETTABLE, Fault, Guest, UD, gp};
use crate::foreign::monitor::state::{CODE32, CODE64, CS, DATA, Mode, SS, Segment};

impl Guest<'_> {
    pub(super) fn flow(&mut self, i: &Instruction) -> Result<Done, Fault> {
        match i.mnemonic() {
            Mnemonic::Iretq => self.interrupt_return(8)?,
            Mnemonic::Iretd => self.interrupt_return(4)?,
            Mnemonic::Iret => self.interrupt_return(2)?,
            Mnemonic::Retf => self.far_return(i)?,
            Mnemonic::Jmp | Mnemonic::Call => return self.far_transfer(i),
            Mnemonic::Int => {
                let vector = i.immediate8();
                let at = self.regs.rip;
                self.regs.rip = i.next_ip();
                if let Err(fault) = self.interrupt(vector, true) {
                    self.regs.rip = at;
                    return Err(fault);
                }
            }
            Mnemonic::Syscall => self.system_call(i.len() as u64)?,
            _ => self.system_return(i.mnemonic() == Mnemonic::Sysretq)?,
        }
        Ok(Done::Jumped)
    }

    /// Enters the guest's system-call handler, by an instruction of `bytes` bytes.
    pub(crate) fn system_call(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.cpu.paging.efer & 1 == 0 || self.cpu.mode() != Mode::Bits64 {
            return Err(UD);
        }
        let msr = |index| self.cpu.msr(index).unwrap_or(0);
        let (star, entry, mask) = (msr(MSR_STAR), msr(MSR_LSTAR), msr(MSR_SYSCALL_MASK));
        self.regs.rcx = self.regs.rip.wrapping_add(bytes);
        self.regs.r11 = self.cpu.flags(self.regs.rflags);
        self.regs.rflags = self.regs.rflags & !mask | 2;
        let selector = (star >> 32) as u16 & !3;
        self.cpu.segments[CS] = Segment::flat(selector, CODE64);
        self.cpu.segments[SS] = Segment::flat(selector.wrapping_add(8), DATA);
        self.regs.rip = entry;
        Ok(())
    }

    fn system_return(&mut self, wide: bool) -> Result<(), Fault> {
        self.need_supervisor()?;
        if self.cpu.paging.efer & 1 == 0 {
            return Err(UD);
        }
        let selector = (self.cpu.msr(MSR_STAR).unwrap_or(0) >> 48) as u16;
        let (code, kind) = if wide { (selector.wrapping_add(16), CODE64) } else { (selector, CODE32) };
        self.regs.rip = if wide { self.regs.rcx } else { self.regs.rcx & 0xffff_ffff };
        self.cpu.raised = None;
        let flags = self.regs.r11;
        self.cpu.iopl = flags >> 12 & 3;
        self.regs.rflags = flags & FLAGS_SETTABLE | 2;
        self.cpu.segments[CS] = Segment::flat(code | 3, kind | 3 << 5);
        self.cpu.segments[SS] = Segment::flat(selector.wrapping_add(8) | 3, DATA | 3 << 5);
        Ok(())
    }

    fn interrupt_return(&mut self, size: usize) -> Result<(), Fault> {
        let rip = self.peek(0, size)?;
        let selector = self.peek(1, size)? as u16;
        let flags = self.peek(2, size)?;
        let long = self.cpu.mode() == Mode::Bits64;
        let outer = selector & 3 > self.cpu.cpl();
        if self.is_protected() && selector & 3 < self.cpu.cpl() {
            return Err(gp(selector));
        }
        let stack =
            if long || outer { Some((self.peek(3, size)?, self.peek(4, size)? as u16)) } else { None };
        let before = (self.regs.rflags, self.cpu.iopl, self.cpu.segments[CS], self.regs.rip);
        let frame = self.regs.rsp;
        // Flags are set by the privilege that is left, the stack segment is checked by the new one.
        self.set_flags(flags, size);
        if let Err(fault) = self.far_jump(selector, rip, true).and_then(|()| self.return_stack(stack, size)) {
            (self.regs.rflags, self.cpu.iopl, self.cpu.segments[CS], self.regs.rip) = before;
            return Err(fault);
        }
        let (rip, rsp) = (self.regs.rip, self.regs.rsp);
        if self.cpu.raised.is_some_and(|raised| {
            // From where it was put, or from elsewhere to the instruction that raised it, or to a program.
            raised.frame == frame || (raised.registers.rip, raised.registers.rsp) == (rip, rsp) || outer
        }) {
            self.cpu.raised = None;
        }
        Ok(())
    }

    fn return_stack(&mut self, stack: Option<(u64, u16)>, size: usize) -> Result<(), Fault> {
        match stack {
            Some((rsp, selector)) => {
                self.load_data(SS, selector)?;
                self.regs.rsp = rsp;
            }
            None => self.drop_stack(3 * size as u64),
        }
        Ok(())
    }

    fn far_return(&mut self, i: &Instruction) -> Result<(), Fault> {
        let extra = if i.op_count() > 0 { u64::from(i.immediate16()) } else { 0 };
        // RIP and CS, and in the increment what is dropped besides.
        let size = stack_bytes(i).saturating_sub(extra as usize) / 2;
        let rip = self.peek(0, size)?;
        let selector = self.peek(1, size)? as u16;
        if self.is_protected() && selector & 3 > self.cpu.cpl() {
            let at = self.regs.rsp.wrapping_add(2 * size as u64 + extra);
            let before = (std::mem::replace(&mut self.regs.rsp, at), self.cpu.segments[CS], self.regs.rip);
            let done = self.return_outwards(selector, rip, size);
            if done.is_err() {
                (self.regs.rsp, self.cpu.segments[CS], self.regs.rip) = before;
            }
            return done;
        }
        self.far_jump(selector, rip, true)?;
        self.drop_stack(2 * size as u64 + extra);
        Ok(())
    }

    fn return_outwards(&mut self, selector: u16, rip: u64, size: usize) -> Result<(), Fault> {
        let (rsp, ss) = (self.peek(0, size)?, self.peek(1, size)? as u16);
        self.far_jump(selector, rip, true)?;
        self.load_data(SS, ss)?;
        self.regs.rsp = rsp;
        Ok(())
    }

    fn far_transfer(&mut self, i: &Instruction) -> Result<Done, Fault> {
        let (offset, selector, size) = match i.op0_kind() {
            OpKind::FarBranch16 => (u64::from(i.far_branch16()), i.far_branch_selector(), 2),
            OpKind::FarBranch32 => (u64::from(i.far_branch32()), i.far_branch_selector(), 4),
            OpKind::Memory if i.is_jmp_far_indirect() || i.is_call_far_indirect() => {
                let size = i.memory_size().size().saturating_sub(2);
                if !matches!(size, 2 | 4 | 8) {
                    return Ok(Done::Unknown);
                }
                let at = self.address(i, 0);
                let offset = self.read_number(at, size)?;
                (offset, self.read_number(at.wrapping_add(size as u64), 2)? as u16, size)
            }
            _ => return Ok(Done::Unknown),
        };
        if i.mnemonic() == Mnemonic::Call {
            let (cs, rip, rsp) = (self.cpu.segments[CS].selector, i.next_ip(), self.regs.rsp);
            self.push(cs.into(), size)?;
            let done = self.push(rip, size).and_then(|()| self.far_jump(selector, offset, false));
            if let Err(fault) = done {
                self.regs.rsp = rsp;
                return Err(fault);
            }
        } else {
            self.far_jump(selector, offset, false)?;
        }
        Ok(Done::Jumped)
    }
}
