//! Other fuzzers and other ways to start a program, measured on the same work where they are installed.
//!
//! Each harness is built from the same sources with the same optimisation as its image (`-O1 -g`), but
//! with what each fuzzer needs in addition, and with the host's C library. One core each.

pub(super) mod boot;
mod compile;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use unifork_harnesses::compile::Flags;
use unifork_harnesses::harness;

use compile::{Compilers, compile};

/// A harness to measure peers on.
#[derive(Debug)]
pub(super) struct Work<'a> {
    /// The folder with its `harness.toml`.
    pub(super) folder: &'a Path,
    /// The image made of it, with its seeds beside it.
    pub(super) image: &'a Path,
    pub(super) seeds: &'a Path,
    /// Time for each repetition, and how many.
    pub(super) duration: Duration,
    pub(super) repeat: u32,
}

/// What a peer did: executions a second of each repetition, or why there are none.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) rates: Result<Vec<f64>, String>,
}

/// Every peer on `work`.
pub(super) fn measure(work: &Work<'_>) -> Vec<Peer> {
    type Measure = fn(&Work<'_>, &Path) -> Result<f64, String>;
    let peers: [(&'static str, Build, Measure); 4] = [
        ("libFuzzer", build_libfuzzer, libfuzzer),
        ("AFL++ persistent", build_persistent, afl),
        ("AFL++ fork server", build_forkserver, afl),
        ("fork + exec", |work, _| std::path::absolute(work.image).map_err(|e| e.to_string()), fork_exec),
    ];
    let mut all = Vec::new();
    for (name, build, once) in peers {
        let rates = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"));
        let rates = rates.and_then(|scratch| {
            let program = build(work, scratch.path())?;
            (0..work.repeat).map(|_| once(work, &program)).collect()
        });
        all.push(Peer { name, rates });
    }
    all
}

type Build = fn(&Work<'_>, &Path) -> Result<PathBuf, String>;

/// Whether a program is on the path.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn need(program: &str, package: &str) -> Result<(), String> {
    if installed(program) {
        return Ok(());
    }
    Err(format!("{program} is not installed; `apt-get install {package}` gets it"))
}

fn request(work: &Work<'_>, scratch: &Path) -> Result<unifork_harnesses::BuildRequest, String> {
    harness::request(work.folder, &scratch.join("none.img"), &Flags::default(), None)
        .map_err(|error| error.to_string())
}

fn build_libfuzzer(work: &Work<'_>, scratch: &Path) -> Result<PathBuf, String> {
    let clang = ["clang-16", "clang"].into_iter().find(|name| installed(name));
    let clang = clang.ok_or("clang is not installed; `apt-get install clang-16` gets it")?;
    let compilers = Compilers {
        c: clang,
        cxx: clang,
        compile: &["-fsanitize=fuzzer-no-link"],
        link: &["-fsanitize=fuzzer"],
    };
    compile(&request(work, scratch)?, &compilers, None, scratch)
}

const AFL: Compilers<'static> =
    Compilers { c: "afl-clang-fast", cxx: "afl-clang-fast++", compile: &[], link: &[] };

fn build_persistent(work: &Work<'_>, scratch: &Path) -> Result<PathBuf, String> {
    need("afl-clang-fast", "afl++")?;
    compile(&request(work, scratch)?, &Compilers { link: &["-fsanitize=fuzzer"], ..AFL }, None, scratch)
}

fn build_forkserver(work: &Work<'_>, scratch: &Path) -> Result<PathBuf, String> {
    need("afl-clang-fast", "afl++")?;
    compile(&request(work, scratch)?, &AFL, Some(compile::ONE_RUN), scratch)
}

/// Seeds in a folder of their own: fuzzers write to theirs, and neither wants subfolders.
fn copy_seeds(from: &Path, to: &Path) -> Result<(), String> {
    let words = |error: std::io::Error| format!("cannot copy the seeds: {error}");
    fs::create_dir_all(to).map_err(words)?;
    for entry in fs::read_dir(from).map_err(words)? {
        let path = entry.map_err(words)?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            fs::copy(&path, to.join(name)).map_err(words)?;
        }
    }
    Ok(())
}

/// Whole seconds, as peers take them.
fn seconds(duration: Duration) -> String {
    duration.as_secs_f64().ceil().max(1.0).to_string()
}

fn libfuzzer(work: &Work<'_>, program: &Path) -> Result<f64, String> {
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let corpus = scratch.path().join("corpus");
    copy_seeds(work.seeds, &corpus)?;
    let start = Instant::now();
    let output = Command::new(program)
        .arg(&corpus)
        .arg(format!("-max_total_time={}", seconds(work.duration)))
        .args(["-print_final_stats=1", "-timeout=1", "-rss_limit_mb=0"])
        .arg(format!("-artifact_prefix={}/", scratch.path().display()))
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it does not start: {error}"))?;
    let elapsed = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    let execs = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse::<f64>().ok());
    let execs = execs.ok_or("it says no figures")?;
    if elapsed < work.duration / 2 {
        return Err(format!("it stopped at a crash after {execs} executions"));
    }
    Ok(execs / elapsed.as_secs_f64())
}

fn afl(work: &Work<'_>, program: &Path) -> Result<f64, String> {
    need("afl-fuzz", "afl++")?;
    let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (seeds, out) = (scratch.path().join("seeds"), scratch.path().join("out"));
    copy_seeds(work.seeds, &seeds)?;
    let output = Command::new("afl-fuzz")
        .arg("-i")
        .arg(&seeds)
        .arg("-o")
        .arg(&out)
        .args(["-V", &seconds(work.duration), "-t", "1000", "--"])
        .arg(program)
        .envs([
            ("AFL_NO_UI", "1"),
            ("AFL_NO_AFFINITY", "1"),
            ("AFL_SKIP_CPUFREQ", "1"),
            ("AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES", "1"),
        ])
        .current_dir(scratch.path())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it does not start: {error}"))?;
    let stats = fs::read_to_string(out.join("default/fuzzer_stats"));
    let figure = |name: &str| {
        let line = stats
            .as_ref()
            .ok()?
            .lines()
            .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':')?.1.trim().parse::<f64>().ok()
    };
    figure("execs_per_sec").filter(|rate| *rate > 0.0).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().rev().find(|line| line.contains("ABORT")).unwrap_or("it says no figures");
        last.chars().filter(|c| !c.is_control()).collect()
    })
}

/// The image itself, which is a Linux program too, started anew for every input.
fn fork_exec(work: &Work<'_>, program: &Path) -> Result<f64, String> {
    let mut seeds = Vec::new();
    for entry in fs::read_dir(work.seeds).map_err(|error| format!("cannot read the seeds: {error}"))? {
        seeds.extend(entry.map(|entry| entry.path()).ok().filter(|path| path.is_file()));
    }
    seeds.sort();
    if seeds.is_empty() {
        return Err("there are no seeds".into());
    }
    let start = Instant::now();
    let mut execs = 0u32;
    for seed in seeds.iter().cycle() {
        let status = Command::new(program)
            .arg(seed)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.map_err(|error| format!("it does not start: {error}"))?;
        execs += 1;
        if start.elapsed() >= work.duration {
            break;
        }
    }
    Ok(f64::from(execs) / start.elapsed().as_secs_f64())
}
