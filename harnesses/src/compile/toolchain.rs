//! clang, lld and the C libraries: where they are and how they are called.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BuildError, Libc, io_error};
use crate::manifest::Language;

/// What to try when `CC` is not set: what we are tested with, then whatever there is.
const COMPILERS: [&str; 2] = ["clang-16", "clang"];

/// Where Debian's musl-dev puts headers, and libraries and start files.
const MUSL_INCLUDE: &str = "/usr/include/x86_64-linux-musl";
const MUSL_LIB: &str = "/usr/lib/x86_64-linux-musl";

/// A compiler and a C library to link with.
#[derive(Clone, Debug)]
pub struct Toolchain {
    clang: PathBuf,
    /// First line of `clang --version`.
    version: String,
    /// clang's own headers (`stddef.h`, intrinsics).
    resource_include: PathBuf,
    /// gcc's arithmetic helpers, which clang's code calls too.
    libgcc: PathBuf,
    libc: Libc,
}

impl Toolchain {
    /// Finds what is needed for images with this C library.
    ///
    /// # Errors
    ///
    /// [`BuildError::Missing`] and [`BuildError::NotClang`].
    pub fn find(libc: Libc) -> Result<Self, BuildError> {
        let (clang, version) = find_clang()?;
        let resource = query(&clang, &["-print-resource-dir"])?;
        let libgcc = query(&clang, &["--target=x86_64-linux-gnu", "-print-file-name=libgcc.a"])?;
        let linker = query(&clang, &["-print-prog-name=ld.lld"])?;
        let toolchain = Self {
            clang,
            version,
            resource_include: Path::new(&resource).join("include"),
            libgcc: libgcc.into(),
            libc,
        };
        // Not found is a bare name.
        require(Path::new(&linker), "the linker lld", "lld-16")?;
        require(&toolchain.libgcc, "libgcc.a", "gcc")?;
        match libc {
            Libc::Musl => require(&Path::new(MUSL_LIB).join("libc.a"), "the C library musl", "musl-tools")?,
            Libc::Glibc => {
                for (file, package) in [("libc.a", "libc6-dev"), ("libstdc++.a", "g++")] {
                    let ask = format!("-print-file-name={file}");
                    let found = query(&toolchain.clang, &["--target=x86_64-linux-gnu", &ask])?;
                    require(Path::new(&found), &format!("the static library {file}"), package)?;
                }
            }
        }
        Ok(toolchain)
    }

    /// The compiler.
    #[must_use]
    pub fn clang(&self) -> &Path {
        &self.clang
    }

    /// The compiler's name and version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The C library.
    #[must_use]
    pub fn libc(&self) -> Libc {
        self.libc
    }

    /// The default flags for compiling one file, without coverage.
    pub(super) fn compile_flags(&self, language: Language) -> Vec<String> {
        let mut flags: Vec<String> = match self.libc {
            Libc::Musl => {
                let resource = self.resource_include.display();
                let target = "--target=x86_64-linux-musl";
                [target, "-nostdinc", "-isystem", MUSL_INCLUDE, "-isystem", &resource.to_string()]
                    .map(str::to_owned)
                    .into()
            }
            Libc::Glibc => vec!["--target=x86_64-linux-gnu".into()],
        };
        if language == Language::Cxx {
            flags.push("--driver-mode=g++".into());
        }
        // Frame pointers are for backtraces; link flags may reach the compiler, which is no fault.
        let common =
            ["-g", "-O1", "-fno-omit-frame-pointer", "-fno-pie", "-Wno-unused-command-line-argument"];
        flags.extend(common.map(str::to_owned));
        flags
    }

    /// The whole link command but for what is linked: flags in front of it, and flags behind it.
    pub(super) fn link_flags(&self) -> (Vec<String>, Vec<String>) {
        let mut front: Vec<String> =
            ["-static", "-fuse-ld=lld", "-fno-sanitize-link-runtime", "-Wno-unused-command-line-argument"]
                .map(str::to_owned)
                .into();
        let mut back = Vec::new();
        match self.libc {
            Libc::Musl => {
                // By hand, for clang knows no musl here: what musl-gcc's specs file says.
                front.extend(["--target=x86_64-linux-musl", "-nostdlib"].map(str::to_owned));
                front.extend([format!("{MUSL_LIB}/crt1.o"), format!("{MUSL_LIB}/crti.o")]);
                back.extend([format!("-L{MUSL_LIB}"), "-lc".into(), self.libgcc.display().to_string()]);
                back.push(format!("{MUSL_LIB}/crtn.o"));
            }
            Libc::Glibc => {
                let flags = ["--target=x86_64-linux-gnu", "--driver-mode=g++", "-no-pie"];
                front.extend(flags.map(str::to_owned));
            }
        }
        (front, back)
    }
}

fn find_clang() -> Result<(PathBuf, String), BuildError> {
    let chosen = env::var("CC").ok().filter(|value| !value.trim().is_empty());
    let candidates = chosen.as_deref().map_or(COMPILERS.to_vec(), |compiler| vec![compiler]);
    for candidate in candidates {
        let Ok(output) = Command::new(candidate).arg("--version").output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        if output.status.success() && first.contains("clang") {
            return Ok((candidate.into(), first.to_owned()));
        }
        if chosen.is_some() {
            return Err(BuildError::NotClang { compiler: candidate.to_owned() });
        }
    }
    let what = chosen.map_or_else(|| "clang".to_owned(), |compiler| format!("CC={compiler}"));
    Err(BuildError::Missing { what, package: "clang-16" })
}

fn query(clang: &Path, arguments: &[&str]) -> Result<String, BuildError> {
    let output = Command::new(clang)
        .args(arguments.iter().map(OsStr::new))
        .output()
        .map_err(io_error("run", clang))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn require(path: &Path, what: &str, package: &'static str) -> Result<(), BuildError> {
    if path.is_absolute() && path.exists() {
        return Ok(());
    }
    Err(BuildError::Missing { what: what.into(), package })
}
