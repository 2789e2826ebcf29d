//! One virtual CPU: run it until it exits, save its state, put it back.
//!
//! A vCPU knows nothing of guest memory, snapshots or inputs. It decodes why `KVM_RUN` returned;
//! what that means is [`crate::vm`]'s business.
//!
//! On the data plane ([`Vcpu::load`], [`Vcpu::run`], [`Vcpu::core`]): no allocation, and with
//! `KVM_CAP_SYNC_REGS` no system call but `KVM_RUN` itself.

use std::io;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_CAP_SYNC_REGS, KVM_EXIT_DIRTY_RING_FULL, Xsave, kvm_regs, kvm_sregs};
use kvm_ioctls::{Cap, SyncReg, VcpuExit, VcpuFd, VmFd};
use thiserror::Error;
use unifork_abi::TRAP_PORT;

pub mod cpuid;
pub(crate) mod enter;
mod state;

use crate::machine;
use crate::memory::DOORBELL_GPA;
use crate::sys::kick::Deadline;
use crate::sys::ring::DirtyRing;
use crate::sys::{tsc, xsave};
use cpuid::CpuModel;
pub(crate) use state::MSR_TSC_ADJUST;
pub use state::{CoreState, VcpuState};

/// KVM refused something: the host's trouble, never the guest's doing.
#[derive(Debug, Error)]
#[error("{ioctl} failed")]
pub struct VcpuError {
    /// Which ioctl.
    pub ioctl: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

pub(crate) fn failed(ioctl: &'static str) -> impl Fn(kvm_ioctls::Error) -> VcpuError {
    move |e| VcpuError { ioctl, source: e.into() }
}

/// Why `KVM_RUN` returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest stored to the doorbell: a hypercall. The store is done, the registers are current.
    Doorbell,
    /// A trap stub ran: the guest took an exception.
    Stub {
        /// Which one.
        vector: u8,
    },
    /// The deadline passed.
    Deadline,
    /// A triple fault (`KVM_EXIT_SHUTDOWN`).
    Shutdown,
    /// The guest touched guest-physical memory that is not there (`KVM_EXIT_MMIO`).
    Mmio {
        /// Where.
        at: u64,
        /// It was a write.
        write: bool,
    },
    /// The dirty ring is full and wants to be collected.
    RingFull,
    /// Anything else: the virtual CPU cannot go on.
    Stuck {
        /// KVM's words for it.
        reason: String,
    },
}

/// How many times a half-done exit is completed before giving up: an access that crosses pages
/// comes in pieces of 8 bytes, and the largest is 64 bytes.
const SETTLE_MAX: usize = 16;

/// One vCPU of a VM.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    deadline: Deadline,
    // KVM_CAP_SYNC_REGS: registers travel in the kvm_run page.
    sync: bool,
    // Without SYNC_REGS: what `core` last read.
    shadow: CoreState,
    // RIP as loaded, until the next entry.
    loaded_rip: Option<u64>,
    xsave_bytes: usize,
    model: CpuModel,
    cpuid_faults: bool,
    // What the guest's time stamp counter is ahead of the host's, where that is put back.
    tsc_offset: Option<u64>,
}

impl Vcpu {
    /// Creates the vCPU of `vm`, gives it the CPU model, and leaves it at reset state.
    ///
    /// # Errors
    ///
    /// [`VcpuError`] when KVM refuses.
    pub(crate) fn create(vm: &VmFd, model: CpuModel) -> Result<Self, VcpuError> {
        Self::create_with(vm, model, &model.table())
    }

    /// [`Self::create`], with another table for `cpuid` than the model's own.
    pub(crate) fn create_with(vm: &VmFd, model: CpuModel, table: &CpuId) -> Result<Self, VcpuError> {
        let mut fd = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(table).map_err(failed("KVM_SET_CPUID2"))?;
        let sync = vm.check_extension_raw(KVM_CAP_SYNC_REGS.into()) & 7 == 7;
        if sync {
            fd.set_sync_valid_reg(SyncReg::Register);
            fd.set_sync_valid_reg(SyncReg::SystemRegister);
            fd.set_sync_valid_reg(SyncReg::VcpuEvents);
        }
        let bytes = vm.check_extension_int(Cap::Xsave2);
        let xsave_bytes = usize::try_from(bytes).unwrap_or(0).max(4096);
        // XCR0 is refused where KVM hides XSAVE; the guest then runs with what the CPU has.
        if let Ok(mut xcrs) = fd.get_xcrs() {
            xcrs.nr_xcrs = 1;
            xcrs.xcrs[0].value = model.xcr0();
            let _hidden = fd.set_xcrs(&xcrs);
        }
        let cpuid_faults = [(state::MSR_PLATFORM_INFO, 1 << 31), (state::MSR_MISC_FEATURES_ENABLES, 1)]
            .iter()
            .all(|msr| matches!(fd.set_msrs(&state::msr_list(&[*msr])), Ok(1)));
        let deadline = Deadline::new().map_err(|source| VcpuError { ioctl: "rt_sigaction", source })?;
        Ok(Self {
            fd,
            deadline,
            sync,
            shadow: CoreState::default(),
            loaded_rip: None,
            xsave_bytes,
            model,
            cpuid_faults,
            tsc_offset: None,
        })
    }

    /// Puts a new vCPU at `rip` and `rsp`, at CPL 3, with page tables at `cr3`.
    ///
    /// # Errors
    ///
    /// [`VcpuError`] when KVM refuses.
    pub(crate) fn start(
        &mut self,
        rip: u64,
        rsp: u64,
        cr3: u64,
        syscall_entry: u64,
    ) -> Result<(), VcpuError> {
        // PAE OSFXSR OSXMMEXCPT, and FSGSBASE OSXSAVE where KVM knows them.
        const CR4: u64 = 0x620;
        const CR4_FULL: u64 = CR4 | 1 << 16 | 1 << 18;
        let initial = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        let mut sregs = machine::user_sregs(initial, cr3, CR4_FULL);
        let mut refused = None;
        for cr4 in [CR4_FULL, CR4 | 1 << 18, CR4 | 1 << 16, CR4] {
            sregs.cr4 = cr4;
            refused = self.fd.set_sregs(&sregs).err();
            if refused.is_none() {
                break;
            }
        }
        if let Some(e) = refused {
            return Err(failed("KVM_SET_SREGS")(e));
        }
        self.set_syscall_entry(syscall_entry, 0x4_7700)?; // AC NT IOPL DF IF TF
        let events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        let regs = kvm_regs { rip, rsp, rflags: 2, ..Default::default() };
        self.load(&CoreState { regs, sregs, events })
    }

    /// Makes `syscall` go to `entry`, with the flags in `mask` cleared.
    ///
    /// # Errors
    ///
    /// [`VcpuError`] when KVM refuses.
    pub(crate) fn set_syscall_entry(&mut self, entry: u64, mask: u64) -> Result<(), VcpuError> {
        let msrs =
            [(state::MSR_STAR, machine::STAR), (state::MSR_LSTAR, entry), (state::MSR_SYSCALL_MASK, mask)];
        let set = self.fd.set_msrs(&state::msr_list(&msrs)).map_err(failed("KVM_SET_MSRS"))?;
        if set != msrs.len() {
            let source = io::Error::other(format!("MSR {:#x} was refused", msrs[set].0));
            return Err(VcpuError { ioctl: "KVM_SET_MSRS", source });
        }
        Ok(())
    }

    /// Sets registers and events for the next run. On the data plane.
    ///
    /// # Errors
    ///
    /// [`VcpuError`] when KVM refuses; with `KVM_CAP_SYNC_REGS` it says so at the next run.
    pub fn load(&mut self, core: &CoreState) -> Result<(), VcpuError> {
        self.loaded_rip = Some(core.regs.rip);
        if self.sync {
            let sync = self.fd.sync_regs_mut();
            sync.regs = core.regs;
            sync.sregs = core.sregs;
            sync.events = core.events;
            self.fd.set_sync_dirty_reg(SyncReg::Register);
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
            self.fd.set_sync_dirty_reg(SyncReg::VcpuEvents);
        } else {
            self.fd.set_sregs(&core.sregs).map_err(failed("KVM_SET_SREGS"))?;
            self.fd.set_regs(&core.regs).map_err(failed("KVM_SET_REGS"))?;
            self.fd.set_vcpu_events(&core.events).map_err(failed("KVM_SET_VCPU_EVENTS"))?;
            self.shadow = *core;
        }
        Ok(())
    }

    /// Registers and events as they are. On the data plane.
    #[must_use]
    pub fn core(&self) -> CoreState {
        if self.sync {
            let sync = self.fd.sync_regs();
            CoreState { regs: sync.regs, sregs: sync.sregs, events: sync.events }
        } else {
            self.shadow
        }
    }

    /// General registers as they are, without copying the rest.
    #[must_use]
    pub(crate) fn regs_mut(&mut self) -> &mut kvm_regs {
        if self.sync { &mut self.fd.sync_regs_mut().regs } else { &mut self.shadow.regs }
    }

    pub(crate) fn sregs_mut(&mut self) -> &mut kvm_sregs {
        if self.sync { &mut self.fd.sync_regs_mut().sregs } else { &mut self.shadow.sregs }
    }

    /// Makes changes through [`Self::regs_mut`] and [`Self::sregs_mut`] count.
    pub(crate) fn store(&mut self) -> Result<(), VcpuError> {
        if self.sync {
            self.fd.set_sync_dirty_reg(SyncReg::Register);
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
            Ok(())
        } else {
            let core = self.shadow;
            self.load(&core)
        }
    }

    /// Starts the clock of a run.
    pub(crate) fn arm(&mut self, after: Duration) {
        let flag = &raw mut self.fd.get_kvm_run().immediate_exit;
        self.deadline.arm(after, flag);
    }

    /// Gives an armed run `after` more from now on.
    pub(crate) fn extend(&self, after: Duration) {
        self.deadline.extend(after);
    }

    /// Stops the clock.
    pub(crate) fn disarm(&mut self) {
        self.deadline.disarm();
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Runs until the guest exits or the armed deadline passes. On the data plane.
    pub(crate) fn run(&mut self) -> Exit {
        let loaded_rip = self.loaded_rip.take();
        let mut leftovers = 0;
        loop {
            let exit = match self.fd.run() {
                Ok(VcpuExit::IoOut(TRAP_PORT, _)) => None,
                Ok(VcpuExit::MmioWrite(at, _)) if at == DOORBELL_GPA.0 => Some(Exit::Doorbell),
                Ok(VcpuExit::MmioRead(at, _)) => Some(Exit::Mmio { at, write: false }),
                Ok(VcpuExit::MmioWrite(at, _)) => Some(Exit::Mmio { at, write: true }),
                Ok(VcpuExit::Shutdown) => Some(Exit::Shutdown),
                Ok(VcpuExit::Intr) => Some(Exit::Deadline),
                Ok(VcpuExit::InternalError) => {
                    // SAFETY: `internal` is the valid variant for this exit reason, and is plain data.
                    let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
                    Some(Exit::Stuck { reason: format!("KVM_EXIT_INTERNAL_ERROR, suberror {suberror}") })
                }
                Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => Some(Exit::RingFull),
                Ok(other) => Some(Exit::Stuck { reason: format!("{other:?}") }),
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => Some(Exit::Deadline),
                Err(e) => Some(Exit::Stuck { reason: format!("KVM_RUN: {}", io::Error::from(e)) }),
            };
            if !self.sync {
                self.refresh();
            }
            match exit {
                None => {
                    let rip = self.regs_mut().rip;
                    return match machine::vector_of(rip) {
                        Some(vector) => Exit::Stub { vector },
                        None => Exit::Stuck { reason: format!("an `out` at {rip:#x}") },
                    };
                }
                Some(Exit::Deadline) => {
                    self.fd.set_kvm_immediate_exit(0);
                    if self.deadline.passed() {
                        return Exit::Deadline;
                    }
                }
                Some(exit @ (Exit::Doorbell | Exit::RingFull)) => return exit,
                // The rest of a store that began in the run before: a doorbell rung with 16 bytes is
                // two exits, and nothing tells after the first. No instruction has run since the
                // registers were loaded.
                Some(Exit::Mmio { write: true, .. })
                    if leftovers < SETTLE_MAX && loaded_rip == Some(self.regs_mut().rip) =>
                {
                    leftovers += 1;
                }
                Some(exit) => {
                    self.abandon();
                    return exit;
                }
            }
        }
    }

    pub(crate) fn refresh(&mut self) {
        if let Ok(regs) = self.fd.get_regs() {
            self.shadow.regs = regs;
        }
        if let Ok(sregs) = self.fd.get_sregs() {
            self.shadow.sregs = sregs;
        }
        if let Ok(events) = self.fd.get_vcpu_events() {
            self.shadow.events = events;
        }
    }

    /// Completes an exit whose results nobody wants; registers still read as they are now. A repeated
    /// instruction goes on for as long as RCX says, so it is told to end.
    fn abandon(&mut self) {
        let core = self.core();
        self.regs_mut().rcx = 1;
        let stored = self.store();
        self.settle();
        if self.sync {
            let sync = self.fd.sync_regs_mut();
            (sync.regs, sync.sregs, sync.events) = (core.regs, core.sregs, core.events);
        } else if stored.is_ok() {
            self.shadow = core;
        }
    }

    /// Completes an exit that KVM would otherwise finish on top of the registers loaded next: an
    /// MMIO read, say, writes its destination register when the vCPU is run again.
    fn settle(&mut self) {
        for _ in 0..SETTLE_MAX {
            self.fd.set_kvm_immediate_exit(1);
            let again = self.fd.run().is_ok();
            self.fd.set_kvm_immediate_exit(0);
            if !again {
                break;
            }
        }
        if !self.sync {
            self.refresh();
        }
    }

    /// Whether `cpuid` at CPL 3 traps, so that the VMM serves it.
    pub(crate) fn cpuid_faults(&self) -> bool {
        self.cpuid_faults
    }

    /// Registers and events as KVM itself has them, after anything loaded has reached it.
    pub(crate) fn settled_core(&mut self) -> CoreState {
        self.settle();
        self.core()
    }

    /// Its dirty ring, if its VM has one.
    pub(crate) fn map_ring(&self) -> io::Result<DirtyRing> {
        DirtyRing::map(&self.fd)
    }

    /// The CPU model.
    #[must_use]
    pub fn model(&self) -> CpuModel {
        self.model
    }

    /// Saves everything. The vCPU must have stopped at a trap stub; what is saved as registers is
    /// `core`, which the caller may have moved on from there.
    pub(crate) fn save(&mut self, core: CoreState) -> Result<VcpuState, VcpuError> {
        self.settle();
        let mut msrs = Vec::new();
        for index in state::MSRS {
            let mut list = state::msr_list(&[(index, 0)]);
            if matches!(self.fd.get_msrs(&mut list), Ok(1)) {
                msrs.push((index, list.as_slice()[0].data));
            }
        }
        let mut xcrs = self.fd.get_xcrs().unwrap_or_default();
        xcrs.flags = 0;
        Ok(VcpuState {
            model: self.model,
            core,
            xsave: self.xsave_words()?,
            xcrs,
            msrs,
            debug: self.fd.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?,
        })
    }

    /// Saves everything of a guest that runs at CPL 0.
    pub(crate) fn save_kernel(&mut self, core: CoreState) -> Result<VcpuState, VcpuError> {
        let mut saved = self.save(core)?;
        for index in state::KERNEL_MSRS {
            let mut list = state::msr_list(&[(index, 0)]);
            let known = matches!(self.fd.get_msrs(&mut list), Ok(1));
            if known && matches!(self.fd.set_msrs(&list), Ok(1)) {
                saved.msrs.push((index, list.as_slice()[0].data));
            }
        }
        Ok(saved)
    }

    /// Puts everything back, in the order that [`state`] explains. For a new vCPU, and for the
    /// specification of reset.
    pub(crate) fn restore(&mut self, state: &VcpuState) -> Result<(), VcpuError> {
        let area = self.xsave_from(state)?;
        if state.xcrs.nr_xcrs > 0 {
            let _hidden = self.fd.set_xcrs(&state.xcrs);
        }
        self.load_xsave(&area)?;
        self.fd.set_sregs(&state.core.sregs).map_err(failed("KVM_SET_SREGS"))?;
        let set = self.fd.set_msrs(&state::msr_list(&state.msrs)).map_err(failed("KVM_SET_MSRS"))?;
        if let Some((index, _)) = state.msrs.get(set) {
            let source = io::Error::other(format!("MSR {index:#x} was refused"));
            return Err(VcpuError { ioctl: "KVM_SET_MSRS", source });
        }
        if let Some(offset) = self.tsc_offset {
            tsc::set_offset(&self.fd, offset)
                .map_err(|source| VcpuError { ioctl: "KVM_SET_DEVICE_ATTR", source })?;
        }
        self.load_debug(state)?;
        self.load(&state.core)
    }

    /// From now on, [`Self::restore`] sets the time stamp counter to what it would be by now, had the guest not set it.
    pub(crate) fn keep_tsc(&mut self) {
        self.tsc_offset = tsc::offset(&self.fd);
    }

    /// Puts DR6 and friends back.
    pub(crate) fn load_debug(&mut self, state: &VcpuState) -> Result<(), VcpuError> {
        self.fd.set_debug_regs(&state.debug).map_err(failed("KVM_SET_DEBUGREGS"))
    }

    /// Sets the XSAVE area from what [`Self::xsave_words`] says.
    pub(crate) fn load_xsave_words(&mut self, words: &[u32]) -> Result<(), VcpuError> {
        let area = xsave::from_words(words, self.xsave_bytes)
            .map_err(|source| VcpuError { ioctl: "KVM_SET_XSAVE", source })?;
        self.load_xsave(&area)
    }

    /// The XSAVE area, as `struct kvm_xsave` in 32-bit words.
    pub(crate) fn xsave_words(&self) -> Result<Vec<u32>, VcpuError> {
        let mut area = self.xsave_buffer()?;
        xsave::get(&self.fd, &mut area).map_err(|source| VcpuError { ioctl: "KVM_GET_XSAVE2", source })?;
        Ok(xsave::words(&area))
    }

    /// Puts x87, SSE and AVX state back. One ioctl.
    pub(crate) fn load_xsave(&mut self, area: &Xsave) -> Result<(), VcpuError> {
        xsave::set(&self.fd, area).map_err(|source| VcpuError { ioctl: "KVM_SET_XSAVE", source })
    }

    /// `state`'s XSAVE area as [`Self::load_xsave`] takes it.
    pub(crate) fn xsave_from(&self, state: &VcpuState) -> Result<Xsave, VcpuError> {
        xsave::from_words(&state.xsave, self.xsave_bytes)
            .map_err(|source| VcpuError { ioctl: "KVM_SET_XSAVE", source })
    }

    /// Bytes of its XSAVE area.
    pub(crate) fn xsave_bytes(&self) -> usize {
        self.xsave_bytes
    }

    fn xsave_buffer(&self) -> Result<Xsave, VcpuError> {
        xsave::buffer(self.xsave_bytes).map_err(|source| VcpuError { ioctl: "KVM_GET_XSAVE2", source })
    }
}
