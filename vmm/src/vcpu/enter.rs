//! Running a vCPU whose guest has devices: port and memory accesses are served on the way.

use std::io;

use kvm_bindings::{
    CpuId, KVM_CAP_X86_USER_SPACE_MSR, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_enable_cap,
    kvm_guest_debug, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{
    MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, SyncReg, VcpuExit, VmFd,
};

use super::{CoreState, SETTLE_MAX, Vcpu, VcpuError, failed};

/// What is behind ports and device memory. Sizes are 1, 2 or 4 bytes for ports.
pub(crate) trait Devices {
    fn port_read(&mut self, port: u16, size: u8) -> u32;
    fn port_write(&mut self, port: u16, size: u8, value: u32);
    fn memory_read(&mut self, at: u64, data: &mut [u8]);
    fn memory_write(&mut self, at: u64, data: &[u8]);
    /// An MSR that KVM does not have, or was told to hand over; `None` raises #GP.
    fn msr_read(&mut self, _index: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _index: u32, _value: u64) -> Option<()> {
        None
    }
    /// CR8, where that is a device's: part of the local APIC. The guest writes it without an exit.
    fn cr8(&self) -> Option<u64> {
        None
    }
    fn set_cr8(&mut self, _value: u64) {}
    /// Whether the last access was a trap's, whose registers nobody goes on with.
    fn is_trap(&self) -> bool {
        false
    }
}

/// Why the vCPU stopped, once its devices were served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// For a device, which has been served.
    Device,
    /// It waits for an interrupt.
    Halt,
    /// A triple fault.
    Shutdown,
    /// The deadline's signal, or interrupts can be taken now.
    Kicked,
    /// Behind one instruction, as [`Vcpu::single_step`] asked.
    Stepped,
    /// KVM's emulator met an instruction that it does not know.
    NotEmulated,
    /// Anything else.
    Stuck(String),
}

/// Has KVM ask for MSR `index`, and for those that a vCPU without an APIC of KVM's does not have, instead of serving or refusing them.
pub(crate) fn hand_over_msr(vm: &VmFd, index: u32) -> Result<(), VcpuError> {
    let reasons = MsrExitReason::Inval | MsrExitReason::Filter;
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [reasons.bits().into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap).map_err(failed("KVM_ENABLE_CAP"))?;
    let flags = MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE;
    let range = MsrFilterRange { flags, base: index, msr_count: 1, bitmap: &[0] };
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[range]).map_err(failed("KVM_X86_SET_MSR_FILTER"))
}

impl Vcpu {
    /// Runs until something happens, and serves it if it is a device's. Registers are then current, and
    /// may be changed.
    pub(crate) fn enter(&mut self, devices: &mut dyn Devices) -> Stopped {
        let mut stopped = self.enter_once(devices);
        if stopped == Stopped::Device && !devices.is_trap() {
            // The access is completed by the next KVM_RUN, which is told to do nothing else; a wide one
            // comes in pieces.
            for _ in 0..SETTLE_MAX {
                self.fd.set_kvm_immediate_exit(1);
                let again = self.enter_once(devices);
                self.fd.set_kvm_immediate_exit(0);
                match again {
                    Stopped::Device => {}
                    Stopped::Kicked => break,
                    other => {
                        stopped = other;
                        break;
                    }
                }
            }
        }
        if !self.sync {
            self.refresh();
        }
        stopped
    }

    fn enter_once(&mut self, devices: &mut dyn Devices) -> Stopped {
        let class = devices.cr8();
        if let Some(class) = class {
            self.fd.get_kvm_run().cr8 = class;
        }
        let cr8 = &raw const self.fd.get_kvm_run().cr8;
        let exit = self.fd.run();
        if class.is_some() {
            // SAFETY: it points into the vCPU's shared page, which stays mapped as long as the vCPU; the exit has no
            // reference to that field.
            devices.set_cr8(unsafe { cr8.read() });
        }
        let stopped = match exit {
            // String instructions move several at once; how wide each is says only the shared page.
            Ok(VcpuExit::IoIn(port, data)) => {
                let (bytes, at) = (data.len(), data.as_mut_ptr());
                let size = self.port_bytes();
                // SAFETY: `at` points to `bytes` bytes of the vCPU's shared page, which stays mapped as long
                // as the vCPU; nobody else looks at them until it is run again.
                let data = unsafe { std::slice::from_raw_parts_mut(at, bytes) };
                for piece in data.chunks_mut(size) {
                    let value = devices.port_read(port, size as u8).to_le_bytes();
                    piece.copy_from_slice(&value[..piece.len()]);
                }
                return Stopped::Device;
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                let mut all = [0; 4096];
                let bytes = data.len().min(all.len());
                all[..bytes].copy_from_slice(&data[..bytes]);
                let size = self.port_bytes();
                for piece in all[..bytes].chunks(size) {
                    let mut value = [0; 4];
                    value[..piece.len()].copy_from_slice(piece);
                    devices.port_write(port, size as u8, u32::from_le_bytes(value));
                }
                return Stopped::Device;
            }
            Ok(VcpuExit::MmioRead(at, data)) => {
                devices.memory_read(at, data);
                return Stopped::Device;
            }
            Ok(VcpuExit::MmioWrite(at, data)) => {
                devices.memory_write(at, data);
                return Stopped::Device;
            }
            Ok(VcpuExit::X86Rdmsr(exit)) => {
                match devices.msr_read(exit.index) {
                    Some(value) => *exit.data = value,
                    None => *exit.error = 1,
                }
                return Stopped::Device;
            }
            Ok(VcpuExit::X86Wrmsr(exit)) => {
                if devices.msr_write(exit.index, exit.data).is_none() {
                    *exit.error = 1;
                }
                return Stopped::Device;
            }
            // CR8 was lowered.
            Ok(VcpuExit::SetTpr) => return Stopped::Device,
            Ok(VcpuExit::Hlt) => Stopped::Halt,
            Ok(VcpuExit::Shutdown) => Stopped::Shutdown,
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Stopped::Kicked,
            Ok(VcpuExit::Debug(_)) => Stopped::Stepped,
            Ok(VcpuExit::InternalError) => Stopped::NotEmulated,
            Ok(other) => Stopped::Stuck(format!("{other:?}")),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => Stopped::Kicked,
            Err(e) => Stopped::Stuck(format!("KVM_RUN: {}", io::Error::from(e))),
        };
        if stopped == Stopped::Kicked {
            self.fd.set_kvm_immediate_exit(0);
        }
        stopped
    }

    /// Makes it stop behind each instruction, or no more.
    pub(crate) fn single_step(&mut self, on: bool) -> Result<(), VcpuError> {
        let control = if on { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.fd.set_guest_debug(&debug).map_err(failed("KVM_SET_GUEST_DEBUG"))
    }

    /// How wide each access of a port exit is.
    fn port_bytes(&mut self) -> usize {
        // SAFETY: `io` is the valid variant after a port exit, and is plain data.
        let size = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.size };
        usize::from(size).clamp(1, 4)
    }

    /// Whether the guest would take an interrupt now.
    pub(crate) fn accepts_interrupts(&self) -> bool {
        let core = self.core();
        core.regs.rflags >> 9 & 1 != 0
            && core.events.interrupt.shadow == 0
            && core.events.interrupt.injected == 0
            && core.events.exception.injected == 0
    }

    /// Makes the guest, which accepts one, take the interrupt `vector` first of all.
    pub(crate) fn inject(&mut self, vector: u8) -> Result<(), VcpuError> {
        if self.sync {
            let interrupt = &mut self.fd.sync_regs_mut().events.interrupt;
            (interrupt.injected, interrupt.nr, interrupt.soft) = (1, vector, 0);
            self.fd.set_sync_dirty_reg(SyncReg::VcpuEvents);
            return Ok(());
        }
        let mut events = self.shadow.events;
        (events.interrupt.injected, events.interrupt.nr, events.interrupt.soft) = (1, vector, 0);
        self.shadow.events = events;
        self.fd.set_vcpu_events(&events).map_err(failed("KVM_SET_VCPU_EVENTS"))
    }

    /// Asks to stop as soon as the guest would take an interrupt.
    pub(crate) fn want_interrupt_window(&mut self, wanted: bool) {
        self.fd.get_kvm_run().request_interrupt_window = wanted.into();
    }

    /// Gives it another table for `cpuid`; it must not have run.
    pub(crate) fn set_cpuid(&mut self, table: &CpuId) -> Result<(), VcpuError> {
        self.fd.set_cpuid2(table).map_err(failed("KVM_SET_CPUID2"))
    }

    /// Reads registers and events, as a vCPU that has not run yet has them.
    pub(crate) fn refresh_all(&mut self) -> Result<(), VcpuError> {
        let regs = self.fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
        let sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        let events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        if self.sync {
            let sync = self.fd.sync_regs_mut();
            (sync.regs, sync.sregs, sync.events) = (regs, sregs, events);
        } else {
            self.shadow = CoreState { regs, sregs, events };
        }
        Ok(())
    }

    /// Sets the first of `choices` that KVM accepts.
    pub(crate) fn choose_sregs(
        &mut self,
        choices: impl IntoIterator<Item = kvm_sregs>,
    ) -> Result<(), VcpuError> {
        let mut refused = None;
        for sregs in choices {
            match self.fd.set_sregs(&sregs) {
                Ok(()) => {
                    *self.sregs_mut() = sregs;
                    return Ok(());
                }
                Err(e) => refused = Some(e),
            }
        }
        let source = refused.map_or_else(|| io::Error::other("there is no choice"), io::Error::from);
        Err(VcpuError { ioctl: "KVM_SET_SREGS", source })
    }

    /// General and system registers at once.
    pub(crate) fn both_mut(&mut self) -> (&mut kvm_regs, &mut kvm_sregs) {
        if self.sync {
            let sync = self.fd.sync_regs_mut();
            (&mut sync.regs, &mut sync.sregs)
        } else {
            (&mut self.shadow.regs, &mut self.shadow.sregs)
        }
    }

    /// How fast the guest's time stamp counter runs, in kHz; 0 if KVM does not say.
    pub(crate) fn tsc_khz(&self) -> u32 {
        self.fd.get_tsc_khz().unwrap_or(0)
    }
}
