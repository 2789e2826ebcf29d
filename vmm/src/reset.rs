//! Puts a fork's memory back to its snapshot.
//!
//! Every engine leaves the same bytes as [`Engine::CopyAll`], which is the specification:
//! `tests/kvm/reset.rs` runs each one against it. Registers are put back by
//! [`Replica`](crate::replica::Replica), the same way for all.

use std::fmt;
use std::io;
use std::str::FromStr;

use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::addr::PAGE_BYTES;
use crate::memory::{Golden, GuestMemory};
use crate::sys::dirty::DirtyBitmap;
use crate::vm::{RAM_SLOT, Tracking, Vm};

mod hot;
mod mutants;
use hot::HotSet;
pub use hot::HotStats;
#[doc(hidden)]
pub use mutants::Mutation;
pub(crate) use mutants::Planted;

/// How memory is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Engine {
    /// Copies the whole image. Slow, and obviously right.
    CopyAll,
    /// Copies the pages that `KVM_GET_DIRTY_LOG` and the host's own writes name, and protects them
    /// again.
    DirtyLog,
    /// The same, from the per-vCPU dirty ring: no bitmap to scan.
    DirtyRing,
    /// Copies the pages that most runs dirty without asking, and leaves them writable; tracks the
    /// others like [`Self::DirtyLog`].
    HotSet,
}

impl Engine {
    /// Every engine, for tests and `unifork bench` to walk.
    pub const ALL: [Self; 4] = [Self::CopyAll, Self::DirtyLog, Self::DirtyRing, Self::HotSet];

    pub(crate) fn tracking(self) -> Tracking {
        match self {
            Self::CopyAll => Tracking::Off,
            Self::DirtyLog | Self::HotSet => Tracking::Log,
            Self::DirtyRing => Tracking::Ring,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CopyAll => "copy-all",
            Self::DirtyLog => "dirty-log",
            Self::DirtyRing => "dirty-ring",
            Self::HotSet => "hot-set",
        })
    }
}

/// A name that is no engine's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("no reset engine is called `{0}`: use copy-all, dirty-log, dirty-ring or hot-set")]
pub struct UnknownEngine(String);

impl FromStr for Engine {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Self::ALL.into_iter().find(|e| e.to_string() == name).ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// Why a reset failed. The fork is then in no known state and must be dropped.
#[derive(Debug, Error)]
#[error("{ioctl} failed during reset")]
pub struct ResetError {
    /// Which ioctl.
    pub ioctl: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// What one reset did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetStats {
    /// Pages copied.
    pub pages: usize,
    /// Those of them that were tracked: each costs the guest a fault when it is written again.
    pub cold: usize,
}

/// A machine whose memory an engine puts back.
pub(crate) trait Tracked {
    fn fd(&self) -> &VmFd;
    fn memory(&self) -> &GuestMemory;
    fn memory_mut(&mut self) -> &mut GuestMemory;
    /// The dirty log is cleared by hand.
    fn manual_dirty_log(&self) -> bool;
    /// The pages that the dirty ring has named since this was last called, a bit each, for the caller to
    /// clear.
    fn take_ring_pages(&mut self) -> io::Result<(&mut [u64], &GuestMemory)>;
}

/// An engine with what it remembers of one fork.
#[derive(Debug)]
pub(crate) struct Resetter {
    engine: Engine,
    log: DirtyBitmap,
    hot: HotSet,
    pub(crate) planted: Planted,
}

/// Cold pages that may join the hot set at once after a batch. A run that dirties more than this for
/// the first time is odd rather than new.
const EAGER_PAGES_MAX: u32 = 64;

fn ioctl(name: &'static str) -> impl Fn(io::Error) -> ResetError {
    move |source| ResetError { ioctl: name, source }
}

impl Resetter {
    /// For a fork with `bytes` of RAM.
    pub(crate) fn new(engine: Engine, bytes: u64) -> Self {
        let pages = bytes / PAGE_BYTES;
        Self {
            engine,
            log: DirtyBitmap::new(RAM_SLOT, pages),
            hot: HotSet::new(pages),
            planted: Planted::default(),
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine
    }

    pub(crate) fn hot(&self) -> &HotSet {
        &self.hot
    }

    /// Whether the hot set has changed since this was last asked.
    pub(crate) fn take_hot_changed(&mut self) -> bool {
        self.hot.take_changed()
    }

    /// The hot list was lost.
    pub(crate) fn mark_hot_changed(&mut self) {
        self.hot.mark_changed();
    }

    /// Puts `vm`'s memory back to `golden`.
    ///
    /// On the data plane: allocates nothing and takes no lock. One ioctl, and with
    /// [`Engine::DirtyLog`] one more per 64 pages of which some are dirty; with
    /// [`Engine::HotSet`] one more per 64 pages of which some cold ones are.
    ///
    /// After a batch a few cold pages join the hot set at once: each batch that they spoil costs more
    /// than copying them for the rest of the epoch.
    pub(crate) fn reset(
        &mut self,
        vm: &mut impl Tracked,
        golden: &Golden<'_>,
        batch: bool,
    ) -> Result<ResetStats, ResetError> {
        let mut stats = ResetStats::default();
        match self.engine {
            Engine::CopyAll => {
                let pages = vm.memory().len() / PAGE_BYTES;
                (0..pages).for_each(|page| vm.memory().put_back(golden, page));
                stats.pages = usize::try_from(pages).unwrap_or(0);
            }
            Engine::DirtyLog => {
                self.log.read(vm.fd()).map_err(ioctl("KVM_GET_DIRTY_LOG"))?;
                for (i, &word) in self.log.words().iter().enumerate() {
                    if word != 0 {
                        stats.cold += put_back_word(vm.memory(), golden, i, self.planted.misread(word));
                        if vm.manual_dirty_log() {
                            self.log.clear_word(vm.fd(), i, word).map_err(ioctl("KVM_CLEAR_DIRTY_LOG"))?;
                        }
                    }
                }
                stats.pages = stats.cold;
            }
            Engine::DirtyRing => {
                let (words, memory) = vm.take_ring_pages().map_err(ioctl("KVM_RESET_DIRTY_RINGS"))?;
                for (i, word) in words.iter_mut().enumerate().filter(|(_, word)| **word != 0) {
                    stats.cold +=
                        put_back_word(memory, golden, i, self.planted.misread(std::mem::take(word)));
                }
                stats.pages = stats.cold;
            }
            Engine::HotSet => {
                let wrong = usize::from(self.planted.is(Mutation::SkipHotPage));
                for &page in self.hot.pages().iter().skip(wrong) {
                    vm.memory().put_back(golden, page.into());
                }
                stats.pages = self.hot.pages().len();
                self.log.read(vm.fd()).map_err(ioctl("KVM_GET_DIRTY_LOG"))?;
                let join = match (vm.manual_dirty_log(), batch && self.cold_pages() <= EAGER_PAGES_MAX) {
                    (false, _) => hot::Join::Never,
                    (true, false) => hot::Join::SecondTime,
                    (true, true) => hot::Join::AtOnce,
                };
                for (i, &word) in self.log.words().iter().enumerate() {
                    let cold = self.hot.cold(i, word);
                    if cold != 0 {
                        stats.cold += put_back_word(vm.memory(), golden, i, self.planted.misread(cold));
                        let again = self.hot.learn(i, cold, join);
                        if again != 0 && vm.manual_dirty_log() {
                            self.log.clear_word(vm.fd(), i, again).map_err(ioctl("KVM_CLEAR_DIRTY_LOG"))?;
                        }
                    }
                }
                stats.pages += stats.cold;
                if self.hot.epoch_is_over() {
                    self.forget_hot(vm)?;
                }
            }
        }
        let forgotten = self.planted.is(Mutation::ForgetHostWrites);
        for &page in vm.memory().host_dirty().iter().filter(|_| !forgotten) {
            vm.memory().put_back(golden, page);
            stats.pages += 1;
        }
        vm.memory_mut().forget_host_writes();
        Ok(stats)
    }

    /// Forgets the hot set and whatever is tracked: RAM was replaced.
    pub(crate) fn forget(&mut self, vm: &mut Vm) -> Result<(), ResetError> {
        match self.engine {
            Engine::CopyAll => {}
            Engine::DirtyRing => {
                vm.take_ring_pages().map_err(ioctl("KVM_RESET_DIRTY_RINGS"))?.0.fill(0);
            }
            Engine::DirtyLog | Engine::HotSet => {
                self.log.read(&vm.fd).map_err(ioctl("KVM_GET_DIRTY_LOG"))?;
                if vm.manual_dirty_log() {
                    for (i, &word) in self.log.words().iter().enumerate().filter(|(_, word)| **word != 0) {
                        self.log.clear_word(&vm.fd, i, word).map_err(ioctl("KVM_CLEAR_DIRTY_LOG"))?;
                    }
                }
                self.hot.forget();
            }
        }
        vm.memory.forget_host_writes();
        Ok(())
    }

    /// Pages that `vm` may have changed since its last reset, a bit each; leaves it to the next reset to
    /// put them back.
    pub(crate) fn dirty(&mut self, vm: &mut Vm) -> Result<Vec<u64>, ResetError> {
        let words = self.log.words().len();
        let mut dirty = vec![0; words];
        match self.engine {
            Engine::CopyAll => dirty.fill(u64::MAX),
            Engine::DirtyRing => {
                let (pages, _) = vm.take_ring_pages().map_err(ioctl("KVM_RESET_DIRTY_RINGS"))?;
                dirty.copy_from_slice(pages);
            }
            Engine::DirtyLog | Engine::HotSet => {
                let manual = vm.manual_dirty_log();
                self.log.read(&vm.fd).map_err(ioctl("KVM_GET_DIRTY_LOG"))?;
                for (i, word) in dirty.iter_mut().enumerate() {
                    *word = self.log.words()[i] | self.hot.word(i);
                }
                if !manual {
                    // Reading has cleared them: they are remembered as the host's own writes are.
                    for_each_page(&dirty, |page| vm.memory.mark(page));
                }
            }
        }
        for &page in vm.memory.host_dirty() {
            if let Some(word) = usize::try_from(page / 64).ok().and_then(|word| dirty.get_mut(word)) {
                *word |= 1 << (page % 64);
            }
        }
        Ok(dirty)
    }

    /// Pages that the log as last read names and that are not hot.
    fn cold_pages(&self) -> u32 {
        self.log.words().iter().enumerate().map(|(i, &word)| self.hot.cold(i, word).count_ones()).sum()
    }

    /// Begins to learn the hot set anew: all of it is tracked again.
    fn forget_hot(&mut self, vm: &impl Tracked) -> Result<(), ResetError> {
        for i in 0..self.log.words().len() {
            let word = self.hot.word(i);
            if word != 0 {
                self.log.clear_word(vm.fd(), i, word).map_err(ioctl("KVM_CLEAR_DIRTY_LOG"))?;
            }
        }
        self.hot.forget();
        Ok(())
    }
}

/// Calls `f` with the number of each page whose bit is set.
pub(crate) fn for_each_page(words: &[u64], mut f: impl FnMut(u64)) {
    for (i, &word) in words.iter().enumerate() {
        let mut bits = word;
        while bits != 0 {
            f(i as u64 * 64 + u64::from(bits.trailing_zeros()));
            bits &= bits - 1;
        }
    }
}

/// Puts back the pages of word `index` of a bitmap; returns how many.
fn put_back_word(memory: &GuestMemory, golden: &Golden<'_>, index: usize, word: u64) -> usize {
    let mut bits = word;
    while bits != 0 {
        let page = index as u64 * 64 + u64::from(bits.trailing_zeros());
        memory.put_back(golden, page);
        bits &= bits - 1;
    }
    word.count_ones() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_is_found_by_its_name() {
        for engine in Engine::ALL {
            assert_eq!(engine.to_string().parse(), Ok(engine));
        }
        assert!("fast".parse::<Engine>().unwrap_err().to_string().contains("hot-set"));
    }
}
