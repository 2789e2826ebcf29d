//! What would be news: the campaign's history of hit counts, in the form in which the guest compares
//! its counters with it.
//!
//! LibAFL keeps, for each counter, the largest bucket seen ([`MapFeedbackMetadata`]). A raw count is
//! news if its bucket is larger, which is so exactly if the count is above the largest one of the
//! bucket seen: that count is the counter's threshold.

use libafl::HasNamedMetadata as _;
use libafl::feedbacks::MapFeedbackMetadata;

use crate::campaign::State;

/// The largest raw count that is no news when `bucket` has been seen. Buckets are AFL's, as LibAFL's
/// `HitcountsMapObserver` makes them.
const fn threshold(bucket: u8) -> u8 {
    match bucket {
        0 => 0,
        1 => 1,
        2 => 2,
        3..=4 => 3,
        5..=8 => 7,
        9..=16 => 15,
        17..=32 => 31,
        33..=64 => 127,
        65..=255 => 255,
    }
}

/// Writes the thresholds of the map called `name` to `to`; 255, never news, where there is no history
/// of that name.
pub(crate) fn write_thresholds(state: &State, name: &str, to: &mut [u8]) {
    let Ok(history) = state.named_metadata::<MapFeedbackMetadata<u8>>(name) else {
        to.fill(u8::MAX);
        return;
    };
    // A history grows with the first run that is judged; what it does not have yet is all news.
    let seen = history.history_map.iter().copied().chain(std::iter::repeat(0));
    for (threshold_of, bucket) in to.iter_mut().zip(seen) {
        *threshold_of = threshold(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AFL's buckets, the slow and obvious way (AFL++ `include/config.h`, `count_class_lookup8`).
    fn bucket(count: u8) -> u8 {
        match count {
            0 => 0,
            1 => 1,
            2 => 2,
            3 => 4,
            4..=7 => 8,
            8..=15 => 16,
            16..=31 => 32,
            32..=127 => 64,
            128..=255 => 128,
        }
    }

    #[test]
    fn a_count_is_above_the_threshold_exactly_if_its_bucket_is_new() {
        for seen in 0..=255 {
            let seen = bucket(seen);
            for count in 0..=255 {
                assert_eq!(count > threshold(seen), bucket(count) > seen, "{count} after bucket {seen}");
            }
        }
        assert_eq!(threshold(u8::MAX), u8::MAX, "an unstable edge is never news");
    }
}
