//! `in`, `out` and their string forms.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Done;
use crate::foreign::bus::AGENT;
use crate::foreign::monitor::guest::{Fault, GP, Guest};
use crate::foreign::monitor::state::{DS, ES, Mode};

/// Repetitions of a string instruction that are done before the guest is looked at again.
const REPEATED_MAX: u64 = 4096;

impl Guest<'_> {
    fn need_ports(&self) -> Result<(), Fault> {
        // No task here has an I/O permission bitmap that anybody has filled.
        if u64::from(self.cpu.cpl()) > self.cpu.iopl { Err(GP) } else { Ok(()) }
    }

    pub(super) fn port(&mut self, i: &Instruction) -> Result<(), Fault> {
        let input = i.mnemonic() == Mnemonic::In;
        let (data, port) = if input { (i.op0_register(), 1) } else { (i.op1_register(), 0) };
        let by_register = i.op_kind(port) == OpKind::Register;
        let port = if by_register { self.regs.rdx as u16 } else { i.immediate8().into() };
        let size = data.size() as u8;
        // A program that the guest runs at its own CPL 3 may have the agent.
        let calls = !input && size == 4 && port == AGENT && self.cpuid.agent();
        if !calls {
            self.need_ports()?;
        }
        if input {
            let value = self.bus.port_read(port, size);
            self.set_register(data, value.into());
        } else {
            let value = self.register(data) as u32;
            self.bus.port_write(self.memory, port, size, value);
            // But for interrupt controllers, the interval timer and a port that does nothing.
            self.asks.devices |= !matches!(port, 0x20 | 0x21 | 0x40..=0x43 | 0x61 | 0x80 | 0xa0 | 0xa1);
        }
        Ok(())
    }

    pub(super) fn port_string(&mut self, i: &Instruction) -> Result<Done, Fault> {
        self.need_ports()?;
        self.asks.devices = true;
        let input = matches!(i.mnemonic(), Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd);
        let size = match i.mnemonic() {
            Mnemonic::Insb | Mnemonic::Outsb => 1u8,
            Mnemonic::Insw | Mnemonic::Outsw => 2,
            _ => 4,
        };
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        let kind = if input { i.op0_kind() } else { i.op1_kind() };
        let mask = match kind {
            OpKind::MemorySegSI | OpKind::MemoryESDI => 0xffff,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => 0xffff_ffff,
            _ => u64::MAX,
        };
        let step = if self.is_backwards() { u64::from(size).wrapping_neg() } else { size.into() };
        let segment = if input { ES } else { super::segment_index(i.memory_segment()).unwrap_or(DS) };
        let base = self.base(segment);
        let port = self.regs.rdx as u16;
        let mut left = if repeated { self.regs.rcx & mask } else { 1 };
        for _ in 0..REPEATED_MAX {
            if left == 0 {
                break;
            }
            let index = if input { self.regs.rdi } else { self.regs.rsi };
            let mut at = base.wrapping_add(index & mask);
            if self.cpu.mode() != Mode::Bits64 {
                at &= 0xffff_ffff;
            }
            if input {
                // Where it goes is looked at first: a byte that was read cannot be read again.
                let wanted = self.as_now(true);
                self.translate(at, wanted)?;
                let value = self.bus.port_read(port, size);
                self.write_number(at, value.into(), size.into())?;
            } else {
                let value = self.read_number(at, size.into())? as u32;
                self.bus.port_write(self.memory, port, size, value);
            }
            let moved = merged(index, index.wrapping_add(step), mask);
            if input {
                self.regs.rdi = moved
            } else {
                self.regs.rsi = moved
            }
            left -= 1;
            if repeated {
                self.regs.rcx = merged(self.regs.rcx, left, mask);
            }
            if self.bus.power().is_some() {
                break;
            }
        }
        Ok(if repeated && left > 0 { Done::Jumped } else { Done::Next })
    }
}

/// `old` with the part that `mask` covers taken from `new`; 32-bit results clear the upper half.
fn merged(old: u64, new: u64, mask: u64) -> u64 {
    if mask == 0xffff { old & !mask | new & mask } else { new & mask }
}
