//! The hot set: pages that most runs dirty.
//!
//! A tracked page costs the guest a fault each time it is written anew (0.3 to 1 µs with hardware
//! paging, 10 to 30 µs with shadow paging), a copied one about 0.1 µs whether it was written or
//! not. So a page that is dirtied again soon is better copied back always. It joins when it is dirtied
//! twice within some 100 runs: rarer ones, as in a large hash table, cost more copied than tracked, and
//! one odd run (a deep recursion, say) does not burden all that follow. At the end of an epoch the set
//! is learned anew, so that it follows the campaign.
//!
//! This is bookkeeping alone; [`crate::reset`] copies and talks to KVM.

use serde::{Deserialize, Serialize};
use unifork_abi::HOT_MAX;

/// Resets per epoch. Learning a page anew costs two faults; spread over this many runs that is
/// below the price of one copy.
const EPOCH: u32 = 8192;
/// Copies of hot pages per epoch. A set that is large, because of a few deep recursions say, is
/// learned anew sooner: at 0.1 us a copy and some 10 us a fault that is worth it after this many
/// copies, whatever the set's size: about 200 of each page of a set of 2,000.
const EPOCH_COPIES: u64 = 1 << 19;

/// Resets after which a page that was dirty once is forgotten, at least; at most twice as many.
const MEMORY: u32 = 64;

/// How the hot set is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotStats {
    /// Pages in it now.
    pub pages: usize,
    /// Resets that found nothing dirty outside of it.
    pub hits: u64,
    /// Resets that did.
    pub misses: u64,
}

/// When a cold page that was dirty becomes hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// The host cannot leave pages writable.
    Never,
    /// At its second time within a short time.
    SecondTime,
    /// At its first.
    AtOnce,
}

/// The pages that are always put back.
#[derive(Debug)]
pub(crate) struct HotSet {
    // Invariant: `pages` names exactly the bits of `hot`, each once; at most HOT_MAX.
    pages: Vec<u32>,
    hot: Vec<u64>,
    // Pages dirtied in this stretch of MEMORY resets, and in the one before.
    seen: Vec<u64>,
    seen_before: Vec<u64>,
    resets: u32,
    copies: u64,
    changed: bool,
    missed: bool,
    hits: u64,
    misses: u64,
}

impl HotSet {
    /// An empty set for a machine of `pages` pages.
    pub(crate) fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(0);
        Self {
            pages: Vec::with_capacity(HOT_MAX),
            hot: vec![0; words],
            seen: vec![0; words],
            seen_before: vec![0; words],
            resets: 0,
            copies: 0,
            changed: true,
            missed: false,
            hits: 0,
            misses: 0,
        }
    }

    /// Numbers of the pages.
    pub(crate) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// The hot pages among those of word `index` of a bitmap.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.hot[index]
    }

    /// The pages of `dirty`, word `index` of a bitmap, that are not hot.
    pub(crate) fn cold(&self, index: usize, dirty: u64) -> u64 {
        dirty & !self.hot[index]
    }

    /// Takes note that `cold` of word `index` were dirty. Returns those that stay cold and must be
    /// tracked again; the others are hot from now on.
    pub(crate) fn learn(&mut self, index: usize, cold: u64, join: Join) -> u64 {
        self.missed = true;
        let mut joining = match join {
            Join::Never => 0,
            Join::SecondTime => cold & (self.seen[index] | self.seen_before[index]),
            Join::AtOnce => cold,
        };
        self.seen[index] |= cold;
        let mut joined = 0;
        while joining != 0 && self.pages.len() < HOT_MAX {
            let bit = joining.trailing_zeros();
            joining &= joining - 1;
            joined |= 1 << bit;
            self.pages.push(u32::try_from(index * 64).unwrap_or(0) + bit);
        }
        self.hot[index] |= joined;
        self.changed |= joined != 0;
        cold & !joined
    }

    /// Counts a reset; says whether the set is to be learned anew.
    pub(crate) fn epoch_is_over(&mut self) -> bool {
        if std::mem::take(&mut self.missed) {
            self.misses += 1;
        } else {
            self.hits += 1;
        }
        self.resets += 1;
        if self.resets.is_multiple_of(MEMORY) {
            std::mem::swap(&mut self.seen, &mut self.seen_before);
            self.seen.fill(0);
        }
        self.copies += self.pages.len() as u64;
        self.resets >= EPOCH || self.copies >= EPOCH_COPIES
    }

    /// Begins a new epoch with nothing.
    pub(crate) fn forget(&mut self) {
        self.pages.clear();
        self.hot.fill(0);
        self.seen.fill(0);
        self.seen_before.fill(0);
        self.resets = 0;
        self.copies = 0;
        self.changed = true;
    }

    /// Whether the set has changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Makes [`Self::take_changed`] say so once more.
    pub(crate) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// How it is doing.
    pub(crate) fn stats(&self) -> HotStats {
        HotStats { pages: self.pages.len(), hits: self.hits, misses: self.misses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_joins_at_its_second_time_and_leaves_with_the_epoch() {
        let mut set = HotSet::new(128);
        assert_eq!(set.learn(1, 0b11, Join::SecondTime), 0b11, "the first time is cold");
        assert_eq!(set.learn(1, 0b01, Join::SecondTime), 0, "the second time is hot");
        assert_eq!(set.pages(), &[64]);
        assert_eq!(set.cold(1, 0b11), 0b10);
        set.forget();
        assert_eq!((set.pages().len(), set.cold(1, 0b11)), (0, 0b11));
    }

    #[test]
    fn a_page_that_is_dirtied_seldom_stays_cold() {
        let mut set = HotSet::new(64);
        for _ in 0..10 {
            assert_eq!(set.learn(0, 1, Join::SecondTime), 1);
            (0..2 * MEMORY).for_each(|_| assert!(!set.epoch_is_over()));
        }
        assert_eq!(set.learn(0, 1, Join::SecondTime), 1);
        (0..MEMORY - 1).for_each(|_| assert!(!set.epoch_is_over()));
        assert_eq!(set.learn(0, 1, Join::SecondTime), 0, "and joins when it comes sooner");
    }

    #[test]
    fn a_large_set_is_learned_anew_sooner() {
        let resets = |pages: usize| {
            let mut set = HotSet::new(4096);
            for word in 0..pages / 64 {
                set.learn(word, u64::MAX, Join::AtOnce);
            }
            let mut resets = 1;
            while !set.epoch_is_over() {
                resets += 1;
            }
            resets
        };
        assert_eq!(resets(64), EPOCH);
        assert_eq!(u64::from(resets(2048)), EPOCH_COPIES / 2048);
    }

    #[test]
    fn the_set_is_bounded() {
        let mut set = HotSet::new(HOT_MAX as u64 + 640);
        for round in 0..2 {
            for word in 0..HOT_MAX / 64 + 10 {
                let cold = set.cold(word, u64::MAX);
                let stay = set.learn(word, cold, Join::SecondTime);
                assert_eq!(stay != 0, round == 0 || word >= HOT_MAX / 64);
            }
        }
        assert_eq!(set.pages().len(), HOT_MAX);
    }
}
