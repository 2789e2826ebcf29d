//! Forks of images that are frozen where inputs begin: run with an input, put back, run again.
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

use super::Machine;
use super::agentless::Entry;
use super::base::Base;
use super::batch::Batching;
use super::cpu::Cpu;
use super::linear::Linear;
use super::run_loop;
use super::{ForeignError, MachineState};
use crate::addr::PAGE_BYTES;
use crate::caps::Kvm;
use crate::comparisons::{self, Comparison};
use crate::introspect::{ReadMemory, Registers};
use crate::memory::{Golden, GuestMemory, OutOfBounds};
use crate::outcome::Outcome;
use crate::reset::{Engine, HotStats, Mutation, ResetError, ResetStats, Resetter, Tracked};
use crate::vcpu::{VcpuError, VcpuState};
use crate::vm::registers_of;
use blocks::Blocks;

mod blocks;
pub(super) mod run;

mod network;

/// How far a fork's clock moves at each access to a port.
const TICK_NS: u64 = 1000;
/// Bytes of console kept of one run.
const CONSOLE_BYTES_MAX: usize = 1 << 16;
/// A run that is made again to count every block has its deadline so many times over.
const RECOUNT_DEADLINES: u32 = 10;

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

/// One fork of a [`Base`].
#[derive(Debug)]
pub struct Fork {
    pub(super) machine: Machine,
    pub(super) manual: bool,
    pub(super) base: Arc<Base>,
    pub(super) resetter: Resetter,
    pub(super) batching: Batching,
    // Never longer or shorter: observers point into it.
    counters: Vec<u8>,
    console: Vec<u8>,
    // Bytes of it that were looked at, and where a line begins that only a panicking image prints.
    console_seen: usize,
    panic_line: Option<usize>,
    // What was delivered to its network card since it was put back, and what it sent in the last run.
    pub(super) delivered: Vec<Vec<u8>>,
    frames: Vec<Vec<u8>>,
    tracing: bool,
    input_bytes: u64,
    // The input, while it may be needed again: to count every block, or to be typed.
    input: Vec<u8>,
    handed_over: usize,
    pub(super) blocks: Blocks,
    // KVM has to forget RAM when it is put back.
    shadowed: bool,
    // It has run since it was made or put back.
    pub(super) ran: bool,
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
        let windows = base.loop_layout.map_or(0, |layout| layout.bytes());
        let (mut machine, manual) = base.frozen.fork_tracked(kvm, engine.tracking(), windows)?;
        let state = &base.frozen.state;
        if let (Some(layout), Some(cpu)) = (&base.loop_layout, &state.monitor) {
            layout.install(&mut machine.memory, &base.placement, &state.vcpu, cpu);
            super::set_golden(&machine.fd, &machine.memory)?;
        }
        machine.bus.tick(TICK_NS);
        let blocks = Blocks::plant(&mut machine, base)?;
        Ok(Self {
            console_seen: 0,
            panic_line: None,
            input: Vec::new(),
            handed_over: 0,
            blocks,
            machine,
            manual,
            base: Arc::clone(base),
            resetter: Resetter::new(engine, base.memory_bytes()),
            batching: Batching::default(),
            counters: vec![0; base.placement.sites.len()],
            console: Vec::new(),
            delivered: Vec::new(),
            frames: Vec::new(),
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
        self.blocks.switch(&mut self.machine)?;
        let base = Arc::clone(&self.base);
        let placement = &base.placement;
        let memory = &mut self.machine.memory;
        placement.input.write(memory, input)?;
        match &base.entry {
            Entry::Memory { length } => {
                length.write(memory, &bytes.to_le_bytes())?;
            }
            Entry::Register { length: Some(length) } => {
                self.machine.cpu.change(|regs| *length.of(regs) = bytes)?;
            }
            Entry::Agent | Entry::Register { length: None } | Entry::Serial { .. } | Entry::Net { .. } => {}
        }
        if !base.watch.is_empty() || matches!(base.entry, Entry::Serial { .. } | Entry::Net { .. }) {
            self.input.clear();
            self.input.extend_from_slice(input);
        }
        if self.tracing {
            placement.comparison_flag.write(&mut self.machine.memory, &1u32.to_le_bytes())?;
        }
        self.input_bytes = bytes;
        Ok(())
    }

    /// Runs what was prepared, for at most `deadline`. A run that comes to a block that none had come to is made
    /// once more, to count all of its blocks: breakpoints of blocks that were seen are gone.
    ///
    /// # Errors
    ///
    /// [`ForkError`], when the host is to blame; whatever the image does is an [`Outcome`].
    pub fn run_prepared(&mut self, deadline: Duration) -> Result<Outcome, ForkError> {
        let whole = self.blocks.counts_all();
        let outcome = self.run_once(deadline)?;
        let counts = match &outcome {
            Outcome::Done { .. } | Outcome::Exit { .. } => self.blocks.news,
            Outcome::Crash(_) => !self.base.watch.blocks.is_empty(),
            Outcome::Timeout => false,
        };
        if whole || !counts {
            return Ok(outcome);
        }
        let (before, input) = (self.blocks.count_all, std::mem::take(&mut self.input));
        let delivered = std::mem::take(&mut self.delivered);
        self.blocks.count_all = true;
        self.reset()?;
        self.prepare(&input)?;
        for frame in &delivered {
            self.deliver(frame);
        }
        self.run_once(deadline.saturating_mul(RECOUNT_DEADLINES))?;
        self.blocks.count_all = before;
        Ok(outcome)
    }

    /// Whether runs count every block that they come to, from the next [`Self::prepare`] on; else those alone that no
    /// run of this fork has come to.
    pub fn count_all(&mut self, on: bool) {
        self.blocks.count_all = on;
    }

    fn run_once(&mut self, deadline: Duration) -> Result<Outcome, ForkError> {
        self.begin_run();
        let base = Arc::clone(&self.base);
        let blocks_from = self.counters.len() - base.watch.blocks.len();
        self.counters[blocks_from..].fill(0);
        if base.entry == Entry::Agent {
            self.machine.cpu.answer(self.input_bytes)?;
        }
        if base.loop_layout.is_some() {
            run_loop::Layout::set_single(&mut self.machine.memory);
        }
        let began = Instant::now();
        let finish = self.run_on(&base, deadline, |_| began.elapsed() >= deadline)?;
        self.take_console();
        self.take_frames();
        self.read_counters()?;
        Ok(self.outcome(&base, finish))
    }

    /// Nothing is known of a run yet.
    pub(super) fn begin_run(&mut self) {
        self.ran = true;
        self.console.clear();
        (self.console_seen, self.panic_line, self.handed_over) = (0, None, 0);
        self.blocks.news = false;
        self.machine.cpu.forget_exception();
    }

    pub(super) fn read_counters(&mut self) -> Result<(), ForkError> {
        self.base.placement.counters.read(&self.machine.memory, &mut self.counters)?;
        Ok(())
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

    /// Puts everything back.
    ///
    /// # Errors
    ///
    /// [`ForkError`]: the fork is then in no known state and must be dropped.
    pub fn reset(&mut self) -> Result<ResetStats, ForkError> {
        self.put_back(false)
    }

    /// The same, behind a `batch`.
    pub(super) fn put_back(&mut self, batch: bool) -> Result<ResetStats, ForkError> {
        let base = Arc::clone(&self.base);
        // The engine looks at the machine through this fork, of which these are a part themselves.
        let pages = std::mem::take(self.blocks.pages());
        let golden = Golden { image: &base.frozen.memory, over: Some(&pages) };
        let nothing = Resetter::new(Engine::CopyAll, 0);
        let mut resetter = std::mem::replace(&mut self.resetter, nothing);
        let stats = resetter.reset(self, &golden, batch);
        self.resetter = resetter;
        *self.blocks.pages() = pages;
        let stats = stats?;
        let state = &base.frozen.state;
        let machine = &mut self.machine;
        let planted = &self.resetter.planted;
        if self.shadowed && !planted.is(Mutation::KeepShadow) {
            machine.forget_tables()?;
        }
        match (&mut machine.cpu, &state.monitor) {
            (Cpu::Monitored(monitor), Some(known)) => {
                monitor.put_back(&mut machine.memory, known, &state.vcpu, planted)?;
            }
            (cpu, _) if planted.is(Mutation::KeepMsrs) => {
                cpu.vcpu().restore(&VcpuState { msrs: Vec::new(), ..state.vcpu.clone() })?;
            }
            (cpu, _) => cpu.vcpu().restore(&state.vcpu)?,
        }
        machine.bus.put_back(&state.bus, &self.resetter.planted);
        self.delivered.clear();
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

    /// Numbers of the pages that differ from the frozen machine's, but for breakpoints. Compares all of memory.
    #[must_use]
    pub fn differing_pages(&self) -> Vec<u64> {
        let page = PAGE_BYTES as usize;
        let pairs = self.ram().chunks(page).zip(self.base.frozen.memory.bytes().chunks(page));
        let without_breakpoints = |number: u64, now: &[u8]| {
            let mut now = now.to_vec();
            self.machine.breakpoints.hide(number * PAGE_BYTES, &mut now);
            now
        };
        let differs = |number: u64, now: &[u8], then: &[u8]| {
            let has_breakpoints = || self.blocks.page(number).is_some();
            now != then && !(has_breakpoints() && without_breakpoints(number, now) == then)
        };
        (0..).zip(pairs).filter(|&(number, (now, then))| differs(number, now, then)).map(|(i, _)| i).collect()
    }

    /// For each counter, whether the last run passed it by: that of a block that was seen before, and has no breakpoint
    /// any more.
    #[must_use]
    pub fn passed_by(&self) -> Vec<bool> {
        let mut passed = vec![false; self.counters.len()];
        let from = self.counters.len() - self.base.watch.blocks.len();
        for (gpa, block) in self.base.watch.block_places() {
            passed[from + block as usize] = self.blocks.passed_by(gpa);
        }
        passed
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
