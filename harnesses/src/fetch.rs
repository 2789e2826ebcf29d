//! Gets third-party sources, checks them and unpacks them.
//!
//! Sources come by package name from Rust's package registry or from Debian, with their ordinary clients (`cargo`
//! and `apt-get`), so that mirrors and proxies the user has configured apply. This module knows no
//! address. Everything is pinned by SHA-256; a file that differs is not unpacked.
//!
//! ```text
//! CACHE/downloads/libz-sys-1.1.4.crate        as downloaded; a file put here by hand serves too
//! CACHE/sources/libz-sys-1.1.4-df2bf61678a0/  unpacked; the last part is the pin's beginning
//! CACHE/programs/                             what `program.toml` scripts made
//! CACHE/apt/                                  apt-get's package lists, private to unifork
//! ```
//!
//! What is unpacked appears whole or not at all, and is used without asking anyone from then on.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::compile::Progress;
use crate::manifest::{Package, Source};

mod cargo;
mod debian;

/// How much of the pin is in a cached folder's name: enough to tell two pins of one version apart.
const PIN_CHARS_IN_NAME: usize = 12;

/// Why a source could not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// A folder or file of the cache.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that is needed is not there.
    #[error("cannot run {program}, which is needed to get {what}. {}", by_hand(file, downloads))]
    NoProgram {
        /// The program.
        program: &'static str,
        /// The package.
        what: String,
        /// Name of the file that would serve.
        file: String,
        /// Where to put it.
        downloads: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// cargo or apt-get did not get it.
    #[error("{program} did not get {what}; is there a network? {}", by_hand(file, downloads))]
    Download {
        /// The program.
        program: &'static str,
        /// The package.
        what: String,
        /// Name of the file that would serve.
        file: String,
        /// Where to put it.
        downloads: PathBuf,
        /// What the program printed.
        said: String,
    },
    /// The file is not the one that was pinned.
    #[error("{} is not what harness.toml pins: expected sha256 {expected}, got {got}", path.display())]
    Checksum {
        /// The downloaded file.
        path: PathBuf,
        /// The pin.
        expected: String,
        /// What it is.
        got: String,
    },
    /// `tar` failed on a file whose checksum was right.
    #[error("tar cannot unpack {}", path.display())]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// What tar printed.
        said: String,
    },
}

impl FetchError {
    /// What the program that failed printed.
    #[must_use]
    pub fn said(&self) -> Option<&str> {
        match self {
            Self::Download { said, .. } | Self::Unpack { said, .. } => Some(said),
            _ => None,
        }
    }
}

fn by_hand(file: &str, downloads: &Path) -> String {
    format!("{file} may also be put into {} by hand", downloads.display())
}

/// Where sources and objects are kept between builds.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// Told what is being fetched.
    pub progress: Option<Progress>,
}

impl Cache {
    /// The cache at this folder, which need not exist yet.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root, progress: None }
    }

    /// The cache for building the harness in `folder`: `UNIFORK_CACHE` if it is set, else `target/`
    /// of the Cargo workspace that the folder is in, else `unifork/` in the user's cache folder.
    #[must_use]
    pub fn for_harness(folder: &Path) -> Self {
        if let Some(root) = env::var_os("UNIFORK_CACHE").filter(|value| !value.is_empty()) {
            return Self::at(root.into());
        }
        let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.into());
        if let Some(workspace) = absolute.ancestors().find(|above| above.join("Cargo.lock").is_file()) {
            return Self::at(workspace.join("target"));
        }
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        Self::at(base.unwrap_or_else(env::temp_dir).join("unifork"))
    }

    /// Where compiled objects are kept.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Where programs are kept that were built as they are.
    pub(crate) fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// The folder of an unpacked source, getting it first if it is not there.
    ///
    /// # Errors
    ///
    /// Any [`FetchError`]; nothing is left half-done.
    pub fn source(&self, source: &Source) -> Result<PathBuf, FetchError> {
        let (Package::Crate(name) | Package::Debian(name)) = source.package();
        let pin = &source.sha256[..PIN_CHARS_IN_NAME];
        let unpacked = self.root.join("sources").join(format!("{name}-{}-{pin}", source.version));
        if unpacked.is_dir() {
            return Ok(unpacked);
        }
        // One fetch at a time: apt-get and cargo lock their own folders, and two builds may want
        // the same source.
        let lock_path = self.root.join("sources.lock");
        create_folder(&self.root)?;
        let lock = File::create(&lock_path).map_err(io_error("create", &lock_path))?;
        lock.lock().map_err(io_error("lock", &lock_path))?;
        if unpacked.is_dir() {
            return Ok(unpacked);
        }
        create_folder(&self.downloads())?;
        if let Some(progress) = self.progress {
            progress(&format!("fetching {name} {}", source.version));
        }
        let archive = match source.package() {
            Package::Crate(name) => cargo::download(self, name, source)?,
            Package::Debian(name) => debian::download(self, name, source)?,
        };
        check_pin(&archive, &source.sha256)?;
        unpack(&archive, &unpacked)?;
        Ok(unpacked)
    }
}

/// One package that is to be downloaded, for messages.
struct Wanted<'a> {
    program: &'static str,
    what: String,
    file: String,
    cache: &'a Cache,
}

impl Wanted<'_> {
    /// Runs `command` of this download; its output is for the error, if any.
    fn run(&self, command: &mut Command) -> Result<Output, FetchError> {
        command.output().map_err(|source| FetchError::NoProgram {
            program: self.program,
            what: self.what.clone(),
            file: self.file.clone(),
            downloads: self.cache.downloads(),
            source,
        })
    }

    fn failed(&self, said: String) -> FetchError {
        FetchError::Download {
            program: self.program,
            what: self.what.clone(),
            file: self.file.clone(),
            downloads: self.cache.downloads(),
            said,
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn check_pin(path: &Path, expected: &str) -> Result<(), FetchError> {
    let got = sha256_of_file(path).map_err(io_error("read", path))?;
    if got == expected {
        return Ok(());
    }
    Err(FetchError::Checksum { path: path.into(), expected: expected.into(), got })
}

/// SHA-256 of a file's content, in lower-case hexadecimal.
pub(crate) fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hex(&hasher.finalize()))
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks into a temporary folder beside `into`, without the archive's single top folder, then
/// renames it.
fn unpack(archive: &Path, into: &Path) -> Result<(), FetchError> {
    let parent = into.parent().expect("the cache's sources/ folder is above it");
    create_folder(parent)?;
    let fresh =
        tempfile::Builder::new().prefix(".unpack-").tempdir_in(parent).map_err(io_error("create", parent))?;
    let output = Command::new("tar")
        .args(["--extract", "--no-same-owner", "--no-same-permissions", "--strip-components=1"])
        .args([OsStr::new("--file"), archive.as_os_str()])
        .args([OsStr::new("--directory"), fresh.path().as_os_str()])
        .output()
        .map_err(io_error("run tar for", archive))?;
    if !output.status.success() {
        return Err(FetchError::Unpack { path: archive.into(), said: said(&output) });
    }
    let fresh = fresh.keep();
    // tempfile makes folders private to the user; what is in the cache is not secret.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let moved = fs::set_permissions(&fresh, readable).and_then(|()| fs::rename(&fresh, into));
    if let Err(source) = moved {
        drop(fs::remove_dir_all(&fresh));
        return Err(FetchError::Io { op: "create", path: into.into(), source });
    }
    Ok(())
}

fn create_folder(path: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(path).map_err(io_error("create", path))
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    move |source| FetchError::Io { op, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    /// A manifest's source with this pin, whose archive is put into the cache by hand.
    fn source(sha256: &str) -> Source {
        let text = format!(
            "name='x'\ndescription='d'\nlanguage='c'\nlicence='l'\norigin='o'\nfiles=['h.c']\nseeds='s'\n\
             coverage_floor=0\n[[source]]\ncrate='not-a-crate-anywhere'\nversion='1.0.0'\nsha256='{sha256}'\n"
        );
        Manifest::parse(&text, Path::new("m.toml")).unwrap().source.remove(0)
    }

    fn cache_with_archive(folder: &Path) -> (Cache, String) {
        let cache = Cache::at(folder.join("cache"));
        fs::create_dir_all(cache.downloads()).unwrap();
        fs::create_dir_all(folder.join("top/sub")).unwrap();
        fs::write(folder.join("top/sub/a.c"), "int a;\n").unwrap();
        let archive = cache.downloads().join("not-a-crate-anywhere-1.0.0.crate");
        let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(folder).arg("top").status();
        assert!(tar.unwrap().success());
        let sha256 = sha256_of_file(&archive).unwrap();
        (cache, sha256)
    }

    #[test]
    fn a_file_put_into_downloads_by_hand_is_used_and_then_kept_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, sha256) = cache_with_archive(folder.path());
        let unpacked = cache.source(&source(&sha256)).unwrap();
        assert_eq!(fs::read_to_string(unpacked.join("sub/a.c")).unwrap(), "int a;\n");

        fs::remove_dir_all(cache.downloads()).unwrap();
        assert_eq!(cache.source(&source(&sha256)).unwrap(), unpacked);
    }

    #[test]
    fn a_file_that_is_not_the_pinned_one_is_named_with_both_checksums_and_not_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, sha256) = cache_with_archive(folder.path());
        let pin = "0".repeat(64);
        let error = cache.source(&source(&pin)).unwrap_err().to_string();
        assert!(error.contains(&pin) && error.contains(&sha256) && error.contains(".crate"), "{error}");
        assert!(!cache.root.join("sources").exists());
    }
}
