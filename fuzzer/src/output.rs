//! The folder of one campaign: who owns it, and files in it that appear whole or not at all.
//!
//! ```text
//! NAME.campaign/
//!   lock             held (flock) by the campaign that runs; holds its process id
//!   queue/           the corpus, one file an input        queue.rs
//!   corrupt/         queue files that were damaged, set aside
//!   findings/NAME/   one folder a finding                 findings.rs
//!   state.postcard   the fuzzer's state, from time to time  journal.rs
//!   state-N.postcard the same, of the client N of several
//!   image.json       the image it is the campaign of     identity.rs
//!   stats.jsonl      one line of figures a second        monitor.rs
//!   unstable.txt     edges whose counts do not repeat    stage/calibrate.rs
//!   detail-N.json    slowest inputs, unserved calls      detail.rs
//!   report.html      `unifork report`                    cmd/report.rs
//!   triage/          `unifork triage`                    cmd/triage.rs
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long a folder is waited for whose owner is gone, but not the last of its clients.
const LAST_CLIENTS: Duration = Duration::from_secs(15);

/// Why a campaign folder cannot be used.
#[derive(Debug, Error)]
pub(crate) enum OutputError {
    /// Another process holds the lock.
    #[error("another campaign{} is writing to {}", owner(*pid), path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, where it said so.
        pid: Option<u32>,
    },
    /// A file or folder could not be made, written or read.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was being done: "create", "write", "read", "lock".
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl OutputError {
    /// For `map_err`.
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { op, path, source }
    }
}

/// The folder of one campaign, owned until this is dropped.
#[derive(Debug)]
pub(crate) struct Output {
    root: PathBuf,
    // Invariant: holds the flock on `root/lock`, but for a client, whose parent does.
    lock: Option<File>,
}

impl Output {
    /// Makes the folder if need be, and takes it for this process.
    pub(crate) fn open(root: &Path) -> Result<Self, OutputError> {
        fs::create_dir_all(root).map_err(OutputError::io("create", root))?;
        let path = root.join("lock");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(OutputError::io("create", &path))?;
        let start = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let pid = written_pid(&mut lock);
                    let gone = pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists());
                    if !gone || start.elapsed() > LAST_CLIENTS {
                        return Err(OutputError::Busy { path: root.to_path_buf(), pid });
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::Error(source)) => return Err(OutputError::Io { op: "lock", path, source }),
            }
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(OutputError::io("write", &path))?;
        Ok(Self { root: root.to_path_buf(), lock: Some(lock) })
    }

    /// The folder of a client's campaign, which its parent holds.
    pub(crate) fn of_parent(root: &Path) -> Self {
        Self { root: root.to_path_buf(), lock: None }
    }

    /// Lets processes that are started from now on hold the folder as well: it is free when the last of
    /// them is gone, and so never has two campaigns.
    pub(crate) fn hold_in_children(&self) -> Result<(), OutputError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty())
            .map_err(|error| OutputError::io("share", &self.path("lock"))(error.into()))
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A folder in the folder, made if need be.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, OutputError> {
        let path = self.path(name);
        fs::create_dir_all(&path).map_err(OutputError::io("create", &path))?;
        Ok(path)
    }
}

fn written_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// What the name of a file that is still being written starts with.
pub(crate) const PARTIAL_PREFIX: &str = ".partial-";

/// Writes a file whole or not at all: under another name in the same folder, then renamed. A kill
/// leaves the old file or the new one, and perhaps a `.partial-` file that the next start removes.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let folder = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(PARTIAL_PREFIX)
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(OutputError::io("create a file in", folder))?;
    file.write_all(bytes).map_err(OutputError::io("write", path))?;
    file.persist(path).map_err(|failed| OutputError::io("write", path)(failed.error))?;
    Ok(())
}

/// Makes a folder whole or not at all: `fill` writes into another one beside it, which then takes its place,
/// in one step. An older folder of that name is replaced.
pub(crate) fn write_folder(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let parent = parent(path);
    let partial = tempfile::Builder::new()
        .prefix(PARTIAL_PREFIX)
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(parent)
        .map_err(OutputError::io("create a folder in", parent))?;
    fill(partial.path())?;
    if fs::symlink_metadata(path).is_ok() {
        // What is dropped with `partial` is then the older folder.
        let (here, swap) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(here, partial.path(), here, path, swap)
            .map_err(|error| OutputError::io("replace", path)(error.into()))
    } else {
        fs::rename(partial.path(), path).map_err(OutputError::io("write", path))?;
        let _moved = partial.keep();
        Ok(())
    }
}

/// The folder that `path` is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what a killed campaign left half-written in `folder`.
pub(crate) fn remove_partial(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) {
            let path = entry.path();
            // What cannot be removed is only clutter.
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Output::open(dir.path()).unwrap();
        let refused = Output::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        Output::open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_leftovers_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        fs::write(dir.path().join(".partial-x"), b"half").unwrap();
        remove_partial(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_whole(&dir.path().join("none/a"), b"").is_err());
    }

    #[test]
    fn a_folder_is_replaced_whole_and_a_failure_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        for name in ["one", "two"] {
            write_folder(&path, |folder| write_whole(&folder.join(name), name.as_bytes())).unwrap();
            assert_eq!(fs::read(path.join(name)).unwrap(), name.as_bytes());
            assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        }
        let failed = write_folder(&path, |folder| write_whole(&folder.join("none/three"), b""));
        assert!(failed.is_err());
        assert!(path.join("two").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
    }
}
