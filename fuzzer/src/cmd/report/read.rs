//! What is in the folder of a campaign, running or not, as far as it can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;
use unifork_vmm::regular;

use crate::detail::Detail;
use crate::history::History;
use crate::monitor::Figures;
use crate::monitor::log::{self, Entry};
use crate::session::{Ended, Session};
use crate::units::{plural, show_clock};

/// Damaged places that are named; all are counted.
const NAMED_MAX: usize = 10;
/// Lines come once a second; after so long, some are missing.
const GAP: Duration = Duration::from_secs(30);

/// A point of all curves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Seconds of fuzzing.
    pub(super) at: f64,
    pub(super) execs: u64,
    pub(super) edges: usize,
    pub(super) corpus: usize,
    pub(super) findings: usize,
    pub(super) rss_bytes: u64,
}

/// A finding.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Finding {
    /// Its folder's name.
    #[serde(skip)]
    pub(super) folder: String,
    /// Of its triage page's folder, where there is one.
    #[serde(skip)]
    pub(super) group: Option<String>,
    pub(super) sentence: String,
    pub(super) agreed: u32,
    pub(super) confirmations: u32,
    pub(super) input_bytes: usize,
    pub(super) execs: u64,
    pub(super) runtime_s: f64,
}

/// How the campaign stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// This process is at it.
    Running(u32),
    /// It came to its end, by this.
    Ended(String),
    /// It did not: it was killed, or the host failed.
    CutOff,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) name: String,
    /// When this was read, in seconds since 1970.
    pub(super) unix: u64,
    pub(super) stand: Stand,
    pub(super) points: Vec<Point>,
    pub(super) last: Option<Figures>,
    pub(super) sessions: u64,
    pub(super) session: Option<Session>,
    pub(super) findings: Vec<Finding>,
    pub(super) triaged: bool,
    pub(super) detail: Detail,
    /// Edges whose counts do not repeat, as `unstable.txt` has them.
    pub(super) unstable: Vec<String>,
    /// The queue's files, by the hash in their names.
    pub(super) queue: BTreeMap<String, String>,
    /// What could not be read, and what is missing.
    pub(super) damage: Vec<String>,
}

impl Read {
    /// Reads the folder `root`.
    pub(super) fn campaign(root: &Path) -> io::Result<Self> {
        let whole = root.canonicalize()?;
        let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut read = Self {
            name: name.strip_suffix(".campaign").unwrap_or(&name).to_owned(),
            unix: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()),
            stand: Stand::CutOff,
            points: Vec::new(),
            last: None,
            sessions: 0,
            session: None,
            findings: Vec::new(),
            triaged: root.join("triage/index.html").is_file(),
            detail: Detail::default(),
            unstable: unstable(root),
            queue: BTreeMap::new(),
            damage: Vec::new(),
        };
        read.log(&root.join("stats.jsonl"))?;
        if let Some(pid) = owner(&whole.join("lock")) {
            read.stand = Stand::Running(pid);
        }
        let (detail, damaged) = Detail::read_all(root);
        read.detail = detail;
        read.damage.extend(damaged.iter().map(|path| format!("{} cannot be used", path.display())));
        read.findings(root);
        for entry in fs::read_dir(root.join("queue")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((_, hash)) = name.rsplit_once('-') {
                read.queue.insert(hash.to_owned(), name.clone());
            }
        }
        Ok(read)
    }

    fn log(&mut self, path: &Path) -> io::Result<()> {
        let mut history = History::default();
        let (mut bad, mut gaps) = (Places::default(), Places::default());
        log::read(path, |line, entry| match entry {
            Err(why) => bad.add(format!("line {line} of {} is left out: {why}", path.display())),
            Ok(Entry::Other(other)) => self.other(other),
            Ok(Entry::Figures(figures)) => {
                if let Some(last) = &self.last {
                    let passed = figures.runtime_s - last.runtime_s;
                    let clock = |s: f64| show_clock(Duration::try_from_secs_f64(s).unwrap_or_default());
                    let (from, to) = (clock(last.runtime_s), clock(figures.runtime_s));
                    if passed < 0.0 {
                        bad.add(format!(
                            "line {line} of {} is left out: its time, {to}, is before that of the line before, {from}",
                            path.display()
                        ));
                        return;
                    }
                    if passed > GAP.as_secs_f64() {
                        gaps.add(format!("there is no line of figures between {from} and {to} of fuzzing"));
                    }
                }
                let Figures { execs, edges, corpus, findings, rss_bytes, runtime_s: at, .. } = *figures;
                history.push(Point { at, execs, edges, corpus, findings, rss_bytes });
                self.last = Some(*figures);
            }
        })?;
        self.points = history.points().collect();
        self.damage.extend(bad.named("lines"));
        self.damage.extend(gaps.named("gaps"));
        Ok(())
    }

    fn other(&mut self, line: Value) {
        let field = |name: &str| line.get(name).cloned();
        if let Some(session) = field("session").and_then(|session| serde_json::from_value(session).ok()) {
            self.sessions += 1;
            self.session = Some(session);
            self.stand = Stand::CutOff;
        }
        if let Some(Ended { by, .. }) = field("ended").and_then(|ended| serde_json::from_value(ended).ok()) {
            self.stand = Stand::Ended(by);
        }
    }

    fn findings(&mut self, root: &Path) {
        let groups = groups(&root.join("triage"));
        let mut bad = Places::default();
        for entry in fs::read_dir(root.join("findings")).into_iter().flatten().flatten() {
            let folder = entry.file_name().to_string_lossy().into_owned();
            if folder.starts_with('.') || !entry.path().is_dir() {
                continue;
            }
            let path = entry.path().join("report.json");
            match regular::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Finding>(&bytes).ok()) {
                Some(mut finding) => {
                    finding.group = groups.get(&folder).cloned();
                    finding.folder = folder;
                    self.findings.push(finding);
                }
                None => bad.add(format!("{} cannot be used", path.display())),
            }
        }
        self.findings.sort_by(|one, other| {
            one.runtime_s.total_cmp(&other.runtime_s).then_with(|| one.folder.cmp(&other.folder))
        });
        self.damage.extend(bad.named("findings"));
    }
}

/// The lines of `unstable.txt`, and of those of further clients, once each.
fn unstable(root: &Path) -> Vec<String> {
    let mut lines = BTreeSet::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("unstable") || !name.ends_with(".txt") {
            continue;
        }
        let text = regular::read(entry.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for line in text.lines() {
            let Some((number, place)) = line.strip_prefix("edge ").and_then(|edge| edge.split_once(' '))
            else {
                continue;
            };
            lines.insert((number.parse::<u64>().unwrap_or(u64::MAX), format!("edge {number}: {place}")));
        }
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Places that are wrong: some by name, the rest by number.
#[derive(Default)]
struct Places {
    named: Vec<String>,
    more: usize,
}

impl Places {
    fn add(&mut self, what: String) {
        if self.named.len() < NAMED_MAX {
            self.named.push(what);
        } else {
            self.more += 1;
        }
    }

    fn named(mut self, what: &str) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("and {} more {what}", self.more));
        }
        self.named
    }
}

/// Which group of `triage` a finding is in, by the name of its folder; only groups that have a page.
fn groups(triage: &Path) -> BTreeMap<String, String> {
    let index = regular::read(triage.join("index.json")).unwrap_or_default();
    let index: Value = serde_json::from_slice(&index).unwrap_or_default();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let mut groups = BTreeMap::new();
    for group in list(&index, "groups") {
        let Some(name) = group["name"].as_str() else { continue };
        // A name is a folder in `triage`, whatever the file says.
        if name.contains('/') || name.starts_with('.') || !triage.join(name).join("index.html").is_file() {
            continue;
        }
        for member in list(&group, "members") {
            let folder = member["path"].as_str().map(PathBuf::from);
            if let Some(folder) = folder.as_deref().and_then(Path::file_name) {
                groups.insert(folder.to_string_lossy().into_owned(), name.to_owned());
            }
        }
    }
    groups
}

/// The process that is named in `lock` and has it open: the campaign's. Trying the lock itself could keep a
/// campaign from starting.
fn owner(lock: &Path) -> Option<u32> {
    let pid = regular::read_text(lock).ok()?.trim().parse().ok()?;
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let holds = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|path| path == lock);
    open.flatten().any(holds).then_some(pid)
}

/// `2 sessions`.
pub(super) fn sessions(count: u64) -> String {
    plural(usize::try_from(count).unwrap_or(usize::MAX), "session")
}
