//! A frozen machine and its forks, whoever's kernel is in it: our own guest's, or somebody else's image with an
//! agent. What only our own guest has, batches and audits, is reached by way of [`Fork::own`].

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use unifork_vmm::foreign;
use unifork_vmm::introspect::{CrashReport, Registers, Stop, Symbols};
use unifork_vmm::layout::Layout;
use unifork_vmm::{Engine, Kvm, Outcome, Replica, ReplicaError, ResetStats, Snapshot, Space};

/// Why a fork could not be made, run or put back: the host's doing.
#[derive(Debug, Error)]
pub(crate) enum ForkError {
    /// Of our own guest.
    #[error(transparent)]
    Own(#[from] ReplicaError),
    /// Of somebody else's image.
    #[error(transparent)]
    Foreign(#[from] foreign::ForkError),
}

/// A machine that forks start from.
#[derive(Clone, Debug)]
pub(crate) enum Frozen {
    /// Our own guest.
    Own(Arc<Snapshot>),
    /// Somebody else's image.
    Foreign(Arc<foreign::Base>),
}

impl From<Arc<Snapshot>> for Frozen {
    fn from(snapshot: Arc<Snapshot>) -> Self {
        Self::Own(snapshot)
    }
}

impl Frozen {
    /// A number that is the same for the same machine.
    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Own(snapshot) => snapshot.id(),
            Self::Foreign(base) => base.id(),
        }
    }

    pub(crate) fn input_max(&self) -> u64 {
        match self {
            Self::Own(snapshot) => snapshot.input_max(),
            Self::Foreign(base) => base.input_max(),
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        match self {
            Self::Own(snapshot) => snapshot.memory_bytes(),
            Self::Foreign(base) => base.memory_bytes(),
        }
    }

    /// Counters of the application, or of the image.
    pub(crate) fn counter_count(&self) -> usize {
        match self {
            Self::Own(snapshot) => snapshot.counter_count(Space::Application),
            Self::Foreign(base) => base.sites().len(),
        }
    }

    /// Our own guest's, for what only that has.
    pub(crate) fn own(&self) -> Option<&Arc<Snapshot>> {
        match self {
            Self::Own(snapshot) => Some(snapshot),
            Self::Foreign(_) => None,
        }
    }

    /// What of linear addresses is known beforehand.
    pub(crate) fn layout(&self) -> Layout {
        match self {
            Self::Own(snapshot) => Layout::clone(&snapshot.info().layout),
            Self::Foreign(_) => Layout::default(),
        }
    }

    /// Names and contents of the images in it, and how far above where they were linked they run; of two with the
    /// same code, the one with more to say about it first.
    pub(crate) fn images(&self) -> Vec<(&str, &Arc<[u8]>, u64)> {
        match self {
            Self::Own(snapshot) => {
                let info = snapshot.info();
                vec![
                    (info.name.as_str(), snapshot.app_elf(), info.app_bias),
                    ("libOS", snapshot.kernel_elf(), 0),
                ]
            }
            Self::Foreign(base) => {
                let files = base.symbols().iter().map(|file| (file.name.as_str(), &file.bytes, file.bias));
                files.chain([(base.name(), base.image(), 0)]).collect()
            }
        }
    }

    pub(crate) fn fork(&self, kvm: &Kvm, engine: Engine) -> Result<Fork, ForkError> {
        Ok(match self {
            Self::Own(snapshot) => Fork::Own(Box::new(Replica::spawn(kvm, snapshot, engine)?)),
            Self::Foreign(base) => Fork::Foreign(Box::new(foreign::Fork::spawn(kvm, base, engine)?)),
        })
    }
}

/// A fork.
#[derive(Debug)]
pub(crate) enum Fork {
    Own(Box<Replica>),
    Foreign(Box<foreign::Fork>),
}

impl Fork {
    /// Our own guest's, for what only that has.
    pub(crate) fn own(&mut self) -> Option<&mut Replica> {
        match self {
            Self::Own(replica) => Some(replica),
            Self::Foreign(_) => None,
        }
    }

    pub(crate) fn prepare(&mut self, input: &[u8]) -> Result<(), ForkError> {
        match self {
            Self::Own(replica) => replica.prepare(input)?,
            Self::Foreign(fork) => fork.prepare(input)?,
        }
        Ok(())
    }

    pub(crate) fn run_prepared(&mut self, deadline: Duration) -> Result<Outcome, ForkError> {
        match self {
            Self::Own(replica) => Ok(replica.run_prepared(deadline)),
            Self::Foreign(fork) => Ok(fork.run_prepared(deadline)?),
        }
    }

    pub(crate) fn run(&mut self, input: &[u8], deadline: Duration) -> Result<Outcome, ForkError> {
        match self {
            Self::Own(replica) => Ok(replica.run(input, deadline)?),
            Self::Foreign(fork) => Ok(fork.run(input, deadline)?),
        }
    }

    pub(crate) fn reset(&mut self) -> Result<ResetStats, ForkError> {
        match self {
            Self::Own(replica) => Ok(replica.reset()?),
            Self::Foreign(fork) => Ok(fork.reset()?),
        }
    }

    /// The application's, or the image's.
    pub(crate) fn counters(&self) -> &[u8] {
        match self {
            Self::Own(replica) => replica.counters(Space::Application),
            Self::Foreign(fork) => fork.counters(),
        }
    }

    /// Where counters are, and how many.
    pub(crate) fn counters_ptr(&mut self, space: Space) -> (*mut u8, usize) {
        match (self, space) {
            (Self::Own(replica), space) => replica.counters_ptr(space),
            (Self::Foreign(fork), Space::Application) => fork.counters_ptr(),
            (Self::Foreign(_), Space::Kernel) => (std::ptr::null_mut(), 0),
        }
    }

    pub(crate) fn console(&self) -> Vec<u8> {
        match self {
            Self::Own(replica) => replica.console(),
            Self::Foreign(fork) => fork.console().to_vec(),
        }
    }

    pub(crate) fn registers(&mut self) -> Registers {
        match self {
            Self::Own(replica) => replica.registers(),
            Self::Foreign(fork) => fork.registers(),
        }
    }

    /// What a stop looks like in memory and symbols.
    pub(crate) fn report(&mut self, stop: &Stop, symbols: &Symbols) -> CrashReport {
        match self {
            Self::Own(replica) => CrashReport::collect(stop, replica.as_ref(), symbols),
            Self::Foreign(fork) => CrashReport::collect(stop, &fork.linear(), symbols),
        }
    }

    /// System calls of the last run that the libOS did not serve.
    pub(crate) fn unserved(&self) -> Vec<(u64, u32)> {
        match self {
            Self::Own(replica) => replica.unserved(),
            Self::Foreign(_) => Vec::new(),
        }
    }

    /// Pages that are always put back, and the share of resets that found no other page dirty.
    pub(crate) fn hot(&self) -> (usize, f64) {
        let stats = match self {
            Self::Own(replica) => replica.hot_stats(),
            Self::Foreign(fork) => fork.hot_stats(),
        };
        (stats.pages, stats.hits as f64 / (stats.hits + stats.misses).max(1) as f64)
    }
}
