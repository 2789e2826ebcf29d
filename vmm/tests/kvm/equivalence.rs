//! The check of reset: run the same on two forks, put both back, and look at everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_vmm::addr::{Gpa, PAGE_BYTES};
use unifork_vmm::introspect::{ReadMemory as _, Registers};
use unifork_vmm::outcome::CrashKind;
use unifork_vmm::vcpu::VcpuState;
use unifork_vmm::{Engine, Outcome, Replica, Snapshot};

use crate::common::{DEADLINE, frozen, kvm};
use crate::interpreter::{self, Program};
use crate::programs::Programs;

/// Deadline of a program that never ends.
const SHORT: Duration = Duration::from_millis(100);

/// What can be seen of a run before it is put back.
#[derive(Debug, PartialEq)]
struct Trace {
    outcome: Outcome,
    registers: Registers,
    console: Vec<u8>,
    pages: Vec<(u64, Vec<u8>)>,
}

/// One round: what is run, and what the host writes before it is put back.
#[derive(Debug)]
struct Round {
    program: Program,
    host_writes: Vec<(u64, Vec<u8>)>,
    put_back_twice: bool,
}

/// Forks of one machine, the first of them under `CopyAll`.
pub(crate) struct Forks {
    snapshot: Arc<Snapshot>,
    programs: Programs,
    forks: Vec<Replica>,
    kinds: BTreeSet<String>,
}

impl Forks {
    /// One fork for each of `engines`, besides the one that is the specification.
    pub(crate) fn new(engines: &[Engine]) -> Self {
        let snapshot = frozen(interpreter::code());
        let engines = [&[Engine::CopyAll], engines].concat();
        let spawn = |&engine: &Engine| Replica::spawn(&kvm(), &snapshot, engine).unwrap();
        let forks = engines.iter().map(spawn).collect();
        Self { programs: Programs::new(&snapshot), snapshot, forks, kinds: BTreeSet::new() }
    }

    /// The fork that is checked, when there is one.
    pub(crate) fn checked(&mut self) -> &mut Replica {
        self.forks.last_mut().unwrap()
    }

    /// The kinds of outcome seen so far.
    pub(crate) fn kinds(&self) -> &BTreeSet<String> {
        &self.kinds
    }

    /// Runs the program that `seed` stands for on every fork.
    ///
    /// # Errors
    ///
    /// The first difference, in words.
    pub(crate) fn round(&mut self, seed: u64) -> Result<(), String> {
        let round = self.draw(&mut StdRng::seed_from_u64(seed));
        let mut first: Option<Trace> = None;
        for fork in &mut self.forks {
            let trace = run(fork, &round, &self.snapshot)?;
            self.kinds.insert(kind_of(&trace.outcome));
            let name = fork.engine();
            match &first {
                Some(first) => {
                    same_trace(first, &trace).map_err(|e| format!("{name} ran on: {e}\n{round:x?}"))?
                }
                None => first = Some(trace),
            }
            put_back(fork, round.put_back_twice, &self.snapshot)
                .map_err(|e| format!("{name} did not put back: {e}\n{round:x?}"))?;
        }
        Ok(())
    }

    fn draw(&self, rng: &mut StdRng) -> Round {
        let program = self.programs.draw(rng);
        let count = if rng.random_ratio(1, 2) { 0 } else { rng.random_range(1..4) };
        let mut host_writes = Vec::new();
        for _ in 0..count {
            let mut bytes = vec![0; rng.random_range(1..200)];
            rng.fill(&mut bytes[..]);
            host_writes.push((self.programs.ram(rng, bytes.len() as u64), bytes));
        }
        Round { program, host_writes, put_back_twice: rng.random_ratio(1, 16) }
    }
}

/// What a run amounts to, whichever code or signal it ended with.
fn kind_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { .. } => "done".into(),
        Outcome::Exit { .. } => "exit".into(),
        Outcome::Timeout => "timeout".into(),
        Outcome::Crash(crash) => match crash.kind {
            CrashKind::Signal(_) => "signal".into(),
            kind => kind.to_string(),
        },
    }
}

fn run(fork: &mut Replica, round: &Round, snapshot: &Snapshot) -> Result<Trace, String> {
    let deadline = if round.program.is_endless() { SHORT } else { DEADLINE };
    let outcome = fork.run(&round.program.bytes(), deadline).map_err(|e| e.to_string())?;
    for (at, bytes) in &round.host_writes {
        fork.write_memory(*at, bytes).map_err(|e| e.to_string())?;
    }
    let mut pages = Vec::new();
    for page in fork.differing_pages() {
        let at = snapshot.info().layout.writable_alias(Gpa(page * PAGE_BYTES));
        let at = at.ok_or_else(|| format!("page {page} is not the guest's to write, and differs"))?;
        let mut bytes = vec![0; PAGE_BYTES as usize];
        assert!(fork.read(at.0, &mut bytes));
        pages.push((page, bytes));
    }
    Ok(Trace { outcome, registers: fork.registers(), console: fork.console(), pages })
}

fn same_trace(one: &Trace, other: &Trace) -> Result<(), String> {
    if one.outcome != other.outcome {
        return Err(format!("another outcome: {:x?}, not {:x?}", other.outcome, one.outcome));
    }
    if one.registers != other.registers {
        return Err(format!("other registers: {:x?}, not {:x?}", other.registers, one.registers));
    }
    if one.console != other.console {
        return Err("another console".into());
    }
    let numbers = |trace: &Trace| trace.pages.iter().map(|page| page.0).collect::<Vec<_>>();
    if numbers(one) != numbers(other) {
        return Err(format!("pages {:?} were changed, not {:?}", numbers(other), numbers(one)));
    }
    for (page, other) in one.pages.iter().zip(&other.pages) {
        if let Some(at) = page.1.iter().zip(&other.1).position(|(a, b)| a != b) {
            return Err(format!("byte {at:#x} of page {} has another value", page.0));
        }
    }
    Ok(())
}

fn put_back(fork: &mut Replica, twice: bool, snapshot: &Snapshot) -> Result<(), String> {
    let changed = fork.differing_pages().len();
    let stats = fork.reset().map_err(|e| e.to_string())?;
    if stats.pages < changed {
        return Err(format!("{} pages were copied, {changed} had changed", stats.pages));
    }
    if twice {
        fork.reset().map_err(|e| e.to_string())?;
    }
    let pages = fork.differing_pages();
    if !pages.is_empty() {
        return Err(format!("pages {pages:?} differ from the snapshot"));
    }
    let state = fork.vcpu_state().map_err(|e| e.to_string())?;
    same_state(snapshot.vcpu(), &state)
}

/// Whether `now` is the state `then`; the first part that is not, in words.
pub(crate) fn same_state(then: &VcpuState, now: &VcpuState) -> Result<(), String> {
    if then == now {
        return Ok(());
    }
    if then.core != now.core {
        return Err(format!("registers or events: {:x?}, not {:x?}", now.core, then.core));
    }
    let words = then.xsave.iter().zip(&now.xsave).enumerate();
    let changed: Vec<_> = words.filter(|(_, (a, b))| a != b).map(|(i, (a, b))| (i * 4, *a, *b)).collect();
    if !changed.is_empty() {
        return Err(format!("XSAVE (offset, then, now): {changed:x?}"));
    }
    if then.debug != now.debug {
        return Err(format!("debug registers: {:x?}, not {:x?}", now.debug, then.debug));
    }
    Err(format!("XCR0 or MSRs: {:x?} {:x?}, not {:x?} {:x?}", now.xcrs, now.msrs, then.xcrs, then.msrs))
}

/// Rounds in an ordinary run of the tests, or what `UNIFORK_ROUNDS` says.
pub(crate) fn rounds(ordinary: u64) -> u64 {
    std::env::var("UNIFORK_ROUNDS")
        .ok()
        .map_or(ordinary, |text| text.parse().expect("UNIFORK_ROUNDS is a number"))
}

/// The seed of the first round: a new one each time, or what `UNIFORK_SEED` says, in hexadecimal.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("UNIFORK_SEED").ok();
    given.map_or_else(rand::random, |text| {
        u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("UNIFORK_SEED is a hexadecimal number")
    })
}
