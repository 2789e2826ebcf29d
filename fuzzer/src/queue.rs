//! The corpus on disk: one file an input, written whole as it is found.
//!
//! A file is called `NNNNNN-HASH`: the order it was found in, and the hash of its bytes, which is
//! how damage is noticed. The clients of a campaign share the folder: an input that came from another
//! client or machine keeps the name it has there, so whoever writes it writes the same file. LibAFL's own on-disk corpus is not used because its counters and lock
//! files do not survive a kill between two of its writes, and a full disk is only logged.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use libafl_bolts::hash_std;
use unifork_vmm::regular;

use crate::output::{self, OutputError};

/// The folder of a corpus.
#[derive(Debug)]
pub(crate) struct Queue {
    dir: PathBuf,
    next: u64,
    known: HashSet<u64>,
    // Other processes write to the folder, too; what they are to hear of.
    shared: bool,
    fresh: Vec<Fresh>,
}

/// An input that was just written, for the campaign's other clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fresh {
    /// The first part of its file's name.
    pub(crate) number: u64,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// One input read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Its file's name.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// A file that was damaged, and where it is now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetAside {
    /// The file's name in the queue.
    pub(crate) name: String,
    /// Where it was moved, or why that failed.
    pub(crate) moved: Result<PathBuf, String>,
}

impl SetAside {
    /// The warning.
    pub(crate) fn sentence(&self) -> String {
        let name = &self.name;
        match &self.moved {
            Ok(to) => format!("warning: queue/{name} is damaged; it is now {}", to.display()),
            Err(error) => format!("warning: queue/{name} is damaged and cannot be moved: {error}"),
        }
    }
}

/// Reads the queue in `dir` as it is, perhaps while a campaign writes to it: its inputs in the order they
/// were found, and the names of those that are damaged.
pub(crate) fn read(dir: &Path) -> Result<(Vec<Stored>, Vec<String>), OutputError> {
    let (mut stored, mut damaged) = (Vec::new(), Vec::new());
    for name in names(dir)? {
        let path = dir.join(&name);
        let bytes = regular::read(&path).map_err(OutputError::io("read", &path))?;
        if parse(&name).is_some_and(|(_, expected)| expected != hash_std(&bytes)) {
            damaged.push(name);
        } else {
            stored.push(Stored { name, bytes });
        }
    }
    Ok((stored, damaged))
}

/// The files in `dir`, in order; not those that are still being written.
fn names(dir: &Path) -> Result<Vec<String>, OutputError> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(dir).map_err(OutputError::io("read", dir))? {
        let entry = entry.map_err(OutputError::io("read", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Queue {
    /// Opens `dir`, which exists, and reads what is in it in the order it was found. Files whose
    /// bytes do not match their name are moved to `corrupt`, made if needed; of a `shared` folder, they and
    /// what is half-written are left to the process that owns it.
    pub(crate) fn open(
        dir: &Path,
        corrupt: &Path,
        shared: bool,
    ) -> Result<(Self, Vec<Stored>, Vec<SetAside>), OutputError> {
        if !shared {
            output::remove_partial(dir);
        }
        let mut queue =
            Self { dir: dir.to_path_buf(), next: 0, known: HashSet::new(), shared, fresh: Vec::new() };
        let (mut stored, mut aside) = (Vec::new(), Vec::new());
        for name in names(dir)? {
            let path = dir.join(&name);
            let bytes = regular::read(&path).map_err(OutputError::io("read", &path))?;
            let hash = hash_std(&bytes);
            match parse(&name) {
                Some((number, expected)) => {
                    queue.next = queue.next.max(number + 1);
                    if expected != hash {
                        if !shared {
                            aside.push(set_aside(&path, name, corrupt));
                        }
                        continue;
                    }
                }
                // Someone put it there: an input to import under a name of its own.
                None => log::info!("importing {}", path.display()),
            }
            if queue.known.insert(hash) {
                stored.push(Stored { name, bytes });
            }
        }
        Ok((queue, stored, aside))
    }

    /// Writes `bytes` and gives the file's name, or none when the queue has them already.
    pub(crate) fn save(&mut self, bytes: &[u8]) -> Result<Option<String>, OutputError> {
        let number = self.next;
        let name = self.write(number, bytes)?;
        if self.shared && name.is_some() {
            self.fresh.push(Fresh { number, bytes: bytes.to_vec() });
        }
        Ok(name)
    }

    /// The same, for an input of another client, under the `number` it has there.
    pub(crate) fn save_as(&mut self, number: u64, bytes: &[u8]) -> Result<Option<String>, OutputError> {
        self.write(number, bytes)
    }

    fn write(&mut self, number: u64, bytes: &[u8]) -> Result<Option<String>, OutputError> {
        let hash = hash_std(bytes);
        if self.known.contains(&hash) {
            return Ok(None);
        }
        let name = file_name(number, hash);
        let path = self.dir.join(&name);
        if !(self.shared && path.exists()) {
            output::write_whole(&path, bytes)?;
        }
        self.known.insert(hash);
        self.next = self.next.max(number.saturating_add(1));
        Ok(Some(name))
    }

    /// Whether the queue has `bytes`.
    pub(crate) fn has(&self, bytes: &[u8]) -> bool {
        self.known.contains(&hash_std(bytes))
    }

    /// What was saved since the last call, of a shared queue.
    pub(crate) fn take_fresh(&mut self) -> Vec<Fresh> {
        std::mem::take(&mut self.fresh)
    }
}

fn file_name(number: u64, hash: u64) -> String {
    format!("{number:06}-{hash:016x}")
}

/// Reads the file `name` of a queue's folder: an input that is whole.
pub(crate) fn read_one(dir: &Path, name: &str) -> Option<Fresh> {
    let (number, expected) = parse(name)?;
    let bytes = regular::read(dir.join(name)).ok()?;
    (hash_std(&bytes) == expected).then_some(Fresh { number, bytes })
}

fn parse(name: &str) -> Option<(u64, u64)> {
    let (number, hash) = name.split_once('-')?;
    if number.len() < 6 || hash.len() != 16 {
        return None;
    }
    Some((number.parse().ok()?, u64::from_str_radix(hash, 16).ok()?))
}

fn set_aside(path: &Path, name: String, corrupt: &Path) -> SetAside {
    let target = corrupt.join(&name);
    let moved = fs::create_dir_all(corrupt)
        .and_then(|()| fs::rename(path, &target))
        .map(|()| target)
        .map_err(|error| error.to_string());
    SetAside { name, moved }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back_in_order_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut queue, stored, _) = Queue::open(dir.path(), &dir.path().join("c"), false).unwrap();
        assert!(stored.is_empty());
        for bytes in [b"bb".as_slice(), b"a", b""] {
            assert!(queue.save(bytes).unwrap().is_some());
        }
        assert!(queue.save(b"a").unwrap().is_none());
        let (mut queue, stored, aside) = Queue::open(dir.path(), &dir.path().join("c"), false).unwrap();
        let bytes: Vec<_> = stored.iter().map(|s| s.bytes.as_slice()).collect();
        assert_eq!(bytes, [b"bb".as_slice(), b"a", b""]);
        assert!(aside.is_empty());
        assert!(queue.save(b"new").unwrap().unwrap().starts_with("000003-"));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let corrupt = dir.path().join("corrupt");
        let queue_dir = dir.path().join("queue");
        fs::create_dir(&queue_dir).unwrap();
        let (mut queue, ..) = Queue::open(&queue_dir, &corrupt, false).unwrap();
        let name = queue.save(b"whole input").unwrap().unwrap();
        fs::write(queue_dir.join(&name), b"whole in").unwrap();
        fs::write(queue_dir.join("imported.txt"), b"mine").unwrap();
        let (_, stored, aside) = Queue::open(&queue_dir, &corrupt, false).unwrap();
        assert_eq!(stored, [Stored { name: "imported.txt".into(), bytes: b"mine".to_vec() }]);
        assert_eq!(aside, [SetAside { name: name.clone(), moved: Ok(corrupt.join(&name)) }]);
        assert!(corrupt.join(name).exists());
    }

    #[test]
    fn two_who_share_a_folder_write_each_input_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, ..) = Queue::open(dir.path(), &dir.path().join("c"), true).unwrap();
        let (mut other, ..) = Queue::open(dir.path(), &dir.path().join("c"), true).unwrap();
        let name = one.save(b"found by one").unwrap().unwrap();
        let told = one.take_fresh();
        assert_eq!(told, [Fresh { number: 0, bytes: b"found by one".to_vec() }]);
        assert!(!other.has(&told[0].bytes));
        assert_eq!(other.save_as(told[0].number, &told[0].bytes).unwrap(), Some(name.clone()));
        assert_eq!(other.take_fresh(), [], "it is no news to the others");
        assert!(other.save(b"found by the other").unwrap().unwrap().starts_with("000001-"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(read_one(dir.path(), &name).unwrap().bytes, b"found by one");
        fs::write(dir.path().join(&name), b"damaged").unwrap();
        assert_eq!(read_one(dir.path(), &name), None);
    }
}
