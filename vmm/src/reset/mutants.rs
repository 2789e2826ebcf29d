//! Planted mistakes, so that the soundness tests can be tested themselves.
//!
//! Each is one way in which a tracked reset, or a batch, could be wrong. With the feature `mutants`, which only
//! the tests turn on, one of them can be planted in a fork; without it, asking for one is a constant
//! `false`, and nothing of this is left in the program.

use unifork_abi::GOLDEN_VA;

use crate::addr::PAGE_BYTES;
use crate::vcpu::{CoreState, Vcpu};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The lowest of several dirty pages within a word of the log is left as it is.
    SkipPage,
    /// Pages that the host wrote, which KVM does not log, are left as they are.
    ForgetHostWrites,
    /// The page that became hot first is left writable but not put back. (The last one may be a page that
    /// no later run writes.)
    SkipHotPage,
    /// x87, SSE and AVX state is left as it is.
    KeepXsave,
    /// What a run at the guest's CPL 0 did to MSRs stays.
    KeepMsrs,
    /// FS and GS base are left as they are.
    KeepBases,
    /// Pending events and the interrupt shadow are left as they are.
    KeepEvents,
    /// DR6 is left as a #DB set it.
    KeepDebug,
    /// The page that became hot last is kept from the guest, which puts pages back within a batch.
    HideHotPage,
    /// The guest is told to put every second hot page back from another's snapshot: the machine's tables,
    /// which are like no page of a program. (One page may be dead between two runs, as a stack is.)
    WrongGolden,
    /// The virtio devices of an image with a kernel of its own are left as they are.
    KeepVirtio,
    /// And its other devices, with the interrupt controllers.
    KeepBus,
    /// Pages that a batch dirtied and did not put back are no reason to throw it away.
    TrustBatch,
    /// What the monitor knows of its CPU is left as it is.
    KeepVirtual,
    /// Page tables, as the monitor or KVM has copied them, are left as they are.
    KeepShadow,
    /// A batch goes on behind a run that stopped for a device or the monitor.
    IgnoreStops,
}

/// What is planted in one fork.
#[derive(Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "mutants")]
    mutation: Option<Mutation>,
}

impl Planted {
    /// Plants `mutation`.
    #[cfg(feature = "mutants")]
    pub(crate) fn set(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
    }

    /// Whether it is `mutation`.
    #[cfg(feature = "mutants")]
    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Never.
    #[cfg(not(feature = "mutants"))]
    pub(crate) fn is(&self, _mutation: Mutation) -> bool {
        false
    }

    /// `word` of a log of dirty pages, as it is taken to be.
    pub(crate) fn misread(&self, word: u64) -> u64 {
        if self.is(Mutation::SkipPage) && word.count_ones() > 1 { word & (word - 1) } else { word }
    }

    /// How many of `right` hot pages the guest is told of.
    pub(crate) fn hot_count(&self, right: u64) -> u64 {
        right.saturating_sub(u64::from(self.is(Mutation::HideHotPage)))
    }

    /// Where the guest is told to put hot page number `index` back from.
    pub(crate) fn golden(&self, index: usize, right: u64) -> u64 {
        if self.is(Mutation::WrongGolden) && index % 2 == 1 { GOLDEN_VA + PAGE_BYTES } else { right }
    }

    /// The registers and events to load instead of `right`, given those that the run left in `vcpu`.
    pub(crate) fn core(&self, right: &CoreState, vcpu: &Vcpu) -> Option<CoreState> {
        let mut core = *right;
        if self.is(Mutation::KeepBases) {
            let left = vcpu.core().sregs;
            (core.sregs.fs.base, core.sregs.gs.base) = (left.fs.base, left.gs.base);
        } else if self.is(Mutation::KeepEvents) {
            core.events = vcpu.core().events;
        } else {
            return None;
        }
        Some(core)
    }
}
