//! Images with an agent, frozen where it says so, and forks of them: run with an input, put back, run again.
//!
//! ```text
//!   image ─► Base::boot ─ Machine ─ Snapshot! ─► Base ─► Fork ─► run(input) ─► Outcome, counters
//!                                                         ▲                        │
//!                                                         └───────── reset ◄───────┘
//! ```
//!
//! A fork's clock does not follow the host's: it moves a little at each access to a port, and a CPU that halts is
//! taken to the next thing that its timers do at once. The time stamp counter is the host's.
//!
//! What is put back: RAM by the engine, as for our own guest; the vCPU; what the monitor knows, and of its
//! shadow tables what a fresh fork would not have come to as well; devices and interrupt controller, which are
//! plain data.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;
use thiserror::Error;

use super::cpu::{Cpu, Stop};
use super::linear::Linear;
use super::{Config, End, ForeignError, Frozen, Machine, MachineState, Power, Recorder, SymbolFile, Terms};
use crate::addr::PAGE_BYTES;
use crate::agent::{AgentError, AgentEvent, Placement};
use crate::caps::Kvm;
use crate::comparisons::{self, Comparison};
use crate::introspect::{ReadMemory, Registers};
use crate::layout::Layout;
use crate::memory::{Golden, GuestMemory, OutOfBounds};
use crate::outcome::{Cause, Crash, CrashKind, Outcome};
use crate::reset::{Engine, HotStats, ResetError, ResetStats, Resetter, Tracked};
use crate::vcpu::VcpuError;
use crate::vm::registers_of;

/// How far a fork's clock moves at each access to a port.
const TICK_NS: u64 = 1000;
/// Bytes of console kept of one run.
const CONSOLE_BYTES_MAX: usize = 1 << 16;

/// Why an image cannot be frozen where its agent says.
#[derive(Debug, Error)]
pub enum BaseError {
    /// The machine could not be made or run.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// What the agent announced makes no sense.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Its page tables point to where no memory is.
    #[error(transparent)]
    Outside(#[from] OutOfBounds),
    /// It ended, or time was up, before its agent asked for a snapshot.
    #[error("the image asked for no snapshot{}: {end:?}", if *.greeted { "" } else { ", and has no agent" })]
    NoSnapshot {
        /// How it ended.
        end: End,
        /// Whether its agent was heard of.
        greeted: bool,
        /// What it wrote to its console.
        console: Vec<u8>,
    },
    /// Its agent announced no place for inputs.
    #[error("the image asked for a snapshot, but announced no input window before")]
    NoWindow,
}

/// Why a fork could not be run or put back.
#[derive(Debug, Error)]
pub enum ForkError {
    /// KVM refused.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Memory could not be put back.
    #[error(transparent)]
    Reset(#[from] ResetError),
    /// The machine could not be made.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// The input is longer than the window.
    #[error("an input of {bytes} bytes does not fit the window of {window}")]
    InputTooLong {
        /// Its length.
        bytes: u64,
        /// The window's.
        window: u64,
    },
    /// What was announced is no longer there.
    #[error(transparent)]
    Outside(#[from] OutOfBounds),
}

/// An image, frozen where its agent asked for it.
#[derive(Debug)]
pub struct Base {
    pub(super) frozen: Arc<Frozen>,
    pub(super) placement: Placement,
    pub(super) name: String,
    pub(super) image: Arc<[u8]>,
    pub(super) terms: Terms,
    pub(super) id: u64,
}

impl Base {
    /// Boots `image`, which is called `name`, and lets it run for at most `deadline`, until its agent asks for
    /// a snapshot.
    ///
    /// # Errors
    ///
    /// [`BaseError`], whoever is to blame.
    pub fn boot(
        kvm: &Kvm,
        name: &str,
        image: Arc<[u8]>,
        config: &Config,
        terms: &Terms,
        deadline: Duration,
    ) -> Result<Arc<Self>, BaseError> {
        let config = Config { agent: true, ..config.clone() };
        let mut machine = Machine::boot(kvm, name, &image, &config)?;
        let mut recorder = Recorder::default();
        match machine.run(deadline, &mut recorder)? {
            End::Agent(AgentEvent::Snapshot) => {}
            end => {
                let (greeted, console) = (machine.agent.greeted(), recorder.console);
                return Err(BaseError::NoSnapshot { end, greeted, console });
            }
        }
        if machine.agent.input().is_none() {
            return Err(BaseError::NoWindow);
        }
        let agent = machine.agent.clone();
        let placement = agent.place(&machine.linear())?;
        placement.counters.clear(&mut machine.memory)?;
        placement.comparison_flag.clear(&mut machine.memory)?;
        let id = u64::from(crc32c::crc32c(&image)) << 32
            | u64::from(crc32c::crc32c(format!("{config:?}").as_bytes()));
        Ok(Arc::new(Self {
            frozen: Arc::new(machine.freeze()?),
            placement,
            name: name.to_owned(),
            image,
            terms: terms.clone(),
            id,
        }))
    }

    /// The same for the same image and the same machine.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the image is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image's file.
    #[must_use]
    pub fn image(&self) -> &Arc<[u8]> {
        &self.image
    }

    /// Files with symbols of it, besides its own.
    #[must_use]
    pub fn symbols(&self) -> &[SymbolFile] {
        &self.terms.symbols
    }

    /// The longest input, in bytes.
    #[must_use]
    pub fn input_max(&self) -> u64 {
        self.placement.input.len()
    }

    /// For each counter, the address of its code; 0 where the image does not say.
    #[must_use]
    pub fn sites(&self) -> &[u64] {
        &self.placement.sites
    }

    /// Whether its CPL 0 is run by the monitor.
    #[must_use]
    pub fn is_monitored(&self) -> bool {
        self.frozen.state.monitor.is_some()
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.frozen.memory.len()
    }
}

/// One fork of a [`Base`].
#[derive(Debug)]
pub struct Fork {
    machine: Machine,
    manual: bool,
    base: Arc<Base>,
    resetter: Resetter,
    // Never longer or shorter: observers point into it.
    counters: Vec<u8>,
    console: Vec<u8>,
    tracing: bool,
    input_bytes: u64,
    // KVM has to forget RAM when it is put back.
    shadowed: bool,
    // It has run since it was made or put back.
    ran: bool,
}

impl Tracked for Fork {
    fn fd(&self) -> &VmFd {
        &self.machine.fd
    }
    fn memory(&self) -> &GuestMemory {
        &self.machine.memory
    }
    fn memory_mut(&mut self) -> &mut GuestMemory {
        &mut self.machine.memory
    }
    fn manual_dirty_log(&self) -> bool {
        self.manual
    }
    fn take_ring_pages(&mut self) -> io::Result<(&mut [u64], &GuestMemory)> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Fork {
    /// A fork of `base`. Foreign machines have no dirty ring: [`Engine::DirtyLog`] takes its place. Where the
    /// image runs at CPL 0 and KVM does not do that natively, it is always [`Engine::CopyAll`].
    ///
    /// # Errors
    ///
    /// [`ForkError`], when the host is to blame.
    pub fn spawn(kvm: &Kvm, base: &Arc<Base>, engine: Engine) -> Result<Self, ForkError> {
        // KVM that emulates CPL 0 shadows the image's own page tables, and learns of changes to them from the
        // guest alone.
        let shadowed =
            base.frozen.state.monitor.is_none() && !super::runs_ring0(kvm).map_err(ForkError::Vcpu)?;
        let engine = match engine {
            _ if shadowed => Engine::CopyAll,
            Engine::DirtyRing => Engine::DirtyLog,
            engine => engine,
        };
        let (mut machine, manual) = base.frozen.fork_tracked(kvm, engine.tracking())?;
        machine.bus.tick(TICK_NS);
        Ok(Self {
            machine,
            manual,
            base: Arc::clone(base),
            resetter: Resetter::new(engine, base.memory_bytes()),
            counters: vec![0; base.placement.sites.len()],
            console: Vec::new(),
            tracing: false,
            input_bytes: 0,
            shadowed,
            ran: false,
        })
    }

    /// What it is a fork of.
    #[must_use]
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// Whether runs log their comparisons, from the next [`Self::prepare`] on.
    pub fn trace(&mut self, on: bool) {
        self.tracing = on;
    }

    /// Puts `input` in place. The fork is as it was when it was made or [`Self::reset`].
    ///
    /// # Errors
    ///
    /// [`ForkError::InputTooLong`]; nothing was written then.
    pub fn prepare(&mut self, input: &[u8]) -> Result<(), ForkError> {
        let (bytes, window) = (input.len() as u64, self.base.input_max());
        if bytes > window {
            return Err(ForkError::InputTooLong { bytes, window });
        }
        let placement = &self.base.placement;
        placement.input.write(&mut self.machine.memory, input)?;
        if self.tracing {
            placement.comparison_flag.write(&mut self.machine.memory, &1u32.to_le_bytes())?;
        }
        self.input_bytes = bytes;
        Ok(())
    }

    /// Runs what was prepared, for at most `deadline`.
    ///
    /// # Errors
    ///
    /// [`ForkError`], when the host is to blame; whatever the image does is an [`Outcome`].
    pub fn run_prepared(&mut self, deadline: Duration) -> Result<Outcome, ForkError> {
        self.ran = true;
        self.console.clear();
        self.machine.cpu.answer(self.input_bytes)?;
        let end = self.run_on(deadline)?;
        self.take_console();
        self.base.placement.counters.read(&self.machine.memory, &mut self.counters)?;
        Ok(self.outcome(end))
    }

    /// Puts the fork back if it has run, gives it `input`, and runs it for at most `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Self::prepare`], [`Self::run_prepared`] and [`Self::reset`].
    pub fn run(&mut self, input: &[u8], deadline: Duration) -> Result<Outcome, ForkError> {
        if self.ran {
            self.reset()?;
        }
        self.prepare(input)?;
        self.run_prepared(deadline)
    }

    fn run_on(&mut self, deadline: Duration) -> Result<End, ForkError> {
        let began = Instant::now();
        let machine = &mut self.machine;
        machine.cpu.vcpu().arm(deadline);
        let end = loop {
            machine.bus.advance(machine.bus.now_ns());
            let offered = machine.cpu.offer_interrupt(&mut machine.memory, &mut machine.bus)?;
            if let Some(end) = machine.ended(offered) {
                break end;
            }
            let stop = machine.cpu.step(&machine.fd, &mut machine.memory, &mut machine.bus)?;
            if let Some(power) = machine.bus.power() {
                break End::Power(power);
            }
            match machine.agent_call()? {
                // Only the first one is the snapshot.
                Some(AgentEvent::Snapshot) => machine.cpu.answer(unifork_abi::agent::REFUSED)?,
                Some(event) => break End::Agent(event),
                None => {}
            }
            if stop == Stop::Halt && !machine.bus.interrupt_is_pending() {
                if !machine.cpu.wakes_up() {
                    break End::Halted;
                }
                let Some(next) = machine.bus.next_event_ns() else { break End::Idle };
                machine.bus.advance(next);
            }
            if let Some(end) = machine.ended(stop) {
                break end;
            }
            if began.elapsed() >= deadline {
                break End::Deadline;
            }
        };
        machine.cpu.vcpu().disarm();
        Ok(end)
    }

    fn take_console(&mut self) {
        let said = self.machine.bus.take_output();
        let room = CONSOLE_BYTES_MAX - self.console.len();
        self.console.extend_from_slice(&said[..said.len().min(room)]);
    }

    /// What a run's end amounts to.
    fn outcome(&mut self, end: End) -> Outcome {
        let vm = |reason: &str| Cause::Vm { reason: reason.to_owned() };
        let cause = match end {
            End::Agent(AgentEvent::Done { code }) => return Outcome::Done { code },
            End::Agent(AgentEvent::Report { message }) => Cause::Assertion { message },
            End::Power(Power::Off | Power::Reset) => return Outcome::Exit { code: 0 },
            End::Power(Power::DebugExit(code)) => return Outcome::Exit { code: code.cast_signed() },
            End::Deadline | End::Idle => return Outcome::Timeout,
            End::Halted => vm("the image halted it, with interrupts off"),
            End::TripleFault { first: Some(first), .. } => {
                Cause::Exception { vector: first.vector, error_code: first.code, address: first.address }
            }
            End::TripleFault { first: None, .. } => vm("triple fault"),
            End::Stuck { reason } => Cause::Vm { reason },
            End::Stopped | End::Agent(_) => vm("it was stopped"),
        };
        let registers = self.registers();
        let kind = CrashKind::of(&cause, &registers, &Layout::default());
        Outcome::Crash(Crash { cause, kind, registers })
    }

    /// Puts everything back.
    ///
    /// # Errors
    ///
    /// [`ForkError`]: the fork is then in no known state and must be dropped.
    pub fn reset(&mut self) -> Result<ResetStats, ForkError> {
        let base = Arc::clone(&self.base);
        let golden = Golden { image: &base.frozen.memory, over: None };
        // The engine looks at the machine through this fork, of which it is a part itself.
        let nothing = Resetter::new(Engine::CopyAll, 0);
        let mut resetter = std::mem::replace(&mut self.resetter, nothing);
        let stats = resetter.reset(self, &golden, false);
        self.resetter = resetter;
        let stats = stats?;
        let state = &base.frozen.state;
        let machine = &mut self.machine;
        if self.shadowed {
            machine.forget_tables()?;
        }
        match (&mut machine.cpu, &state.monitor) {
            (Cpu::Monitored(monitor), Some(known)) => {
                monitor.put_back(&machine.fd, &mut machine.memory, known, &state.vcpu)?;
            }
            (cpu, _) => cpu.vcpu().restore(&state.vcpu)?,
        }
        machine.bus.put_back(&state.bus);
        self.ran = false;
        Ok(stats)
    }

    /// Coverage of the last run: a count for each of [`Base::sites`].
    #[must_use]
    pub fn counters(&self) -> &[u8] {
        &self.counters
    }

    /// Where they are and how many, for an observer that outlives the borrow. They stay there as long as the
    /// fork.
    pub fn counters_ptr(&mut self) -> (*mut u8, usize) {
        (self.counters.as_mut_ptr(), self.counters.len())
    }

    /// What was compared with what in the last run, if it was to log that.
    #[must_use]
    pub fn comparisons(&self) -> Vec<Comparison> {
        let log = &self.base.placement.comparisons;
        let mut bytes = vec![0; usize::try_from(log.len()).unwrap_or(0)];
        match log.read(&self.machine.memory, &mut bytes) {
            Ok(_) => comparisons::decode(&bytes),
            Err(_) => Vec::new(),
        }
    }

    /// What the image wrote to its console in the last run.
    #[must_use]
    pub fn console(&self) -> &[u8] {
        &self.console
    }

    /// Numbers of the pages that differ from the frozen machine's. Compares all of memory.
    #[must_use]
    pub fn differing_pages(&self) -> Vec<u64> {
        let page = PAGE_BYTES as usize;
        let pairs = self.ram().chunks(page).zip(self.base.frozen.memory.bytes().chunks(page));
        pairs.enumerate().filter(|(_, (now, then))| now != then).map(|(i, _)| i as u64).collect()
    }

    /// Registers as the last run left them.
    pub fn registers(&mut self) -> Registers {
        registers_of(&self.machine.cpu.vcpu().core())
    }

    /// How well the hot set does.
    #[must_use]
    pub fn hot_stats(&self) -> HotStats {
        self.resetter.hot().stats()
    }

    /// All of the machine but its memory, to compare.
    ///
    /// # Errors
    ///
    /// [`ForkError`], when the host is to blame.
    pub fn state(&mut self) -> Result<MachineState, ForkError> {
        Ok(self.machine.state()?)
    }

    /// Its memory, to compare.
    #[must_use]
    pub fn ram(&self) -> &[u8] {
        self.machine.memory.ram_bytes()
    }

    /// The image's linear addresses, in the tables of the moment.
    pub fn linear(&mut self) -> impl ReadMemory + '_ {
        let linear: Linear<'_> = self.machine.linear();
        linear
    }
}
