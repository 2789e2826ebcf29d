//! A frozen machine and its forks, whoever's kernel is in it: our own guest's, or somebody else's image with an
//! agent.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use unifork_abi::Filter;
use unifork_vmm::foreign;
use unifork_vmm::introspect::{Access, CrashReport, Registers, Stop, Symbols, access};
use unifork_vmm::layout::Layout;
use unifork_vmm::{
    BatchReport, BatchRun, BatchTime, Engine, Kvm, Outcome, Replica, ReplicaError, ResetStats, Snapshot,
    Space,
};

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

    /// Whether it runs many inputs per entry of the guest.
    pub(crate) fn has_batches(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Foreign(base) => base.has_batches(),
        }
    }

    /// A sealed memory file of it, for other processes of this campaign to open.
    pub(crate) fn share(&self) -> io::Result<File> {
        match self {
            Self::Own(snapshot) => snapshot.share().map_err(io::Error::other),
            Self::Foreign(base) => base.share(),
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
    pub(crate) fn prepare(&mut self, input: &[u8]) -> Result<(), ForkError> {
        match self {
            Self::Own(replica) => replica.prepare(input)?,
            Self::Foreign(fork) => fork.prepare(input)?,
        }
        Ok(())
    }

    /// Whether all of a run's coverage is to be counted from the next [`Self::prepare`] on, where counting costs.
    pub(crate) fn count_all(&mut self, on: bool) {
        match self {
            Self::Own(_) => {}
            Self::Foreign(fork) => fork.count_all(on),
        }
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

    /// Runs `inputs` from the first on, in one go where the machine can do that, and puts the fork back.
    pub(crate) fn run_batch<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        filter: Filter,
        runs: &mut Vec<BatchRun>,
    ) -> Result<BatchReport, ForkError> {
        Ok(match self {
            Self::Own(replica) => replica.run_batch(inputs, time, filter, runs)?,
            Self::Foreign(fork) => fork.run_batch(inputs, time, filter, runs)?,
        })
    }

    /// The same without a filter; also returns the pages that differ from the frozen machine's before it is
    /// put back.
    pub(crate) fn run_batch_and_look<'a>(
        &mut self,
        inputs: impl IntoIterator<Item = &'a [u8]>,
        time: BatchTime,
        runs: &mut Vec<BatchRun>,
    ) -> Result<(BatchReport, Vec<u64>), ForkError> {
        Ok(match self {
            Self::Own(replica) => replica.run_batch_and_look(inputs, time, runs)?,
            Self::Foreign(fork) => fork.run_batch_and_look(inputs, time, runs)?,
        })
    }

    /// The counters of a run of the last batch: the application's, then the libOS's where there is one. A batch
    /// of one has no others than [`Self::counters`].
    pub(crate) fn batch_counters(&self, slot: u32) -> &[u8] {
        match self {
            Self::Own(replica) => replica.batch_counters(slot),
            Self::Foreign(fork) => fork.batch_counters(slot),
        }
    }

    /// The novelty map, to write: the application's part, and the libOS's.
    pub(crate) fn novelty_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        match self {
            Self::Own(replica) => {
                let application = replica.snapshot().counter_count(Space::Application);
                replica.novelty_mut().split_at_mut(application)
            }
            Self::Foreign(fork) => (fork.novelty_mut(), &mut []),
        }
    }

    /// Whether the guest would have called `counters`, of a batch's run, news.
    pub(crate) fn is_news(&self, counters: &[u8]) -> bool {
        match self {
            Self::Own(replica) => replica.is_news(counters),
            Self::Foreign(fork) => fork.is_news(counters),
        }
    }

    /// Numbers of the pages that differ from the frozen machine's.
    pub(crate) fn differing_pages(&self) -> Vec<u64> {
        match self {
            Self::Own(replica) => replica.differing_pages(),
            Self::Foreign(fork) => fork.differing_pages(),
        }
    }

    /// All counters of the last run: the application's, then the libOS's where there is one.
    /// For each of its counters, whether the last run passed it by, though its code may have run. Empty for none.
    pub(crate) fn passed_by(&self) -> Vec<bool> {
        match self {
            Self::Own(_) => Vec::new(),
            Self::Foreign(fork) => fork.passed_by(),
        }
    }

    pub(crate) fn all_counters(&self) -> Vec<u8> {
        match self {
            Self::Own(replica) => {
                [replica.counters(Space::Application), replica.counters(Space::Kernel)].concat()
            }
            Self::Foreign(fork) => fork.counters().to_vec(),
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

    /// What an instruction that faulted was about to touch, in the state that the last run left.
    pub(crate) fn access(&mut self, registers: &Registers, fault: Option<u64>) -> Option<Access> {
        match self {
            Self::Own(replica) => access(registers, replica.as_ref(), fault),
            Self::Foreign(fork) => access(registers, &fork.linear(), fault),
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
