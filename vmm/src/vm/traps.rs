//! What the CPU pushed at a trap, and traps after which the guest goes on.

use super::{Vm, registers_of};
use crate::addr::PAGE_BYTES;
use crate::faults::FaultDoors;
use crate::introspect::Registers;
use crate::machine;
use crate::outcome::Cause;
use crate::vcpu::VcpuError;
use crate::windows;

impl Vm {
    /// Word `n` (from 1) below the top of the trap stack: SS, RSP, RFLAGS, CS, RIP, error code.
    pub(super) fn frame_word(&self, n: u64) -> u64 {
        let mut bytes = [0; 8];
        let at = self.trap_stack.offset(PAGE_BYTES - 8 * n);
        self.memory.read(at, &mut bytes).expect("the trap stack is a page of the windows");
        u64::from_le_bytes(bytes)
    }

    /// The registers at the instruction that trapped: the frame's, and the rest as they are.
    pub(crate) fn trapped_registers(&self) -> Registers {
        let mut registers = registers_of(&self.vcpu.core());
        registers.rsp = self.frame_word(2);
        registers.rflags = self.frame_word(3);
        registers.rip = self.frame_word(5);
        registers
    }

    /// Makes the vCPU go on behind the trap it is in, as `iretq` would, at `rip`.
    pub(crate) fn return_from_trap(&mut self, rip: u64) -> Result<(), VcpuError> {
        let (rsp, rflags) = (self.frame_word(2), self.frame_word(3));
        let regs = self.vcpu.regs_mut();
        regs.rip = rip;
        regs.rsp = rsp;
        regs.rflags = rflags;
        machine::enter_user(self.vcpu.sregs_mut());
        self.vcpu.store()
    }

    /// Serves a `cpuid` that faulted, and says whether it was one.
    pub(super) fn serve_cpuid(&mut self, registers: &Registers) -> bool {
        let mut code = [0; 2];
        if !self.vcpu.cpuid_faults() || !self.read(registers.rip, &mut code) || code != [0x0f, 0xa2] {
            return false;
        }
        let model = self.vcpu.model();
        let regs = self.vcpu.regs_mut();
        let [eax, ebx, ecx, edx] = model.lookup(regs.rax as u32, regs.rcx as u32);
        regs.rax = eax.into();
        regs.rbx = ebx.into();
        regs.rcx = ecx.into();
        regs.rdx = edx.into();
        self.return_from_trap(registers.rip + 2).is_ok()
    }

    /// Lets the guest go on after an exception that it deals with itself, and says whether it is one.
    pub(super) fn hand_over(
        &mut self,
        vector: u8,
        error_code: u32,
        address: u64,
        registers: &Registers,
    ) -> bool {
        let Some(doors) = self.doors else { return false };
        if let Some(rip) = doors.copy_fixup(vector, registers.rip) {
            return self.return_from_trap(rip).is_ok();
        }
        let Some(bit) = FaultDoors::bit(vector, registers.rip) else { return false };
        let mut wanted = [0; 8];
        if !self.read(doors.signals, &mut wanted) || u64::from_le_bytes(wanted) & bit == 0 {
            return false;
        }
        let fault = [vector.into(), error_code.into(), address, registers.rip, registers.rflags];
        windows::set_fault(&mut self.memory, self.control, fault);
        self.handed_debug |= vector == 1;
        // Flags as at a system call: no single steps in the libOS.
        let regs = self.vcpu.regs_mut();
        (regs.rip, regs.rsp, regs.rflags) = (doors.entry, registers.rsp, 2);
        machine::enter_user(self.vcpu.sregs_mut());
        self.vcpu.store().is_ok()
    }

    /// Whether a #DB was handed over since this was last asked.
    pub(crate) fn take_handed_debug(&mut self) -> bool {
        std::mem::take(&mut self.handed_debug)
    }

    /// The exception that was handed over last, as the control page has it.
    pub(super) fn handed_over(&self) -> Cause {
        let [vector, error_code, address, ..] = windows::fault(&self.memory, self.control);
        Cause::Exception { vector: vector as u8, error_code: error_code as u32, address }
    }
}
