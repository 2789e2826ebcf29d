//! Breakpoints: bytes of an image's code in whose place stands one that stops the machine.
//!
//! Under the monitor that is `int3`, which traps into it. At CPL 0 it is `hlt`, which ends `KVM_RUN` wherever
//! KVM runs, and needs nothing of the image's own interrupt table; code at the image's own CPL 3 cannot have
//! breakpoints there. A breakpoint is known by its guest-physical address, so it is the same however the page is
//! mapped.
//!
//! The table knows what stood there before. It does not know what a breakpoint is for.

use std::collections::BTreeMap;

use super::cpu::{Cpu, Stop};
use super::{ForeignError, Machine};
use crate::addr::Gpa;
use crate::memory::GuestMemory;
use crate::vcpu::VcpuError;

const INT3: u8 = 0xcc;
const HLT: u8 = 0xf4;
/// Entries of the vCPU at most until one instruction is done: page faults come in between.
const STEPS_MAX: usize = 1000;

/// What breakpoints of one machine stand in place of.
///
/// Whether one is in place says memory: a reset puts them back or takes them away with the page that they are in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breakpoints {
    // By guest-physical address. Invariant: none of them is what a breakpoint is itself.
    originals: BTreeMap<u64, u8>,
    // What one is in memory.
    byte: u8,
}

impl Breakpoints {
    /// Remembers that one may be at `gpa`, in place of `original`.
    pub(crate) fn insert(&mut self, gpa: u64, original: u8, byte: u8) {
        debug_assert_ne!(original, byte);
        self.byte = byte;
        self.originals.insert(gpa, original);
    }

    fn is_armed(&self, memory: &GuestMemory, gpa: u64) -> bool {
        let mut byte = [0];
        self.originals.contains_key(&gpa) && memory.read(Gpa(gpa), &mut byte).is_ok() && byte[0] == self.byte
    }

    /// Takes the one at `gpa` away until it is put back.
    pub(crate) fn disarm(&self, memory: &mut GuestMemory, gpa: u64) {
        if let Some(original) = self.originals.get(&gpa) {
            let written = memory.write(Gpa(gpa), &[*original]);
            debug_assert!(written.is_ok(), "it is in memory");
        }
    }

    /// Puts the one at `gpa` back.
    fn arm(&self, memory: &mut GuestMemory, gpa: u64) {
        if self.originals.contains_key(&gpa) {
            let written = memory.write(Gpa(gpa), &[self.byte]);
            debug_assert!(written.is_ok(), "it is in memory");
        }
    }

    /// Takes all of them away for good.
    pub(crate) fn clear(&mut self, memory: &mut GuestMemory) {
        for &gpa in self.originals.keys() {
            if self.is_armed(memory, gpa) {
                self.disarm(memory, gpa);
            }
        }
        self.originals.clear();
    }

    /// Makes `bytes`, which were read from `gpa` on, what they would be without breakpoints.
    pub(crate) fn hide(&self, gpa: u64, bytes: &mut [u8]) {
        for (at, original) in self.originals.range(gpa..gpa.saturating_add(bytes.len() as u64)) {
            match bytes.get_mut((at - gpa) as usize) {
                Some(byte) if *byte == self.byte => *byte = *original,
                _ => {}
            }
        }
    }
}

/// An instruction before which a machine that boots is to stop, whose code is not in memory yet or has not been
/// looked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub address: u64,
    /// What stands there according to its file; empty if that is not known.
    pub code: Vec<u8>,
    /// Where its file says that it is in guest-physical memory.
    pub physical: Option<u64>,
}

impl Cpu {
    /// What a breakpoint is in memory.
    pub(crate) fn breakpoint(&self) -> u8 {
        match self {
            Self::Native(_) => HLT,
            Self::Monitored(_) => INT3,
        }
    }

    /// Whether `stop` may be the work of a breakpoint.
    fn may_have_met(&self, stop: &Stop) -> bool {
        match self {
            Self::Native(_) => *stop == Stop::Halt,
            Self::Monitored(_) => *stop == Stop::Int3,
        }
    }
}

impl Machine {
    /// Runs until something happens, and deals with it if it is a device's or the monitor's. At a breakpoint, RIP
    /// is its address.
    pub(crate) fn step(&mut self) -> Result<Stop, VcpuError> {
        let stop = self.cpu.step(&self.fd, &mut self.memory, &mut self.bus)?;
        if self.cpu.may_have_met(&stop) {
            let rip = self.cpu.vcpu().regs_mut().rip.wrapping_sub(1);
            if let Some(gpa) = self.gpa_of(rip).filter(|&gpa| self.breakpoints.is_armed(&self.memory, gpa)) {
                self.cpu.change(|regs| regs.rip = rip)?;
                return Ok(Stop::Breakpoint { gpa });
            }
        }
        // An `int3` of the image's own.
        if stop == Stop::Int3 { Ok(self.cpu.deliver_int3(&mut self.memory, &mut self.bus)) } else { Ok(stop) }
    }

    /// Executes the instruction at the breakpoint at `gpa`, which stays.
    pub(crate) fn step_over(&mut self, gpa: u64) -> Result<Stop, VcpuError> {
        self.breakpoints.disarm(&mut self.memory, gpa);
        self.cpu.single_step(true)?;
        let rip = self.cpu.vcpu().regs_mut().rip;
        let mut stop = Ok(Stop::Again);
        for _ in 0..STEPS_MAX {
            stop = self.step();
            // A string instruction stays where it is between its repetitions.
            if !matches!(stop, Ok(Stop::Again)) || self.cpu.vcpu().regs_mut().rip != rip {
                break;
            }
        }
        self.cpu.single_step(false)?;
        self.breakpoints.arm(&mut self.memory, gpa);
        stop
    }

    fn gpa_of(&mut self, address: u64) -> Option<u64> {
        let (to, _) = self.cpu.paging().look(&self.memory, address, false)?;
        (to.gpa < self.memory.len()).then_some(to.gpa)
    }

    /// Code in memory at `gpa`, as the image has it: without breakpoints and without what the monitor put there.
    fn code_at(&self, gpa: u64, bytes: usize) -> Vec<u8> {
        let mut code = vec![0; bytes];
        if self.memory.read(Gpa(gpa), &mut code).is_err() {
            return Vec::new();
        }
        self.breakpoints.hide(gpa, &mut code);
        if let Cpu::Monitored(monitor) = &self.cpu {
            for (at, original) in monitor.cpu().patches.range(gpa..gpa + bytes as u64) {
                code[(at - gpa) as usize] = *original;
            }
        }
        code
    }

    /// Where in guest-physical memory the code at `address` is, if memory has `code` there.
    pub(crate) fn find_code(&mut self, address: u64, code: &[u8], physical: Option<u64>) -> Option<u64> {
        let mapped = self.gpa_of(address);
        let known = [mapped, physical].into_iter().flatten();
        known.into_iter().find(|&gpa| self.code_at(gpa, code.len()) == code)
    }

    /// The byte in whose place a breakpoint at `gpa`, which `address` leads to, would stand. The monitor looks through the page first:
    /// it has to see the code as it is.
    pub(crate) fn prepare_breakpoint(&mut self, gpa: u64, address: u64) -> Option<u8> {
        if let Cpu::Monitored(monitor) = &mut self.cpu {
            monitor.scan_code(&mut self.memory, gpa, address);
        }
        let mut byte = [0];
        self.memory.read(Gpa(gpa), &mut byte).ok()?;
        Some(byte[0])
    }

    /// Puts a breakpoint to `gpa`, which `address` leads to.
    pub(crate) fn plant(&mut self, gpa: u64, address: u64) {
        let byte = self.cpu.breakpoint();
        let original = self.prepare_breakpoint(gpa, address);
        if let Some(original) = original.filter(|original| *original != byte) {
            self.breakpoints.insert(gpa, original, byte);
            self.breakpoints.arm(&mut self.memory, gpa);
        }
    }

    /// Plants those of [`Self::wanted`] whose code is there.
    pub(crate) fn plant_wanted(&mut self) {
        let wanted = std::mem::take(&mut self.wanted);
        for one in wanted {
            match self.find_code(one.address, &one.code, one.physical) {
                Some(gpa) => self.plant(gpa, one.address),
                None => self.wanted.push(one),
            }
        }
    }

    /// The address that a machine stopped before, at a breakpoint.
    pub(crate) fn rip(&mut self) -> Result<u64, ForeignError> {
        Ok(self.cpu.vcpu().regs_mut().rip)
    }
}
