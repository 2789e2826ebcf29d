//! Turns the sources of a libFuzzer harness into an image.
//!
//! ```text
//!   *.c  *.cc ── clang, with coverage ──┐
//!   runtime's *.c ── clang, without ────┼── lld, static, non-PIE, counters.ld ── NAME.img
//!   *.o  *.a  -l… ──────────────────────┘                       seeds, dictionary, grammar ┴ NAME.seeds/ NAME.dict …
//! ```
//!
//! C is linked with musl, C++ with glibc and libstdc++ (musl-tools has no libstdc++), both static.
//! What clang and the linker print is passed on as it is; where the cause is ours to explain, a hint
//! says what to change. Outputs appear whole or not at all.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::fetch::FetchError;
use crate::manifest::{Language, ManifestError};

mod flags;
mod inspect;
mod link;
mod objects;
mod publish;
mod runtime;
mod toolchain;

pub use flags::{Flags, FlagsError};
pub use inspect::ImageError;
pub use toolchain::Toolchain;

use objects::{Job, Objects};

/// What the user's sources are compiled with: counters and comparisons. The functions that compare are
/// called rather than expanded, so that the runtime sees their operands.
const COVERAGE: [&str; 10] = [
    "-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp",
    "-fno-builtin-memcmp",
    "-fno-builtin-bcmp",
    "-fno-builtin-strcmp",
    "-fno-builtin-strncmp",
    "-fno-builtin-strcasecmp",
    "-fno-builtin-strncasecmp",
    "-fno-builtin-strstr",
    "-fno-builtin-strcasestr",
    "-fno-builtin-memmem",
];

/// The extensions of C++ sources; `.c` is C and `.s` and `.S` are assembler.
const CXX_EXTENSIONS: [&str; 5] = ["cc", "cpp", "cxx", "c++", "C"];

/// Why no image was built. Whatever was at the output path is untouched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is nothing to compile or link.
    #[error("no source files; name the files of a libFuzzer harness")]
    NoSources,
    /// A named file is not there.
    #[error("no such file: {}", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// A named file is of a kind that cannot be in an image.
    #[error("{}: {what}", path.display())]
    UnusableFile {
        /// The file.
        path: PathBuf,
        /// Why, and what would do.
        what: String,
    },
    /// A flag that an image cannot be built with.
    #[error(transparent)]
    Flags(#[from] FlagsError),
    /// A compiler, linker or library is not installed.
    #[error("{what} not found; install the Debian package {package}")]
    Missing {
        /// The program or library.
        what: String,
        /// The package that has it.
        package: &'static str,
    },
    /// `CC` is set to something else than clang.
    #[error("CC={compiler} is not clang, which coverage needs; set CC to a clang or unset it")]
    NotClang {
        /// Value of `CC`.
        compiler: String,
    },
    /// The compiler refused a file.
    #[error("{} of the files did not compile", failed.len())]
    Compile {
        /// Files it refused.
        failed: Vec<PathBuf>,
        /// What it printed.
        diagnostics: String,
        /// What to change, when the cause is how images are built.
        hint: Option<String>,
    },
    /// The linker failed.
    #[error("the image did not link")]
    Link {
        /// What it printed.
        diagnostics: String,
        /// What to change, when the cause is how images are built.
        hint: Option<String>,
    },
    /// It linked, but is not an image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The harness's manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The harness's third-party sources.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file or program of the host.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file, folder or program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BuildError {
    /// What the program that failed (compiler, linker, package client) printed, and what to change if
    /// that is known.
    #[must_use]
    pub fn diagnostics(&self) -> Option<(&str, Option<&str>)> {
        match self {
            Self::Compile { diagnostics, hint, .. } | Self::Link { diagnostics, hint } => {
                Some((diagnostics, hint.as_deref()))
            }
            Self::Fetch(error) => Some((error.said()?, None)),
            _ => None,
        }
    }
}

/// The C library an image is linked with. Both are static.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Libc {
    /// For C: small, quick to start.
    Musl,
    /// For C++, and for C that needs a library Debian builds for glibc only.
    Glibc,
}

/// One file to compile, with flags of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The source file.
    pub path: PathBuf,
    /// Compiler flags for this file, in front of the request's.
    pub flags: Vec<String>,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Files to compile.
    pub units: Vec<Unit>,
    /// `.o` and `.a` files to link as they are.
    pub linked: Vec<PathBuf>,
    /// The user's flags. They come behind the default ones, so they win.
    pub flags: Flags,
    /// The C library; `None` chooses by the sources' language.
    pub libc: Option<Libc>,
    /// Where the image goes.
    pub output: PathBuf,
    /// Folder to copy to `NAME.seeds/`.
    pub seeds: Option<PathBuf>,
    /// File to copy to `NAME.dict`.
    pub dictionary: Option<PathBuf>,
    /// Grammar of the inputs, copied beside the image.
    pub grammar: Option<PathBuf>,
    /// Folder that keeps compiled objects for the next build; `None` compiles everything.
    pub object_cache: Option<PathBuf>,
    /// Compilers at once; `None` is one per CPU.
    pub jobs: Option<NonZeroUsize>,
    /// Diagnostics in colour.
    pub color: bool,
    /// Told what is being done.
    pub progress: Option<Progress>,
}

/// Is given a few words on each step as it begins ("compiling a.c"), from any thread.
pub type Progress = fn(&str);

/// An image that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image.
    pub image: PathBuf,
    /// Folder with its seeds, if any were given.
    pub seeds: Option<PathBuf>,
    /// Its dictionary, if one was given.
    pub dictionary: Option<PathBuf>,
    /// Its grammar, if one was given.
    pub grammar: Option<PathBuf>,
    /// How many coverage counters it has.
    pub counters: usize,
    /// The C library it is linked with.
    pub libc: Libc,
    /// Files that were compiled.
    pub compiled: usize,
    /// Files whose object was still good.
    pub reused: usize,
    /// What compilers and linker printed nonetheless.
    pub warnings: String,
}

impl BuildRequest {
    /// The request that `unifork build FILES... -o OUTPUT -- ARGUMENTS...` makes. Arguments that are
    /// not flags are files too.
    ///
    /// # Errors
    ///
    /// [`BuildError::Flags`], [`BuildError::UnusableFile`] and [`BuildError::NotFound`].
    pub fn new(files: &[PathBuf], arguments: &[String], output: PathBuf) -> Result<Self, BuildError> {
        let mut request = Self {
            units: Vec::new(),
            linked: Vec::new(),
            flags: Flags::parse(arguments)?,
            libc: None,
            output,
            seeds: None,
            dictionary: None,
            grammar: None,
            object_cache: None,
            jobs: None,
            color: false,
            progress: None,
        };
        for path in files.iter().cloned().chain(request.flags.files.split_off(0)) {
            match kind(&path)? {
                Kind::Source(_) | Kind::Assembler => request.units.push(Unit { path, flags: Vec::new() }),
                Kind::Linked => request.linked.push(path),
            }
        }
        Ok(request)
    }

    fn libc(&self) -> Result<Libc, BuildError> {
        if let Some(libc) = self.libc {
            return Ok(libc);
        }
        for unit in &self.units {
            if kind(&unit.path)? == Kind::Source(Language::Cxx) {
                return Ok(Libc::Glibc);
            }
        }
        Ok(if self.flags.cxx { Libc::Glibc } else { Libc::Musl })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Source(Language),
    Assembler,
    Linked,
}

/// What to do with a file, by its name; it must be there.
fn kind(path: &Path) -> Result<Kind, BuildError> {
    let unusable = |what: &str| BuildError::UnusableFile { path: path.into(), what: what.into() };
    let found = match path.extension().and_then(|extension| extension.to_str()) {
        Some("c") => Kind::Source(Language::C),
        Some(extension) if CXX_EXTENSIONS.contains(&extension) => Kind::Source(Language::Cxx),
        Some("s" | "S") => Kind::Assembler,
        Some("o" | "a") => Kind::Linked,
        Some("so") => {
            return Err(unusable("an image is static; give the library's sources or its .a file"));
        }
        Some("h" | "hh" | "hpp") => {
            return Err(unusable("a header is not compiled; name its folder with -I behind --"));
        }
        _ => {
            return Err(unusable("not a C or C++ source, nor an .o or .a file, by its name"));
        }
    };
    if path.is_file() { Ok(found) } else { Err(BuildError::NotFound { path: path.into() }) }
}

/// Builds an image.
///
/// # Errors
///
/// Any [`BuildError`]; the output is then as it was.
pub fn build(request: &BuildRequest) -> Result<Built, BuildError> {
    if request.units.is_empty() && request.linked.is_empty() {
        return Err(BuildError::NoSources);
    }
    for path in request.units.iter().map(|unit| &unit.path).chain(&request.linked) {
        kind(path)?;
    }
    publish::check(request)?;
    let libc = request.libc()?;
    let toolchain = Toolchain::find(libc)?;
    let scratch = tempfile::Builder::new()
        .prefix("unifork-build-")
        .tempdir()
        .map_err(io_error("create a folder in", &std::env::temp_dir()))?;
    let runtime = runtime::write(scratch.path())?;

    // The scratch folder is gone when a backtrace names a file of the runtime.
    let forget_scratch = format!("-ffile-prefix-map={}=/unifork", scratch.path().display());
    let mut jobs: Vec<Job> = Vec::new();
    for unit in &request.units {
        let source = match kind(&unit.path)? {
            Kind::Source(language) => Some(language),
            _ => None,
        };
        let mut arguments = toolchain.compile_flags(source.unwrap_or(Language::C));
        if source.is_some() {
            arguments.extend(COVERAGE.map(str::to_owned));
        }
        arguments.extend(["-isystem".into(), runtime.include.display().to_string()]);
        arguments.extend(unit.flags.iter().cloned());
        arguments.extend(request.flags.compile_for(source));
        if request.color {
            arguments.push("-fcolor-diagnostics".into());
        }
        arguments.push(forget_scratch.clone());
        jobs.push(Job { source: unit.path.clone(), arguments, announce: true });
    }
    for source in &runtime.sources {
        let mut arguments = toolchain.compile_flags(Language::C);
        arguments.push(forget_scratch.clone());
        jobs.push(Job { source: source.clone(), arguments, announce: false });
    }

    let mut objects = Objects::new(&toolchain, scratch.path(), request.object_cache.clone());
    objects.progress = request.progress;
    // Paths in the scratch folder differ between builds; they stand for the same files.
    objects.forget = vec![(scratch.path().display().to_string(), "$SCRATCH".into())];
    let compiled = objects.compile(&jobs, request.jobs)?;

    let linked = scratch.path().join("image");
    let inputs = link::Inputs {
        objects: &compiled.objects,
        linked: &request.linked,
        flags: &request.flags.link,
        script: &runtime.script,
        output: &linked,
    };
    if let Some(progress) = request.progress {
        progress(&format!("linking {}", request.output.display()));
    }
    let link_warnings = link::link(&toolchain, &inputs)?;
    let bytes = fs::read(&linked).map_err(io_error("read", &linked))?;
    let counters = inspect::inspect(&bytes)?;
    let publish::Beside { seeds, dictionary, grammar } = publish::publish(request, &bytes)?;
    let ignored = inspect::ignored_hooks(&bytes);

    Ok(Built {
        image: request.output.clone(),
        seeds,
        dictionary,
        grammar,
        counters,
        libc,
        compiled: compiled.compiled,
        reused: compiled.reused,
        warnings: compiled.warnings + &link_warnings + &ignored,
    })
}

/// For `map_err`: the operation and the path, with the kernel's error.
pub(crate) fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::Io { op, path: path.into(), source }
}
