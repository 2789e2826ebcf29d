//! Control registers, debug registers, MSRs, CPUID.

use iced_x86::{Instruction, Mnemonic, Register};

use super::{Done, is_canonical};
use crate::foreign::devices::lapic::Refused;
use crate::foreign::monitor::guest::{Fault, GP, Guest, UD};
use crate::foreign::monitor::state::Mode;
use crate::foreign::monitor::walk::{
    CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_PAE, CR4_PSE, EFER_LMA, EFER_LME, EFER_NXE,
};
use crate::sys::tsc;

const CR0_ET: u64 = 1 << 4;
const CR4_PGE: u64 = 1 << 7;
/// VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE: what the CPU model has.
const CR4_KNOWN: u64 = 0x5_07ff;
const CR4_OSXSAVE: u64 = 1 << 18;

pub(super) const MSR_STAR: u32 = 0xc000_0081;
pub(super) const MSR_LSTAR: u32 = 0xc000_0082;
pub(super) const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
const MSR_TSC: u32 = 0x10;
const MSR_MTRR_CAP: u32 = 0xfe;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MSR_PAT: u32 = 0x277;
const MSR_EFER: u32 = 0xc000_0080;
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// What the PAT has after reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

impl Guest<'_> {
    pub(super) fn mov_control(&mut self, i: &Instruction) -> Result<Done, Fault> {
        self.need_supervisor()?;
        let (to, from) = (i.op0_register(), i.op1_register());
        if to.is_dr() {
            self.cpu.debug[to.number() & 7] = self.register(from);
        } else if from.is_dr() {
            self.set_register(to, self.cpu.debug[from.number() & 7]);
        } else if to.is_cr() {
            let value = self.register(from);
            self.set_cr(to.number(), value)?;
        } else {
            let value = match from.number() {
                0 => self.cpu.paging.cr0,
                2 => self.cpu.cr2,
                3 => self.cpu.paging.cr3,
                4 => self.cpu.paging.cr4,
                8 => self.bus.task_class(),
                _ => return Err(UD),
            };
            self.set_register(to, value);
        }
        Ok(Done::Next)
    }

    fn set_cr(&mut self, number: usize, value: u64) -> Result<(), Fault> {
        match number {
            0 => self.set_cr0(value)?,
            2 => self.cpu.cr2 = value,
            3 => {
                // Without PCID bit 63 is reserved like its neighbours.
                if value >> self.cpuid.model().physical_bits() != 0 {
                    return Err(GP);
                }
                self.cpu.paging.cr3 = value;
                self.asks.flush = true;
            }
            4 => {
                let lost_pae = self.cpu.is_long() && value & CR4_PAE == 0;
                if value & !CR4_KNOWN != 0 || lost_pae {
                    return Err(GP);
                }
                let changed = self.cpu.paging.cr4 ^ value;
                self.cpu.paging.cr4 = value;
                self.asks.flush |= changed & (CR4_PAE | CR4_PSE | CR4_PGE) != 0;
            }
            8 if value > 15 => return Err(GP),
            8 => self.bus.set_task_class(value),
            _ => return Err(UD),
        }
        Ok(())
    }

    fn set_cr0(&mut self, value: u64) -> Result<(), Fault> {
        if value >> 32 != 0 {
            return Err(GP);
        }
        let value = value & 0xe005_003f | CR0_ET;
        let paging = value & CR0_PG != 0;
        if paging && value & CR0_PE == 0 || value & 0x6000_0000 == 0x2000_0000 {
            return Err(GP);
        }
        let was = self.cpu.paging;
        let becomes_long = paging && !was.is_on() && was.efer & EFER_LME != 0;
        if becomes_long && was.cr4 & CR4_PAE == 0 {
            return Err(GP);
        }
        if !paging && self.cpu.mode() == Mode::Bits64 {
            return Err(GP);
        }
        if becomes_long {
            self.cpu.paging.efer |= EFER_LMA;
        } else if !paging {
            self.cpu.paging.efer &= !EFER_LMA;
        }
        self.cpu.paging.cr0 = value;
        self.asks.flush |= (was.cr0 ^ value) & (CR0_PG | CR0_WP) != 0;
        Ok(())
    }

    pub(super) fn control(&mut self, i: &Instruction) -> Result<Done, Fault> {
        let index = self.regs.rcx as u32;
        let pair = self.regs.rdx << 32 | self.regs.rax & 0xffff_ffff;
        match i.mnemonic() {
            Mnemonic::Clts => {
                self.need_supervisor()?;
                self.cpu.paging.cr0 &= !CR0_TS;
            }
            Mnemonic::Lmsw => {
                self.need_supervisor()?;
                // It can enter protected mode and not leave it.
                let value = self.operand(i, 0)? & 0xf;
                let kept = self.cpu.paging.cr0;
                self.set_cr0(kept & !0xe | value)?;
            }
            Mnemonic::Smsw => {
                let value = self.cpu.paging.cr0;
                self.set_operand(i, 0, value)?;
            }
            Mnemonic::Rdmsr => {
                self.need_supervisor()?;
                let value = self.read_msr(index)?;
                self.set_pair(value);
            }
            Mnemonic::Wrmsr => {
                self.need_supervisor()?;
                self.write_msr(index, pair)?;
            }
            Mnemonic::Xsetbv | Mnemonic::Xgetbv if self.cpu.paging.cr4 & CR4_OSXSAVE == 0 => return Err(UD),
            Mnemonic::Xsetbv => {
                self.need_supervisor()?;
                let known = self.cpuid.model().xcr0();
                // AVX needs SSE, and x87 is always on.
                let sound = pair & !known == 0 && pair & 1 != 0 && (pair & 4 == 0 || pair & 2 != 0);
                if index != 0 || !sound {
                    return Err(GP);
                }
                self.cpu.xcr0 = pair;
            }
            Mnemonic::Xgetbv => {
                if index > 1 {
                    return Err(GP);
                }
                let value = self.cpu.xcr0;
                self.set_pair(value);
            }
            Mnemonic::Cpuid => {
                let leaf = self.regs.rax as u32;
                let [eax, ebx, ecx, edx] = self.cpuid.lookup(leaf, index, self.cpu.paging.cr4);
                self.regs.rax = eax.into();
                self.regs.rbx = ebx.into();
                self.regs.rcx = ecx.into();
                self.regs.rdx = edx.into();
            }
            Mnemonic::Rdrand | Mnemonic::Rdseed => {
                let value = self.cpu.next_random();
                self.set_register(i.op0_register(), value);
                self.set_carry(true);
            }
            Mnemonic::Swapgs => {
                self.need_supervisor()?;
                if self.cpu.mode() != Mode::Bits64 {
                    return Err(UD);
                }
                std::mem::swap(&mut self.sregs.gs.base, &mut self.cpu.kernel_gs_base);
            }
            // There are no performance counters.
            _ => return Err(GP),
        }
        Ok(Done::Next)
    }

    fn set_pair(&mut self, value: u64) {
        self.set_register(Register::EAX, value & 0xffff_ffff);
        self.set_register(Register::EDX, value >> 32);
    }

    fn read_msr(&mut self, index: u32) -> Result<u64, Fault> {
        if let Some(read) = self.bus.msr_read(index) {
            self.asks.devices = true;
            return read.map_err(|Refused| GP);
        }
        Ok(match index {
            MSR_EFER => self.cpu.paging.efer,
            MSR_FS_BASE => self.sregs.fs.base,
            MSR_GS_BASE => self.sregs.gs.base,
            MSR_KERNEL_GS_BASE => self.cpu.kernel_gs_base,
            // What `rdtsc` reads natively.
            MSR_TSC => tsc::read(),
            _ => match self.cpu.msr(index) {
                Some(value) => value,
                None => default_msr(index)?,
            },
        })
    }

    fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Fault> {
        if let Some(written) = self.bus.msr_write(index, value) {
            self.asks.devices = true;
            return written.map_err(|Refused| GP);
        }
        match index {
            MSR_EFER => {
                let was = self.cpu.paging.efer;
                if value & !0xd01 != 0 || self.cpu.paging.is_on() && (was ^ value) & EFER_LME != 0 {
                    return Err(GP);
                }
                self.cpu.paging.efer = value & !EFER_LMA | was & EFER_LMA;
                self.asks.flush |= (was ^ value) & EFER_NXE != 0;
            }
            MSR_FS_BASE | MSR_GS_BASE | MSR_KERNEL_GS_BASE | MSR_LSTAR if !is_canonical(value) => {
                return Err(GP);
            }
            MSR_FS_BASE => self.sregs.fs.base = value,
            MSR_GS_BASE => self.sregs.gs.base = value,
            MSR_KERNEL_GS_BASE => self.cpu.kernel_gs_base = value,
            // The clock is the host's and is not set.
            MSR_TSC => {}
            _ => {
                default_msr(index)?;
                self.cpu.set_msr(index, value);
            }
        }
        Ok(())
    }
}

/// What an MSR that was never written reads as. Those that a paravirtual guest would look for are not
/// there; other unknown ones read as zero, as many kernels read without asking.
fn default_msr(index: u32) -> Result<u64, Fault> {
    Ok(match index {
        MSR_PAT => PAT_RESET,
        MSR_MTRR_CAP => 0x508,
        MSR_MISC_ENABLE => 1,
        0x11 | 0x12 | 0x4000_0000..=0x4000_0fff | 0x4b56_4d00..=0x4b56_4dff => return Err(GP),
        _ => 0,
    })
}
