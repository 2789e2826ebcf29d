//! What the UI shows: the newest figures, and what it remembers of earlier ones.

use std::time::{Duration, Instant};

use super::Facts;
use crate::history::{History, POINTS_MAX};
use crate::monitor::board::{Found, News};
use crate::monitor::{self, Figures};
use crate::{findings, signals};

/// Findings in the list at most; all of them are counted and on disk.
const LISTED_MAX: usize = 1000;

/// All that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) facts: Facts,
    pub(super) figures: Option<Figures>,
    /// When they came.
    pub(super) at: Instant,
    /// Time of fuzzing, and edges reached.
    pub(super) edges: History<(f64, f64)>,
    /// Time of fuzzing when an edge was last reached for the first time.
    pub(super) newest_edge_s: Option<f64>,
    /// In the order they were found.
    pub(super) found: Vec<Found>,
    /// The newest.
    pub(super) notice: Option<String>,
    pub(super) stopping: bool,
}

impl Model {
    pub(super) fn new(facts: Facts) -> Self {
        Self {
            facts,
            figures: None,
            at: Instant::now(),
            edges: History::default(),
            newest_edge_s: None,
            found: Vec::new(),
            notice: None,
            stopping: false,
        }
    }

    /// Reads what earlier sessions left in the campaign's folder.
    pub(super) fn load(&mut self) {
        for figures in monitor::sample(&self.facts.folder.join("stats.jsonl"), POINTS_MAX / 4) {
            self.remember(&figures);
        }
        let mut found = findings::briefs(&self.facts.folder.join("findings"));
        found.sort_by(|one, other| one.runtime_s.total_cmp(&other.runtime_s));
        let excess = found.len().saturating_sub(LISTED_MAX);
        self.found = found.split_off(excess);
    }

    /// Takes what is new. Whether there was anything.
    pub(super) fn take(&mut self, news: News) -> bool {
        let stopping = signals::stop_requested();
        let mut changed = std::mem::replace(&mut self.stopping, stopping) != stopping;
        if let Some(figures) = news.figures {
            self.remember(&figures);
            self.figures = Some(figures);
            self.at = Instant::now();
            changed = true;
        }
        for found in news.found {
            // The folder may have been read after it was found.
            if self.found.iter().all(|known| known.name != found.name) {
                self.found.push(found);
            }
            if self.found.len() > LISTED_MAX {
                self.found.remove(0);
            }
            changed = true;
        }
        if let Some(notice) = news.notices.into_iter().next_back() {
            self.notice = Some(notice);
            changed = true;
        }
        changed
    }

    fn remember(&mut self, figures: &Figures) {
        let edges = figures.edges as f64;
        let last = self.edges.points().last();
        if last.is_some_and(|(time, _)| time >= figures.runtime_s) {
            return;
        }
        if last.is_none_or(|(_, before)| edges > before) {
            self.newest_edge_s = Some(figures.runtime_s);
        }
        self.edges.push((figures.runtime_s, edges));
    }

    /// How long ago the figures came, if that is longer than it should be.
    pub(super) fn silence(&self) -> Option<Duration> {
        let silence = self.at.elapsed();
        (silence >= Duration::from_secs(3)).then_some(silence)
    }
}
