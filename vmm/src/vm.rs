//! A virtual machine with its memory and its one vCPU: run it, and say what happened.
//!
//! This is where exits become events: a trap stub's exit is read as the frame that the CPU pushed,
//! a hypercall as its number and arguments. `cpuid` is served here, from the model. What a
//! hypercall *means* is for [`crate::boot`] and [`crate::replica`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_enable_cap, kvm_regs,
    kvm_sregs,
};
use kvm_ioctls::VmFd;

use crate::addr::{Gpa, PAGE_BYTES, to_page_end};
use crate::boot::MachineInfo;
use crate::caps::Kvm;
use crate::faults::FaultDoors;
use crate::introspect::{ReadMemory, Registers};
use crate::layout::Layout;
use crate::machine;
use crate::memory::GuestMemory;
use crate::pool::{SpawnTimes, timed};
use crate::reset::Tracked;
use crate::sys::ring::{self, DirtyRing};
use crate::sys::slots;
use crate::vcpu::{CoreState, Exit, Vcpu, VcpuError};

mod outcome;
mod traps;

/// The slot of RAM.
pub(crate) const RAM_SLOT: u32 = 0;
/// The slot of the windows.
pub(crate) const WINDOWS_SLOT: u32 = 1;
/// The slot of golden memory.
pub(crate) const GOLDEN_SLOT: u32 = 2;

/// `cpuid` instructions served in one run, at most: a guest that spins on them runs into its
/// deadline anyway, but must not keep the host in this loop when it has none.
const CPUID_SERVED_MAX: usize = 1 << 20;

/// What made a VM stop.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A hypercall: its number and three arguments.
    Hypercall { number: u64, args: [u64; 3] },
    /// An exception, with the registers at the faulting instruction.
    Exception { vector: u8, error_code: u32, address: u64, registers: Registers },
    /// The deadline passed.
    Deadline,
    /// The vCPU cannot go on.
    Lost { reason: String },
}

/// How RAM is watched for writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// Not at all.
    Off,
    /// `KVM_MEM_LOG_DIRTY_PAGES`, cleared by hand where the host can.
    Log,
    /// The same, told through the vCPU's dirty ring.
    Ring,
}

/// A VM, its vCPU and its memory.
#[derive(Debug)]
pub(crate) struct Vm {
    // In the order in which they must go: the vCPU before its VM, both before the memory that KVM
    // has the addresses of.
    pub(crate) vcpu: Vcpu,
    pub(crate) fd: VmFd,
    pub(crate) memory: GuestMemory,
    pub(crate) layout: Arc<Layout>,
    // With Tracking::Ring: the ring, and the pages of RAM it has named since they were last taken.
    ring: Option<DirtyRing>,
    ring_pages: Vec<u64>,
    // Guest-physical address of the page that traps push their frame to.
    trap_stack: Gpa,
    // Guest-physical address of the control page.
    control: Gpa,
    // Where the libOS wants exceptions; none without a libOS.
    doors: Option<FaultDoors>,
    // A #DB was handed over: DR6 has changed.
    handed_debug: bool,
    manual: bool,
}

impl Vm {
    /// A VM over `memory`, with a vCPU at reset state.
    pub(crate) fn create(
        kvm: &Kvm,
        memory: GuestMemory,
        info: &MachineInfo,
        tracking: Tracking,
    ) -> Result<Self, VcpuError> {
        Self::create_timed(kvm, memory, info, tracking, &mut SpawnTimes::default())
    }

    /// [`Self::create`], and adds how long each part of it took to `times`.
    pub(crate) fn create_timed(
        kvm: &Kvm,
        memory: GuestMemory,
        info: &MachineInfo,
        tracking: Tracking,
        times: &mut SpawnTimes,
    ) -> Result<Self, VcpuError> {
        let error = |ioctl: &'static str| move |source: io::Error| VcpuError { ioctl, source };
        let (fd, manual) = timed(&mut times.vm, || Self::create_fd(kvm, tracking))?;
        timed(&mut times.memory, || Self::set_slots(&fd, &memory, tracking))?;
        let vcpu = timed(&mut times.vcpu, || {
            Vcpu::create(&fd, info.config.cpu_model.unwrap_or(kvm.caps().cpu_model))
        })?;
        let ring = match tracking {
            Tracking::Ring => Some(vcpu.map_ring().map_err(error("mmap"))?),
            _ => None,
        };
        let words = if ring.is_some() { memory.len().div_ceil(PAGE_BYTES * 64) } else { 0 };
        let ring_pages = vec![0; usize::try_from(words).unwrap_or(0)];
        let layout = Arc::new(Layout::default());
        let (trap_stack, control) = Default::default();
        let (doors, handed_debug) = (None, false);
        let mut vm = Self {
            vcpu,
            fd,
            memory,
            layout,
            ring,
            ring_pages,
            trap_stack,
            control,
            doors,
            handed_debug,
            manual,
        };
        vm.retarget(info);
        Ok(vm)
    }

    /// The VM itself, and whether its dirty log is cleared by hand.
    pub(crate) fn create_fd(kvm: &Kvm, tracking: Tracking) -> Result<(VmFd, bool), VcpuError> {
        let error = |ioctl: &'static str| move |source: io::Error| VcpuError { ioctl, source };
        let fd = kvm.fd.create_vm().map_err(|e| error("KVM_CREATE_VM")(e.into()))?;
        let manual = tracking == Tracking::Log && kvm.caps().manual_dirty_log;
        if manual {
            let cap = kvm_enable_cap {
                cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                args: [1, 0, 0, 0],
                ..Default::default()
            };
            fd.enable_cap(&cap).map_err(|e| error("KVM_ENABLE_CAP")(e.into()))?;
        }
        if tracking == Tracking::Ring {
            ring::enable(&fd).map_err(error("KVM_ENABLE_CAP"))?;
        }
        Ok((fd, manual))
    }

    /// Shows KVM the guest's memory.
    fn set_slots(fd: &VmFd, memory: &GuestMemory, tracking: Tracking) -> Result<(), VcpuError> {
        let flags = if tracking == Tracking::Off { 0 } else { KVM_MEM_LOG_DIRTY_PAGES };
        let set = |source: io::Error| VcpuError { ioctl: "KVM_SET_USER_MEMORY_REGION", source };
        // SAFETY: `create_timed`, the only caller, makes `memory` a field of the result, dropped after the
        // VM and its vCPU; until then it drops `fd` before `memory`, which is its argument.
        unsafe { slots::set(fd, RAM_SLOT, &memory.ram, flags) }.map_err(set)?;
        // SAFETY: as above.
        unsafe { slots::set(fd, WINDOWS_SLOT, &memory.windows, 0) }.map_err(set)?;
        if let Some(golden) = &memory.golden {
            // SAFETY: as above.
            unsafe { slots::set(fd, GOLDEN_SLOT, golden, KVM_MEM_READONLY) }.map_err(set)?;
        }
        Ok(())
    }

    /// The memory under this VM is another snapshot's now.
    pub(crate) fn retarget(&mut self, info: &MachineInfo) {
        self.layout = Arc::clone(&info.layout);
        self.trap_stack = self.layout.translate(machine::TRAP_STACK_VA).unwrap_or_default();
        self.control = info.windows.control;
        self.doors = info.doors;
    }

    /// The dirty log is cleared by hand.
    pub(crate) fn manual_dirty_log(&self) -> bool {
        self.manual
    }

    /// Moves what the dirty ring names to [`Self::ring_pages`].
    fn collect_ring(&mut self) -> io::Result<()> {
        match &mut self.ring {
            Some(ring) => ring.collect(&self.fd, RAM_SLOT, &mut self.ring_pages),
            None => Ok(()),
        }
    }

    /// The pages that were dirtied since this was last called, a bit each, for the caller to clear.
    pub(crate) fn take_ring_pages(&mut self) -> io::Result<(&mut [u64], &GuestMemory)> {
        self.collect_ring()?;
        Ok((&mut self.ring_pages, &self.memory))
    }

    /// Runs until something happens that is not `cpuid`, within `deadline`. On the data plane.
    pub(crate) fn run(&mut self, deadline: Duration) -> Event {
        self.vcpu.arm(deadline);
        let event = self.run_armed();
        self.vcpu.disarm();
        event
    }

    /// [`Self::run`] for a caller that keeps the clock itself.
    pub(crate) fn run_armed(&mut self) -> Event {
        for _ in 0..CPUID_SERVED_MAX {
            let event = match self.vcpu.run() {
                Exit::Doorbell => {
                    let regs = self.vcpu.regs_mut();
                    Event::Hypercall { number: regs.rax, args: [regs.rdi, regs.rsi, regs.rdx] }
                }
                Exit::Stub { vector } => {
                    let registers = self.trapped_registers();
                    let error_code = if machine::has_error_code(vector) {
                        u32::try_from(self.frame_word(6)).unwrap_or(u32::MAX)
                    } else {
                        0
                    };
                    if vector == 13 && error_code == 0 && self.serve_cpuid(&registers) {
                        continue;
                    }
                    let address = self.vcpu.sregs_mut().cr2;
                    if self.hand_over(vector, error_code, address, &registers) {
                        continue;
                    }
                    Event::Exception { vector, error_code, address, registers }
                }
                Exit::RingFull => match self.collect_ring() {
                    Ok(()) => continue,
                    Err(e) => Event::Lost { reason: format!("KVM_RESET_DIRTY_RINGS: {e}") },
                },
                Exit::Deadline => Event::Deadline,
                Exit::Shutdown => Event::Lost { reason: "triple fault".into() },
                Exit::Mmio { at, write } => {
                    let verb = if write { "wrote" } else { "read" };
                    Event::Lost { reason: format!("it {verb} guest-physical {at:#x}, where nothing is") }
                }
                Exit::Stuck { reason } => Event::Lost { reason },
            };
            return event;
        }
        Event::Deadline
    }

    /// Answers the hypercall the vCPU is in.
    pub(crate) fn answer(&mut self, result: u64) -> Result<(), VcpuError> {
        self.vcpu.regs_mut().rax = result;
        self.vcpu.store()
    }

    /// Copies from the guest's linear memory through the layout, never from golden memory that is
    /// not there yet.
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        let mut at = address;
        let mut done = 0;
        while done < out.len() {
            let Some(gpa) = self.layout.translate(at) else { return false };
            let count = (out.len() - done).min(to_page_end(at) as usize);
            if self.memory.read(gpa, &mut out[done..done + count]).is_err() {
                return false;
            }
            done += count;
            at = at.wrapping_add(count as u64);
        }
        true
    }
}

impl ReadMemory for Vm {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        Self::read(self, gva, out)
    }
}

impl Tracked for Vm {
    fn fd(&self) -> &VmFd {
        &self.fd
    }
    fn memory(&self) -> &GuestMemory {
        &self.memory
    }
    fn memory_mut(&mut self) -> &mut GuestMemory {
        &mut self.memory
    }
    fn manual_dirty_log(&self) -> bool {
        self.manual
    }
    fn take_ring_pages(&mut self) -> io::Result<(&mut [u64], &GuestMemory)> {
        Self::take_ring_pages(self)
    }
}

/// The general registers as reports use them.
pub(crate) fn registers_of(core: &CoreState) -> Registers {
    registers_from(&core.regs, &core.sregs)
}

/// The same from its parts.
pub(crate) fn registers_from(regs: &kvm_regs, sregs: &kvm_sregs) -> Registers {
    Registers {
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rbp: regs.rbp,
        rsp: regs.rsp,
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rip: regs.rip,
        rflags: regs.rflags,
        fs_base: sregs.fs.base,
        gs_base: sregs.gs.base,
    }
}
