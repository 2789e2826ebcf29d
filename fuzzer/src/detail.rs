//! What a campaign knows beside its figures, for its report: `detail-N.json`, one for each client, and
//! `detail-boot.json` where their parent booted the machine. Written whole when the state is saved. A campaign
//! that goes on adds to what is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libafl_bolts::hash_std;
use serde::{Deserialize, Serialize};
use unifork_vmm::regular;

use crate::output::{self, OutputError};
use crate::syscalls;

/// Inputs that are named.
const SLOWEST_MAX: usize = 10;

/// An input of the corpus that took long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slow {
    /// Of its bytes, as at the end of its file's name in the queue.
    pub(crate) hash: String,
    pub(crate) bytes: usize,
    /// Microseconds of the run, by itself, that brought it into the corpus.
    pub(crate) run_us: f64,
}

/// The slowest inputs, slowest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Slowest(Vec<Slow>);

impl Slowest {
    /// Takes note of an input that took `elapsed`.
    pub(crate) fn note(&mut self, elapsed: Duration, input: &[u8]) {
        let run_us = elapsed.as_nanos() as f64 / 1e3;
        if self.0.len() < SLOWEST_MAX || self.0.last().is_some_and(|last| last.run_us < run_us) {
            let hash = format!("{:016x}", hash_std(input));
            self.add(Slow { hash, bytes: input.len(), run_us });
        }
    }

    fn add(&mut self, slow: Slow) {
        // One that is run anew, in a later session, has its newest time.
        self.0.retain(|known| known.hash != slow.hash);
        self.0.push(slow);
        self.0.sort_by(|one, other| other.run_us.total_cmp(&one.run_us));
        self.0.truncate(SLOWEST_MAX);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slow> {
        self.0.iter()
    }
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Detail {
    /// System calls that the libOS does not serve, and how often they were made, boots included.
    pub(crate) unserved: BTreeMap<String, u64>,
    pub(crate) slowest: Slowest,
}

impl Detail {
    /// Reads what the folder `root` has, of all clients together, and the files that cannot be used.
    pub(crate) fn read_all(root: &Path) -> (Self, Vec<PathBuf>) {
        let (mut all, mut damaged) = (Self::default(), Vec::new());
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !(name.starts_with("detail-") && name.ends_with(".json")) {
                continue;
            }
            let read = regular::read(entry.path()).ok();
            match read.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok()) {
                Some(one) => all.merge(one),
                None => damaged.push(entry.path()),
            }
        }
        (all, damaged)
    }

    fn merge(&mut self, other: Self) {
        for (call, count) in other.unserved {
            *self.unserved.entry(call).or_default() += count;
        }
        for slow in other.slowest.0 {
            self.slowest.add(slow);
        }
    }
}

/// What a client writes.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    // Of earlier sessions, and of this session's boot.
    before: Detail,
}

impl Book {
    /// Goes on with the file of `who` in the folder `root`. `boot`: calls that were made while booting.
    pub(crate) fn open(root: &Path, who: &str, boot: &[(u64, u32)]) -> Self {
        let path = root.join(format!("detail-{who}.json"));
        // One that is damaged is replaced: nothing else depends on it.
        let read = regular::read(&path).ok();
        let mut before = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        add_calls(&mut before, boot);
        Self { path, before }
    }

    /// The slowest inputs of earlier sessions.
    pub(crate) fn slowest(&self) -> Slowest {
        self.before.slowest.clone()
    }

    /// Writes the file. `unserved`: the calls of this session's runs.
    pub(crate) fn save(&self, unserved: &[(u64, u32)], slowest: &Slowest) -> Result<(), OutputError> {
        let mut detail = Detail { slowest: slowest.clone(), ..self.before.clone() };
        add_calls(&mut detail, unserved);
        let mut text = serde_json::to_vec_pretty(&detail).expect("it is plain data with string keys");
        text.push(b'\n');
        output::write_whole(&self.path, &text)
    }
}

fn add_calls(detail: &mut Detail, calls: &[(u64, u32)]) {
    for &(number, count) in calls {
        *detail.unserved.entry(syscalls::name(number)).or_default() += u64::from(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_kept_in_order_and_once() {
        let mut slowest = Slowest::default();
        for us in [5_u64, 90, 3, 40, 90, 1, 2, 6, 7, 8, 9, 10, 11, 12] {
            slowest.note(Duration::from_micros(us), &us.to_le_bytes());
        }
        let times: Vec<_> = slowest.iter().map(|slow| slow.run_us.round()).collect();
        assert_eq!(times, [90.0, 40.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0]);
    }

    #[test]
    fn sessions_and_clients_add_up_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut slowest = Slowest::default();
        slowest.note(Duration::from_micros(3), b"input");
        Book::open(dir.path(), "0", &[(16, 1)]).save(&[(16, 2)], &slowest).unwrap();
        let again = Book::open(dir.path(), "0", &[(16, 1)]);
        assert_eq!(again.slowest(), slowest);
        again.save(&[(41, 1)], &again.slowest()).unwrap();
        Book::open(dir.path(), "1", &[]).save(&[(41, 4)], &Slowest::default()).unwrap();
        fs::write(dir.path().join("detail-2.json"), b"{").unwrap();
        let (detail, damaged) = Detail::read_all(dir.path());
        assert_eq!(detail.unserved, [("ioctl".to_owned(), 4), ("socket".to_owned(), 5)].into());
        assert_eq!(detail.slowest, slowest);
        assert_eq!(damaged, [dir.path().join("detail-2.json")]);
    }
}
