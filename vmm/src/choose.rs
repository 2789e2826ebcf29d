//! Which reset engine is fastest here, for this machine and these inputs: measured, not assumed.
//!
//! With hardware paging a protected page costs little and a ring saves scanning; with shadow paging
//! every fault counts and pages are better copied unasked. Which it is, and how many pages a run
//! dirties, no capability says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::boot::{BootEnd, MachineConfig, boot_bare};
use crate::caps::Kvm;
use crate::replica::{Replica, ReplicaError};
use crate::reset::Engine;
use crate::snapshot::Snapshot;
use crate::testing;

/// Runs that are thrown away, to fill caches and the hot set.
const WARM_UP: usize = 32;
/// Runs measured at most.
const RUNS_MAX: usize = 256;

/// What one engine takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineFigure {
    /// The engine.
    pub engine: Engine,
    /// A run and its reset, the median of what was measured, in nanoseconds.
    pub run_ns: u64,
    /// Pages put back per reset, on average.
    pub pages: f64,
}

/// Runs `inputs` in turn on a fork of each engine, for about `budget` each, and returns what each
/// takes, fastest first. Those that this host does not offer are left out, and [`Engine::CopyAll`],
/// which is the specification and never the fastest, is not measured.
///
/// # Errors
///
/// [`ReplicaError`] when the host is to blame.
pub fn compare_engines(
    kvm: &Kvm,
    snapshot: &Arc<Snapshot>,
    inputs: &[&[u8]],
    deadline: Duration,
    budget: Duration,
) -> Result<Vec<EngineFigure>, ReplicaError> {
    let caps = kvm.caps();
    let mut figures = Vec::new();
    for engine in Engine::ALL {
        let offered = match engine {
            Engine::CopyAll => false,
            Engine::DirtyLog => true,
            // Where KVM emulates the guest, the ring can overrun before it is collected, which is an
            // error and ends the fork (tests/kvm/hot_set.rs has such a guest).
            Engine::DirtyRing => {
                caps.dirty_ring_entries >= crate::sys::ring::ENTRIES && caps.nested_paging == Some(true)
            }
            Engine::HotSet => caps.manual_dirty_log,
        };
        if offered {
            figures.push(measure(kvm, snapshot, engine, inputs, deadline, budget)?);
        }
    }
    figures.sort_by_key(|figure| figure.run_ns);
    Ok(figures)
}

/// [`compare_engines`] for a guest of a few bytes that writes to [`DOCTOR_PAGES`] pages: what this host
/// does, whatever the harness.
///
/// # Errors
///
/// In words, when the host cannot run it.
pub fn compare_engines_here(
    kvm: &Kvm,
) -> Result<Vec<EngineFigure>, Box<dyn std::error::Error + Send + Sync>> {
    let mut code = vec![0x48, 0xbb];
    code.extend_from_slice(&unifork_abi::ARENA_VA.to_le_bytes()); //   mov rbx, ARENA_VA
    code.extend_from_slice(&[0xb9, DOCTOR_PAGES, 0, 0, 0]); //         mov ecx, DOCTOR_PAGES
    code.extend_from_slice(&[0x88, 0x0b]); //                          mov [rbx], cl
    code.extend_from_slice(&[0x48, 0x81, 0xc3, 0, 0x10, 0, 0]); //     add rbx, 4096
    code.extend_from_slice(&[0xff, 0xc9, 0x75, 0xf3]); //              dec ecx; jnz
    code.extend_from_slice(&testing::DONE);
    let boot = boot_bare(kvm, &testing::snapshot_then(&code), &MachineConfig::default())?;
    match boot.end {
        BootEnd::Snapshot(snapshot) => {
            Ok(compare_engines(kvm, &snapshot, &[], Duration::from_secs(1), Duration::from_millis(50))?)
        }
        BootEnd::Ended(outcome) => Err(format!("the measuring guest ended with {outcome:?}").into()),
    }
}

/// Pages that the measuring guest dirties.
pub const DOCTOR_PAGES: u8 = 16;

fn measure(
    kvm: &Kvm,
    snapshot: &Arc<Snapshot>,
    engine: Engine,
    inputs: &[&[u8]],
    deadline: Duration,
    budget: Duration,
) -> Result<EngineFigure, ReplicaError> {
    let mut replica = Replica::spawn(kvm, snapshot, engine)?;
    let mut times = Vec::with_capacity(RUNS_MAX);
    let (mut pages, started) = (0, Instant::now());
    let inputs = if inputs.is_empty() { &[&[][..]] } else { inputs };
    for (i, input) in inputs.iter().cycle().take(WARM_UP + RUNS_MAX).enumerate() {
        let before = Instant::now();
        replica.run(input, deadline)?;
        let stats = replica.reset()?;
        if i >= WARM_UP {
            times.push(before.elapsed());
            pages += stats.pages;
        }
        if started.elapsed() >= budget && !times.is_empty() {
            break;
        }
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    Ok(EngineFigure {
        engine,
        run_ns: u64::try_from(median.as_nanos()).unwrap_or(u64::MAX),
        pages: pages as f64 / times.len() as f64,
    })
}
