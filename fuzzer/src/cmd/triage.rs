//! `unifork triage`: makes findings again, groups them, states facts, and writes a page for each group.
//!
//! ```text
//! CAMPAIGN/triage/
//!   index.html, .txt, .json     all groups
//!   null-write-3f2a9c1e/        one folder a group, named after its smallest finding
//!     index.html  report.txt  report.json  input
//! ```
//!
//! Exit codes: 0 when every finding was made again; 1 when one was not (the pages are written all the
//! same), when there are none, or when someone stopped it, and nothing is written; 2 for files that cannot
//! be used; 3 when the host failed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use unifork_vmm::Outcome;
use unifork_vmm::regular;

use crate::cmd::progress::Progress;
use crate::cmd::run::kernel::KernelArgs;
use crate::cmd::subject::{self, Subject};
use crate::cmd::{BlameExt as _, Failure, Status, say};
use crate::machine::MachineArgs;
use crate::opened::Opened;
use crate::output;
use crate::signals;
use crate::triage::Probe;
use crate::units::{self, plural, show_clock};

mod facts;
mod group;
mod html;
mod text;

use facts::Facts;
use group::{Group, Made, Member};

/// Fresh forks that a finding is made again in.
const RUNS: u32 = 3;

/// Flags of `unifork triage`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork triage sqlite.campaign
  unifork triage a.campaign b.campaign -o all/
  unifork triage crashes/ --image sqlite.img -o pages/

Findings are one group when cause and stack agree. Of each group the smallest input is looked at:
what was touched, which registers hold bytes of the input, and which bytes of the input change
the address when they change. The folder appears whole or not at all; an older one is replaced.

Exit codes: 0 all made again; 1 some were not, or there are none, or it was stopped; 2 bad input;
3 the host failed.")]
pub(crate) struct Args {
    /// Campaigns, findings, or files and folders with inputs
    #[arg(required = true, value_name = "CAMPAIGN|FINDING")]
    pub(crate) findings: Vec<PathBuf>,
    /// The image or snapshot file [default: the one a finding was found in]
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// The folder of pages [default: triage in the campaign]
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Time a run may take [default: the finding's, or 1s]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) deadline: Option<Duration>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) kernel: KernelArgs,
}

/// A finding that could not be made again, and why.
#[derive(Clone, Debug, serde::Serialize)]
struct Lost {
    path: PathBuf,
    why: String,
}

/// All there is to write.
#[derive(Debug, serde::Serialize)]
struct Sorted {
    groups: Vec<Group>,
    not_reproduced: Vec<Lost>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let paths = expand(&args.findings)?;
    if paths.is_empty() {
        let named: Vec<_> = args.findings.iter().map(|path| path.display().to_string()).collect();
        let why = format!("no findings in {}", named.join(", "));
        say(&if json { format!("{}\n", serde_json::json!({ "why": why })) } else { format!("{why}\n") });
        return Ok(Status::Negative);
    }
    let output = output_of(args)?;
    signals::catch();
    let Some(sorted) = sort(args, &paths)? else {
        say(if json { "{\"written\":false}\n" } else { "stopped: nothing is written\n" });
        return Ok(Status::Negative);
    };
    output::write_folder(&output, |folder| write(&sorted, folder)).or_host()?;
    for Lost { path, why } in &sorted.not_reproduced {
        eprintln!("unifork: warning: {}: {why}", path.display());
    }
    let index = output.join("index.html");
    say(&if json {
        let line = serde_json::json!({ "written": true, "output": output, "triage": sorted });
        format!("{line}\n")
    } else {
        format!("{}\n{}\n", text::index(&sorted), index.display())
    });
    Ok(if sorted.not_reproduced.is_empty() { Status::Done } else { Status::Negative })
}

/// The findings, and the inputs, that the arguments stand for.
fn expand(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for path in named {
        let findings = path.join("findings");
        if path.is_file() || path.join("input").is_file() {
            paths.push(path.clone());
            continue;
        }
        let folder = if findings.is_dir() { &findings } else { path };
        let failed = |error| {
            let error = anyhow::Error::from(error).context(format!("cannot read {}", folder.display()));
            Failure::usage(error).help("give a campaign, a finding, or a folder of inputs with --image")
        };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            let is_note = name.starts_with('.') || name.starts_with("README");
            if !is_note && (entry.is_file() || entry.join("input").is_file()) {
                paths.push(entry);
            }
        }
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Where the pages go. A folder that is there is replaced only if it has pages.
fn output_of(args: &Args) -> Result<PathBuf, Failure> {
    let output = match (&args.output, args.findings.as_slice()) {
        (Some(output), _) => output.clone(),
        (None, [campaign]) if campaign.join("findings").is_dir() => campaign.join("triage"),
        _ => {
            let error = anyhow::anyhow!("it is not said where the pages are to go");
            return Err(Failure::usage(error).help("name a folder with -o"));
        }
    };
    let ours = || {
        let index = regular::read(output.join("index.json")).unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&index).is_ok_and(|index| index.get("groups").is_some())
    };
    let taken = match fs::read_dir(&output) {
        Ok(mut entries) => entries.next().is_some() && !ours(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    let parent = output::parent(&output);
    if taken {
        let error = anyhow::anyhow!("{} has something else in it than pages of triage", output.display());
        return Err(Failure::usage(error).help("name another folder with -o"));
    }
    if !parent.is_dir() {
        let error = anyhow::anyhow!("{} is not a folder", parent.display());
        return Err(Failure::usage(error).help("make it, or name another with -o"));
    }
    Ok(output)
}

/// What a machine is opened by: image, memory, longest input, and how a kernel is booted.
type BenchKey = (PathBuf, u64, u64, String);

/// A machine, and forks of it to look at.
#[derive(Debug)]
struct Bench {
    machine: Opened,
    probe: Probe,
}

/// Makes all of `paths` again and groups them; `None` when someone asks to stop.
fn sort(args: &Args, paths: &[PathBuf]) -> Result<Option<Sorted>, Failure> {
    let mut benches: BTreeMap<BenchKey, Bench> = BTreeMap::new();
    let mut groups: BTreeMap<String, Vec<(Member, Made)>> = BTreeMap::new();
    let mut lost = Vec::new();
    let mut progress = Progress::start();
    for (at, path) in paths.iter().enumerate() {
        if signals::stop_requested() {
            return Ok(None);
        }
        if progress.due() {
            eprintln!("{:>7}  {} of {}", show_clock(progress.elapsed()), at, plural(paths.len(), "finding"));
        }
        let subject = match Subject::read(path) {
            Ok(subject) => subject,
            // Of many findings, one that is damaged does not spoil the others.
            Err(failure) if paths.len() > 1 => {
                lost.push(Lost { path: path.clone(), why: format!("{:#}", failure.error) });
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let sizes = subject.sizes(&args.machine);
        let image = subject.image(args.image.as_deref())?;
        let kernel = subject.kernel(&args.kernel);
        let key = (image.clone(), sizes.memory, sizes.input_max, format!("{kernel:?}"));
        if !benches.contains_key(&key) {
            let machine = subject::open(&image, &sizes, &kernel)?;
            let deadline = subject.deadline(args.deadline);
            let probe = Probe::new(machine.kvm.clone(), machine.frozen.clone(), deadline);
            benches.insert(key.clone(), Bench { machine, probe });
        }
        let bench = &benches[&key];
        subject.fits(&bench.machine)?;
        let deadline = subject.deadline(args.deadline);
        match group::make(&bench.probe, &subject, deadline, RUNS).or_host()? {
            Ok(mut made) => {
                made.bench = Some(key);
                made.deadline = deadline;
                let member = Member::new(&subject, &made);
                groups.entry(made.key()).or_default().push((member, made));
            }
            Err(why) => lost.push(Lost { path: path.clone(), why }),
        }
    }
    let count = groups.len();
    let mut done = Vec::new();
    for (at, mut members) in groups.into_values().enumerate() {
        if signals::stop_requested() {
            return Ok(None);
        }
        if progress.due() {
            eprintln!("{:>7}  facts of {} of {}", show_clock(progress.elapsed()), at, plural(count, "group"));
        }
        members.sort_by(|(one, _), (other, _)| (one.bytes, &one.path).cmp(&(other.bytes, &other.path)));
        let all = members.iter().map(|(member, _)| member.clone()).collect();
        let (_, made) = members.swap_remove(0);
        let facts = match (&made.bench, &made.sighting.outcome) {
            (Some(key), Outcome::Crash(_)) => {
                Facts::find(&benches[key].machine, &made.input, &made.sighting, made.deadline).or_host()?
            }
            _ => Facts::default(),
        };
        let image = made.bench.as_ref().map(|(image, ..)| image.clone()).unwrap_or_default();
        done.push(Group::new(image, made, all, facts));
    }
    done.sort_by(|one, other| one.name.cmp(&other.name));
    group::tell_apart(&mut done);
    lost.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Some(Sorted { groups: done, not_reproduced: lost }))
}

/// Writes all pages.
fn write(sorted: &Sorted, folder: &Path) -> Result<(), output::OutputError> {
    let put = |path: PathBuf, text: String| output::write_whole(&path, text.as_bytes());
    let json = |value: serde_json::Result<String>, path: PathBuf| {
        let text = value.map_err(|error| output::OutputError::io("write", &path)(error.into()))?;
        put(path, text + "\n")
    };
    for group in &sorted.groups {
        let own = folder.join(&group.name);
        fs::create_dir(&own).map_err(output::OutputError::io("create", &own))?;
        output::write_whole(&own.join("input"), &group.input)?;
        put(own.join("report.txt"), text::group(group))?;
        put(own.join("index.html"), html::group(group))?;
        json(serde_json::to_string_pretty(group), own.join("report.json"))?;
    }
    put(folder.join("index.txt"), text::index(sorted))?;
    put(folder.join("index.html"), html::index(sorted))?;
    json(serde_json::to_string_pretty(sorted), folder.join("index.json"))
}
