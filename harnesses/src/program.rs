//! Programs that `unifork run` runs as they are: built the way their authors build them, statically, and
//! knowing nothing of unifork.
//!
//! A folder below `harnesses/programs` holds `program.toml`: where the sources come from, and a shell
//! script that builds them.
//!
//! ```toml
//! name = "lua"
//! description = "The Lua interpreter."
//! licence = "MIT"
//! origin = "Debian's source package lua5.4"
//! variants = ["musl", "glibc"]           # see VARIANTS
//! files = []                             # our own, beside the manifest
//! build = "$CC -O2 $LINK src/*.c -o $OUT/lua -lm"
//! [[source]]                             # as in harness.toml: at most one, fetched and pinned
//! ```
//!
//! The script runs in a copy of the unpacked source, with `CC`, `CXX`, `LINK` and `RUST_LINK` as the variant
//! has them, `HERE`, the manifest's folder, and `OUT`, the folder for what it makes. That folder is kept in
//! the cache until manifest, files or compiler change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::fetch::{Cache, FetchError, hex, sha256_of_file};
use crate::manifest::Source;

/// The file's name in a program's folder.
pub const FILE_NAME: &str = "program.toml";

/// A C library, and whether the program may be loaded anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// As manifests name it.
    pub name: &'static str,
    cc: &'static str,
    cxx: &'static str,
    link: &'static str,
    rust_link: &'static str,
}

/// musl's own start file for position-independent programs; `musl-gcc -static-pie` makes a dynamic one.
const MUSL_PIE: &str = "-fPIE -static -nostartfiles -Wl,-pie,--no-dynamic-linker,-z,text \
                        /usr/lib/x86_64-linux-musl/rcrt1.o";

/// Every variant.
pub const VARIANTS: [Variant; 5] = [
    Variant { name: "musl", cc: "musl-gcc", cxx: "", link: "-static -no-pie", rust_link: "" },
    Variant { name: "musl-pie", cc: "musl-gcc", cxx: "", link: MUSL_PIE, rust_link: "" },
    Variant {
        name: "glibc",
        cc: "gcc",
        cxx: "g++",
        link: "-static -no-pie",
        rust_link: "-C relocation-model=static",
    },
    Variant {
        name: "glibc-pie",
        cc: "gcc",
        cxx: "g++",
        link: "-static-pie -fPIE",
        rust_link: "-C relocation-model=pic",
    },
    Variant { name: "dietlibc", cc: "diet gcc", cxx: "", link: "-static -no-pie", rust_link: "" },
];

/// Why a program was not built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// A file or folder.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The manifest makes no sense.
    #[error("{}: {what}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The source could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Its script failed.
    #[error("{name}, {variant}: its build failed:\n{said}")]
    Build {
        /// The program.
        name: String,
        /// What it was to be linked with.
        variant: &'static str,
        /// The end of what the script printed.
        said: String,
    },
}

/// A parsed `program.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The folder's name.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// The program's.
    pub licence: String,
    /// Where it comes from.
    pub origin: String,
    /// What it can be linked with.
    variants: Vec<String>,
    /// A script for `sh`.
    build: String,
    /// Our own files.
    #[serde(default)]
    files: Vec<PathBuf>,
    /// At most one.
    #[serde(default)]
    source: Vec<Source>,
    /// Where the manifest is.
    #[serde(skip)]
    folder: PathBuf,
}

impl Program {
    /// Reads and checks the manifest in `folder`.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Io`] and [`ProgramError::Manifest`].
    pub fn read(folder: &Path) -> Result<Self, ProgramError> {
        let path = folder.join(FILE_NAME);
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let wrong = |what: String| ProgramError::Manifest { path: path.clone(), what };
        let mut program: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        program.folder = fs::canonicalize(folder).map_err(io_error("find", folder))?;
        if program.source.len() > 1 {
            return Err(wrong("has more than one source".into()));
        }
        for source in &program.source {
            source.check().map_err(|(field, what)| wrong(format!("source.{field} {what}")))?;
        }
        if let Some(name) = program.variants.iter().find(|name| VARIANTS.iter().all(|v| v.name != **name)) {
            return Err(wrong(format!("there is no variant {name}")));
        }
        Ok(program)
    }

    /// What it can be linked with.
    pub fn variants(&self) -> impl Iterator<Item = Variant> {
        VARIANTS.into_iter().filter(|variant| self.variants.iter().any(|name| name == variant.name))
    }

    /// Builds it, unless that was done before, and gives the folder with what was made.
    ///
    /// # Errors
    ///
    /// Any [`ProgramError`]; nothing half-made is left in the cache.
    pub fn build(&self, variant: Variant, cache: &Cache) -> Result<PathBuf, ProgramError> {
        let root = cache.programs();
        let key = self.key(variant)?;
        let made = root.join(format!("{}-{}-{}", self.name, variant.name, &key[..12]));
        if made.is_dir() {
            return Ok(made);
        }
        fs::create_dir_all(&root).map_err(io_error("create", &root))?;
        let lock_path = root.join(format!("{}-{}.lock", self.name, variant.name));
        let lock = fs::File::create(&lock_path).map_err(io_error("create", &lock_path))?;
        lock.lock().map_err(io_error("lock", &lock_path))?;
        if made.is_dir() {
            return Ok(made);
        }
        let scratch = tempfile::Builder::new()
            .prefix(".build-")
            .tempdir_in(&root)
            .map_err(io_error("create a folder in", &root))?;
        let (work, out) = (scratch.path().join("work"), scratch.path().join("out"));
        fs::create_dir(&out).map_err(io_error("create", &out))?;
        match self.source.first() {
            Some(source) => copy(&cache.source(source)?.join(&source.root), &work)?,
            None => fs::create_dir(&work).map_err(io_error("create", &work))?,
        }
        let output = Command::new("sh")
            .args(["-e", "-c", &self.build])
            .current_dir(&work)
            .env("CC", variant.cc)
            .env("CXX", variant.cxx)
            .env("LINK", variant.link)
            .env("RUST_LINK", variant.rust_link)
            .env("HERE", &self.folder)
            .env("OUT", &out)
            // Of a make that runs the tests.
            .env_remove("MAKEFLAGS")
            .output()
            .map_err(io_error("run sh in", &work))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr]
                .map(|said| String::from_utf8_lossy(&said).into_owned())
                .concat();
            let from = said.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            let said = said[from..].to_owned();
            return Err(ProgramError::Build { name: self.name.clone(), variant: variant.name, said });
        }
        fs::rename(&out, &made).map_err(io_error("create", &made))?;
        Ok(made)
    }

    /// What the result depends on.
    fn key(&self, variant: Variant) -> Result<String, ProgramError> {
        let mut hasher = Sha256::new();
        let files = self.files.iter().map(|file| self.folder.join(file));
        for path in files.chain([self.folder.join(FILE_NAME)]) {
            hasher.update(sha256_of_file(&path).map_err(io_error("read", &path))?);
        }
        hasher.update(format!("{variant:?}"));
        for compiler in ["gcc", "rustc"] {
            // Without one, what needs it fails in its script, which says more.
            if let Ok(version) = Command::new(compiler).arg("--version").output() {
                hasher.update(version.stdout);
            }
        }
        Ok(hex(&hasher.finalize()))
    }
}

/// Every program below `root`, in order of name.
///
/// # Errors
///
/// As [`Program::read`].
pub fn list(root: &Path) -> Result<Vec<Program>, ProgramError> {
    let mut programs = Vec::new();
    for entry in fs::read_dir(root).map_err(io_error("read", root))? {
        let path = entry.map_err(io_error("read", root))?.path();
        if path.join(FILE_NAME).is_file() {
            programs.push(Program::read(&path)?);
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

fn copy(from: &Path, to: &Path) -> Result<(), ProgramError> {
    let output =
        Command::new("cp").arg("-R").args([from, to]).output().map_err(io_error("run cp for", from))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(ProgramError::Io { op: "copy", path: from.into(), source: io::Error::other(said) })
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProgramError {
    move |source| ProgramError::Io { op, path: path.into(), source }
}
