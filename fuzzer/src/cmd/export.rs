//! `unifork export`: a campaign's corpus and findings, in the folders and names of another fuzzer.
//!
//! ```text
//! afl          DIR/queue/id:000000,...     DIR/crashes/id:000000,sig:11,...   DIR/hangs/id:...
//! libfuzzer    DIR/corpus/SHA1             DIR/artifacts/crash-SHA1, timeout-SHA1, oom-SHA1
//! ```
//!
//! The other way needs no command: `unifork fuzz --seeds` reads what they write.
//!
//! Exit codes: 0 when the folder is written; 2 for folders that cannot be used; 3 when the host failed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use sha1::{Digest as _, Sha1};
use unifork_vmm::regular;
use unifork_vmm::{CrashKind, Outcome};

use crate::cmd::cmin::vacant;
use crate::cmd::{BlameExt as _, Failure, Status, say};
use crate::findings::Record;
use crate::output::{self, OutputError};
use crate::queue::{self, Stored};
use crate::units::plural;

/// Flags of `unifork export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  unifork export cjson.campaign --as libfuzzer -o cjson.libfuzzer
  unifork export cjson.campaign --as afl -o sync/unifork

As afl, the folder is an instance of a sync folder: AFL++ takes over its queue (-o sync), or begins with
it (-i sync/unifork/queue). As libfuzzer, corpus/ is what a fuzzer is given. The campaign may be running.
`unifork fuzz --seeds DIR` reads both, a whole sync folder included.

Exit codes: 0 written; 2 folders that cannot be used; 3 the host failed.")]
pub(crate) struct Args {
    /// The campaign's folder
    campaign: PathBuf,
    /// Whose folders and names
    #[arg(long = "as", value_enum)]
    format: Format,
    /// The folder to write; it must not exist, or be empty
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// Another fuzzer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// AFL++, and AFL
    Afl,
    /// LLVM's libFuzzer
    Libfuzzer,
}

/// One finding: its folder's name, its input, and how it ended.
#[derive(Debug)]
struct Finding {
    name: String,
    bytes: Vec<u8>,
    outcome: Outcome,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    vacant(&args.output)?;
    let queue = args.campaign.join("queue");
    if !queue.is_dir() {
        let error = anyhow::anyhow!("{} is not a campaign: it has no queue", args.campaign.display());
        return Err(Failure::usage(error).help("name the folder that `unifork fuzz` wrote: NAME.campaign"));
    }
    let (corpus, damaged) = queue::read(&queue).or_usage()?;
    for name in &damaged {
        eprintln!("unifork: warning: queue/{name} is damaged and left out");
    }
    let findings = read_findings(&args.campaign.join("findings")).or_usage()?;
    let files = match args.format {
        Format::Afl => afl(&corpus, &findings),
        Format::Libfuzzer => libfuzzer(&corpus, &findings),
    };
    write(&args.output, args.format, &files).or_host()?;
    if json {
        let line = serde_json::json!({
            "output": args.output,
            "corpus": corpus.len(),
            "findings": findings.len(),
            "damaged": damaged,
        });
        say(&format!("{line}\n"));
    } else {
        let (corpus, findings) = (plural(corpus.len(), "input"), plural(findings.len(), "finding"));
        say(&format!("{}: {corpus}, {findings}\n", args.output.display()));
    }
    Ok(Status::Done)
}

fn read_findings(folder: &Path) -> Result<Vec<Finding>, OutputError> {
    let mut findings = Vec::new();
    if !folder.is_dir() {
        return Ok(findings);
    }
    for entry in fs::read_dir(folder).map_err(OutputError::io("read", folder))? {
        let entry = entry.map_err(OutputError::io("read", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let input = entry.path().join("input");
        if name.starts_with('.') || !input.is_file() {
            continue;
        }
        let outcome = match Record::read(&entry.path()) {
            Ok(record) => record.outcome,
            Err(error) => {
                eprintln!("unifork: warning: {error}; {name} is left out");
                continue;
            }
        };
        let bytes = regular::read(&input).map_err(OutputError::io("read", &input))?;
        findings.push(Finding { name, bytes, outcome });
    }
    findings.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(findings)
}

/// A file of what is exported: its path in the folder, and its bytes.
type Exported<'a> = (String, &'a [u8]);

/// AFL++'s names; it reads the number and takes the rest as it is.
fn afl<'a>(corpus: &'a [Stored], findings: &'a [Finding]) -> Vec<Exported<'a>> {
    let mut files: Vec<Exported<'a>> = Vec::new();
    for (number, entry) in corpus.iter().enumerate() {
        let original = afl_word(&entry.name);
        files.push((format!("queue/id:{number:06},time:0,execs:0,orig:{original}"), &entry.bytes));
    }
    let (mut crashes, mut hangs) = (0, 0);
    for finding in findings {
        let name = afl_word(&finding.name);
        let path = if finding.outcome == Outcome::Timeout {
            hangs += 1;
            format!("hangs/id:{:06},src:000000,time:0,execs:0,op:{name}", hangs - 1)
        } else {
            crashes += 1;
            let signal = signal(&finding.outcome);
            format!("crashes/id:{:06},sig:{signal:02},src:000000,time:0,execs:0,op:{name}", crashes - 1)
        };
        files.push((path, &finding.bytes));
    }
    files
}

/// What may be in a name of AFL++'s.
fn afl_word(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .take(64)
        .collect()
}

/// The signal that Linux would have ended the program with.
fn signal(outcome: &Outcome) -> i32 {
    let Outcome::Crash(crash) = outcome else { return libc::SIGKILL };
    match crash.kind {
        CrashKind::DivideByZero => libc::SIGFPE,
        CrashKind::IllegalInstruction => libc::SIGILL,
        CrashKind::Abort | CrashKind::Assertion => libc::SIGABRT,
        CrashKind::Breakpoint => libc::SIGTRAP,
        CrashKind::OutOfMemory => libc::SIGKILL,
        _ => libc::SIGSEGV,
    }
}

/// libFuzzer's names: the SHA-1 of the bytes.
fn libfuzzer<'a>(corpus: &'a [Stored], findings: &'a [Finding]) -> Vec<Exported<'a>> {
    let mut files: Vec<Exported<'a>> =
        corpus.iter().map(|entry| (format!("corpus/{}", sha1(&entry.bytes)), &entry.bytes[..])).collect();
    for finding in findings {
        let kind = match &finding.outcome {
            Outcome::Timeout => "timeout",
            Outcome::Crash(crash) if crash.kind == CrashKind::OutOfMemory => "oom",
            _ => "crash",
        };
        files.push((format!("artifacts/{kind}-{}", sha1(&finding.bytes)), &finding.bytes));
    }
    files
}

fn sha1(bytes: &[u8]) -> String {
    Sha1::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn write(output: &Path, format: Format, files: &[Exported<'_>]) -> Result<(), OutputError> {
    let folders: &[&str] = match format {
        Format::Afl => &["queue", "crashes", "hangs"],
        Format::Libfuzzer => &["corpus", "artifacts"],
    };
    output::write_folder(output, |partial| {
        for folder in folders {
            let path = partial.join(folder);
            fs::create_dir(&path).map_err(OutputError::io("create", &path))?;
        }
        files.iter().try_for_each(|(name, bytes)| {
            let path = partial.join(name);
            fs::write(&path, bytes).map_err(OutputError::io("write", &path))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_other_fuzzer() {
        let corpus = [Stored { name: "000003-00aa".into(), bytes: b"abc".to_vec() }];
        let timeout =
            |name: &str| Finding { name: name.into(), bytes: b"t".to_vec(), outcome: Outcome::Timeout };
        let findings = [timeout("timeout-1"), timeout("timeout-2")];
        let names = |files: Vec<Exported<'_>>| files.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(afl(&corpus, &findings)),
            [
                "queue/id:000000,time:0,execs:0,orig:000003-00aa",
                "hangs/id:000000,src:000000,time:0,execs:0,op:timeout-1",
                "hangs/id:000001,src:000000,time:0,execs:0,op:timeout-2",
            ]
        );
        assert_eq!(
            names(libfuzzer(&corpus, &findings[..1])),
            [
                "corpus/a9993e364706816aba3e25717850c26c9cd0d89d",
                "artifacts/timeout-8efd86fb78a56a5145ed7739dcb00c78581c5375",
            ]
        );
    }
}
