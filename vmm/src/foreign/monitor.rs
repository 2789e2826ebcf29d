//! Runs an image at CPL 3: for hosts whose KVM is slow and incomplete at CPL 0.
//!
//! The image believes that it is at CPL 0. What it may not do traps into stubs of ours
//! ([`tables`]), which stop the vCPU; the instruction is decoded and done to the guest's own idea of
//! a CPU ([`state`], [`emulate`]). Its page tables are walked ([`walk`]) and copied lazily into
//! tables that let CPL 3 in ([`shadow`]). Exceptions go through its own IDT ([`guest`]). A few
//! instructions do not trap; they are found and replaced ([`patch`]).
//!
//! All that a guest can see of this is in its memory, the vCPU's registers, and
//! [`state::Virtual`]. Shadow tables are a cache, and a machine that is copied begins without.

use kvm_bindings::kvm_regs;
use kvm_ioctls::VmFd;

use super::bus::{Bus, Wired};
use super::cpu::{Raised, Start, Stop};
use super::cpuid::Cpuid;
use super::frozen::guest_registers;
use super::run_loop;
use crate::addr::PAGE_BYTES;
use crate::machine::has_error_code;
use crate::memory::{DOORBELL_GPA, GuestMemory, WINDOWS_GPA};
use crate::reset::{Mutation, Planted};
use crate::sys::xsave;
use crate::vcpu::enter::{Devices, Stopped};
use crate::vcpu::{Vcpu, VcpuError, VcpuState};
use crate::vm::registers_from;
use emulate::Done;
use guest::{Asks, Fault, Guest};
use shadow::{Full, Place, Shadow, View};
use state::Virtual;

mod ahead;
mod code;
mod emulate;
mod fpu;
mod guest;
mod patch;
mod shadow;
pub(crate) mod state;
pub(crate) mod tables;
mod translate;
pub(crate) mod walk;
mod xstate;

/// Bytes of windows that the monitor needs: its own tables, and pages for shadow tables.
pub(crate) const WINDOWS_BYTES: u64 = 16 << 20;
/// Where nothing is: what an address leads to that the guest maps far outside of its machine.
const NOWHERE: u64 = DOORBELL_GPA.0 - PAGE_BYTES;
/// Entries of shadow tables that are looked through one by one when a machine is put back.
const FILLED_MAX: usize = 4096;
/// How often the guest is gone on for behind one trap: each time until it flushes translations.
const ROUNDS_MAX: u32 = 64;
/// Pages of a large page that are mapped when one of them is touched.
const AHEAD: u64 = 32;
/// How often in a row a page may be touched in vain that is mapped: by then it is the host that has no room there.
const REFUSED_MAX: u32 = 64;
/// Bytes of a `syscall`.
const SYSCALL_BYTES: u64 = 2;
const VECTOR_DB: u8 = 1;
const VECTOR_BP: u8 = 3;
const VECTOR_UD: u8 = 6;
const VECTOR_NM: u8 = 7;
const VECTOR_DF: u8 = 8;
const VECTOR_GP: u8 = 13;
const VECTOR_PF: u8 = 14;
const VECTOR_AC: u8 = 17;

/// What the monitor did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MonitorStats {
    /// Traps of the guest.
    pub traps: u64,
    /// Instructions emulated.
    pub emulated: u64,
    /// Page faults that filled a shadow table.
    pub fills: u64,
    /// Exceptions and interrupts that the guest was given.
    pub delivered: u64,
}

/// The monitor and its vCPU.
#[derive(Debug)]
pub(crate) struct Monitor {
    vcpu: Vcpu,
    shadow: Shadow,
    cpu: Virtual,
    cpuid: Cpuid,
    stats: MonitorStats,
    // What was put into shadow tables since the machine was last put back, while there is room.
    filled: Vec<Place>,
    // It stops behind each instruction.
    stepping: bool,
    // What runs is stepped, for that or to watch it.
    stepped: bool,
    // Of the last traps in a row that were about one page, which was mapped already: how many they are, the page,
    // and how many traps there had been.
    refused: (u32, u64, u64),
    // The guest has stopped for more than the clock since this was last asked.
    disturbed: bool,
}

/// Device memory is reached by the CPU itself; ports are not, but for the stubs' own.
struct MemoryOnly<'a> {
    wired: Wired<'a>,
    trapped: bool,
}

impl Devices for MemoryOnly<'_> {
    fn port_read(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn port_write(&mut self, _port: u16, _size: u8, _value: u32) {
        self.trapped = true;
    }
    fn memory_read(&mut self, at: u64, data: &mut [u8]) {
        self.wired.memory_read(at, data);
    }
    fn memory_write(&mut self, at: u64, data: &[u8]) {
        self.wired.memory_write(at, data);
    }
    fn is_trap(&self) -> bool {
        self.trapped
    }
}

impl Monitor {
    /// A vCPU of `vm` that begins as `start` says.
    pub(crate) fn create(
        vm: &VmFd,
        memory: &mut GuestMemory,
        cpuid: Cpuid,
        start: &Start,
    ) -> Result<Self, VcpuError> {
        tables::write(memory);
        let mut vcpu = Vcpu::create_with(vm, cpuid.model(), &cpuid.table(true))?;
        let cpuid = cpuid.with_tsc_khz(vcpu.tsc_khz()).with_real_xsave(xsave::host_bytes());
        vcpu.refresh_all()?;
        let mut sregs = *vcpu.sregs_mut();
        // Software KVM does a `syscall` whatever EFER says, and stays at CPL 3.
        vcpu.set_syscall_entry(tables::SYSCALL_VA, guest::FLAG_TF)?;
        vcpu.choose_sregs(tables::CR4_WISHES.iter().map(|&wishes| {
            tables::set_up(&mut sregs, wishes);
            sregs.cr3 = tables::ARENA;
            sregs
        }))?;
        let own = (tables::ROOT_INDEX, tables::ROOT_ENTRY);
        let shadow = Shadow::new(tables::ARENA..WINDOWS_GPA.0 + WINDOWS_BYTES, own);
        let regs = vcpu.regs_mut();
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
        let filled = Vec::with_capacity(FILLED_MAX);
        Ok(Self {
            vcpu,
            shadow,
            cpu: start.cpu(),
            cpuid,
            stats: MonitorStats::default(),
            filled,
            stepping: false,
            stepped: false,
            refused: (0, 0, 0),
            disturbed: false,
        })
    }

    /// Goes on as a guest that was frozen.
    pub(crate) fn resume(&mut self, cpu: Virtual, state: &VcpuState) -> Result<(), VcpuError> {
        self.cpu = cpu;
        let area = self.vcpu.xsave_from(state)?;
        self.vcpu.load_xsave(&area)?;
        let (regs, sregs) = self.vcpu.both_mut();
        let (known, fs, gs) = guest_registers(state);
        *regs = known;
        (sregs.fs.base, sregs.gs.base) = (fs, gs);
        Ok(())
    }

    /// Makes this the frozen guest again, whose memory is already in place.
    ///
    /// Shadow tables are a cache of the guest's own. What came into it during the run stays only if a
    /// guest that begins anew would put the same into it, and leave no trace in its own tables by that.
    pub(crate) fn put_back(
        &mut self,
        memory: &mut GuestMemory,
        cpu: &Virtual,
        state: &VcpuState,
        planted: &Planted,
    ) -> Result<(), VcpuError> {
        if self.cpu != *cpu && !planted.is(Mutation::KeepVirtual) {
            self.cpu.clone_from(cpu);
        }
        if !planted.is(Mutation::KeepXsave) {
            let area = self.vcpu.xsave_from(state)?;
            self.vcpu.load_xsave(&area)?;
        }
        let (regs, sregs) = self.vcpu.both_mut();
        let (known, fs, gs) = guest_registers(state);
        *regs = known;
        if !planted.is(Mutation::KeepBases) {
            (sregs.fs.base, sregs.gs.base) = (fs, gs);
        }
        if planted.is(Mutation::KeepShadow) {
            self.filled.clear();
        }
        if self.filled.len() > FILLED_MAX {
            self.revalidate(memory);
        } else {
            let filled = std::mem::take(&mut self.filled);
            for &place in &filled {
                let stays =
                    self.shadow.at(memory, place).is_none_or(|entry| self.cpu.stays(memory, place, entry));
                if !stays {
                    self.shadow.clear(memory, place);
                }
            }
            self.filled = filled;
        }
        self.filled.clear();
        Ok(())
    }

    pub(crate) fn cpu(&self) -> &Virtual {
        &self.cpu
    }

    pub(crate) fn cpuid(&self) -> Cpuid {
        self.cpuid
    }

    pub(crate) fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// Whether the guest has met a device or the monitor since this was last asked: only then can anything
    /// have changed but memory and the registers that CPL 3 has.
    pub(crate) fn take_disturbed(&mut self) -> bool {
        std::mem::take(&mut self.disturbed)
    }

    pub(crate) fn stats(&self) -> MonitorStats {
        self.stats
    }

    /// Stops behind each instruction from now on, or no more.
    pub(crate) fn single_step(&mut self, on: bool) {
        self.stepping = on;
    }

    /// Lets the guest handle the `int3` that it stands behind.
    pub(crate) fn deliver_int3(&mut self, memory: &mut GuestMemory, bus: &mut Bus) -> Stop {
        self.deliver(memory, bus, Fault { vector: VECTOR_BP, code: 0, address: 0 })
    }

    /// Whether the guest would take an interrupt now.
    pub(crate) fn accepts_interrupts(&mut self) -> bool {
        // Behind `sti` one more instruction comes first; that matters if it is the `hlt` that waits for
        // the interrupt.
        let regs = self.vcpu.regs_mut();
        regs.rflags & guest::FLAG_IF != 0 && self.cpu.sti_before_hlt != Some(regs.rip)
    }

    /// Gives the guest the interrupt `vector`.
    pub(crate) fn interrupt(&mut self, memory: &mut GuestMemory, bus: &mut Bus, vector: u8) -> Stop {
        self.stats.delivered += 1;
        let mut guest = self.guest(memory, bus);
        match guest.interrupt(vector, false) {
            Ok(()) => Stop::Again,
            Err(fault) => self.deliver(memory, bus, fault),
        }
    }

    fn guest<'a>(&'a mut self, memory: &'a mut GuestMemory, bus: &'a mut Bus) -> Guest<'a> {
        let (regs, sregs) = self.vcpu.both_mut();
        Guest {
            regs,
            sregs,
            cpu: &mut self.cpu,
            memory,
            bus,
            cpuid: &self.cpuid,
            asks: Asks::default(),
            known: None,
        }
    }

    /// Runs until the guest traps or is stopped, and deals with that.
    pub(crate) fn step(
        &mut self,
        vm: &VmFd,
        memory: &mut GuestMemory,
        bus: &mut Bus,
    ) -> Result<Stop, VcpuError> {
        let view = if self.cpu.cpl() == 3 { View::User } else { View::Supervisor };
        self.scan_rewritten(memory);
        if self.went_on_watched(memory, bus) {
            return Ok(Stop::Again);
        }
        if let Some(fault) = self.refused_use(memory, bus) {
            self.disturbed = true;
            return Ok(self.deliver(memory, bus, fault));
        }
        let wanted = self.root(view);
        let root = match self.shadow.root(memory, wanted) {
            Ok(root) => root,
            Err(Full) => {
                self.reclaim(vm, memory)?;
                self.shadow.root(memory, wanted).expect("all pages are free")
            }
        };
        if self.shadow.has_changed() && self.tell(memory, root)? {
            return Ok(Stop::Again);
        }
        let (regs, sregs) = self.vcpu.both_mut();
        self.stepped = self.cpu.watches_fpu(regs) || self.stepping;
        let real = self.cpu.real_flags(regs.rflags);
        let hidden = regs.rflags & (guest::FLAG_AC | guest::FLAG_NT) & !real;
        regs.rflags = real;
        if self.stepped {
            regs.rflags |= guest::FLAG_TF;
        }
        tables::enter(sregs, &self.cpu);
        sregs.cr3 = root;
        self.vcpu.store()?;
        loop {
            let wired = Wired { bus: &mut *bus, memory: &mut *memory };
            let mut devices = MemoryOnly { wired, trapped: false };
            let stopped = self.vcpu.enter(&mut devices);
            let vector = tables::vector_of(self.vcpu.regs_mut().rip);
            let device = stopped == Stopped::Device;
            return Ok(match (stopped, vector) {
                (Stopped::Device, Some(vector)) => self.trap(vm, memory, bus, vector, hidden)?,
                // The signal came between a trap and its stub.
                (Stopped::Kicked, Some(_)) => continue,
                // The same, before the CPU was at the stub: whatever happens to the guest comes behind that.
                (Stopped::Kicked, None) if self.vcpu.core().events.exception.injected != 0 => continue,
                (Stopped::Device | Stopped::Kicked | Stopped::Stepped, None) => {
                    self.disturbed |= device;
                    let stepping = self.own_flags();
                    let regs = self.vcpu.regs_mut();
                    regs.rflags = regs.rflags & !stepping | hidden;
                    Stop::Again
                }
                (Stopped::Stepped, Some(_)) => Stop::Stuck("a trap was stepped through".into()),
                (Stopped::Shutdown, _) => Stop::Stuck("the monitor's own tables are broken".into()),
                (Stopped::Halt, _) => Stop::Stuck("the vCPU halted at CPL 3".into()),
                (Stopped::NotEmulated, _) => {
                    let rip = self.vcpu.regs_mut().rip;
                    Stop::Stuck(format!("KVM's emulator does not know the instruction at {rip:#x}"))
                }
                (Stopped::Stuck(reason), _) => Stop::Stuck(reason),
            });
        }
    }

    /// Flags that are set for us, and not by the guest.
    fn own_flags(&self) -> u64 {
        if self.stepped { guest::FLAG_TF } else { 0 }
    }

    fn trap(
        &mut self,
        vm: &VmFd,
        memory: &mut GuestMemory,
        bus: &mut Bus,
        vector: u8,
        hidden: u64,
    ) -> Result<Stop, VcpuError> {
        self.stats.traps += 1;
        let frame = tables::frame(memory, vector);
        if run_loop::is_inside(frame.rip) && !(vector == VECTOR_DB && self.stepped) {
            // It ends with a `hlt`; whatever else happens there is the guest's doing.
            return Ok(match vector {
                VECTOR_GP => Stop::Loop,
                _ => Stop::Stuck("it has changed what the run loop goes by".into()),
            });
        }
        self.disturbed = true;
        let stepping = self.own_flags();
        let (regs, sregs) = self.vcpu.both_mut();
        (regs.rip, regs.rsp, regs.rflags) = (frame.rip, frame.rsp, frame.rflags & !stepping | hidden);
        let address = sregs.cr2;
        if vector == VECTOR_BP {
            return Ok(Stop::Int3);
        }
        if vector == VECTOR_DB && self.stepped {
            return Ok(Stop::Again);
        }
        if vector == VECTOR_PF {
            return self.page_fault(vm, memory, bus, address, frame.error_code);
        }
        if vector == VECTOR_AC && self.cpu.cpl() != 3 {
            // It was set by an instruction that did not trap, and is hidden from now on.
            return Ok(Stop::Again);
        }
        if !matches!(vector, VECTOR_UD | VECTOR_NM | 10..=13) {
            return Ok(self.deliver(memory, bus, Fault { vector, code: frame.error_code, address: 0 }));
        }
        self.stats.emulated += 1;
        self.cpu.sti_before_hlt = None;
        let mut guest = self.guest(memory, bus);
        let done = if frame.rip & !(PAGE_BYTES - 1) == tables::SYSCALL_VA {
            guest.regs.rip = guest.regs.rcx.wrapping_sub(SYSCALL_BYTES);
            guest.regs.rflags = guest.regs.r11 & !stepping | hidden;
            guest.system_call(SYSCALL_BYTES).map(|()| Done::Jumped)
        } else {
            guest.emulate()
        };
        let asks = guest.asks;
        let fault = match done {
            Ok(Done::Next | Done::Jumped) => None,
            Ok(Done::Unknown) => Some(Fault { vector, code: frame.error_code, address: 0 }),
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            return Ok(self.deliver(memory, bus, fault));
        }
        if let Some(wanted) = asks.xstate {
            self.move_xstate(memory, bus, wanted)?;
        }
        self.fulfil(memory, asks);
        if !asks.devices && !asks.halt {
            self.go_on(memory, bus);
        }
        Ok(if asks.halt { Stop::Halt } else { Stop::Again })
    }

    /// Lets the guest handle `fault`, and what comes of it.
    fn deliver(&mut self, memory: &mut GuestMemory, bus: &mut Bus, fault: Fault) -> Stop {
        self.stats.delivered += 1;
        let mut guest = self.guest(memory, bus);
        let rip = guest.regs.rip;
        if fault.vector == VECTOR_PF {
            guest.cpu.cr2 = fault.address;
        }
        let registers = registers_from(guest.regs, guest.sregs);
        let Err(_second) = guest.deliver(fault.vector, fault.code) else {
            let Fault { vector, code, address } = fault;
            let frame = guest.regs.rsp.wrapping_add(if has_error_code(vector) { 8 } else { 0 });
            self.cpu.raised = Some(Raised { vector, code, address, frame, registers });
            return Stop::Again;
        };
        match guest.deliver(VECTOR_DF, 0) {
            Ok(()) => Stop::Again,
            Err(_third) => {
                Stop::TripleFault { vector: fault.vector, code: fault.code, rip, address: fault.address }
            }
        }
    }

    /// Does what comes next, as long as that is cheaper than letting the guest do it.
    fn go_on(&mut self, memory: &mut GuestMemory, bus: &mut Bus) {
        for _ in 0..ROUNDS_MAX {
            if self.stepping {
                break;
            }
            let mut guest = self.guest(memory, bus);
            let emulated = guest.go_on();
            let asks = guest.asks;
            self.stats.emulated += emulated;
            self.fulfil(memory, asks);
            if !asks.wants_flush() || asks.devices {
                break;
            }
        }
    }

    /// Throws away what the guest has asked to be thrown away.
    fn fulfil(&mut self, memory: &mut GuestMemory, asks: Asks) {
        if asks.flush {
            self.revalidate(memory);
        }
        if let Some(address) = asks.flush_page {
            for view in [View::Supervisor, View::User] {
                self.shadow.unmap(memory, self.root(view), address);
            }
        }
    }
}
