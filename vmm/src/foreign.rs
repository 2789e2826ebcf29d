//! Other people's kernels: unikernels and small operating systems, as their own build systems made
//! them, on a machine that looks like the one they were made for.
//!
//! ```text
//!  image ─► loader ─► memory, Start ─► Machine ─► run ─► End
//!                                       │  │
//!                        cpu: native or monitor   bus: ports, devices, interrupts
//! ```
//!
//! [`Machine::boot`] loads, [`Machine::run`] runs until the image ends its machine, time is up, or it
//! cannot go on. The machine has one CPU, which is run in one of two ways ([`Ring0`]); both end at
//! the same devices ([`bus`]). What a guest can see of devices and monitor is plain data.
//!
//! This module knows nothing of inputs and coverage.

use std::fs::File;
use std::ops::Range;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use kvm_ioctls::VmFd;

use crate::addr::Gpa;
use crate::agent::{Agent, AgentEvent, CallRegisters};
use crate::caps::Kvm;
use crate::memory::GuestMemory;
use crate::sys::slots;
use crate::vcpu::VcpuError;
use crate::vm::{GOLDEN_SLOT, RAM_SLOT, Tracking, WINDOWS_SLOT};

mod agentless;
mod base;
mod batch;
mod breakpoints;
mod bus;
mod config;
mod cpu;
mod cpuid;
mod devices;
mod end;
mod frozen;
mod linear;
mod loader;
mod locate;
mod monitor;
mod outside;
mod replica;
mod ring0;
mod run_loop;
mod share;
mod terms;
mod watch;

pub use agentless::PlaceError;
pub use base::{Base, BaseError};
pub use bus::Power;
pub use config::{Config, Profile, Ring0};
pub use cpu::Start;
pub use end::{End, Exception, ForeignError};
pub use frozen::{Frozen, MachineState};
pub use loader::{LoadError, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, Module, Protocol};
pub use locate::locate;
pub use monitor::MonitorStats;
pub use outside::{Outside, Recorder};
pub use replica::{Fork, ForkError};
pub use ring0::runs_ring0;
pub use terms::{Agentless, EndAt, InputTo, PanicPoint, Panics, Register, SnapshotAt, SymbolFile, Terms};

use breakpoints::{Breakpoints, Wanted};
use bus::Bus;
use cpu::{Cpu, Stop};
use cpuid::Cpuid;
use linear::Linear;
use loader::Request;
use monitor::Monitor;

/// How long the machine runs at most before the outside is looked at.
const SLICE: Duration = Duration::from_millis(50);
/// The same while frames may come.
const CONNECTED_SLICE: Duration = Duration::from_millis(2);
/// The same while code is looked for that is not in memory yet.
const WANTED_SLICE: Duration = Duration::from_millis(1);

/// One machine.
#[derive(Debug)]
pub struct Machine {
    // In the order in which they must go: the vCPU before its VM, both before the memory that KVM has
    // the addresses of.
    cpu: Cpu,
    fd: VmFd,
    memory: GuestMemory,
    // What is behind RAM; none for a fork.
    file: Option<File>,
    bus: Bus,
    protocol: Protocol,
    code: Vec<Range<u64>>,
    agent: Agent,
    breakpoints: Breakpoints,
    // Breakpoints whose code is not in memory yet.
    wanted: Vec<Wanted>,
}

impl Machine {
    /// Loads `image`, which is called `name`, into a new machine.
    ///
    /// # Errors
    ///
    /// [`ForeignError`], when image, sizes or host are to blame.
    pub fn boot(kvm: &Kvm, name: &str, image: &[u8], config: &Config) -> Result<Self, ForeignError> {
        let mut bus = Bus::new(config.profile, config.memory_bytes, &config.devices);
        let calls = loader::is_hvt(image);
        let append = if calls { config.append.clone() } else { bus.command_line(&config.append) };
        let request = Request {
            image,
            name,
            append: &append,
            initrd: config.initrd.as_deref(),
            modules: &config.modules,
            devices: &config.devices,
            memory_bytes: config.memory_bytes,
            profile: config.profile,
        };
        let loaded = loader::load(&request)?;
        let (mut memory, file) = GuestMemory::for_boot(config.memory_bytes, monitor::WINDOWS_BYTES)?;
        for piece in &loaded.pieces {
            memory.write(Gpa(piece.at), &piece.bytes).expect("the loader checked that it fits");
        }
        let error = |source| VcpuError { ioctl: "KVM_CREATE_VM", source };
        let fd = kvm.fd.create_vm().map_err(|e| error(e.into()))?;
        set_slots(&fd, &memory, Tracking::Off)?;
        let cpuid = Cpuid::new(config.cpu_model.unwrap_or(kvm.caps().cpu_model)).with_agent(config.agent);
        let mut cpu = if ring0::uses_monitor(kvm, config.ring0)? {
            let mut monitor = Monitor::create(&fd, &mut memory, cpuid, &loaded.start)?;
            monitor.prepare_code(&mut memory, &loaded.code);
            Cpu::Monitored(Box::new(monitor))
        } else {
            Cpu::native(&fd, cpuid, &loaded.start)?
        };
        if let Some(at) = loaded.start.cycles_at {
            let cycles = cpu.cycles_per_second().to_le_bytes();
            memory.write(Gpa(at), &cycles).expect("the loader put it into memory");
        }
        if loaded.protocol == Protocol::Hvt {
            bus.tend_hvt(&config.devices, loaded.handles);
        }
        let (protocol, code) = (loaded.protocol, loaded.code);
        let (breakpoints, wanted) = Default::default();
        let (file, agent) = (Some(file), Agent::default());
        Ok(Self { cpu, fd, memory, file, bus, protocol, code, agent, breakpoints, wanted })
    }

    /// How the image was started.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Guest-physical ranges that the image's file says are code.
    #[must_use]
    pub fn code(&self) -> &[Range<u64>] {
        &self.code
    }

    /// What the monitor did; `None` when the CPU is run natively.
    #[must_use]
    pub fn monitor_stats(&self) -> Option<MonitorStats> {
        self.cpu.monitor_stats()
    }

    /// Ports that were used though nothing is there, and how often.
    pub fn unknown_ports(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.bus.unknown_ports().iter().map(|(&port, &count)| (port, count))
    }

    /// The machine's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Runs for at most `deadline`.
    ///
    /// # Errors
    ///
    /// [`ForeignError`], when the host is to blame; whatever the image does is an [`End`].
    pub fn run(&mut self, deadline: Duration, outside: &mut dyn Outside) -> Result<End, ForeignError> {
        let began = Instant::now();
        let began_ns = self.bus.now_ns();
        let clock = |began: Instant| {
            let elapsed = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            began_ns.saturating_add(elapsed)
        };
        let end = loop {
            self.bus.advance(clock(began));
            self.show(outside);
            // A machine that boots is not put back: what the host wrote need not be remembered.
            self.memory.forget_host_writes();
            self.type_in(outside);
            if outside.stopped() {
                break End::Stopped;
            }
            let left = deadline.saturating_sub(began.elapsed());
            if left.is_zero() {
                break End::Deadline;
            }
            let slice = match (self.wanted.is_empty(), outside.is_connected()) {
                (false, _) => WANTED_SLICE,
                (true, true) => CONNECTED_SLICE,
                (true, false) => SLICE,
            };
            let slice_end = self.bus.now_ns() + u64::try_from(left.min(slice).as_nanos()).unwrap_or(u64::MAX);
            if let Some(end) = self.run_slice(slice_end, &|| clock(began), outside)? {
                break end;
            }
        };
        self.show(outside);
        self.memory.forget_host_writes();
        Ok(end)
    }

    /// Runs until `slice_end`, or until the machine ends.
    fn run_slice(
        &mut self,
        slice_end: u64,
        clock: &dyn Fn() -> u64,
        outside: &mut dyn Outside,
    ) -> Result<Option<End>, ForeignError> {
        loop {
            let now = clock();
            self.bus.advance(now);
            if now >= slice_end {
                return Ok(None);
            }
            if let Some(until) = self.bus.waits_until(&mut self.memory) {
                if until == u64::MAX && !outside.is_connected() {
                    return Ok(Some(End::Idle));
                }
                self.show(outside);
                outside.wait(Duration::from_nanos(until.min(slice_end) - now), false);
                self.type_in(outside);
                continue;
            }
            let offered = self.cpu_offer()?;
            if let Some(end) = self.ended(offered) {
                return Ok(Some(end));
            }
            let next = self.bus.next_event_ns().unwrap_or(u64::MAX).min(slice_end);
            self.cpu.vcpu().arm(Duration::from_nanos(next.saturating_sub(now).max(1)));
            let stop = self.step();
            self.cpu.vcpu().disarm();
            let stop = stop?;
            if let Stop::Breakpoint { .. } = stop {
                return Ok(Some(End::Breakpoint { address: self.rip()? }));
            }
            if !self.wanted.is_empty() {
                self.plant_wanted();
            }
            if let Some(power) = self.bus.power() {
                return Ok(Some(End::Power(power)));
            }
            if let Some(event) = self.agent_call()? {
                return Ok(Some(End::Agent(event)));
            }
            if stop == Stop::Halt {
                if !self.cpu.wakes_up() {
                    return Ok(Some(End::Halted));
                }
                if self.wait(slice_end, clock, outside) {
                    return Ok(Some(End::Idle));
                }
                continue;
            }
            if let Some(end) = self.ended(stop) {
                return Ok(Some(end));
            }
            if self.bus.has_output() || self.bus.virtio().has_sent() {
                self.show(outside);
                // What is stopped by what it writes is stopped right behind that.
                if outside.stopped() {
                    return Ok(None);
                }
            }
        }
    }

    /// Answers a call of the agent's; what is more than an announcement is the caller's.
    fn agent_call(&mut self) -> Result<Option<AgentEvent>, VcpuError> {
        if self.bus.take_agent().is_none() {
            return Ok(None);
        }
        let paging = self.cpu.paging();
        let regs = self.cpu.vcpu().regs_mut();
        let call = CallRegisters { rax: regs.rax, rdi: regs.rdi, rsi: regs.rsi, rdx: regs.rdx };
        match self.agent.call(&call, &Linear { paging, memory: &self.memory, breakpoints: &self.breakpoints })
        {
            Some(AgentEvent::Continue { rax }) => self.cpu.answer(rax).map(|()| None),
            event => Ok(event),
        }
    }

    /// Sets the accessed and dirty bits of a monitored guest's page tables.
    fn mark_tables(&mut self) {
        self.cpu.paging().mark_all(&mut self.memory);
    }

    /// Makes KVM forget all that it knows of page tables in RAM.
    fn forget_tables(&mut self) -> Result<(), VcpuError> {
        let error = |source| VcpuError { ioctl: "KVM_SET_USER_MEMORY_REGION", source };
        slots::remove(&self.fd, RAM_SLOT).map_err(error)?;
        set_slots(&self.fd, &self.memory, Tracking::Off)
    }

    /// The machine's linear addresses, in the tables of the moment.
    pub(crate) fn linear(&mut self) -> Linear<'_> {
        Linear { paging: self.cpu.paging(), memory: &self.memory, breakpoints: &self.breakpoints }
    }

    fn cpu_offer(&mut self) -> Result<Stop, ForeignError> {
        Ok(self.cpu.offer_interrupt(&mut self.memory, &mut self.bus)?)
    }

    /// What `stop` ends, if anything.
    fn ended(&self, stop: Stop) -> Option<End> {
        match stop {
            Stop::Again | Stop::Halt | Stop::Loop | Stop::Int3 | Stop::Breakpoint { .. } => None,
            Stop::TripleFault { vector, code, rip, address } => {
                Some(End::TripleFault { first: Some(Exception { vector, code, address }), rip })
            }
            Stop::Shutdown { rip } => Some(End::TripleFault { first: None, rip }),
            Stop::Stuck(reason) => Some(End::Stuck { reason }),
        }
    }

    /// Lets time pass for a CPU that has halted; says whether it would wait for ever.
    fn wait(&mut self, slice_end: u64, clock: &dyn Fn() -> u64, outside: &mut dyn Outside) -> bool {
        self.show(outside);
        loop {
            let now = clock();
            self.bus.advance(now);
            if self.bus.interrupt_is_pending() || now >= slice_end {
                return false;
            }
            let next = self.bus.next_event_ns();
            if next.is_none() && !outside.listens() && !outside.is_connected() {
                return true;
            }
            let until = next.unwrap_or(u64::MAX).min(slice_end);
            let takes_typed = self.bus.room_to_type() > 0;
            outside.wait(Duration::from_nanos(until.saturating_sub(now)), takes_typed);
            self.type_in(outside);
        }
    }

    fn show(&mut self, outside: &mut dyn Outside) {
        if self.bus.has_output() {
            outside.console(&self.bus.take_output());
        }
        for (card, frame) in self.bus.virtio().take_frames() {
            outside.sent(card, &frame);
        }
    }

    fn type_in(&mut self, outside: &mut dyn Outside) {
        let room = self.bus.room_to_type();
        if room > 0 {
            let typed = outside.typed(room);
            if !typed.is_empty() {
                self.bus.type_in(&mut self.memory, &typed);
            }
        }
        let cards = if outside.is_connected() { self.bus.virtio().cards() } else { 0 };
        for card in 0..cards {
            while self.bus.virtio().wants_frame(card)
                && let Some(frame) = outside.arrived(card)
            {
                self.bus.virtio().push_frame(&mut self.memory, card, &frame);
            }
        }
    }
}

fn set_slots(fd: &VmFd, memory: &GuestMemory, tracking: Tracking) -> Result<(), VcpuError> {
    let flags = if tracking == Tracking::Off { 0 } else { KVM_MEM_LOG_DIRTY_PAGES };
    let error = |source| VcpuError { ioctl: "KVM_SET_USER_MEMORY_REGION", source };
    // SAFETY: callers make `memory` and `fd` fields of one struct, `memory` behind `fd` and the vCPU, so
    // that it is dropped last; until then they drop `fd` before `memory`.
    unsafe { slots::set(fd, RAM_SLOT, &memory.ram, flags) }.map_err(error)?;
    // SAFETY: as above.
    unsafe { slots::set(fd, WINDOWS_SLOT, &memory.windows, 0) }.map_err(error)
}

/// Gives a fork its frozen machine's memory, to read.
fn set_golden(fd: &VmFd, memory: &GuestMemory) -> Result<(), VcpuError> {
    let Some(golden) = &memory.golden else { return Ok(()) };
    // SAFETY: as in `set_slots`.
    unsafe { slots::set(fd, GOLDEN_SLOT, golden, KVM_MEM_READONLY) }
        .map_err(|source| VcpuError { ioctl: "KVM_SET_USER_MEMORY_REGION", source })
}

/// Whether `image` says of itself that it is a kernel: a bzImage, or a file with a multiboot header or
/// a PVH note. Images for Firecracker do not: they look like any other ELF file.
#[must_use]
pub fn is_kernel(image: &[u8]) -> bool {
    loader::is_kernel(image)
}
