//! The ways to a running fork, each taken once and timed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use unifork_vmm::bench::{self, Steps};
use unifork_vmm::{BootEnd, Engine, Kvm, Pool, Replica, Snapshot, SpawnTimes};

use super::super::measured;
use super::{DEADLINE, Subject};
use crate::cmd::{BlameExt as _, Failure, machine_failure};
use crate::machine::{self, MachineArgs};

/// Samples of each way that are thrown away.
pub(super) const WARM_UP: usize = 4;

/// The phases before a run, in order.
pub(super) const PHASES: [&str; 6] = ["image", "vm", "vcpu", "memory", "state", "first"];
const IMAGE: usize = 0;
const VM: usize = 1;
const VCPU: usize = 2;
const MEMORY: usize = 3;
const STATE: usize = 4;
const FIRST: usize = 5;

/// How a fork comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The image is booted and frozen, and forked.
    Boot,
    /// A snapshot file is opened and forked.
    Open,
    /// A fork is made.
    New,
    /// The pool has a fork of another machine.
    Retargeted,
    /// The pool has a fork.
    Kept,
    /// A fork that has run is put back.
    Reset,
}

impl Way {
    pub(super) const ALL: [Self; 6] =
        [Self::Boot, Self::Open, Self::New, Self::Retargeted, Self::Kept, Self::Reset];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Boot => "cold boot",
            Self::Open => "restore from file",
            Self::New => "new fork",
            Self::Retargeted => "pooled, retargeted",
            Self::Kept => "pooled, kept",
            Self::Reset => "reset",
        }
    }
}

/// One fork's times. Its first instruction and its first run exclude each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trace {
    /// As [`PHASES`]; none where the phase was not measured.
    pub(super) phases: [Option<Duration>; PHASES.len()],
    /// A whole run, its entry included.
    pub(super) run: Option<Duration>,
}

impl Trace {
    fn add(&mut self, phase: usize, time: Duration) {
        *self.phases[phase].get_or_insert_default() += time;
    }

    fn spawned(&mut self, times: SpawnTimes) {
        for (phase, time) in
            [(VM, times.vm), (VCPU, times.vcpu), (MEMORY, times.memory), (STATE, times.state)]
        {
            self.add(phase, time);
        }
    }

    /// From the request to the exit behind the first instruction, where that was measured.
    pub(super) fn until_first_instruction(&self) -> Option<Duration> {
        self.phases[FIRST]?;
        Some(self.phases.iter().flatten().sum())
    }
}

/// Where forks are made.
pub(super) struct Site<'a> {
    pub(super) kvm: &'a Kvm,
    pub(super) subject: &'a Subject,
    /// The snapshot, written.
    pub(super) file: &'a Path,
    pub(super) config: &'a MachineArgs,
    pub(super) engine: Engine,
}

impl Site<'_> {
    /// Takes `way` once, up to the first instruction or through a whole run.
    pub(super) fn trace(&self, way: Way, pool: &mut Pool, first: bool) -> Result<Trace, Failure> {
        let mut trace = Trace::default();
        let snapshot = &self.subject.snapshot;
        match way {
            Way::Boot => {
                let Some(image) = &self.subject.image else { return Ok(trace) };
                let start = Instant::now();
                let boot =
                    machine::boot(self.kvm, image, &self.config.config(&[], &[])).map_err(machine_failure)?;
                trace.add(IMAGE, start.elapsed());
                let BootEnd::Snapshot(snapshot) = boot.end else {
                    return Err(Failure::usage(anyhow!("{} asks for no input", image.display())));
                };
                self.fork(&mut trace, &snapshot, first)?;
            }
            Way::Open => {
                let start = Instant::now();
                // As `fuzz` does: the memory is checked while the first inputs run.
                let (snapshot, _check) = Snapshot::open_and_check_later(self.file).or_host()?;
                trace.add(IMAGE, start.elapsed());
                self.fork(&mut trace, &snapshot, first)?;
            }
            Way::New => {
                self.fork(&mut trace, snapshot, first)?;
            }
            Way::Kept | Way::Retargeted => {
                let before = if way == Way::Kept { snapshot } else { &self.subject.other };
                let (mut fork, _) = pool.fork(self.kvm, before).or_host()?;
                fork.run(&self.subject.input, DEADLINE).or_host()?;
                pool.give_back(fork).or_host()?;
                let start = Instant::now();
                let (mut fork, _) = pool.fork(self.kvm, snapshot).or_host()?;
                trace.add(if way == Way::Kept { STATE } else { MEMORY }, start.elapsed());
                self.finish(&mut trace, &mut fork, first)?;
                fork.reset().or_host()?;
                pool.give_back(fork).or_host()?;
            }
            Way::Reset => {
                let (mut fork, _) = pool.fork(self.kvm, snapshot).or_host()?;
                // Once to learn what it dirties, and once more as every later run.
                for _ in 0..2 {
                    fork.reset().or_host()?;
                    fork.run(&self.subject.input, DEADLINE).or_host()?;
                }
                let start = Instant::now();
                fork.reset().or_host()?;
                trace.add(MEMORY, start.elapsed());
                self.finish(&mut trace, &mut fork, first)?;
                pool.give_back(fork).or_host()?;
            }
        }
        Ok(trace)
    }

    fn fork(
        &self,
        trace: &mut Trace,
        snapshot: &std::sync::Arc<Snapshot>,
        first: bool,
    ) -> Result<(), Failure> {
        let (mut fork, times) = Replica::spawn_timed(self.kvm, snapshot, self.engine).or_host()?;
        trace.spawned(times);
        self.finish(trace, &mut fork, first)
    }

    fn finish(&self, trace: &mut Trace, fork: &mut Replica, first: bool) -> Result<(), Failure> {
        let input = self.subject.input.as_slice();
        let Steps { input, run } = if first {
            measured(bench::first_instruction(fork, input, DEADLINE))?
        } else {
            bench::run(fork, input, DEADLINE).or_host()?.1
        };
        trace.add(STATE, input);
        if first {
            trace.add(FIRST, run);
        } else {
            trace.run = Some(run);
        }
        Ok(())
    }
}
