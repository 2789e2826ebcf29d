//! Prices of the host's basic operations, measured where they are paid.

use std::time::{Duration, Instant};

use crate::boot::{BootEnd, BootError, MachineConfig, boot_bare};
use crate::caps::Kvm;
use crate::replica::{Replica, ReplicaError};
use crate::reset::Engine;
use crate::testing;

/// A sorted sample of durations.
#[derive(Clone, Debug)]
pub struct Sample {
    // Invariant: sorted and not empty.
    times: Vec<Duration>,
}

impl Sample {
    /// Sorts `times`; `None` when there are none.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        (!times.is_empty()).then_some(Self { times })
    }

    /// The time that `percent` of 100 samples did not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.times.len() - 1;
        self.times[(last * percent.min(100)).div_ceil(100)]
    }
}

/// Measures `count` bare round trips: load registers, `KVM_RUN`, a hypercall at once, and back.
/// Nothing is written by the guest and nothing is put back: the floor below any run.
///
/// # Errors
///
/// [`BootError`] or [`ReplicaError`] in words, when the host cannot run it.
pub fn round_trip(kvm: &Kvm, count: usize) -> Result<Sample, Box<dyn std::error::Error + Send + Sync>> {
    let mut replica = bare_replica(kvm)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let started = Instant::now();
        replica.bare_round_trip()?;
        times.push(started.elapsed());
    }
    Sample::new(times).ok_or_else(|| "no samples".into())
}

fn bare_replica(kvm: &Kvm) -> Result<Replica, Box<dyn std::error::Error + Send + Sync>> {
    let config = MachineConfig { memory_bytes: 4 << 20, stack_bytes: 1 << 16, ..MachineConfig::default() };
    let boot: Result<_, BootError> = boot_bare(kvm, &testing::snapshot_then(&testing::DONE), &config);
    match boot?.end {
        BootEnd::Snapshot(snapshot) => {
            let replica: Result<_, ReplicaError> = Replica::spawn(kvm, &snapshot, Engine::HotSet);
            Ok(replica?)
        }
        BootEnd::Ended(outcome) => Err(format!("the bare guest ended with {outcome:?}").into()),
    }
}
