//! `unifork bench exec`: fuzz each image for a while, and say where the time of a run goes.
//!
//! The campaigns are real ones, in folders that are thrown away, one for each core. Beside them stands the
//! floor, the bare `KVM_RUN` round trip measured in the same process before and after, and other fuzzers on
//! the same harness, with `--peers`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use unifork_harnesses::compile::Flags;
use unifork_vmm::bench;
use unifork_vmm::{Engine, Kvm};

use super::peers::{self, Work};
use super::plot::{Bar, Bars, Panel, Picture};
use super::report::{Cell, Host, OutputArgs, Report, Table};
use super::{measured, us};
use crate::campaign;
use crate::cmd::{Blame, BlameExt as _, Failure, Status, machine_failure};
use crate::machine::MachineArgs;
use crate::units::{self, show_count};

mod runs;
use runs::{Mode, Runs};

/// Round trips measured before and after.
const ROUND_TRIPS: usize = 2_000;

/// Flags of `unifork bench exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  unifork bench exec noop.img sqlite.img --for 5s
  unifork bench exec harnesses/cjson --peers --plot exec.svg

Seeds and dictionaries are those beside the images; a folder with a harness.toml is built first. Inputs
are mutated as bytes, as the peers do, and by no grammar. Times are microseconds per execution: `reset`
puts the fork back, `write` gives it the input, `run` runs the guest, `map` buckets and compares the
coverage, `engine` is the rest: choosing, mutating, keeping books. In batches the guest puts itself back
and tells news apart, which is then part of `run`; single runs have no time of their own.")]
pub(crate) struct Args {
    /// Images, snapshot files, or folders of harnesses
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Reset engine; may be given again [default: all but copy-all]
    #[arg(long)]
    engine: Vec<Engine>,
    /// Measure runs one by one only, not in batches as well
    #[arg(long)]
    no_batch: bool,
    /// Campaigns at once, for batches, or without them for the first engine [default: 1, 2, 4, ... all cores]
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    cores: Vec<NonZeroUsize>,
    /// Repetitions of each measurement
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repeat: u32,
    /// Time for each image, engine and repetition
    #[arg(long = "for", default_value = "3s", value_parser = units::duration, value_name = "TIME")]
    duration: Duration,
    /// Also measure other fuzzers, where they are installed, on harnesses given as folders
    #[arg(long)]
    peers: bool,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// What is fuzzed.
#[derive(Debug)]
struct Subject {
    name: String,
    image: PathBuf,
    /// Its harness's folder, if that is what was given.
    folder: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let host = Host::here();
    let kvm = Kvm::open().map_err(|error| machine_failure(error.into()))?;
    let scratch = tempfile::tempdir().context("cannot make a temporary folder").or_host()?;
    let mut subjects = Vec::new();
    for image in &args.images {
        subjects.push(subject(image, scratch.path())?);
    }
    let modes = modes(args);
    let cores = cores(args);
    let before = floor(&kvm)?;
    let (mut all, mut others, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for subject in &subjects {
        for (turn, &mode) in modes.iter().enumerate() {
            let on_many = mode == Mode::Batches || !modes.contains(&Mode::Batches) && turn == 0;
            for &cores in if on_many { cores.as_slice() } else { &cores[..1] } {
                let site =
                    runs::Site { image: &subject.image, machine: &args.machine, duration: args.duration };
                match site.measure(&subject.name, mode, cores, args.repeat) {
                    Ok(runs) => all.push(runs),
                    // An engine that this host is not good for: the others are still worth measuring.
                    Err(failure) if modes.len() > 1 && failure.blame == Blame::Host => {
                        notes.push(format!(
                            "not measured: {} with {}: {:#}",
                            subject.name,
                            mode.short(),
                            failure.error
                        ));
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
        if args.peers {
            others.extend(measure_peers(args, subject, &mut notes));
        }
    }
    let after = floor(&kvm)?;
    let bare = (before[0] + after[0]) / 2.0;
    notes.push(format!(
        "bare KVM_RUN round trip: p50 {:.1} us, p90 {:.1} us before; p50 {:.1} us, p90 {:.1} us after",
        before[0], before[1], after[0], after[1]
    ));
    notes.push(format!("exec/s: median (least-most) of {} repetitions of {:?}", args.repeat, args.duration));
    let main = runs::table(&all, bare);
    let picture = Some(picture(&all, &others));
    let mut tables = vec![main];
    if args.peers {
        tables.push(peer_table(&all, &others));
    }
    Report { host, tables, notes, picture }.publish(&args.output, json)?;
    Ok(Status::Done)
}

fn subject(given: &Path, scratch: &Path) -> Result<Subject, Failure> {
    if !given.is_dir() {
        let name = given.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(Subject { name, image: given.to_path_buf(), folder: None });
    }
    let name = given.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let image = scratch.join(format!("{name}.img"));
    unifork_harnesses::build_harness(given, &image, &Flags::default()).or_usage().map_err(|failure| {
        failure.help(format!("see why with `unifork build {} -o {name}.img`", given.display()))
    })?;
    Ok(Subject { name, image, folder: Some(given.to_path_buf()) })
}

fn modes(args: &Args) -> Vec<Mode> {
    let given = |engine: &Engine| match args.engine.as_slice() {
        [] => *engine != Engine::CopyAll,
        some => some.contains(engine),
    };
    let mut modes: Vec<Mode> = Engine::ALL.into_iter().filter(given).map(Mode::Single).collect();
    if !args.no_batch && modes.contains(&Mode::Single(Engine::HotSet)) {
        modes.push(Mode::Batches);
    }
    modes
}

fn cores(args: &Args) -> Vec<usize> {
    let mut cores: Vec<usize> = args.cores.iter().map(|cores| cores.get()).collect();
    if cores.is_empty() {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        cores = std::iter::successors(Some(1), |cores| Some(cores * 2))
            .take_while(|&cores| cores < all)
            .collect();
        cores.push(all);
    }
    cores.sort_unstable();
    cores.dedup();
    cores
}

/// p50 and p90 of the bare round trip, in microseconds.
fn floor(kvm: &Kvm) -> Result<[f64; 2], Failure> {
    let sample = measured(bench::round_trip(kvm, ROUND_TRIPS))?;
    Ok([50, 90].map(|percent| us(sample.percentile(percent))))
}

/// A peer's figures on one harness.
struct Other {
    harness: String,
    name: &'static str,
    rates: Vec<f64>,
}

fn measure_peers(args: &Args, subject: &Subject, notes: &mut Vec<String>) -> Vec<Other> {
    let Some(folder) = &subject.folder else {
        notes.push(format!("no peers on {}: they need its sources; give the harness's folder", subject.name));
        return Vec::new();
    };
    let (seeds, _, _) = campaign::neighbours(&subject.image);
    let work =
        Work { folder, image: &subject.image, seeds: &seeds, duration: args.duration, repeat: args.repeat };
    let mut others = Vec::new();
    for peer in peers::measure(&work) {
        match peer.rates {
            Ok(rates) => others.push(Other { harness: subject.name.clone(), name: peer.name, rates }),
            Err(why) => notes.push(format!("not measured: {} on {}: {why}", peer.name, subject.name)),
        }
    }
    others
}

/// The fastest one-core campaign on a harness, and its median rate.
fn best(all: &[Runs], harness: &str) -> Option<f64> {
    let rates = all.iter().filter(|runs| runs.image == harness && runs.cores == 1);
    rates.filter_map(|runs| Cell::range(&runs.rates).middle()).max_by(f64::total_cmp)
}

fn peer_table(all: &[Runs], others: &[Other]) -> Table {
    let row = |other: &Other| {
        let rate = Cell::range(&other.rates);
        let ratio = best(all, &other.harness).zip(rate.middle()).map(|(ours, theirs)| ours / theirs);
        vec![
            Cell::text(other.harness.as_str()),
            Cell::text(other.name),
            rate,
            ratio.map_or(Cell::Blank, |ratio| Cell::Number(ratio, 2)),
        ]
    };
    Table {
        name: "peers",
        title: "Other fuzzers on the same harness, sources and seeds, one core".into(),
        columns: vec!["harness", "peer", "exec/s", "unifork is x times"],
        rows: others.iter().map(row).collect(),
    }
}

/// Rates over a logarithmic axis, ours and the peers'; then where the time of a run goes.
fn picture(all: &[Runs], others: &[Other]) -> Picture {
    let mut panels = Vec::new();
    let mut names: Vec<&str> = all.iter().map(|runs| runs.image.as_str()).collect();
    names.dedup();
    for name in &names {
        // The peers are of another colour: the second segment's.
        let bar = |label: String, rates: &[f64], peer: bool| {
            let cell = Cell::range(rates);
            let middle = cell.middle().unwrap_or(0.0);
            let range = if let Cell::Range([_, least, most]) = cell { Some((least, most)) } else { None };
            let values = if peer { vec![0.0, middle] } else { vec![middle] };
            Bar { label, values, note: format!("{}/s", show_count(middle as u64)), range }
        };
        let ours = all.iter().filter(|runs| runs.image == *name);
        let mut bars: Vec<Bar> = ours.map(|runs| bar(runs.label(), &runs.rates, false)).collect();
        let theirs = others.iter().filter(|other| other.harness == *name);
        bars.extend(theirs.map(|other| bar(other.name.to_owned(), &other.rates, true)));
        let segments =
            if others.is_empty() { vec![] } else { vec!["unifork".into(), "other fuzzers".into()] };
        let heading = format!("{name}: executions a second, median of the repetitions and their range");
        panels.push(Panel::Bars(Bars { heading, unit: "executions/s".into(), segments, log: true, bars }));
    }
    for batches in [false, true] {
        let some = all.iter().filter(|runs| runs.cores == 1 && (runs.mode == Mode::Batches) == batches);
        let bar = |runs: &Runs| {
            let work = runs.run_us;
            let rest = runs.reset_us + runs.write_us + runs.map_us + runs.engine_us;
            Bar {
                label: format!("{}, {}", runs.image, runs.mode.short()),
                values: vec![runs.reset_us, runs.write_us, runs.map_us, runs.engine_us, work],
                note: format!("{rest:.1} us besides the run, {work:.1} us in it"),
                range: None,
            }
        };
        let bars: Vec<Bar> = some.map(bar).collect();
        if !bars.is_empty() {
            let how = if batches { "in batches" } else { "one by one" };
            panels.push(Panel::Bars(Bars {
                heading: format!("Where the time of an execution goes, {how}, on one core"),
                unit: "us per execution".into(),
                segments: ["reset", "write", "map", "engine", "run"].map(str::to_owned).to_vec(),
                log: false,
                bars,
            }));
        }
    }
    Picture { title: "Executions".into(), panels, ..Picture::default() }
}
