//! The newest figures, for those who show them: the terminal UI and `--metrics`, each in a thread of its own.
//!
//! The campaign writes here once a second and at findings, never while it runs inputs, and waits for nobody:
//! readers copy what they need and let go.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

use super::Figures;

/// Findings and notices that are kept for those who have not looked yet.
const KEPT_MAX: usize = 1000;

/// A finding, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) sentence: String,
    /// Time of fuzzing when it was found.
    pub(crate) runtime_s: f64,
}

/// What has come since someone last looked.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) figures: Option<Figures>,
    pub(crate) found: Vec<Found>,
    pub(crate) notices: Vec<String>,
    pub(crate) closed: bool,
}

#[derive(Debug, Default)]
struct Inner {
    figures: Option<(Figures, Instant)>,
    fresh: bool,
    found: VecDeque<Found>,
    notices: VecDeque<String>,
    closed: bool,
}

/// Where the campaign puts its newest figures.
#[derive(Debug)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    // Wakes the one who waits for news; without it they look now and then.
    bell: Option<OwnedFd>,
}

impl Default for Board {
    fn default() -> Self {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        Self { inner: Mutex::default(), bell }
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts up new figures.
    pub(crate) fn publish(&self, figures: Figures) {
        let mut inner = self.lock();
        inner.figures = Some((figures, Instant::now()));
        inner.fresh = true;
        drop(inner);
        self.ring();
    }

    /// Says that something was found.
    pub(crate) fn found(&self, found: Found) {
        push(&mut self.lock().found, found);
        self.ring();
    }

    /// Says something else.
    pub(crate) fn notice(&self, text: String) {
        push(&mut self.lock().notices, text);
        self.ring();
    }

    /// There will be no more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ring();
    }

    /// The newest figures, and when they came.
    pub(crate) fn latest(&self) -> Option<(Figures, Instant)> {
        self.lock().figures.clone()
    }

    /// What has come since the last call. For one reader: the UI.
    pub(crate) fn news(&self) -> News {
        if let Some(bell) = &self.bell {
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
        let mut inner = self.lock();
        let fresh = std::mem::take(&mut inner.fresh);
        News {
            figures: inner.figures.as_ref().filter(|_| fresh).map(|(figures, _)| figures.clone()),
            found: inner.found.drain(..).collect(),
            notices: inner.notices.drain(..).collect(),
            closed: inner.closed,
        }
    }

    /// Readable when there is news.
    pub(crate) fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(AsFd::as_fd)
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            // It can only fail when it has rung very often, and then it rings already.
            let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
        }
    }
}

fn push<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == KEPT_MAX {
        list.pop_front();
    }
    list.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_told_once_and_the_newest_figures_stay() {
        let board = Board::default();
        let figures = |execs| Figures { execs, ..Figures::default() };
        board.publish(figures(1));
        board.publish(figures(2));
        board.notice("careful".to_owned());
        let news = board.news();
        assert_eq!((news.figures, news.notices.len(), news.closed), (Some(figures(2)), 1, false));
        board.close();
        let news = board.news();
        assert_eq!((news.figures, news.notices.len(), news.closed), (None, 0, true));
        assert_eq!(board.latest().unwrap().0, figures(2));
    }

    #[test]
    fn nobody_looking_takes_bounded_memory() {
        let board = Board::default();
        for number in 0..3 * KEPT_MAX {
            board.notice(number.to_string());
        }
        let notices = board.news().notices;
        assert_eq!(notices.len(), KEPT_MAX);
        assert_eq!(notices.last().unwrap(), &(3 * KEPT_MAX - 1).to_string());
    }
}
