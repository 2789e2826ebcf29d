//! The CPU of a foreign machine, however it is run: at CPL 0 by KVM, or at CPL 3 by the monitor.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::bus::{Bus, Wired};
use super::cpuid::Cpuid;
use super::devices::lapic;
use super::monitor::state::{CODE32, CODE64, CS, DATA, DS, ES, FS, GS, SS, Segment, TASK, Table, Virtual};
use super::monitor::walk::Paging;
use super::monitor::{Monitor, MonitorStats};
use crate::introspect::Registers;
use crate::memory::GuestMemory;
use crate::vcpu::enter::{self, Stopped};
use crate::vcpu::{Vcpu, VcpuError};
use crate::vm::registers_of;

/// The state in which a boot protocol enters an image. Interrupts are off and segments are flat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Where.
    pub rip: u64,
    /// Its stack; 0 where the protocol promises none.
    pub rsp: u64,
    /// Registers that the protocol uses.
    pub rax: u64,
    /// As `rax`.
    pub rbx: u64,
    /// As `rax`.
    pub rsi: u64,
    /// As `rax`.
    pub rdi: u64,
    /// Whether SSE is switched on.
    pub sse: bool,
    /// Whether what page tables say must not be written cannot be.
    pub write_protect: bool,
    /// Where the image finds how fast its time stamp counter runs, in Hz, if its protocol says that.
    pub cycles_at: Option<u64>,
    /// Page tables, for an image that begins in long mode; else it begins in protected mode without paging.
    pub cr3: Option<u64>,
    /// Address and limit of a GDT, for selectors [`Self::code`] and [`Self::data`].
    pub gdt: (u64, u16),
    /// CS.
    pub code: u16,
    /// The other segment registers.
    pub data: u16,
}

const CR0: u64 = 0x11; // ET PE
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// OSFXSR OSXMMEXCPT.
const CR4_SSE: u64 = 0x600;
const EFER_LONG: u64 = 0x500; // LMA LME

impl Start {
    fn cr0(&self) -> u64 {
        let paging = if self.cr3.is_some() { CR0_PG } else { 0 };
        CR0 | paging | if self.write_protect { CR0_WP } else { 0 }
    }

    fn cr4(&self) -> u64 {
        CR4_PAE | if self.sse { CR4_SSE } else { 0 }
    }

    /// What the monitor knows of a CPU in this state.
    pub(crate) fn cpu(&self) -> Virtual {
        let mut cpu = Virtual::default();
        cpu.paging.cr0 = self.cr0();
        if let Some(cr3) = self.cr3 {
            cpu.paging.cr3 = cr3;
            cpu.paging.cr4 = self.cr4();
            cpu.paging.efer = EFER_LONG;
        }
        let code = if self.cr3.is_some() { CODE64 } else { CODE32 };
        for index in [ES, SS, DS, FS, GS] {
            cpu.segments[index] = Segment::flat(self.data, DATA);
        }
        cpu.segments[CS] = Segment::flat(self.code, code);
        cpu.task = Segment { limit: 0xffff, attributes: TASK, ..Segment::default() };
        cpu.gdt = Table { base: self.gdt.0, limit: self.gdt.1 };
        cpu.xcr0 = 1;
        cpu
    }
}

/// Why a CPU stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// For something that has been dealt with, or because time is up.
    Again,
    /// It waits for an interrupt.
    Halt,
    /// At a breakpoint, with RIP before it.
    Breakpoint { gpa: u64 },
    /// Behind an `int3`; only of the monitor.
    Int3,
    /// The run loop is at its end ([`super::run_loop`]).
    Loop,
    /// An exception that could not be delivered, nor the one that came of it.
    TripleFault { vector: u8, code: u32, rip: u64, address: u64 },
    /// A triple fault that KVM tells nothing more about.
    Shutdown { rip: u64 },
    /// The host cannot go on with it.
    Stuck(String),
}

/// An exception that the guest is handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Raised {
    pub vector: u8,
    pub code: u32,
    pub address: u64,
    /// Where on its stack RIP was put.
    pub frame: u64,
    /// Registers at the instruction that raised it.
    pub registers: Registers,
}

/// How deep handlers of exceptions go on the stack, at most.
const HANDLER_BYTES_MAX: u64 = 1 << 16;

/// A vCPU at CPL 0, and the `cpuid` that it was given.
#[derive(Debug)]
pub(crate) struct Native {
    vcpu: Vcpu,
    cpuid: Cpuid,
    /// The last exception whose handler was seen to begin.
    raised: Option<Raised>,
}

/// A CPU.
#[derive(Debug)]
pub(crate) enum Cpu {
    /// At CPL 0, as KVM runs it.
    Native(Box<Native>),
    /// At CPL 3.
    Monitored(Box<Monitor>),
}

impl Cpu {
    /// A vCPU of `vm` at CPL 0 that begins as `start` says.
    pub(crate) fn native(vm: &VmFd, cpuid: Cpuid, start: &Start) -> Result<Self, VcpuError> {
        enter::hand_over_msr(vm, lapic::MSR_BASE)?;
        let mut vcpu = Vcpu::create_with(vm, cpuid.model(), &cpuid.table(false))?;
        let cpuid = cpuid.with_tsc_khz(vcpu.tsc_khz());
        vcpu.set_cpuid(&cpuid.table(false))?;
        vcpu.refresh_all()?;
        let (regs, sregs) = vcpu.both_mut();
        *regs = kvm_regs {
            rip: start.rip,
            rsp: start.rsp,
            rax: start.rax,
            rbx: start.rbx,
            rsi: start.rsi,
            rdi: start.rdi,
            rflags: 2,
            ..Default::default()
        };
        let data = kvm_segment {
            limit: u32::MAX,
            selector: start.data,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        let long = start.cr3.is_some();
        sregs.cs =
            kvm_segment { selector: start.code, type_: 11, db: u8::from(!long), l: u8::from(long), ..data };
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.gdt = kvm_dtable { base: start.gdt.0, limit: start.gdt.1, ..Default::default() };
        sregs.idt = kvm_dtable::default();
        sregs.cr0 = start.cr0();
        if let Some(cr3) = start.cr3 {
            (sregs.cr3, sregs.cr4, sregs.efer) = (cr3, start.cr4(), EFER_LONG);
        }
        vcpu.store()?;
        Ok(Self::Native(Box::new(Native { vcpu, cpuid, raised: None })))
    }

    pub(crate) fn vcpu(&mut self) -> &mut Vcpu {
        match self {
            Self::Native(native) => &mut native.vcpu,
            Self::Monitored(monitor) => monitor.vcpu(),
        }
    }

    /// Puts the answer to an agent's call where it looks for it.
    pub(crate) fn answer(&mut self, rax: u64) -> Result<(), VcpuError> {
        self.change(|regs| regs.rax = rax)
    }

    /// Changes general registers.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut kvm_regs)) -> Result<(), VcpuError> {
        change(self.vcpu().regs_mut());
        match self {
            Self::Native(native) => native.vcpu.store(),
            // It stores registers before each entry.
            Self::Monitored(_) => Ok(()),
        }
    }

    /// Stops behind each instruction from now on, or no more.
    pub(crate) fn single_step(&mut self, on: bool) -> Result<(), VcpuError> {
        match self {
            Self::Native(native) => native.vcpu.single_step(on),
            Self::Monitored(monitor) => {
                monitor.single_step(on);
                Ok(())
            }
        }
    }

    /// Lets the guest handle the `int3` that it stands behind.
    pub(crate) fn deliver_int3(&mut self, memory: &mut GuestMemory, bus: &mut Bus) -> Stop {
        match self {
            // There it does not stop at one.
            Self::Native(_) => Stop::Again,
            Self::Monitored(monitor) => monitor.deliver_int3(memory, bus),
        }
    }

    /// At CPL 0: takes note of the exception `vector`, at whose handler's first instruction it is. `first` are
    /// the six words on top of the stack.
    pub(crate) fn note_exception(&mut self, vector: u8, first: &[u64; 6]) {
        let Self::Native(native) = self else { return };
        let core = native.vcpu.core();
        let has_code = crate::machine::has_error_code(vector);
        let (code, frame) = first.split_at(usize::from(has_code));
        let registers = Registers { rip: frame[0], rflags: frame[2], rsp: frame[3], ..registers_of(&core) };
        native.raised = Some(Raised {
            vector,
            code: code.first().map_or(0, |code| *code as u32),
            address: if vector == 14 { core.sregs.cr2 } else { 0 },
            frame: core.regs.rsp + if has_code { 8 } else { 0 },
            registers,
        });
    }

    /// At CPL 0: forgets what was noted.
    pub(crate) fn forget_exception(&mut self) {
        if let Self::Native(native) = self {
            native.raised = None;
        }
    }

    /// The exception whose handler it is in, as far as that can be told.
    pub(crate) fn raised(&mut self) -> Option<Raised> {
        match self {
            Self::Native(native) => {
                let rsp = native.vcpu.regs_mut().rsp;
                native.raised.filter(|raised| raised.frame.wrapping_sub(rsp) <= HANDLER_BYTES_MAX)
            }
            Self::Monitored(monitor) => monitor.cpu().raised,
        }
    }

    /// Where the guest's handler for each of its exceptions begins, at CPL 0.
    pub(crate) fn exception_table(&mut self) -> Option<(u64, u16)> {
        match self {
            Self::Native(native) => {
                let idt = native.vcpu.sregs_mut().idt;
                Some((idt.base, idt.limit))
            }
            Self::Monitored(_) => None,
        }
    }

    /// How the guest's addresses are translated now.
    pub(crate) fn paging(&mut self) -> Paging {
        match self {
            Self::Native(native) => {
                let sregs = native.vcpu.sregs_mut();
                Paging { cr0: sregs.cr0, cr3: sregs.cr3, cr4: sregs.cr4, efer: sregs.efer }
            }
            Self::Monitored(monitor) => monitor.cpu().paging,
        }
    }

    /// What `cpuid` returns.
    pub(crate) fn cpuid(&self) -> Cpuid {
        match self {
            Self::Native(native) => native.cpuid,
            Self::Monitored(monitor) => monitor.cpuid(),
        }
    }

    /// How fast its time stamp counter runs, in Hz; 0 if KVM does not say.
    pub(crate) fn cycles_per_second(&mut self) -> u64 {
        u64::from(self.vcpu().tsc_khz()) * 1000
    }

    pub(crate) fn monitor_stats(&self) -> Option<MonitorStats> {
        match self {
            Self::Native(_) => None,
            Self::Monitored(monitor) => Some(monitor.stats()),
        }
    }

    /// Hands the guest an interrupt that waits, if it takes one; else sees to it that it stops when it
    /// would.
    pub(crate) fn offer_interrupt(
        &mut self,
        memory: &mut GuestMemory,
        bus: &mut Bus,
    ) -> Result<Stop, VcpuError> {
        let pending = bus.interrupt_is_pending();
        match self {
            Self::Native(native) => {
                let vcpu = &mut native.vcpu;
                let accepts = vcpu.accepts_interrupts();
                vcpu.want_interrupt_window(pending && !accepts);
                if pending
                    && accepts
                    && let Some(vector) = bus.acknowledge()
                {
                    vcpu.inject(vector)?;
                }
                Ok(Stop::Again)
            }
            Self::Monitored(monitor) => {
                if pending
                    && monitor.accepts_interrupts()
                    && let Some(vector) = bus.acknowledge()
                {
                    return Ok(monitor.interrupt(memory, bus, vector));
                }
                Ok(Stop::Again)
            }
        }
    }

    /// Whether interrupts can end a halt.
    pub(crate) fn wakes_up(&mut self) -> bool {
        self.vcpu().regs_mut().rflags >> 9 & 1 != 0
    }

    /// Runs until something happens, and deals with it if it is a device's or the monitor's.
    pub(crate) fn step(
        &mut self,
        vm: &VmFd,
        memory: &mut GuestMemory,
        bus: &mut Bus,
    ) -> Result<Stop, VcpuError> {
        match self {
            Self::Monitored(monitor) => monitor.step(vm, memory, bus),
            Self::Native(native) => {
                let vcpu = &mut native.vcpu;
                let stopped = vcpu.enter(&mut Wired { bus, memory });
                let rip = vcpu.regs_mut().rip;
                Ok(match stopped {
                    Stopped::Device | Stopped::Kicked | Stopped::Stepped => Stop::Again,
                    Stopped::Halt => Stop::Halt,
                    Stopped::Shutdown => Stop::Shutdown { rip },
                    Stopped::NotEmulated => Stop::Stuck(format!(
                        "KVM emulates CPL 0 here, and does not know the instruction at {rip:#x}; `--ring0 monitor` runs the image at CPL 3"
                    )),
                    Stopped::Stuck(reason) => Stop::Stuck(reason),
                })
            }
        }
    }
}
