//! The figures of several clients as one.

use std::time::{Duration, Instant};

use crate::monitor::{ClientFigures, Figures};

/// Figures are due every second; without any for this long, a client's speed is not known.
const QUIET: Duration = Duration::from_secs(3);

/// One client's part in a session: those who had its place before, and the one that has it now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    /// Of those that are gone; only what is counted.
    gone: Figures,
    /// Of the present one.
    pub(crate) now: Figures,
    // When they came.
    told: Option<Instant>,
    pub(crate) core: usize,
    pub(crate) pid: u32,
    pub(crate) restarts: u64,
}

impl Part {
    /// The part of the client on `core`, before it runs.
    pub(crate) fn new(core: usize) -> Self {
        Self { core, ..Self::default() }
    }

    /// The present client says how it stands.
    pub(crate) fn hear(&mut self, figures: Figures, at: Instant) {
        (self.now, self.told) = (figures, Some(at));
    }

    /// A client that has said nothing for a while makes no executions that anybody knows of.
    pub(crate) fn expect_news(&mut self, now: Instant) {
        if self.told.is_none_or(|told| now - told > QUIET) {
            self.now.execs_per_s = 0.0;
        }
    }

    /// The present client is gone.
    pub(crate) fn end(&mut self) {
        add_counts(&mut self.gone, &self.now);
        let last = std::mem::take(&mut self.now);
        // What describes the corpus holds until the next one has read it.
        self.now = Figures {
            corpus: last.corpus,
            edges: last.edges,
            edges_total: last.edges_total,
            kernel_edges: last.kernel_edges,
            kernel_edges_total: last.kernel_edges_total,
            stability: last.stability,
            unstable: last.unstable,
            ..Figures::default()
        };
        self.pid = 0;
    }

    /// Executions of this session.
    pub(crate) fn execs(&self) -> u64 {
        self.gone.execs + self.now.execs
    }

    fn row(&self) -> ClientFigures {
        ClientFigures {
            core: self.core,
            pid: self.pid,
            execs: self.execs(),
            execs_per_s: self.now.execs_per_s,
            corpus: self.now.corpus,
            imported: self.gone.imported + self.now.imported,
            edges: self.now.edges,
            stability: self.now.stability,
            batch_size: self.now.batch_size,
            hot_pages: self.now.hot_pages,
            restarts: self.restarts,
        }
    }
}

fn add_counts(sum: &mut Figures, part: &Figures) {
    sum.execs += part.execs;
    sum.cpu_s += part.cpu_s;
    sum.duplicates += part.duplicates;
    sum.unrepeated += part.unrepeated;
    sum.batches += part.batches;
    sum.batched += part.batched;
    sum.spoiled += part.spoiled;
    sum.audits += part.audits;
    sum.audit_differences += part.audit_differences;
    sum.audits_skipped += part.audits_skipped;
    sum.imported += part.imported;
    sum.guest_s += part.guest_s;
    sum.reset_s += part.reset_s;
    sum.engine_s += part.engine_s;
}

/// The campaign's figures: counts are added up; of what each client sees of the same program, the best
/// informed one's, but the worst stability. Corpus, findings and times are the caller's to fill in.
pub(crate) fn sum(parts: &[Part]) -> Figures {
    let mut sum = Figures { stability: 1.0, ..Figures::default() };
    let mut weights = 0.0;
    for part in parts {
        add_counts(&mut sum, &part.gone);
        add_counts(&mut sum, &part.now);
        let now = &part.now;
        sum.execs_per_s += now.execs_per_s;
        sum.guest_us += now.execs_per_s * now.guest_us;
        sum.reset_us += now.execs_per_s * now.reset_us;
        sum.engine_us += now.execs_per_s * now.engine_us;
        sum.rss_bytes += now.rss_bytes;
        sum.edges = sum.edges.max(now.edges);
        sum.edges_total = sum.edges_total.max(now.edges_total);
        sum.kernel_edges = sum.kernel_edges.max(now.kernel_edges);
        sum.kernel_edges_total = sum.kernel_edges_total.max(now.kernel_edges_total);
        sum.hot_pages = sum.hot_pages.max(now.hot_pages);
        sum.batch_size = sum.batch_size.max(now.batch_size);
        if now.edges > 0 {
            sum.stability = sum.stability.min(now.stability);
            sum.unstable = sum.unstable.max(now.unstable);
        }
        let weight = now.execs as f64;
        sum.reset_pages_per_run += weight * now.reset_pages_per_run;
        sum.hot_hit_rate += weight * now.hot_hit_rate;
        weights += weight;
        sum.restarts += part.restarts;
        sum.clients.push(part.row());
    }
    if sum.execs_per_s > 0.0 {
        sum.guest_us /= sum.execs_per_s;
        sum.reset_us /= sum.execs_per_s;
        sum.engine_us /= sum.execs_per_s;
    }
    if weights > 0.0 {
        sum.reset_pages_per_run /= weights;
        sum.hot_hit_rate /= weights;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_of_a_client_that_says_nothing_is_not_that_of_long_ago() {
        let (mut part, start) = (Part::new(0), Instant::now());
        let figures = Figures { execs: 100, execs_per_s: 10.0, ..Figures::default() };
        part.hear(figures, start);
        part.expect_news(start + QUIET);
        assert_eq!(sum(std::slice::from_ref(&part)).execs_per_s, 10.0);
        part.expect_news(start + 2 * QUIET);
        let sum = sum(&[part]);
        assert_eq!((sum.execs, sum.execs_per_s, sum.clients[0].execs_per_s), (100, 0.0, 0.0));
    }

    #[test]
    fn counts_add_up_over_clients_and_those_before_them() {
        let figures = |execs, edges, stability| Figures {
            execs,
            edges,
            stability,
            execs_per_s: 10.0,
            duplicates: 1,
            hot_hit_rate: stability,
            guest_us: 2.0 * stability,
            ..Figures::default()
        };
        let mut one = Part::new(0);
        (one.now, one.pid) = (figures(100, 5, 0.5), 7);
        one.end();
        assert_eq!((one.execs(), one.pid), (100, 0));
        one.restarts = 1;
        one.now = figures(50, 9, 1.0);
        let other = Part { now: figures(150, 7, 0.9), ..Part::new(1) };
        let sum = sum(&[one, other]);
        assert_eq!((sum.execs, sum.edges, sum.duplicates, sum.restarts), (300, 9, 3, 1));
        assert_eq!((sum.execs_per_s, sum.stability), (20.0, 0.9));
        assert!((sum.hot_hit_rate - 0.925).abs() < 1e-9);
        assert!((sum.guest_us - 1.9).abs() < 1e-9, "as many executions of each: the mean");
        assert_eq!(sum.clients.iter().map(|client| client.execs).collect::<Vec<_>>(), [150, 150]);
    }
}
