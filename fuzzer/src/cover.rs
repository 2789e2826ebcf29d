//! The fewest inputs that together reach what all of them reach, nearly: a greedy cover.
//!
//! What is covered is pairs of an edge and the bucket of its count, as AFL has them. Inputs are added smallest
//! first, so the first to reach a pair is the smallest that does, the pair's *owner*; an input that owns
//! nothing is never needed, and nothing is remembered of it. Then, rarest pair first, each pair that is
//! not covered yet brings in its owner (AFL's `afl-cmin` does the same). At last, largest first, whatever the
//! others cover as well is dropped.
//!
//! The best answer would take a solver. This one takes memory for what owners reach and the time to sort
//! the pairs, and is at most a few inputs larger in practice.

/// Buckets of a count above zero.
const BUCKETS: usize = 8;

/// The bucket of a count above zero: 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, and more.
fn bucket(count: u8) -> usize {
    match count {
        0..=1 => 0,
        2 => 1,
        3 => 2,
        4..=7 => 3,
        8..=15 => 4,
        16..=31 => 5,
        32..=127 => 6,
        128..=255 => 7,
    }
}

/// What inputs reach.
#[derive(Debug)]
pub(crate) struct Cover {
    // For each pair, who reached it first, and how many did.
    owner: Vec<Option<usize>>,
    reached_by: Vec<u32>,
    // For each owner, all pairs it reaches.
    owners: Vec<Vec<usize>>,
    // Room for the pairs of the input at hand.
    pairs: Vec<usize>,
}

impl Cover {
    /// Of nothing yet, with `edges` counters.
    pub(crate) fn new(edges: usize) -> Self {
        let pairs = edges * BUCKETS;
        Self { owner: vec![None; pairs], reached_by: vec![0; pairs], owners: Vec::new(), pairs: Vec::new() }
    }

    /// Adds the next larger input, by its counters. If it owns a pair: its number as an owner, from zero.
    pub(crate) fn add(&mut self, counters: &[u8]) -> Option<usize> {
        self.pairs.clear();
        let (number, mut owns) = (self.owners.len(), false);
        for (edge, &count) in counters.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let pair = edge * BUCKETS + bucket(count);
            let (Some(owner), Some(by)) = (self.owner.get_mut(pair), self.reached_by.get_mut(pair)) else {
                continue;
            };
            owns |= owner.is_none();
            owner.get_or_insert(number);
            *by = by.saturating_add(1);
            self.pairs.push(pair);
        }
        owns.then(|| {
            self.owners.push(self.pairs.clone());
            number
        })
    }

    /// Pairs that are reached.
    pub(crate) fn pairs(&self) -> usize {
        self.owner.iter().flatten().count()
    }

    /// Edges that are reached.
    pub(crate) fn edges(&self) -> usize {
        self.owner.chunks(BUCKETS).filter(|pairs| pairs.iter().any(Option::is_some)).count()
    }

    /// The owners that cover it all, smallest first.
    pub(crate) fn choose(&self) -> Vec<usize> {
        let mut pairs: Vec<(u32, usize, usize)> = (0..)
            .zip(&self.owner)
            .filter_map(|(pair, owner)| owner.map(|owner| (self.reached_by[pair], pair, owner)))
            .collect();
        pairs.sort_unstable();
        // How many of the chosen reach a pair.
        let mut covered = vec![0_u32; self.owner.len()];
        let mut chosen = Vec::new();
        for (_, pair, owner) in pairs {
            if covered[pair] == 0 {
                self.owners[owner].iter().for_each(|&pair| covered[pair] += 1);
                chosen.push(owner);
            }
        }
        chosen.sort_unstable();
        let mut kept = Vec::new();
        for owner in chosen.into_iter().rev() {
            let pairs = &self.owners[owner];
            if pairs.iter().any(|&pair| covered[pair] == 1) {
                kept.push(owner);
            } else {
                pairs.iter().for_each(|&pair| covered[pair] -= 1);
            }
        }
        kept.reverse();
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn reached<'a>(inputs: impl IntoIterator<Item = &'a Vec<u8>>) -> BTreeSet<(usize, usize)> {
        let pairs = |input: &'a Vec<u8>| input.iter().enumerate().filter(|&(_, &count)| count > 0);
        inputs.into_iter().flat_map(pairs).map(|(edge, &count)| (edge, bucket(count))).collect()
    }

    #[test]
    fn all_is_covered_and_nothing_is_left_over() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..200 {
            let edges = rng.random_range(1..40);
            let sparse = |rng: &mut StdRng| if rng.random_ratio(1, 4) { rng.random() } else { 0 };
            let inputs: Vec<Vec<u8>> = (0..rng.random_range(0..60))
                .map(|_| (0..edges).map(|_| sparse(&mut rng)).collect())
                .collect();
            let mut cover = Cover::new(edges);
            let mut owners = Vec::new();
            for input in &inputs {
                if let Some(number) = cover.add(input) {
                    assert_eq!(number, owners.len());
                    owners.push(input.clone());
                }
            }
            let chosen: Vec<Vec<u8>> =
                cover.choose().into_iter().map(|owner| owners[owner].clone()).collect();
            assert_eq!(reached(&chosen), reached(&inputs));
            assert_eq!(cover.pairs(), reached(&inputs).len());
            for without in 0..chosen.len() {
                let others = chosen.iter().enumerate().filter(|&(at, _)| at != without).map(|(_, one)| one);
                assert_ne!(reached(others), reached(&inputs), "one is not needed");
            }
        }
    }

    #[test]
    fn the_smallest_that_reaches_a_rare_pair_comes_in_first() {
        let mut cover = Cover::new(3);
        assert_eq!(cover.add(&[1, 0, 0]), Some(0));
        assert_eq!(cover.add(&[1, 1, 0]), Some(1));
        assert_eq!(cover.add(&[1, 1, 0]), None, "it reaches nothing new");
        assert_eq!(cover.add(&[1, 1, 1]), Some(2));
        assert_eq!(cover.choose(), [2], "one covers all");
        assert_eq!(cover.add(&[5, 1, 0]), Some(3), "another bucket is another pair");
        assert_eq!(cover.choose(), [2, 3]);
        assert_eq!((cover.edges(), cover.pairs()), (3, 4));
    }
}
