//! `harness.toml`: what a harness is made of.
//!
//! One per folder under `harnesses/`. It names the harness's own files, and third-party sources by
//! package, version and checksum; it never holds the sources themselves, nor an address to get them
//! from. [`crate::fetch`] gets them and [`crate::compile`] builds them.
//!
//! ```toml
//! name = "cjson"                         # the folder's path below harnesses/
//! description = "one sentence"
//! language = "c"                         # or "c++": static musl, or static glibc and libstdc++
//! licence = "of the library, and of the harness"
//! origin = "where the library comes from"
//! files = ["harness.c"]                  # below this folder
//! seeds = "../../corpora/cjson/seeds"
//! dictionary = "../../corpora/cjson/dictionary"
//! grammar = "../../corpora/cjson/grammar.json"  # as Nautilus has it; for mutations by structure
//! coverage_floor = 500                   # counters that the seeds reach at least
//!
//! [[source]]
//! debian = "cjson"                       # or: crate = "libz-sys"
//! version = "1.7.15"                     # upstream's version, or the crate's
//! sha256 = "…"                           # of the .orig.tar file, or of the .crate file
//! root = "."                             # folder inside it that the following is relative to
//! files = ["cJSON.c"]
//! include = ["."]                        # also searched by the harness's own files
//! flags = ["-DSOMETHING=1"]              # for these files only
//! ```

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// The file's name in a harness's folder.
pub const FILE_NAME: &str = "harness.toml";

/// The longest manifest that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Why a manifest could not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file is not there or not readable.
    #[error("cannot read {}", path.display())]
    Read {
        /// The manifest.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not TOML, or a key is missing, unknown or of the wrong type.
    #[error("{} is not a harness manifest: {source}", path.display())]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value that no build can be made from.
    #[error("{}: {key}: {what}", path.display())]
    Value {
        /// The manifest.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, and what is wanted.
        what: String,
    },
}

/// What a harness is written in, which decides what it is linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Language {
    /// C: static musl.
    #[serde(rename = "c")]
    C,
    /// C++: static glibc and libstdc++.
    #[serde(rename = "c++")]
    Cxx,
}

/// A parsed `harness.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The folder's path below `harnesses/`.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// What it is written in.
    pub language: Language,
    /// Licence of the library, and of the harness.
    pub licence: String,
    /// Where the library comes from.
    pub origin: String,
    /// The harness's own files, below its folder.
    pub files: Vec<PathBuf>,
    /// Folders with the harness's own headers, below its folder.
    #[serde(default)]
    pub include: Vec<PathBuf>,
    /// Compiler flags for the harness's own files.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Linker flags (`-l`, `-L`, `-Wl,`).
    #[serde(default)]
    pub link: Vec<String>,
    /// Folder with seeds, relative to this folder.
    pub seeds: PathBuf,
    /// Dictionary, relative to this folder.
    pub dictionary: Option<PathBuf>,
    /// Grammar of the inputs, relative to this folder.
    pub grammar: Option<PathBuf>,
    /// How many coverage counters the seeds reach at least.
    pub coverage_floor: usize,
    /// Third-party sources.
    #[serde(default)]
    pub source: Vec<Source>,
    /// The bug that was planted, if that is what the harness is for.
    pub planted: Option<Planted>,
}

/// A third-party source and what is compiled of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A crate that carries the sources.
    #[serde(rename = "crate")]
    crate_name: Option<String>,
    /// A Debian source package; its upstream tarball is used, without Debian's patches.
    debian: Option<String>,
    /// The crate's version, or the upstream version of the Debian package.
    pub version: String,
    /// SHA-256 of the `.crate` or `.orig.tar` file, in hexadecimal.
    pub sha256: String,
    /// Folder inside the unpacked source that `files` and `include` are relative to.
    #[serde(default)]
    pub root: PathBuf,
    /// Files to compile.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Folders to search for headers, also for the harness's own files and the other sources.
    #[serde(default)]
    pub include: Vec<PathBuf>,
    /// Compiler flags for these files.
    #[serde(default)]
    pub flags: Vec<String>,
}

/// Where a [`Source`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package<'a> {
    /// A Rust crate.
    Crate(&'a str),
    /// A Debian source package.
    Debian(&'a str),
}

/// The bug in a harness under `harnesses/planted/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planted {
    /// An input that triggers it; so does every longer input that begins with it.
    pub trigger: String,
    /// What its finding's name begins with.
    pub cause: String,
    /// What the image does with the trigger on plain Linux.
    pub on_linux: OnLinux,
}

/// What a planted bug does on plain Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum OnLinux {
    /// Ends by SIGSEGV.
    #[serde(rename = "SIGSEGV")]
    Segv,
    /// Ends by SIGFPE.
    #[serde(rename = "SIGFPE")]
    Fpe,
    /// Ends by SIGABRT.
    #[serde(rename = "SIGABRT")]
    Abrt,
    /// Never ends.
    #[serde(rename = "hangs")]
    Hangs,
    /// Uses all memory that it is allowed to.
    #[serde(rename = "unbounded")]
    Unbounded,
    /// Nothing: only a unifork guest notices.
    #[serde(rename = "nothing")]
    Nothing,
}

impl Source {
    /// Where it comes from.
    ///
    /// # Panics
    ///
    /// Never for a source that [`Manifest::read`] returned: it checks that exactly one is named.
    #[must_use]
    pub fn package(&self) -> Package<'_> {
        match (&self.crate_name, &self.debian) {
            (Some(name), None) => Package::Crate(name),
            (None, Some(name)) => Package::Debian(name),
            _ => unreachable!("checked by Manifest::read"),
        }
    }

    /// What the types do not say. The error is field and complaint.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.crate_name, &self.debian) {
            (Some(name), None) | (None, Some(name)) if is_package_name(name) => {}
            (Some(_), None) => return Err(("crate", "is not a package name".into())),
            (None, Some(_)) => return Err(("debian", "is not a package name".into())),
            _ => return Err(("", "needs one of `crate` and `debian`".into())),
        }
        if !is_version(&self.version) {
            return Err(("version", "is not a version number".into()));
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(("sha256", "is not 64 lower-case hexadecimal digits".into()));
        }
        for (field, paths) in [("files", &self.files), ("include", &self.include)] {
            if let Some(path) = paths.iter().chain([&self.root]).find(|path| leaves_its_folder(path)) {
                return Err((field, format!("{} is outside the source", path.display())));
            }
        }
        Ok(())
    }
}

impl Manifest {
    /// Reads and checks the manifest in `folder`.
    ///
    /// # Errors
    ///
    /// Any [`ManifestError`].
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(FILE_NAME);
        let read = |source| ManifestError::Read { path: path.clone(), source };
        let bytes = fs::metadata(&path).map_err(read)?.len();
        if bytes > MANIFEST_BYTES_MAX {
            return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")));
        }
        let text = fs::read_to_string(&path).map_err(read)?;
        Self::parse(&text, &path)
    }

    /// Parses the content of the manifest that is (or would be) at `path`.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Parse`] and [`ManifestError::Value`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)
            .map_err(|source| ManifestError::Parse { path: path.into(), source: Box::new(source) })?;
        manifest.check().map_err(|(key, what)| ManifestError::Value { path: path.into(), key, what })?;
        Ok(manifest)
    }

    /// What the types do not say. The error is key and complaint.
    fn check(&self) -> Result<(), (String, String)> {
        if self.name.is_empty() {
            return Err(("name".into(), "is empty".into()));
        }
        if self.files.is_empty() {
            return Err(("files".into(), "is empty; name the file with LLVMFuzzerTestOneInput".into()));
        }
        for (number, source) in self.source.iter().enumerate() {
            source.check().map_err(|(field, what)| {
                let separator = if field.is_empty() { "" } else { "." };
                (format!("source[{number}]{separator}{field}"), what)
            })?;
        }
        Ok(())
    }
}

/// Names end up on the command lines of cargo and apt-get and in file names.
fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_+.".contains(c))
}

fn is_version(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(|c| c.is_ascii_alphanumeric() || ".+~-".contains(c))
}

fn leaves_its_folder(path: &Path) -> bool {
    !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "x"
        description = "d"
        language = "c++"
        licence = "l"
        origin = "o"
        files = ["harness.cc"]
        seeds = "seeds"
        coverage_floor = 3
        [[source]]
        debian = "libpng1.6"
        version = "1.6.39"
        sha256 = "a00e9d2f2f664186e4202db9299397f851aea71b36a35e74910b8820e380d441"
        files = ["a/b.c"]
    "#;

    fn complaint(text: &str) -> String {
        Manifest::parse(text, Path::new("m.toml")).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_whole_manifest_is_read() {
        let manifest = Manifest::parse(GOOD, Path::new("m.toml")).unwrap();
        assert_eq!(manifest.language, Language::Cxx);
        assert_eq!(manifest.source[0].package(), Package::Debian("libpng1.6"));
        assert_eq!(manifest.source[0].root, Path::new(""));
    }

    #[test]
    fn a_missing_or_misspelt_key_is_named() {
        assert!(complaint(&GOOD.replace("seeds =", "seed =")).contains("seed"));
        assert!(complaint(&GOOD.replace("files = [\"harness.cc\"]", "files = []")).contains("files"));
    }

    #[test]
    fn a_source_comes_from_exactly_one_place() {
        let none = GOOD.replace("debian = \"libpng1.6\"", "");
        assert!(complaint(&none).contains("needs one of"));
        let both = GOOD.replace("debian =", "crate = \"y\"\ndebian =");
        assert!(complaint(&both).contains("needs one of"));
    }

    #[test]
    fn values_that_could_leave_the_cache_or_become_flags_are_refused() {
        assert!(complaint(&GOOD.replace("a/b.c", "../b.c")).contains("outside"));
        assert!(complaint(&GOOD.replace("a/b.c", "/etc/b.c")).contains("outside"));
        assert!(complaint(&GOOD.replace("libpng1.6", "--help")).contains("package name"));
        assert!(complaint(&GOOD.replace("\"1.6.39\"", "\"../1\"")).contains("version"));
        assert!(complaint(&GOOD.replace("a00e", "A00E")).contains("sha256"));
    }
}
