//! What a campaign says of itself: a line a second, and the same figures in `stats.jsonl`, on the [`Board`]
//! that the terminal UI and `--metrics` read, and in the report.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use libafl::HasNamedMetadata;
use libafl::corpus::Corpus as _;
use libafl::feedbacks::MapFeedbackMetadata;
use libafl::state::{HasCorpus, HasExecutions};
use serde::{Deserialize, Serialize};
use unifork_vmm::Outcome;
use unifork_vmm::regular;

use crate::campaign::State;
use crate::cmd::say;
use crate::executor::Tally;
use crate::findings::{Findings, Moment};
use crate::output::OutputError;
use crate::process;
use crate::report;
use crate::stage::calibrate;
use crate::ui;
use crate::units::{show_clock, show_count};

pub(crate) mod board;
pub(crate) mod fields;
pub(crate) mod log;

use board::{Board, Found};
pub(crate) use log::sample;

/// Time between two lines.
const PERIOD: Duration = Duration::from_secs(1);

/// The figures of one moment; a line of `stats.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Seconds since the epoch.
    pub(crate) unix: u64,
    /// Seconds of fuzzing, those of earlier sessions included.
    pub(crate) runtime_s: f64,
    /// Processor time of this session, in seconds, and memory of the process, in bytes.
    #[serde(default)]
    pub(crate) cpu_s: f64,
    #[serde(default)]
    pub(crate) rss_bytes: u64,
    /// Executions, those of earlier sessions included.
    pub(crate) execs: u64,
    /// Executions a second since the line before.
    pub(crate) execs_per_s: f64,
    /// What of an execution's time went to the guest, to putting it back, and to everything else, in
    /// microseconds, since the line before.
    #[serde(default)]
    pub(crate) guest_us: f64,
    #[serde(default)]
    pub(crate) reset_us: f64,
    #[serde(default)]
    pub(crate) engine_us: f64,
    /// The same in seconds, of the whole session.
    #[serde(default)]
    pub(crate) guest_s: f64,
    #[serde(default)]
    pub(crate) reset_s: f64,
    #[serde(default)]
    pub(crate) engine_s: f64,
    pub(crate) corpus: usize,
    pub(crate) edges: usize,
    pub(crate) edges_total: usize,
    /// The libOS's edges that were seen covered, and all of them.
    pub(crate) kernel_edges: usize,
    pub(crate) kernel_edges_total: usize,
    pub(crate) findings: usize,
    /// Runs that ended in a finding that was known.
    pub(crate) duplicates: u64,
    /// Timeouts that did not repeat in a fresh fork.
    pub(crate) unrepeated: u64,
    /// The share of covered edges whose counts repeat, of one.
    pub(crate) stability: f64,
    /// The edges whose counts do not: they count as new no more.
    #[serde(default)]
    pub(crate) unstable: usize,
    pub(crate) reset_pages_per_run: f64,
    /// Pages that are always put back, and the share of resets that found no other page dirty.
    #[serde(default)]
    pub(crate) hot_pages: usize,
    #[serde(default)]
    pub(crate) hot_hit_rate: f64,
    /// Runs in the next batch; batches of this session, runs in them, and batches thrown away.
    #[serde(default)]
    pub(crate) batch_size: usize,
    #[serde(default)]
    pub(crate) batches: u64,
    #[serde(default)]
    pub(crate) batched: u64,
    #[serde(default)]
    pub(crate) spoiled: u64,
    /// Runs made again in a new fork, and those that were not the same.
    #[serde(default)]
    pub(crate) audits: u64,
    #[serde(default)]
    pub(crate) audit_differences: u64,
    /// Audits that were due and could not be made.
    #[serde(default)]
    pub(crate) audits_skipped: u64,
    /// Clients that died and were started again, and other machines that are connected.
    #[serde(default)]
    pub(crate) restarts: u64,
    /// Inputs of other clients and machines that were kept.
    #[serde(default)]
    pub(crate) imported: u64,
    #[serde(default)]
    pub(crate) links: usize,
    /// Each client of a campaign on several cores; none where one process does it all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) clients: Vec<ClientFigures>,
}

/// One client of several: a process, on one core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClientFigures {
    pub(crate) core: usize,
    /// Its process; 0 while it has none.
    pub(crate) pid: u32,
    /// Executions of this session.
    pub(crate) execs: u64,
    pub(crate) execs_per_s: f64,
    pub(crate) corpus: usize,
    /// Inputs of other clients and machines that it kept.
    pub(crate) imported: u64,
    pub(crate) edges: usize,
    pub(crate) stability: f64,
    pub(crate) batch_size: usize,
    pub(crate) hot_pages: usize,
    /// How often it died and was started again.
    pub(crate) restarts: u64,
}

impl Figures {
    /// The line for people.
    pub(crate) fn line(&self) -> String {
        let percent = 100.0 * self.edges as f64 / self.edges_total.max(1) as f64;
        let mut more = String::new();
        if !self.clients.is_empty() {
            let running = self.clients.iter().filter(|client| client.pid != 0).count();
            more = format!("  clients {running}/{}", self.clients.len());
        }
        if self.restarts > 0 {
            more.push_str(&format!("  restarts {}", self.restarts));
        }
        if self.links > 0 {
            more.push_str(&format!("  machines {}", 1 + self.links));
        }
        format!(
            "{:>7}  {} execs  {}/s  corpus {}  edges {}/{} ({percent:.1} %)  findings {}  stability {:.1} %{more}",
            show_clock(Duration::try_from_secs_f64(self.runtime_s).unwrap_or_default()),
            show_count(self.execs),
            show_count(self.execs_per_s.round() as u64),
            show_count(self.corpus as u64),
            show_count(self.edges as u64),
            show_count(self.edges_total as u64),
            self.findings,
            100.0 * self.stability,
        )
    }
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// A line a second, for people.
    Lines,
    /// The same figures as JSON.
    Json,
    /// What the terminal UI shows; lines, should it have lost the terminal.
    Ui,
    /// Nothing.
    Nothing,
}

/// Prints and stores figures.
#[derive(Debug)]
pub(crate) struct Monitor {
    start: Instant,
    // Time of earlier sessions.
    before: Duration,
    due: Instant,
    last: Last,
    edges_total: usize,
    stats: File,
    path: PathBuf,
    show: Show,
    board: Arc<Board>,
}

/// The line before.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Instant,
    execs: u64,
    guest_s: f64,
    reset_s: f64,
}

/// The end of the file: a campaign of days has written a lot that nobody needs to read again.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    const TAIL_BYTES: u64 = 256 << 10;
    let mut file = regular::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

/// The last whole line of `stats.jsonl`: where the session before got to.
pub(crate) fn last_figures(path: &Path) -> Option<Figures> {
    // A kill may have left half a line at the end.
    tail(path).ok()?.rsplit(|&byte| byte == b'\n').find_map(|line| serde_json::from_slice(line).ok())
}

impl Monitor {
    /// Starts the clock. `before` is where earlier sessions got to, `edges_total` the number of
    /// the application's counters.
    pub(crate) fn start(
        path: PathBuf,
        before: Option<&Figures>,
        edges_total: usize,
        show: Show,
        board: Arc<Board>,
    ) -> Result<Self, OutputError> {
        let mut stats = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(OutputError::io("create", &path))?;
        // Half a line of a killed session is ended, so that the next one starts on its own.
        if tail(&path).is_ok_and(|text| !text.is_empty() && !text.ends_with(b"\n")) {
            stats.write_all(b"\n").map_err(OutputError::io("write", &path))?;
        }
        let start = Instant::now();
        let before_s = before.map_or(0.0, |figures| figures.runtime_s);
        Ok(Self {
            start,
            before: Duration::try_from_secs_f64(before_s).unwrap_or_default(),
            due: start + PERIOD,
            last: Last {
                at: start,
                execs: before.map_or(0, |figures| figures.execs),
                guest_s: 0.0,
                reset_s: 0.0,
            },
            edges_total,
            stats,
            path,
            show,
            board,
        })
    }

    /// Stores a line that is not figures.
    pub(crate) fn log(&mut self, line: &serde_json::Value) -> Result<(), OutputError> {
        self.stats.write_all(format!("{line}\n").as_bytes()).map_err(OutputError::io("write", &self.path))
    }

    /// Whether it is time for a line.
    #[inline]
    pub(crate) fn due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Time spent fuzzing, earlier sessions included.
    pub(crate) fn runtime(&self, now: Instant) -> Duration {
        self.before + now.saturating_duration_since(self.start)
    }

    /// Time of this session alone.
    pub(crate) fn session(&self) -> Duration {
        self.start.elapsed()
    }

    /// Prints a line and stores the figures.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        state: &State,
        tally: &Tally,
        findings: &Findings,
    ) -> Result<(), OutputError> {
        let figures = self.close(now, state, tally, findings)?;
        self.print(&figures);
        Ok(())
    }

    fn print(&self, figures: &Figures) {
        match self.show {
            Show::Ui if ui::terminal::is_active() => {}
            Show::Lines | Show::Ui => say(&format!("{}\n", figures.line())),
            Show::Json => say(&json_line(figures)),
            Show::Nothing => {}
        }
    }

    /// Prints and stores figures that are the sum of several clients'.
    pub(crate) fn tick_sum(&mut self, now: Instant, figures: &Figures) -> Result<(), OutputError> {
        self.store(now, figures)?;
        self.print(figures);
        Ok(())
    }

    /// Stores the last figures. They are not printed: a summary follows.
    pub(crate) fn close(
        &mut self,
        now: Instant,
        state: &State,
        tally: &Tally,
        findings: &Findings,
    ) -> Result<Figures, OutputError> {
        let figures = self.figures(now, state, tally, findings);
        self.store(now, &figures)?;
        Ok(figures)
    }

    /// Stores figures, and puts them on the board.
    pub(crate) fn store(&mut self, now: Instant, figures: &Figures) -> Result<(), OutputError> {
        self.last =
            Last { at: now, execs: figures.execs, guest_s: figures.guest_s, reset_s: figures.reset_s };
        self.due = now + PERIOD;
        self.stats.write_all(json_line(figures).as_bytes()).map_err(OutputError::io("write", &self.path))?;
        self.board.publish(figures.clone());
        Ok(())
    }

    /// Says that something was found.
    pub(crate) fn found(&self, name: &str, outcome: &Outcome, at: Moment) {
        self.found_by(name, &report::sentence(outcome), at);
    }

    /// The same, of something that another process found.
    pub(crate) fn found_by(&self, name: &str, sentence: &str, at: Moment) {
        self.board.found(Found {
            name: name.to_owned(),
            sentence: sentence.to_owned(),
            runtime_s: at.runtime.as_secs_f64(),
        });
        match self.show {
            Show::Ui if ui::terminal::is_active() => {}
            Show::Lines | Show::Ui => {
                let clock = show_clock(at.runtime);
                say(&format!("{clock:>7}  FINDING {name}: {sentence}\n"));
            }
            Show::Json => {
                let line = serde_json::json!({ "finding": name, "sentence": sentence, "execs": at.execs });
                say(&format!("{line}\n"));
            }
            Show::Nothing => {}
        }
    }

    fn figures(&self, now: Instant, state: &State, tally: &Tally, findings: &Findings) -> Figures {
        let covered = |name| {
            let map = state.named_metadata_map().get::<MapFeedbackMetadata<u8>>(name);
            map.map_or(0, |map| map.num_covered_map_indexes)
        };
        let execs = *state.executions();
        let last = self.last;
        let seconds = now.saturating_duration_since(last.at).as_secs_f64().max(1e-9);
        let new_execs = execs.saturating_sub(last.execs);
        let of_one = |seconds: f64| seconds.max(0.0) * 1e6 / new_execs.max(1) as f64;
        let (guest_s, reset_s) = (tally.running.as_secs_f64(), tally.resetting.as_secs_f64());
        let (guest, reset) = (guest_s - last.guest_s, reset_s - last.reset_s);
        let session_s = now.saturating_duration_since(self.start).as_secs_f64();
        let edges = covered("edges");
        Figures {
            unix: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()),
            runtime_s: self.runtime(now).as_secs_f64(),
            cpu_s: process::cpu().as_secs_f64(),
            rss_bytes: process::resident_bytes(),
            execs,
            execs_per_s: new_execs as f64 / seconds,
            guest_us: of_one(guest),
            reset_us: of_one(reset),
            engine_us: of_one(seconds - guest - reset),
            guest_s,
            reset_s,
            engine_s: (session_s - guest_s - reset_s).max(0.0),
            corpus: state.corpus().count(),
            edges,
            edges_total: self.edges_total,
            kernel_edges: tally.kernel_seen.iter().filter(|&&seen| seen).count(),
            kernel_edges_total: tally.kernel_seen.len(),
            findings: findings.count(),
            duplicates: findings.duplicates,
            unrepeated: findings.unrepeated,
            stability: calibrate::stability(state, edges),
            unstable: calibrate::unstable_count(state),
            reset_pages_per_run: tally.reset_pages as f64 / tally.runs.max(1) as f64,
            hot_pages: tally.hot_pages,
            hot_hit_rate: tally.hot_hit_rate,
            batch_size: tally.batch_size,
            batches: tally.batches,
            batched: tally.batched,
            spoiled: tally.spoiled,
            audits: tally.audits,
            audit_differences: tally.audit_differences,
            audits_skipped: tally.audits_skipped,
            imported: tally.imported,
            ..Figures::default()
        }
    }
}

fn json_line(figures: &Figures) -> String {
    let mut line = serde_json::to_string(figures).expect("figures are plain data");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_every_figure() {
        let figures = Figures {
            runtime_s: 65.4,
            execs: 1_234_567,
            execs_per_s: 9_876.5,
            corpus: 42,
            edges: 412,
            edges_total: 1743,
            findings: 1,
            stability: 0.995,
            ..Figures::default()
        };
        assert_eq!(
            figures.line(),
            "   1:05  1,234,567 execs  9,877/s  corpus 42  edges 412/1,743 (23.6 %)  findings 1  stability 99.5 %"
        );
    }

    #[test]
    fn half_a_line_at_the_end_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats.jsonl");
        assert_eq!(last_figures(&path), None);
        let figures = Figures { execs: 7, ..Figures::default() };
        let line = serde_json::to_string(&figures).unwrap();
        std::fs::write(&path, format!("{line}\n{}", &line[..20])).unwrap();
        assert_eq!(last_figures(&path), Some(figures));
    }
}
