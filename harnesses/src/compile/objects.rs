//! Compiling files, several at once, and keeping the objects.
//!
//! A kept object is good while its command line, the compiler and the content of every file it was
//! made from are the same:
//!
//! ```text
//! CACHE/KEY.o       KEY: hash of source path, working folder, arguments and compiler version
//! CACHE/KEY.inputs  one "sha256 path" per file that the compiler read (from its -MD output)
//! ```

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::{BuildError, Progress, Toolchain, io_error};
use crate::fetch::{hex, sha256_of_file};

/// One file to compile.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) source: PathBuf,
    /// Everything but `-c`, input and output.
    pub(super) arguments: Vec<String>,
    /// Whether it is worth a word of progress.
    pub(super) announce: bool,
}

/// Compiles jobs into a folder.
#[derive(Debug)]
pub(super) struct Objects<'a> {
    toolchain: &'a Toolchain,
    scratch: PathBuf,
    cache: Option<PathBuf>,
    /// Replacements made in what is hashed for a key, for paths that differ between builds.
    pub(super) forget: Vec<(String, String)>,
    pub(super) progress: Option<Progress>,
}

/// All jobs, compiled.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    /// In the order of the jobs.
    pub(super) objects: Vec<PathBuf>,
    pub(super) compiled: usize,
    pub(super) reused: usize,
    pub(super) warnings: String,
}

/// One job, compiled or refused.
#[derive(Debug)]
enum Outcome {
    Compiled { object: PathBuf, warnings: String },
    Reused { object: PathBuf },
    Refused { diagnostics: String },
}

impl<'a> Objects<'a> {
    pub(super) fn new(toolchain: &'a Toolchain, scratch: &Path, cache: Option<PathBuf>) -> Self {
        Self { toolchain, scratch: scratch.into(), cache, forget: Vec::new(), progress: None }
    }

    /// Compiles all jobs. After the first failure none is begun, so that one mistake in a header is
    /// not printed a hundred times.
    pub(super) fn compile(
        &self,
        jobs: &[Job],
        at_once: Option<NonZeroUsize>,
    ) -> Result<Compiled, BuildError> {
        if let Some(cache) = &self.cache {
            fs::create_dir_all(cache).map_err(io_error("create", cache))?;
        }
        let at_once = at_once.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let outcomes: Vec<Mutex<Option<Result<Outcome, BuildError>>>> =
            jobs.iter().map(|_| Mutex::new(None)).collect();
        thread::scope(|scope| {
            for _ in 0..at_once.min(jobs.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let (Some(job), false) = (jobs.get(index), stop.load(Ordering::Relaxed)) else {
                            break;
                        };
                        let outcome = self.compile_one(index, job);
                        if !matches!(outcome, Ok(Outcome::Compiled { .. } | Outcome::Reused { .. })) {
                            stop.store(true, Ordering::Relaxed);
                        }
                        *outcomes[index].lock().expect("nothing panics while holding it") = Some(outcome);
                    }
                });
            }
        });
        collect(jobs, outcomes.into_iter().map(|outcome| outcome.into_inner().expect("as above")))
    }

    fn compile_one(&self, index: usize, job: &Job) -> Result<Outcome, BuildError> {
        let stem = job.source.file_stem().unwrap_or_default().to_string_lossy();
        let kept = self.cache.as_ref().map(|cache| cache.join(format!("{stem}-{}", self.key(job))));
        if let Some(kept) = &kept
            && let Ok(inputs) = fs::read_to_string(kept.with_added_extension("inputs"))
            && self.inputs_are_as_they_were(&inputs)
            && kept.with_added_extension("o").is_file()
        {
            return Ok(Outcome::Reused { object: kept.with_added_extension("o") });
        }

        if let Some(progress) = self.progress.filter(|_| job.announce) {
            progress(&format!("compiling {}", job.source.display()));
        }
        let object = self.scratch.join(format!("{index}-{stem}.o"));
        let dependencies = object.with_added_extension("d");
        let mut command = Command::new(self.toolchain.clang());
        command.args(&job.arguments).arg("-c").arg(&job.source).arg("-o").arg(&object);
        command.args(["-MD", "-MF"]).arg(&dependencies);
        let output = command.output().map_err(io_error("run", self.toolchain.clang()))?;
        let diagnostics = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Ok(Outcome::Refused { diagnostics });
        }
        // A file with warnings is compiled again each time, so that they are seen each time.
        if let Some(kept) = kept.filter(|_| diagnostics.is_empty()) {
            let object = self.keep(&kept, &object, &dependencies)?;
            return Ok(Outcome::Compiled { object, warnings: diagnostics });
        }
        Ok(Outcome::Compiled { object, warnings: diagnostics })
    }

    fn key(&self, job: &Job) -> String {
        let folder = env::current_dir().unwrap_or_default();
        let mut text =
            format!("{}\n{}\n{}\n", self.toolchain.version(), folder.display(), job.source.display());
        for argument in &job.arguments {
            writeln!(text, "{argument}").expect("a String takes any text");
        }
        for (from, to) in &self.forget {
            text = text.replace(from, to);
        }
        hex(&Sha256::digest(text.as_bytes()))[..32].to_owned()
    }

    /// Moves an object into the cache: first the object, then the file that makes it valid.
    fn keep(&self, kept: &Path, object: &Path, dependencies: &Path) -> Result<PathBuf, BuildError> {
        let cache = self.cache.as_ref().expect("kept is below it");
        let makefile = fs::read_to_string(dependencies).map_err(io_error("read", dependencies))?;
        let mut inputs = String::new();
        for path in prerequisites(&makefile) {
            let sum = sha256_of_file(Path::new(&path)).map_err(io_error("read", Path::new(&path)))?;
            let mut name = path;
            for (from, to) in &self.forget {
                name = name.replace(from, to);
            }
            writeln!(inputs, "{sum} {name}").expect("a String takes any text");
        }
        let place = |target: &Path, bytes: &[u8]| -> Result<(), BuildError> {
            let mut file =
                tempfile::NamedTempFile::new_in(cache).map_err(io_error("create a file in", cache))?;
            std::io::Write::write_all(&mut file, bytes).map_err(io_error("write", target))?;
            file.persist(target).map_err(|error| io_error("create", target)(error.error))?;
            Ok(())
        };
        let target = kept.with_added_extension("o");
        place(&target, &fs::read(object).map_err(io_error("read", object))?)?;
        place(&kept.with_added_extension("inputs"), inputs.as_bytes())?;
        Ok(target)
    }

    fn inputs_are_as_they_were(&self, inputs: &str) -> bool {
        inputs.lines().all(|line| {
            let Some((sum, name)) = line.split_once(' ') else { return false };
            let mut path = name.to_owned();
            for (from, to) in &self.forget {
                path = path.replace(to, from);
            }
            sha256_of_file(Path::new(&path)).is_ok_and(|now| now == sum)
        })
    }
}

/// Puts outcomes into the order of the jobs.
fn collect(
    jobs: &[Job],
    outcomes: impl Iterator<Item = Option<Result<Outcome, BuildError>>>,
) -> Result<Compiled, BuildError> {
    let mut all = Compiled::default();
    let mut failed = Vec::new();
    let mut refusals = String::new();
    for (job, outcome) in jobs.iter().zip(outcomes) {
        match outcome {
            None => {}
            Some(Err(error)) => return Err(error),
            Some(Ok(Outcome::Reused { object })) => {
                all.reused += 1;
                all.objects.push(object);
            }
            Some(Ok(Outcome::Compiled { object, warnings })) => {
                all.compiled += 1;
                all.warnings += &warnings;
                all.objects.push(object);
            }
            Some(Ok(Outcome::Refused { diagnostics })) => {
                failed.push(job.source.clone());
                refusals += &diagnostics;
            }
        }
    }
    if failed.is_empty() {
        return Ok(all);
    }
    let hint = hint(&refusals);
    Err(BuildError::Compile { failed, diagnostics: all.warnings + &refusals, hint })
}

/// What to change, when the cause is how images are built.
fn hint(diagnostics: &str) -> Option<String> {
    let missing = diagnostics.lines().find_map(|line| {
        line.contains("file not found").then(|| line.split('\'').nth(1)).flatten().map(str::to_owned)
    })?;
    Some(format!(
        "name the folder of {missing} with -I behind --. C is compiled against musl, so a library that is \
         installed for glibc is not found by itself: give its sources, or add --libc glibc"
    ))
}

/// The files that a `-MD` makefile names behind its target. Blanks in names are `\ `.
fn prerequisites(makefile: &str) -> Vec<String> {
    let joined = makefile.replace("\\\n", " ");
    let Some((_, list)) = joined.split_once(": ") else { return Vec::new() };
    list.replace("\\ ", "\0")
        .split_whitespace()
        .map(|name| name.replace('\0', " ").replace("$$", "$"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prerequisites_may_be_on_many_lines_and_have_blanks() {
        let makefile = "a.o: src/a.c include/b.h \\\n  with\\ blank/c.h \\\n  d$$.h\n";
        assert_eq!(prerequisites(makefile), ["src/a.c", "include/b.h", "with blank/c.h", "d$.h"]);
        assert_eq!(prerequisites(""), [""; 0]);
    }

    #[test]
    fn a_header_that_is_not_found_is_named_in_the_hint() {
        let text = "x.c:1:10: fatal error: 'zlib.h' file not found\n";
        assert!(hint(text).unwrap().contains("zlib.h"));
        assert_eq!(hint("x.c:1:10: error: expected ';'\n"), None);
    }
}
