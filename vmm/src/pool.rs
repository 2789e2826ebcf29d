//! Forks on demand: a pool of shells, virtual machines that have been created before they are asked
//! for.
//!
//! Creating a VM and a vCPU takes the kernel up to a few milliseconds; everything else about a fork is
//! mapping memory and loading registers. So a fork that is given back is put back and kept, and the
//! next request takes it as it is; a request for another snapshot of the same sizes takes its shell and
//! maps the other memory under it. Pages that earlier forks of the snapshot dirtied in most runs are
//! populated ahead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::caps::Kvm;
use crate::replica::{Replica, ReplicaError};
use crate::reset::Engine;
use crate::snapshot::Snapshot;

/// Where a fork came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was kept, put back, as a fork of the same snapshot.
    Kept,
    /// Its VM was kept and given another snapshot's memory.
    Retargeted,
    /// It was made anew.
    Made,
}

/// How long each part of making a fork took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpawnTimes {
    /// `KVM_CREATE_VM` and the capabilities that a VM must be told it has.
    pub vm: Duration,
    /// `KVM_CREATE_VCPU` and the CPU model.
    pub vcpu: Duration,
    /// Mapping memory, and the memory slots.
    pub memory: Duration,
    /// Loading the vCPU's state.
    pub state: Duration,
}

/// Shells for forks.
#[derive(Debug)]
pub struct Pool {
    engine: Engine,
    // Invariant: each is exactly its snapshot.
    shells: Vec<Replica>,
    shells_max: usize,
    // Pages that forks of `hot_of` dirtied in most runs.
    hot: Vec<u32>,
    hot_of: Option<Arc<Snapshot>>,
}

impl Pool {
    /// An empty pool that keeps up to `shells_max` shells.
    #[must_use]
    pub fn new(engine: Engine, shells_max: usize) -> Self {
        Self { engine, shells: Vec::new(), shells_max, hot: Vec::new(), hot_of: None }
    }

    /// Makes forks of `snapshot` ahead, until `count` shells are kept.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when memory or KVM runs out; those made before are kept.
    pub fn warm(&mut self, kvm: &Kvm, snapshot: &Arc<Snapshot>, count: usize) -> Result<(), ReplicaError> {
        while self.shells.len() < count.min(self.shells_max) {
            let replica = self.make(kvm, snapshot)?;
            self.shells.push(replica);
        }
        Ok(())
    }

    /// How many shells are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shells.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shells.is_empty()
    }

    /// A fork of `snapshot`: one that is kept, or one whose shell is, or a new one.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when memory or KVM runs out.
    pub fn fork(&mut self, kvm: &Kvm, snapshot: &Arc<Snapshot>) -> Result<(Replica, Origin), ReplicaError> {
        // The last one given back is the warmest.
        if let Some(at) = self.shells.iter().rposition(|shell| Arc::ptr_eq(shell.snapshot(), snapshot)) {
            return Ok((self.shells.swap_remove(at), Origin::Kept));
        }
        while let Some(mut shell) = self.shells.pop() {
            if shell.retarget(snapshot)? {
                return Ok((shell, Origin::Retargeted));
            }
        }
        Ok((self.make(kvm, snapshot)?, Origin::Made))
    }

    /// Takes a fork back: it is put back to its snapshot, windows and all, and kept.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] when it could not be put back; it is gone then.
    pub fn give_back(&mut self, mut replica: Replica) -> Result<(), ReplicaError> {
        replica.go_to_root()?;
        if self.hot_of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, replica.snapshot())) {
            self.hot_of = Some(Arc::clone(replica.snapshot()));
            self.hot.clear();
        }
        if replica.hot_pages().len() > self.hot.len() {
            self.hot.clear();
            self.hot.extend_from_slice(replica.hot_pages());
        }
        replica.scrub()?;
        if self.shells.len() < self.shells_max {
            self.shells.push(replica);
        }
        Ok(())
    }

    fn make(&self, kvm: &Kvm, snapshot: &Arc<Snapshot>) -> Result<Replica, ReplicaError> {
        let replica = Replica::spawn(kvm, snapshot, self.engine)?;
        if self.hot_of.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            replica.populate(&self.hot);
        }
        Ok(replica)
    }
}

/// Runs `f` and adds how long it took to `total`.
pub(crate) fn timed<T>(total: &mut Duration, f: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = f();
    *total += started.elapsed();
    result
}
