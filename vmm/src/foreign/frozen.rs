//! A foreign machine, frozen: what forks of it begin with.

use std::sync::Arc;

use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_segment, kvm_sregs};
use serde::{Deserialize, Serialize};

use super::bus::{Bus, BusImage};
use super::cpu::{Cpu, Start};
use super::cpuid::Cpuid;
use super::monitor::Monitor;
use super::monitor::state::Virtual;
use super::{ForeignError, Machine, Protocol, set_slots};
use crate::agent::Agent;
use crate::caps::Kvm;
use crate::memory::{GuestMemory, MemoryError, MemoryImage};
use crate::sys::memfd;
use crate::vcpu::{CoreState, MSR_TSC_ADJUST, VcpuState};
use crate::vm::{Tracking, Vm};

/// All of a machine but its memory: plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    pub(crate) bus: BusImage,
    pub(crate) cpuid: Cpuid,
    pub(crate) vcpu: VcpuState,
    /// What the monitor knows of the CPU; `None` when it is run natively.
    pub(crate) monitor: Option<Virtual>,
}

impl MachineState {
    /// The same without what the time of day decides when a guest sets its time stamp counter: by how much it did.
    #[must_use]
    pub fn without_clock(mut self) -> Self {
        self.vcpu.msrs.retain(|&(index, _)| index != MSR_TSC_ADJUST);
        self
    }
}

/// One machine, frozen. It never changes; forks map its memory copy-on-write.
#[derive(Debug)]
pub struct Frozen {
    pub(super) memory: MemoryImage,
    pub(super) state: MachineState,
    pub(super) agent: Agent,
    pub(super) protocol: Protocol,
}

impl Machine {
    /// All of the machine but its memory, as it is now.
    ///
    /// # Errors
    ///
    /// [`ForeignError::Vcpu`].
    pub fn state(&mut self) -> Result<MachineState, ForeignError> {
        let monitored = self.cpu.monitor_stats().is_some();
        let vcpu = self.cpu.vcpu();
        // The monitor's changes to registers have not reached KVM, which is still in a stub.
        let core = if monitored { vcpu.core() } else { vcpu.settled_core() };
        let mut saved = if monitored { vcpu.save(core)? } else { vcpu.save_kernel(core)? };
        vcpu.load(&core)?;
        // What was last loaded: CR8 is the local APIC's, which is on the bus.
        saved.core.sregs.cr8 = 0;
        let monitor = match &self.cpu {
            Cpu::Native(_) => None,
            Cpu::Monitored(monitor) => {
                // The real CPU's tables, segments and events are the monitor's own affair.
                let base = |base| kvm_segment { base, ..kvm_segment::default() };
                let sregs = core.sregs;
                let sregs =
                    kvm_sregs { fs: base(sregs.fs.base), gs: base(sregs.gs.base), ..kvm_sregs::default() };
                saved.core = CoreState { regs: core.regs, sregs, ..CoreState::default() };
                saved.debug = kvm_debugregs::default();
                saved.msrs.clear();
                Some(monitor.cpu().clone())
            }
        };
        Ok(MachineState { bus: self.bus.image(), cpuid: self.cpu.cpuid(), vcpu: saved, monitor })
    }

    /// Freezes the machine.
    ///
    /// # Errors
    ///
    /// [`ForeignError`], when the host is to blame.
    pub fn freeze(mut self) -> Result<Frozen, ForeignError> {
        let state = self.state()?;
        let Self { cpu, fd, memory, file, protocol, agent, .. } = self;
        let bytes = memory.len();
        drop((cpu, fd));
        let frozen = match file {
            Some(file) => {
                drop(memory);
                file
            }
            // A fork: its memory is its own, and is copied.
            None => {
                let file = memfd::create(c"unifork-memory", bytes).map_err(|source| MemoryError::Io {
                    op: "make a file of",
                    bytes,
                    source,
                })?;
                memory.copy_to(&file)?;
                file
            }
        };
        memfd::seal(&frozen).map_err(|source| MemoryError::Io { op: "seal", bytes, source })?;
        let memory = MemoryImage::map(frozen, 0, bytes)?;
        Ok(Frozen { memory, state, agent, protocol })
    }
}

impl Frozen {
    /// What the machine was besides its memory.
    #[must_use]
    pub fn state(&self) -> &MachineState {
        &self.state
    }

    /// A machine that goes on where this one was frozen.
    ///
    /// # Errors
    ///
    /// [`ForeignError`], when the host is to blame.
    pub fn fork(self: &Arc<Self>, kvm: &Kvm) -> Result<Machine, ForeignError> {
        Ok(self.fork_tracked(kvm, Tracking::Off, 0)?.0)
    }

    /// The same, with writes to RAM watched and `windows` bytes of windows behind the monitor's; and whether the
    /// log of writes is cleared by hand.
    pub(super) fn fork_tracked(
        self: &Arc<Self>,
        kvm: &Kvm,
        tracking: Tracking,
        windows: u64,
    ) -> Result<(Machine, bool), ForeignError> {
        let mut memory = GuestMemory::for_fork(&self.memory, super::monitor::WINDOWS_BYTES + windows)?;
        let (fd, manual) = Vm::create_fd(kvm, tracking)?;
        set_slots(&fd, &memory, tracking)?;
        let state = &self.state;
        let start = Start::default();
        let cpu = match &state.monitor {
            Some(known) => {
                let mut monitor = Monitor::create(&fd, &mut memory, state.cpuid, &start)?;
                monitor.resume(known.clone(), &state.vcpu)?;
                Cpu::Monitored(Box::new(monitor))
            }
            None => {
                let mut cpu = Cpu::native(&fd, state.cpuid, &start)?;
                cpu.vcpu().restore(&state.vcpu)?;
                cpu.vcpu().keep_tsc();
                cpu
            }
        };
        let bus = Bus::restore(&state.bus);
        let (protocol, code) = (self.protocol, Vec::new());
        let (file, agent) = (None, self.agent.clone());
        let (breakpoints, wanted) = Default::default();
        let machine = Machine { cpu, fd, memory, file, bus, protocol, code, agent, breakpoints, wanted };
        Ok((machine, manual))
    }
}

/// What of the real registers belongs to a monitored guest.
pub(super) fn guest_registers(vcpu: &VcpuState) -> (kvm_regs, u64, u64) {
    (vcpu.core.regs, vcpu.core.sregs.fs.base, vcpu.core.sregs.gs.base)
}
