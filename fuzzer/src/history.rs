//! A curve of bounded size: when it is full, every second point goes.

/// Points at most; more than any terminal or page has columns.
pub(crate) const POINTS_MAX: usize = 2048;

/// Values over time, both never decreasing in time.
#[derive(Clone, Debug)]
pub(crate) struct History<T> {
    points: Vec<T>,
    // Of so many points that come, one is kept; so many were left out since.
    every: usize,
    skipped: usize,
    last: Option<T>,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self { points: Vec::new(), every: 1, skipped: 0, last: None }
    }
}

impl<T: Copy> History<T> {
    /// Adds the newest point.
    pub(crate) fn push(&mut self, point: T) {
        self.last = None;
        self.skipped += 1;
        if self.skipped < self.every {
            self.last = Some(point);
            return;
        }
        self.skipped = 0;
        self.points.push(point);
        if self.points.len() == POINTS_MAX {
            let mut at = 0;
            self.points.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.every *= 2;
            self.last = Some(point);
        }
    }

    /// What is kept, and always the newest.
    pub(crate) fn points(&self) -> impl Iterator<Item = T> + '_ {
        self.points.iter().copied().chain(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_small_and_keeps_first_and_newest_and_the_order() {
        for count in [0, 1, 2, POINTS_MAX - 1, POINTS_MAX, POINTS_MAX + 1, 100_003] {
            let mut history = History::default();
            (0..count).for_each(|point| history.push(point));
            let points: Vec<usize> = history.points().collect();
            assert!(points.len() <= POINTS_MAX && points.len() >= count.min(POINTS_MAX / 4));
            assert!(points.is_sorted(), "{count}");
            assert_eq!(points.first(), (count > 0).then_some(&0));
            assert!(points.last().copied() == count.checked_sub(1), "{count}: {:?}", points.last());
        }
    }
}
