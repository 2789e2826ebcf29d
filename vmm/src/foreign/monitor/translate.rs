//! From the guest's page tables to shadow tables: a page fault fills, a flush and a write to code take away.

use std::io;

use kvm_ioctls::VmFd;

use super::guest::Fault;
use super::shadow::{Entry, Full, Place, Root, View};
use super::state::Virtual;
use super::walk::{PageFault, Translation, Use};
use super::{AHEAD, FILLED_MAX, Monitor, NOWHERE, REFUSED_MAX, VECTOR_PF, tables};
use crate::addr::PAGE_BYTES;
use crate::foreign::bus::Bus;
use crate::foreign::cpu::Stop;
use crate::memory::{GuestMemory, WINDOWS_GPA};
use crate::sys::slots;
use crate::vcpu::VcpuError;
use crate::vcpu::enter::{Devices, Stopped};
use crate::vm::WINDOWS_SLOT;

/// The monitor's own code reaches nothing but the port of the stubs.
#[derive(Debug, Default)]
struct PortOnly {
    trapped: bool,
}

impl Devices for PortOnly {
    fn port_read(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn port_write(&mut self, _port: u16, _size: u8, _value: u32) {
        self.trapped = true;
    }
    fn memory_read(&mut self, _at: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn memory_write(&mut self, _at: u64, _data: &[u8]) {}
    fn is_trap(&self) -> bool {
        self.trapped
    }
}

impl Virtual {
    /// What the page at `gpa`, where `to` leads, becomes in shadow tables.
    pub(super) fn entry(&self, memory: &GuestMemory, to: &Translation, gpa: u64) -> Entry {
        let device = gpa >= memory.len();
        Entry {
            gpa: if gpa >= WINDOWS_GPA.0 { NOWHERE } else { gpa },
            write: to.write && !self.is_code(gpa),
            execute: to.execute && (device || self.scanned.contains(&gpa)),
        }
    }

    /// Whether the guest's own tables lead from where `place` is for to `entry`, and have been used for that before.
    pub(super) fn stays(&self, memory: &GuestMemory, place: Place, entry: Entry) -> bool {
        let user = place.view == View::User;
        entry.gpa != NOWHERE
            && self.paging.look(memory, place.address, user).is_some_and(|(to, seen)| {
                seen && self.entry(memory, &to, to.gpa & !(PAGE_BYTES - 1)) == entry
            })
    }
}

impl Monitor {
    pub(super) fn page_fault(
        &mut self,
        vm: &VmFd,
        memory: &mut GuestMemory,
        bus: &mut Bus,
        address: u64,
        code: u32,
    ) -> Result<Stop, VcpuError> {
        if address >> 39 == tables::MONITOR_VA >> 39 {
            return Ok(Stop::Stuck(format!("it uses address {address:#x}, which is the monitor's")));
        }
        let user = self.cpu.cpl() == 3;
        let wanted = Use { write: code & 2 != 0, execute: code & 16 != 0, user };
        match self.cpu.paging.translate(memory, address, wanted) {
            Ok(to) => {
                self.stats.fills += 1;
                let gpa = to.gpa & !(PAGE_BYTES - 1);
                if wanted.execute && gpa < memory.len() {
                    self.scan_page(memory, gpa, address, self.cpu.mode().bits());
                }
                if wanted.write && self.cpu.is_code(gpa) && self.write_code(memory, bus, gpa) {
                    self.go_on(memory, bus);
                    return Ok(Stop::Again);
                }
                // The rest of a large page is known now, too.
                let pages = if self.cpu.paging.is_on() { to.page_bytes } else { 2 << 20 };
                let ahead = ((pages - address % pages) / PAGE_BYTES).clamp(1, AHEAD);
                let view = if user { View::User } else { View::Supervisor };
                let (root, base) = (self.root(view), address & !(PAGE_BYTES - 1));
                let top = self.cpu.paging.top(memory, address);
                for page in 0..ahead {
                    let (at, gpa) = (base.wrapping_add(page * PAGE_BYTES), gpa + page * PAGE_BYTES);
                    if page > 0 && (gpa >= memory.len() || self.shadow.find(memory, root, at).is_some()) {
                        continue;
                    }
                    let entry = self.cpu.entry(memory, &to, gpa);
                    if page == 0 && self.is_refused(memory, root, at, entry) {
                        return Ok(Stop::Stuck(format!(
                            "it uses address {address:#x}, where this host's KVM maps nothing: a software KVM keeps \
                             part of the upper half for itself"
                        )));
                    }
                    let place = match self.shadow.map(memory, root, top, at, entry) {
                        Ok(place) => place,
                        Err(Full) => {
                            self.reclaim(vm, memory)?;
                            self.shadow.map(memory, root, top, at, entry).expect("all pages are free")
                        }
                    };
                    // One more than there is room for says that some are not in it.
                    if self.filled.len() <= FILLED_MAX {
                        self.filled.push(place);
                    }
                }
                Ok(Stop::Again)
            }
            Err(PageFault(code)) => Ok(self.deliver(memory, bus, Fault { vector: VECTOR_PF, code, address })),
        }
    }

    /// Whether `address`, which leads to `entry`, has been touched in vain too often.
    fn is_refused(&mut self, memory: &GuestMemory, root: Root, address: u64, entry: Entry) -> bool {
        if self.shadow.find(memory, root, address) != Some(entry) {
            return false;
        }
        let (times, last, traps) = self.refused;
        let again = last == address && traps + 1 == self.stats.traps;
        self.refused = (if again { times + 1 } else { 1 }, address, self.stats.traps);
        self.refused.0 > REFUSED_MAX
    }

    /// The guest's root of now, for `view`.
    pub(super) fn root(&self, view: View) -> Root {
        Root { view, cr3: self.cpu.paging.cr3 }
    }

    /// The guest has flushed all translations, or has loaded another root: what its tables do not say now goes.
    /// Other roots are looked at when they are loaded.
    pub(super) fn revalidate(&mut self, memory: &mut GuestMemory) {
        for view in [View::Supervisor, View::User] {
            let (root, cpu) = (self.root(view), &self.cpu);
            let fits = |memory: &GuestMemory, place, entry| cpu.stays(memory, place, entry);
            self.shadow.keep(memory, root, &cpu.paging, fits);
        }
    }

    /// Has KVM see what was taken away. Says whether the vCPU was stopped from outside meanwhile.
    pub(super) fn tell(&mut self, memory: &mut GuestMemory, root: u64) -> Result<bool, VcpuError> {
        let mut kicked = false;
        while self.shadow.has_changed() {
            let entries = self.shadow.take_changed(tables::LIST_MAX);
            let (regs, sregs) = self.vcpu.both_mut();
            let before = (*regs, *sregs);
            tables::enter_edit(memory, regs, sregs, &entries);
            sregs.cr3 = root;
            self.vcpu.store()?;
            let mut port = PortOnly::default();
            loop {
                match self.vcpu.enter(&mut port) {
                    Stopped::Device if port.trapped => break,
                    Stopped::Kicked => kicked = true,
                    other => {
                        let source =
                            io::Error::other(format!("the monitor's own code has stopped: {other:?}"));
                        return Err(VcpuError { ioctl: "KVM_RUN", source });
                    }
                }
            }
            let (regs, sregs) = self.vcpu.both_mut();
            (*regs, *sregs) = before;
        }
        Ok(kicked)
    }

    /// All pages of shadow tables are used up: makes KVM forget them, and begins anew.
    pub(super) fn reclaim(&mut self, vm: &VmFd, memory: &GuestMemory) -> Result<(), VcpuError> {
        let error = |source: io::Error| VcpuError { ioctl: "KVM_SET_USER_MEMORY_REGION", source };
        slots::remove(vm, WINDOWS_SLOT).map_err(error)?;
        // SAFETY: `memory` is the VM's for as long as it lives: the machine that owns both drops it last.
        unsafe { slots::set(vm, WINDOWS_SLOT, &memory.windows, 0) }.map_err(error)?;
        self.shadow.reclaim();
        Ok(())
    }
}
