//! Findings: one folder each, named by cause, confirmed before it is kept.
//!
//! ```text
//! findings/null-write-3f2a9c1e/
//!   input         the smallest input that does it
//!   first         the input it was found with, once a smaller one is known
//!   report.txt    for people
//!   report.json   for programs, and for `unifork repro`
//! ```
//!
//! Two crashes are one finding when cause and stack agree. Two timeouts are one finding unless the
//! later one reaches an edge that no earlier one did: where an endless loop is stopped is chance.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use unifork_vmm::Outcome;
use unifork_vmm::introspect::CrashReport;
use unifork_vmm::regular;

use crate::fork::ForkError;

use crate::campaign::CampaignError;
use crate::cmd::run::kernel::KernelArgs;
use crate::cmd::warn;
use crate::cores::broker::read_finding;
use crate::cores::message::Message;
use crate::monitor::board::Found;
use crate::output::{self, OutputError, PARTIAL_PREFIX};
use crate::report;
use crate::triage::{Probe, Sighting};

/// Fresh forks that a would-be finding is run in when the first disagrees.
const CONFIRMATIONS: u32 = 3;

/// The machine a finding was found on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The image or snapshot, as an absolute path.
    pub(crate) image: PathBuf,
    /// Its name.
    pub(crate) name: String,
    /// Hash of the snapshot that was forked.
    pub(crate) snapshot: String,
    /// Guest memory.
    pub(crate) memory_bytes: u64,
    /// Longest input.
    pub(crate) input_max: u64,
    /// Time a run may take.
    pub(crate) deadline_ms: u64,
    /// Reset engine.
    pub(crate) engine: String,
    /// Of an image with a kernel of its own: the flags that it was booted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<KernelArgs>,
}

/// `report.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// What happened, in one sentence.
    pub(crate) sentence: String,
    pub(crate) outcome: Outcome,
    pub(crate) coverage_hash: String,
    /// The application's edges it reached; kept for timeouts, which are told apart by them.
    pub(crate) edges: Vec<u32>,
    /// Runs in fresh forks that did the same, and how many were made.
    pub(crate) agreed: u32,
    pub(crate) confirmations: u32,
    pub(crate) input_bytes: usize,
    /// Executions and time of the campaign when it was found.
    pub(crate) execs: u64,
    pub(crate) runtime_s: f64,
    pub(crate) found_unix: u64,
    pub(crate) machine: Machine,
    pub(crate) report: CrashReport,
}

impl Record {
    /// Reads `report.json` of a finding's folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, OutputError> {
        let path = folder.join("report.json");
        let text = regular::read(&path).map_err(OutputError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| OutputError::io("read", &path)(io::Error::other(error)))
    }
}

/// Of a finding's `report.json`, what is shown in lists.
#[derive(Clone, Debug, Deserialize)]
struct Brief {
    name: String,
    sentence: String,
    runtime_s: f64,
}

/// What there is in the folder `dir` of findings, in no order. Those whose record cannot be read are left out.
pub(crate) fn briefs(dir: &Path) -> Vec<Found> {
    let read = |folder: PathBuf| -> Option<Found> {
        let Brief { name, sentence, runtime_s } =
            serde_json::from_slice(&regular::read(folder.join("report.json")).ok()?).ok()?;
        Some(Found { name, sentence, runtime_s })
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| read(entry.path())).collect()
}

/// What became of a run that ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A finding that was not known; its name.
    New(String),
    /// A known one. Its input may have been replaced by this smaller one.
    Known(String),
    /// A timeout that no fresh fork repeats: the host was slow.
    Unrepeated,
}

/// When in a campaign something happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) execs: u64,
    pub(crate) runtime: Duration,
}

/// The findings of a campaign.
#[derive(Debug)]
pub(crate) struct Findings {
    dir: PathBuf,
    // Name to the size of the smallest input.
    known: BTreeMap<String, usize>,
    // The edges some kept timeout reached.
    hung: Vec<bool>,
    probe: Probe,
    machine: Machine,
    // Other processes write to the folder, too; the names they are to hear of.
    shared: bool,
    fresh: Vec<String>,
    /// Runs that ended in a known finding.
    pub(crate) duplicates: u64,
    /// Timeouts that did not repeat.
    pub(crate) unrepeated: u64,
}

impl Findings {
    /// Opens the folder `dir`, which exists, and reads what earlier campaigns found.
    /// `edges` is the number of the application's counters. What is half-written in a `shared` folder is
    /// left to the process that owns it.
    pub(crate) fn open(
        dir: &Path,
        probe: Probe,
        machine: Machine,
        edges: usize,
        shared: bool,
    ) -> Result<Self, OutputError> {
        if !shared {
            output::remove_partial(dir);
        }
        let mut findings = Self {
            dir: dir.to_path_buf(),
            known: BTreeMap::new(),
            hung: vec![false; edges],
            probe,
            machine,
            shared,
            fresh: Vec::new(),
            duplicates: 0,
            unrepeated: 0,
        };
        for entry in fs::read_dir(dir).map_err(OutputError::io("read", dir))? {
            let entry = entry.map_err(OutputError::io("read", dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                findings.learn(&name);
            }
        }
        Ok(findings)
    }

    /// Takes the finding `name` from the folder, if it is there.
    fn learn(&mut self, name: &str) -> bool {
        let folder = self.folder(name);
        let Ok(input) = fs::metadata(folder.join("input")) else { return false };
        match Record::read(&folder) {
            Ok(record) => self.reached(&record.edges),
            Err(error) => warn(&format!("{error}; the finding is kept as it is")),
        }
        self.known.insert(name.to_owned(), usize::try_from(input.len()).unwrap_or(usize::MAX));
        true
    }

    /// The names of the findings that this process made since the last call, where others share the folder.
    pub(crate) fn take_fresh(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// The finding `name`, to be told to others.
    pub(crate) fn message(&self, name: &str) -> Option<Message> {
        read_finding(&self.dir, name)
    }

    /// Takes a finding over that another client or machine made. Its record, when it is new to this folder.
    pub(crate) fn adopt(
        &mut self,
        name: &str,
        report: &[u8],
        input: &[u8],
    ) -> Result<Option<Record>, OutputError> {
        if self.known.contains_key(name) || !is_name(name) || self.learn(name) {
            return Ok(None);
        }
        let Ok(record) = serde_json::from_slice::<Record>(report) else { return Ok(None) };
        if matches!(record.outcome, Outcome::Timeout) && !self.reaches_new(&record.edges) {
            // As if it had been found here.
            return Ok(None);
        }
        // The image lies elsewhere there.
        let record = Record {
            name: name.to_owned(),
            machine: self.machine.clone(),
            input_bytes: input.len(),
            ..record
        };
        let new = self.keep(&record, input)?;
        self.learn(name);
        Ok(new.then_some(record))
    }

    /// The names of all findings.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.known.len()
    }

    /// The folder of the finding `name`.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Decides what to do with a run that ended as `seen`, and does it.
    pub(crate) fn judge(
        &mut self,
        seen: &Sighting,
        input: &[u8],
        at: Moment,
    ) -> Result<Verdict, CampaignError> {
        let timeout = matches!(seen.outcome, Outcome::Timeout);
        if self.shared && !self.known.contains_key(&seen.name) {
            // Another client may have been first.
            self.learn(&seen.name);
        }
        if let Some(&smallest) = self.known.get(&seen.name) {
            self.duplicates += 1;
            // Confirming a timeout takes its whole deadline again, so only for half the size.
            if if timeout { input.len() * 2 <= smallest } else { input.len() < smallest } {
                self.shrink(seen, input, at)?;
            }
            return Ok(Verdict::Known(seen.name.clone()));
        }
        if timeout && !self.reaches_new(&seen.edges) {
            self.duplicates += 1;
            return Ok(Verdict::Known(seen.name.clone()));
        }
        let confirmed = self.confirm(seen, input)?;
        if timeout && confirmed.agreed == 0 {
            self.unrepeated += 1;
            return Ok(Verdict::Unrepeated);
        }
        let record = self.record(seen, input, at, &confirmed);
        if !self.keep(&record, input)? {
            self.learn(&seen.name);
            self.duplicates += 1;
            return Ok(Verdict::Known(seen.name.clone()));
        }
        self.known.insert(seen.name.clone(), input.len());
        self.reached(&seen.edges);
        if self.shared {
            self.fresh.push(seen.name.clone());
        }
        Ok(Verdict::New(seen.name.clone()))
    }

    /// Runs `input` in fresh forks, once where that does the same, else a few times.
    fn confirm(&self, seen: &Sighting, input: &[u8]) -> Result<Confirmed, ForkError> {
        let mut confirmed = Confirmed { agreed: 0, runs: 0 };
        while confirmed.runs < CONFIRMATIONS {
            let probed = self.probe.run(input)?;
            confirmed.runs += 1;
            if probed.sighting.is_some_and(|again| again.same_as(seen)) {
                confirmed.agreed += 1;
            }
            if confirmed.agreed == confirmed.runs {
                break;
            }
        }
        Ok(confirmed)
    }

    fn record(&self, seen: &Sighting, input: &[u8], at: Moment, confirmed: &Confirmed) -> Record {
        Record {
            name: seen.name.clone(),
            sentence: report::sentence(&seen.outcome),
            outcome: seen.outcome.clone(),
            coverage_hash: format!("{:016x}", seen.coverage_hash),
            edges: seen.edges.clone(),
            agreed: confirmed.agreed,
            confirmations: confirmed.runs,
            input_bytes: input.len(),
            execs: at.execs,
            runtime_s: at.runtime.as_secs_f64(),
            found_unix: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()),
            machine: self.machine.clone(),
            report: seen.report.clone(),
        }
    }

    /// Writes a new finding: all of its folder, or none of it. False when another client was faster.
    fn keep(&self, record: &Record, input: &[u8]) -> Result<bool, OutputError> {
        let folder = tempfile::Builder::new()
            .prefix(PARTIAL_PREFIX)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&self.dir)
            .map_err(OutputError::io("create a folder in", &self.dir))?;
        for (name, bytes) in [("input", input), ("report.txt", &text(record)), ("report.json", &json(record))]
        {
            let path = folder.path().join(name);
            let write = || -> io::Result<()> {
                let mut file = fs::File::create(&path)?;
                file.write_all(bytes)?;
                file.sync_all()
            };
            write().map_err(OutputError::io("write", &path))?;
        }
        let target = self.folder(&record.name);
        match fs::rename(folder.path(), &target) {
            Ok(()) => {
                // It is the finding now; there is nothing left to remove.
                let _ = folder.keep();
                Ok(true)
            }
            Err(_) if target.join("input").exists() => Ok(false),
            Err(error) => Err(OutputError::io("create", &target)(error)),
        }
    }

    /// Replaces the input of a known finding by a smaller one, if a fresh fork confirms it.
    fn shrink(&mut self, seen: &Sighting, input: &[u8], at: Moment) -> Result<(), CampaignError> {
        let confirmed = self.confirm(seen, input)?;
        if confirmed.agreed != confirmed.runs {
            return Ok(());
        }
        let folder = self.folder(&seen.name);
        let (path, first) = (folder.join("input"), folder.join("first"));
        // The files of one finding are from one client.
        let lock = fs::File::open(&folder).map_err(OutputError::io("open", &folder))?;
        lock.lock().map_err(OutputError::io("lock", &folder))?;
        let now = fs::metadata(&path).map_err(OutputError::io("read", &path))?;
        if now.len() <= input.len() as u64 {
            self.known.insert(seen.name.clone(), usize::try_from(now.len()).unwrap_or(usize::MAX));
            return Ok(());
        }
        if !first.exists() {
            let bytes = regular::read(&path).map_err(OutputError::io("read", &path))?;
            output::write_whole(&first, &bytes)?;
        }
        let mut record = self.record(seen, input, at, &confirmed);
        if let Ok(first) = Record::read(&folder) {
            (record.execs, record.runtime_s, record.found_unix) =
                (first.execs, first.runtime_s, first.found_unix);
        }
        output::write_whole(&path, input)?;
        output::write_whole(&folder.join("report.txt"), &text(&record))?;
        output::write_whole(&folder.join("report.json"), &json(&record))?;
        self.known.insert(seen.name.clone(), input.len());
        Ok(())
    }

    fn reaches_new(&self, edges: &[u32]) -> bool {
        let nothing_hung = !self.hung.contains(&true);
        nothing_hung || edges.iter().any(|&edge| self.hung.get(edge as usize) == Some(&false))
    }

    fn reached(&mut self, edges: &[u32]) {
        for &edge in edges {
            if let Some(hung) = self.hung.get_mut(edge as usize) {
                *hung = true;
            }
        }
    }
}

/// Whether another machine may name a finding so: as [`Triage`](crate::triage::Triage) does, and never a path.
fn is_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// What fresh forks said.
struct Confirmed {
    agreed: u32,
    runs: u32,
}

fn text(record: &Record) -> Vec<u8> {
    report::finding(record).into_bytes()
}

fn json(record: &Record) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(record).expect("a record is plain data with string keys");
    bytes.push(b'\n');
    bytes
}
