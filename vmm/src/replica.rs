//! A replica: one fork of a snapshot, running inputs and being put back.
//!
//! The life of one input: [`Replica::run`] writes it to the input ring, loads the snapshot's
//! registers and enters the guest; the guest's run loop zeroes the counters, gives the input to the
//! harness, and asks the host back with a hypercall (or crashes, or runs past its deadline). What
//! the run left, registers, memory, counters and console, can be looked at until
//! [`Replica::reset`], which puts all but the windows back.
//!
//! On the data plane ([`Replica::run`], [`Replica::reset`], [`Replica::run_batch`]): no allocation
//! and no lock. System calls: one `KVM_RUN`, those of [`crate::reset`], and one for the XSAVE area if
//! the guest does not load it itself.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::Xsave;
use thiserror::Error;
use unifork_abi::{Control, Hypercall};

use crate::addr::PAGE_BYTES;
use crate::caps::Kvm;
use crate::comparisons::{self, Comparison};
use crate::introspect::{ReadMemory, Registers};
use crate::memory::{Golden, GuestMemory, MemoryError, OutOfBounds};
use crate::outcome::Outcome;
use crate::pool::{SpawnTimes, timed};
use crate::reset::{Engine, HotStats, Mutation, ResetError, ResetStats, Resetter};
use crate::snapshot::{Snapshot, Space};
use crate::tree::Node;
use crate::vcpu::{VcpuError, VcpuState};
use crate::vm::{Event, Vm, registers_of};
use crate::windows;

mod batch;
mod fork;
pub use batch::{BatchEnd, BatchReport, BatchRun, BatchTime};
pub use fork::Advance;

/// Vector of a debug exception: the one trap that leaves something in a debug register.
const VECTOR_DEBUG: u8 = 1;

/// Why a fork could not be made, run or put back. After one, drop it and spawn another.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// Its memory could not be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM refused.
    #[error("cannot run a virtual CPU")]
    Vcpu(#[from] VcpuError),
    /// Its memory could not be put back.
    #[error(transparent)]
    Reset(#[from] ResetError),
    /// The input is longer than the machine was made for.
    #[error("an input of {bytes} bytes, but this machine takes at most {max}; give a larger --input-max")]
    InputTooLong {
        /// Its length.
        bytes: usize,
        /// The longest.
        max: u64,
    },
}

/// What a replica is between two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Exactly the snapshot.
    Clean,
    /// Has run; a reset must come before the next run.
    Ran,
}

/// One fork of a snapshot.
#[derive(Debug)]
pub struct Replica {
    vm: Vm,
    snapshot: Arc<Snapshot>,
    resetter: Resetter,
    xsave: Xsave,
    phase: Phase,
    // Bytes at the end of the input window that an earlier input may have left.
    input_extent: u64,
    // Where in the ring each input of the batch is, and how long.
    ring: Vec<(u64, u64)>,
    // A #DB was delivered since the last reset: DR6 has changed.
    debug_dirty: bool,
    // The hot list in the window is the hot set.
    hot_published: bool,
    // The node of a snapshot tree that resets go back to; `None`: the snapshot itself.
    node: Option<Arc<Node>>,
}

impl Replica {
    /// Forks `snapshot`: a new VM that shares its memory until it writes.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when memory or KVM runs out.
    pub fn spawn(kvm: &Kvm, snapshot: &Arc<Snapshot>, engine: Engine) -> Result<Self, ReplicaError> {
        Ok(Self::spawn_timed(kvm, snapshot, engine)?.0)
    }

    /// [`Self::spawn`], and how long each part of it took.
    ///
    /// # Errors
    ///
    /// As [`Self::spawn`].
    pub fn spawn_timed(
        kvm: &Kvm,
        snapshot: &Arc<Snapshot>,
        engine: Engine,
    ) -> Result<(Self, SpawnTimes), ReplicaError> {
        let info = snapshot.info();
        let mut times = SpawnTimes::default();
        let memory =
            timed(&mut times.memory, || GuestMemory::for_fork(snapshot.memory(), info.windows.bytes))?;
        let mut vm = Vm::create_timed(kvm, memory, info, engine.tracking(), &mut times)?;
        timed(&mut times.state, || vm.vcpu.restore(snapshot.vcpu()))?;
        let xsave = vm.vcpu.xsave_from(snapshot.vcpu())?;
        let replica = Self {
            vm,
            snapshot: Arc::clone(snapshot),
            resetter: Resetter::new(engine, snapshot.memory_bytes()),
            xsave,
            phase: Phase::Clean,
            input_extent: 0,
            ring: Vec::with_capacity(unifork_abi::BATCH_MAX),
            debug_dirty: false,
            hot_published: false,
            node: None,
        };
        Ok((replica, times))
    }

    /// Makes this a fork of `snapshot` instead, keeping its VM; false when the sizes differ, and then
    /// it is as it was.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`]; the replica must be dropped then.
    pub(crate) fn retarget(&mut self, snapshot: &Arc<Snapshot>) -> Result<bool, ReplicaError> {
        let (old, new) = (self.snapshot.info(), snapshot.info());
        let same_cpu = self.snapshot.vcpu().model == snapshot.vcpu().model;
        let same_sizes =
            self.snapshot.memory_bytes() == snapshot.memory_bytes() && old.windows.bytes == new.windows.bytes;
        if !same_cpu || !same_sizes {
            return Ok(false);
        }
        self.go_to_root()?;
        self.vm.memory.remap(snapshot.memory())?;
        self.vm.retarget(new);
        self.vm.vcpu.restore(snapshot.vcpu())?;
        self.xsave = self.vm.vcpu.xsave_from(snapshot.vcpu())?;
        self.snapshot = Arc::clone(snapshot);
        // What KVM logged so far was the old snapshot's.
        self.resetter.forget(&mut self.vm)?;
        self.phase = Phase::Ran;
        self.scrub()?;
        Ok(true)
    }

    /// Makes the snapshot itself what resets go back to, whatever node the replica was put to.
    pub(crate) fn go_to_root(&mut self) -> Result<(), ReplicaError> {
        if self.node.is_some() {
            self.settle_at(None)?;
        }
        Ok(())
    }

    /// Numbers of the pages that most runs dirty.
    #[must_use]
    pub fn hot_pages(&self) -> &[u32] {
        self.resetter.hot().pages()
    }

    /// Gives the replica its own copies of `pages` before it writes to them.
    pub(crate) fn populate(&self, pages: &[u32]) {
        self.vm.memory.populate(pages);
    }

    /// The snapshot it is a fork of.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// How its memory is put back.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.resetter.engine()
    }

    /// Runs `input`, for at most `deadline`. A replica that has run is put back first.
    ///
    /// On the data plane.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`], when the host is to blame or the input is too long; whatever the guest
    /// does is an [`Outcome`].
    pub fn run(&mut self, input: &[u8], deadline: Duration) -> Result<Outcome, ReplicaError> {
        self.prepare(input)?;
        Ok(self.run_prepared(deadline))
    }

    /// The second half of [`Self::run`]: enters the guest with the input that [`Self::prepare`] gave it.
    pub fn run_prepared(&mut self, deadline: Duration) -> Outcome {
        let event = self.enter(deadline);
        self.judge(event)
    }

    /// The first half of [`Self::run`]: puts the replica back if need be and gives it its input.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn prepare(&mut self, input: &[u8]) -> Result<(), ReplicaError> {
        let max = self.snapshot.input_max();
        if input.len() as u64 > max {
            return Err(ReplicaError::InputTooLong { bytes: input.len(), max });
        }
        if self.phase == Phase::Ran {
            self.reset()?;
        }
        let plan = &self.snapshot.info().windows;
        let len = input.len() as u64;
        windows::slice(&mut self.vm.memory, plan.ring, len).copy_from_slice(input);
        if self.node.is_some() {
            // The run has begun already, with the input that is part of the node; this one is more of
            // it, for a guest that looks for more in the ring.
            return Ok(());
        }
        windows::set_record(&mut self.vm.memory, plan, 0, 0, len);
        let control = Control { count: 1, input_extent: self.input_extent, ..Control::default() };
        windows::set_control(&mut self.vm.memory, plan, &control);
        // The run loop clears what is left of the last input before it puts this one in place.
        self.input_extent = len.next_multiple_of(unifork_abi::INPUT_ALIGN);
        Ok(())
    }

    /// Enters the guest.
    pub(crate) fn enter(&mut self, deadline: Duration) -> Event {
        self.phase = Phase::Ran;
        let event = self.vm.run(deadline);
        self.note_debug(&event);
        event
    }

    fn note_debug(&mut self, event: &Event) {
        // A single step that KVM emulates sets DR6 even when its #DB is never delivered.
        self.debug_dirty |= self.vm.take_handed_debug()
            || matches!(event, Event::Exception { vector: VECTOR_DEBUG, .. } | Event::Lost { .. });
    }

    /// What the run that stopped with `event` amounts to.
    pub(crate) fn judge(&mut self, event: Event) -> Outcome {
        match event {
            Event::Hypercall { number, .. } if number == Hypercall::Done as u64 => {
                let plan = &self.snapshot.info().windows;
                Outcome::Done { code: windows::record(&self.vm.memory, plan, 0).code }
            }
            event => self.vm.outcome(event),
        }
    }

    /// Puts memory, registers, FPU state and events back to the snapshot. The windows stay: the
    /// counters of the last run can still be read.
    ///
    /// On the data plane.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`]; the replica is then in no known state and must be dropped.
    pub fn reset(&mut self) -> Result<ResetStats, ReplicaError> {
        self.put_back(false)
    }

    fn put_back(&mut self, batch: bool) -> Result<ResetStats, ReplicaError> {
        let node = self.node.as_deref();
        let state = node.map_or(self.snapshot.vcpu(), |node| &node.vcpu);
        let golden = Golden { image: self.snapshot.memory(), over: node.map(|node| &node.pages) };
        let stats = self.resetter.reset(&mut self.vm, &golden, batch)?;
        let planted = &self.resetter.planted;
        if (node.is_some() || !self.snapshot.loads_own_fpu()) && !planted.is(Mutation::KeepXsave) {
            self.vm.vcpu.load_xsave(&self.xsave)?;
        }
        if let Some(node) = node {
            for (at, bytes) in &node.windows {
                windows::slice(&mut self.vm.memory, *at, bytes.len() as u64).copy_from_slice(bytes);
            }
            // A longer input that ran since the node was taken has left its beginning.
            let plan = &self.snapshot.info().windows;
            let left = self.input_extent.saturating_sub(node.input_extent);
            let at = plan.input.offset(plan.input_bytes - node.input_extent - left);
            windows::slice(&mut self.vm.memory, at, left).fill(0);
            self.input_extent = node.input_extent;
        }
        if self.resetter.engine() == Engine::CopyAll {
            self.vm.vcpu.restore(state)?;
        } else {
            if std::mem::take(&mut self.debug_dirty) && !planted.is(Mutation::KeepDebug) {
                self.vm.vcpu.load_debug(state)?;
            }
            let mistaken = planted.core(&state.core, &self.vm.vcpu);
            self.vm.vcpu.load(mistaken.as_ref().unwrap_or(&state.core))?;
        }
        self.phase = Phase::Clean;
        Ok(stats)
    }

    /// Plants a mistake in every later reset, for the test of the soundness tests.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn plant(&mut self, mutation: Mutation) {
        self.resetter.planted.set(mutation);
    }

    /// Enters the guest and comes back, and puts back registers alone: the price of `KVM_RUN`, for
    /// [`crate::bench`].
    pub(crate) fn bare_round_trip(&mut self) -> Result<(), ReplicaError> {
        self.vm.vcpu.load(&self.snapshot.vcpu().core)?;
        self.vm.run_armed();
        self.phase = Phase::Ran;
        Ok(())
    }

    /// Runs one instruction of a fork that has its input and stops behind it, for [`crate::bench`]: the
    /// time that it takes to get a guest going. False when that was not what happened.
    pub(crate) fn first_instruction(&mut self, deadline: Duration) -> Result<bool, ReplicaError> {
        const TRAP_FLAG: u64 = 1 << 8;
        self.vm.vcpu.regs_mut().rflags |= TRAP_FLAG;
        self.vm.vcpu.store()?;
        let event = self.enter(deadline);
        Ok(matches!(event, Event::Exception { vector: VECTOR_DEBUG, .. }))
    }

    /// Puts the windows back as well, to what a new fork has: for runs that must be exact whatever
    /// an earlier guest scribbled.
    ///
    /// # Errors
    ///
    /// As [`Self::reset`].
    pub fn scrub(&mut self) -> Result<(), ReplicaError> {
        if self.phase == Phase::Ran {
            self.reset()?;
        }
        self.vm.memory.discard_windows()?;
        self.input_extent = 0;
        self.resetter.mark_hot_changed();
        Ok(())
    }

    /// The counters of the last run: one byte per edge, zeroed by the guest before each run.
    #[must_use]
    pub fn counters(&self, space: Space) -> &[u8] {
        let (at, count) = self.counters_at(space);
        windows::slice_ref(&self.vm.memory, at, count as u64)
    }

    /// Address and number of the counters in the host, page-aligned, valid and at the same place
    /// for as long as the replica lives. Read or write them only while it is not running.
    pub fn counters_ptr(&mut self, space: Space) -> (*mut u8, usize) {
        let (at, count) = self.counters_at(space);
        let pointer = self.vm.memory.window_ptr(at, count as u64);
        (pointer.expect("the plan's windows are inside the slot"), count)
    }

    fn counters_at(&self, space: Space) -> (crate::addr::Gpa, usize) {
        let plan = &self.snapshot.info().windows;
        let at = match space {
            Space::Application => plan.app_counters,
            Space::Kernel => plan.kernel_counters,
        };
        let count = self.snapshot.counter_count(space);
        // Without counters there is no such window: an empty slice of the control page will do.
        if count == 0 { (plan.control, 0) } else { (at, count) }
    }

    /// What the last run wrote to the console, the first 64 KiB of it.
    #[must_use]
    pub fn console(&self) -> Vec<u8> {
        windows::console(&self.vm.memory, &self.snapshot.info().windows).to_vec()
    }

    /// System calls that the libOS did not serve since the replica was spawned.
    #[must_use]
    pub fn unserved(&self) -> Vec<(u64, u32)> {
        windows::unserved(&self.vm.memory, &self.snapshot.info().windows)
    }

    /// General registers as the run left them.
    #[must_use]
    pub fn registers(&self) -> Registers {
        registers_of(&self.vm.vcpu.core())
    }

    /// Empties the log of comparisons, before a run that is to be traced.
    pub fn clear_comparisons(&mut self) {
        let plan = &self.snapshot.info().windows;
        if plan.comparisons_bytes > 0 {
            comparisons::clear(&mut self.vm.memory, plan.comparisons);
        }
    }

    /// What was compared with what since the log was emptied, in a fork of a machine that logs it
    /// ([`Snapshot::with_comparisons`]).
    #[must_use]
    pub fn comparisons(&self) -> Vec<Comparison> {
        let plan = &self.snapshot.info().windows;
        if plan.comparisons_bytes == 0 {
            return Vec::new();
        }
        comparisons::read(&self.vm.memory, plan.comparisons)
    }

    /// How the hot set is doing.
    #[must_use]
    pub fn hot_stats(&self) -> HotStats {
        self.resetter.hot().stats()
    }

    /// A hash of all of guest memory but the windows.
    #[must_use]
    pub fn memory_hash(&self) -> u64 {
        hash_of(self.vm.memory.ram_bytes())
    }

    /// Numbers of the pages that differ from the snapshot. Compares all of memory.
    #[must_use]
    pub fn differing_pages(&self) -> Vec<u64> {
        let page = PAGE_BYTES as usize;
        let pairs = self.vm.memory.ram_bytes().chunks(page).zip(self.snapshot.memory().bytes().chunks(page));
        pairs.enumerate().filter(|(_, (now, then))| now != then).map(|(i, _)| i as u64).collect()
    }

    /// The whole state of the vCPU, as the next run would find it.
    ///
    /// # Errors
    ///
    /// [`ReplicaError::Vcpu`] when KVM refuses.
    pub fn vcpu_state(&mut self) -> Result<VcpuState, ReplicaError> {
        let core = self.vm.vcpu.settled_core();
        Ok(self.vm.vcpu.save(core)?)
    }

    /// Writes guest memory at a linear address, as a debugger would; the next reset puts it back.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when it is not all mapped.
    pub fn write_memory(&mut self, address: u64, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.phase = Phase::Ran;
        for (i, byte) in bytes.iter().enumerate() {
            let at = address.wrapping_add(i as u64);
            let to = self.vm.layout.translate(at);
            let to = to.ok_or(OutOfBounds { at: crate::addr::Gpa(at), bytes: 1 })?;
            self.vm.memory.write(to, std::slice::from_ref(byte))?;
        }
        Ok(())
    }
}

impl ReadMemory for Replica {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        ReadMemory::read(&self.vm, gva, out)
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    // SipHash with fixed keys: the same on every machine and in every run of this build.
    #[expect(deprecated, reason = "DefaultHasher's algorithm may change between releases; this one is fixed")]
    let mut hasher = std::hash::SipHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
