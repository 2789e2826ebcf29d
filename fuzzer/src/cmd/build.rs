//! `unifork build`: a libFuzzer harness to an image.
//!
//! Exit codes: 0 built; 2 the sources, flags or files do not make an image; 3 a compiler, a library,
//! the network or a disk is missing.

use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use unifork_harnesses::compile::Flags;
use unifork_harnesses::manifest::ManifestError;
use unifork_harnesses::{BuildError, BuildRequest, Built, Libc, build, harness};

use super::{BlameExt as _, Failure, Status, say};

const EXAMPLES: &str = "\
Examples:
  unifork build harness.c parser.c -o parser.img -- -O2 -Iinclude
  unifork build harness.cc -o x.img --seeds seeds --dict words.dict --std c++20
  unifork build harness.c -o x.img --libc glibc -- -lexpat
  unifork build harnesses/sqlite -o sqlite.img

C is linked with musl, C++ with glibc and libstdc++, always static. Flags behind -- come last, so they
win over ours: -g -O1 -fno-omit-frame-pointer and coverage. -fsanitize=fuzzer is taken and does nothing.

Exit codes: 0 built; 2 the sources, flags or files do not make an image; 3 a compiler, a library, the
network or a disk is missing.";

/// Arguments of `unifork build`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Sources (.c, .cc, ...), objects (.o) and libraries (.a); or one folder with a harness.toml
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The image; its name ends in .img
    #[arg(short, long, value_name = "NAME.img")]
    output: PathBuf,
    /// Folder with seeds, one input a file; copied to NAME.seeds
    #[arg(long, value_name = "DIR")]
    seeds: Option<PathBuf>,
    /// Dictionary in AFL's or libFuzzer's syntax; copied to NAME.dict
    #[arg(long, value_name = "FILE")]
    dict: Option<PathBuf>,
    /// Grammar of the inputs, a JSON list of rules as Nautilus has it; copied to NAME.grammar.json
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// Language standard, as in c11 or c++20; once for each language
    #[arg(long, value_name = "STD")]
    std: Vec<String>,
    /// C library; without it, musl for C and glibc for C++
    #[arg(long, value_enum)]
    libc: Option<LibcArg>,
    /// Compilers at once; without it, one per CPU
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Flags for clang and the linker
    #[arg(last = true, value_name = "CLANG-FLAGS")]
    flags: Vec<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LibcArg {
    Musl,
    Glibc,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let built = request(args).and_then(|request| build(&request)).map_err(failure)?;
    to_stderr(&built.warnings);
    if json {
        say(&format!("{}\n", describe_json(&built)));
    } else {
        say(&describe(&built));
    }
    Ok(Status::Done)
}

fn request(args: &Args) -> Result<BuildRequest, BuildError> {
    let mut flags: Vec<String> = args.std.iter().map(|standard| format!("-std={standard}")).collect();
    flags.extend(args.flags.iter().cloned());
    let mut request = match args.files.as_slice() {
        [folder] if folder.is_dir() => {
            harness::request(folder, &args.output, &Flags::parse(&flags)?, Some(show_progress))?
        }
        files => BuildRequest::new(files, &flags, args.output.clone())?,
    };
    request.seeds = args.seeds.clone().or(request.seeds);
    request.dictionary = args.dict.clone().or(request.dictionary);
    request.grammar = args.grammar.clone().or(request.grammar);
    request.libc = args.libc.map(Libc::from).or(request.libc);
    request.jobs = args.jobs;
    request.color = std::io::stderr().is_terminal();
    request.progress = Some(show_progress);
    Ok(request)
}

impl From<LibcArg> for Libc {
    fn from(libc: LibcArg) -> Self {
        match libc {
            LibcArg::Musl => Self::Musl,
            LibcArg::Glibc => Self::Glibc,
        }
    }
}

/// What clang printed goes out as it is; the rest is said as every command says it.
fn failure(error: BuildError) -> Failure {
    let mut help = None;
    if let Some((printed, hint)) = error.diagnostics() {
        to_stderr(printed);
        help = hint.map(str::to_owned);
    }
    if let BuildError::Manifest(ManifestError::Read { .. }) = &error {
        help = Some("a folder is built by its harness.toml; without one, name the source files".into());
    }
    let failed: Result<(), BuildError> = Err(error);
    let failed = match &failed {
        Err(
            BuildError::Missing { .. }
            | BuildError::NotClang { .. }
            | BuildError::Fetch(_)
            | BuildError::Io { .. },
        ) => failed.or_host(),
        _ => failed.or_usage(),
    };
    let failure = failed.expect_err("it is an error");
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn describe(built: &Built) -> String {
    let libc = libc_name(built.libc);
    let mut text = format!("built {}: {} counters, static {libc}\n", built.image.display(), built.counters);
    if let Some(seeds) = &built.seeds {
        text += &format!("  seeds      {}\n", seeds.display());
    }
    if let Some(dictionary) = &built.dictionary {
        text += &format!("  dictionary {}\n", dictionary.display());
    }
    if let Some(grammar) = &built.grammar {
        text += &format!("  grammar    {}\n", grammar.display());
    }
    text
}

fn describe_json(built: &Built) -> serde_json::Value {
    serde_json::json!({
        "image": built.image,
        "seeds": built.seeds,
        "dictionary": built.dictionary,
        "grammar": built.grammar,
        "counters": built.counters,
        "libc": libc_name(built.libc),
        "compiled": built.compiled,
        "reused": built.reused,
    })
}

fn libc_name(libc: Libc) -> &'static str {
    match libc {
        Libc::Musl => "musl",
        Libc::Glibc => "glibc",
    }
}

fn show_progress(step: &str) {
    to_stderr(&format!("  {step}\n"));
}

/// A closed stderr leaves nowhere to say it.
fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
