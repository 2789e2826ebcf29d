//! `unifork bench spawn`: how long a running machine takes to be there, by every way there is, and what
//! it costs in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use unifork_vmm::bench::{self, Sample};
use unifork_vmm::{Engine, Kvm, Pool, Replica, Snapshot};

use super::footprint::{self, Footprint};
use super::measured;
use super::peers::boot as peer;
use super::plot::{Bar, Bars, Panel, Picture};
use super::report::{Cell, Host, OutputArgs, Report, Table};
use crate::cmd::{BlameExt as _, Failure, Status, default_engine, machine_failure};
use crate::machine::{self, MachineArgs};
use crate::units::{show_count, show_size};
use crate::{campaign, seeds};

mod ways;
use ways::{PHASES, Trace, Way};

/// Time a run may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pages that each fork of the bare machine dirties when memory is measured.
const DIRTIED: u64 = 16;
/// Descriptors that are in use besides those of forks.
const FILES_BESIDE: u64 = 64;
/// Descriptors, and mappings, of one fork.
const FILES_EACH: u64 = 2;
const MAPPINGS_EACH: u64 = 6;
/// The column with the whole time to the first instruction, and the one with the first run.
pub(super) const TO_FIRST: usize = 3 + PHASES.len();

/// Flags of `unifork bench spawn`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  unifork bench spawn
  unifork bench spawn sqlite.img --alive 1,1000 --plot spawn.svg --peers

Without an image: a bare machine of 64 MiB whose program ends at once. Times are microseconds,
p50/p90/p99. `first` is KVM_RUN from its call to the exit behind the first guest instruction; `run` is
a whole first run of the first seed, in other samples, its own entry included. `image` is booting the
image, or opening the snapshot file, whose memory is checked later.")]
pub(crate) struct Args {
    /// Images or snapshot files
    images: Vec<PathBuf>,
    /// Forks that are alive while one more is made
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000", value_name = "N,...")]
    alive: Vec<usize>,
    /// Samples of each way
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Reset engine
    #[arg(long, default_value_t = default_engine())]
    engine: Engine,
    /// Also measure other ways to a running program or machine, where they are installed
    #[arg(long)]
    peers: bool,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// What is spawned.
pub(super) struct Subject {
    name: String,
    /// The image, if it can be booted anew.
    image: Option<PathBuf>,
    snapshot: Arc<Snapshot>,
    /// The same machine, booted once more, to change forks over to.
    other: Arc<Snapshot>,
    input: Vec<u8>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let kvm = Kvm::open().map_err(|error| machine_failure(error.into()))?;
    let mut report = Report { host: Host::here(), tables: Vec::new(), notes: notes(), picture: None };
    let alive = allowed(&args.alive, &mut report.notes)?;
    let mut subjects = Vec::new();
    for image in &args.images {
        subjects.push(subject(image, &args.machine)?);
    }
    if subjects.is_empty() {
        let bare = || measured(bench::idler(&kvm, args.machine.memory));
        let (snapshot, other) = (bare()?, bare()?);
        subjects.push(Subject { name: "bare".into(), image: None, snapshot, other, input: Vec::new() });
    }
    let mut times = Vec::new();
    for subject in &subjects {
        times.extend(measure(args, &kvm, subject, &alive)?);
    }
    let mut memory = Vec::new();
    for subject in &subjects {
        memory.extend(footprints(&kvm, subject, &subject.input, "its first run", args.engine, &alive)?);
    }
    let writer = measured(bench::writer(&kvm, args.machine.memory))?;
    let bare = Subject {
        name: format!("bare, {}", show_size(args.machine.memory)),
        image: None,
        other: writer.clone(),
        snapshot: writer,
        input: Vec::new(),
    };
    for pages in [0, DIRTIED] {
        let what = format!("{pages} pages");
        memory.extend(footprints(&kvm, &bare, &bench::writes(pages), &what, args.engine, &alive)?);
    }
    let guests = subjects.iter().map(|subject| guest(args, &kvm, subject)).collect::<Result<_, _>>()?;
    report.tables.push(Table {
        name: "spawn",
        title: "Time to a running fork, us, p50/p90/p99 of each phase".into(),
        columns: columns(),
        rows: times,
    });
    report.tables.push(Table {
        name: "memory",
        title: "Host memory per live fork".into(),
        columns: vec![
            "machine",
            "dirtied by",
            "alive",
            "private KiB",
            "kernel KiB",
            "together KiB",
            "all MiB",
            "MemAvailable KiB",
        ],
        rows: memory,
    });
    report.tables.push(Table {
        name: "guest",
        title: "The guests".into(),
        columns: vec!["machine", "image KiB", "memory MiB", "snapshot file KiB", "boot us"],
        rows: guests,
    });
    if args.peers {
        let (table, notes) = peer::measure(args.rounds, args.images.first().map(PathBuf::as_path))?;
        report.tables.push(table);
        report.notes.extend(notes);
    }
    report.picture = Some(picture(&report.tables));
    report.publish(&args.output, json)?;
    Ok(Status::Done)
}

fn notes() -> Vec<String> {
    vec![
        "first instruction and run are of half the samples each, by turns. p90 is said of 10 and more, p99 of 100 and more.".into(),
        "boot and open are followed by a new fork. kept: a fork given back to the pool; retargeted: a kept VM given another machine's memory, the change counted as memory. reset: an alive fork put back, counted as memory.".into(),
        format!(
            "memory: private is Private_* of smaps_rollup; kernel is {}, all of it that came while the forks did; MemAvailable is how far it fell. The snapshot itself, shared by all forks, is in neither.",
            footprint::source()
        ),
    ]
}

fn columns() -> Vec<&'static str> {
    let mut columns = vec!["machine", "way", "alive"];
    columns.extend(PHASES);
    columns.extend(["to first instruction", "run", "samples"]);
    columns
}

/// As many forks as this process may have files and mappings for.
fn allowed(alive: &[usize], notes: &mut Vec<String>) -> Result<Vec<usize>, Failure> {
    let files = bench::raise_open_files().context("cannot raise RLIMIT_NOFILE").or_host()?;
    let mappings: u64 = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(65_530);
    let most = (files.saturating_sub(FILES_BESIDE) / FILES_EACH).min(mappings / MAPPINGS_EACH);
    let mut allowed: Vec<usize> = alive.iter().copied().filter(|&count| count > 0).collect();
    allowed.sort_unstable();
    allowed.dedup();
    let fits = |count: &usize| (*count as u64) < most;
    if let Some(least) = allowed.iter().find(|count| !fits(count)).copied() {
        notes.push(format!(
            "not measured with {} forks and more alive: this process may open {} files and map {} areas, enough for {} forks; raise `ulimit -Hn` or vm.max_map_count",
            show_count(least as u64), show_count(files), show_count(mappings), show_count(most)
        ));
    }
    allowed.retain(fits);
    if allowed.is_empty() {
        return Err(
            Failure::usage(anyhow!("no number of live forks that can be measured")).help("give --alive 1")
        );
    }
    Ok(allowed)
}

fn subject(image: &Path, args: &MachineArgs) -> Result<Subject, Failure> {
    let open = || machine::open(image, args).map_err(machine_failure);
    let (machine, again) = (open()?, open()?);
    let (seeds_beside, _, _) = campaign::neighbours(image);
    let found = if seeds_beside.is_dir() {
        seeds::read(&[seeds_beside], machine.snapshot.input_max()).map_err(crate::cmd::fuzz::seeds_failure)?
    } else {
        seeds::Seeds::default()
    };
    let input = found.usable.into_iter().next().map_or_else(Vec::new, |seed| seed.bytes);
    let elf = machine::is_elf(image).map_err(machine_failure)?;
    Ok(Subject {
        name: image.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        image: elf.then(|| image.to_path_buf()),
        snapshot: machine.snapshot,
        other: again.snapshot,
        input,
    })
}

/// All ways, with more and more forks alive.
fn measure(args: &Args, kvm: &Kvm, subject: &Subject, alive: &[usize]) -> Result<Vec<Vec<Cell>>, Failure> {
    let mut rows = Vec::new();
    let mut others: Vec<Replica> = Vec::new();
    let file = tempfile::tempdir().context("cannot make a temporary folder").or_host()?;
    let file = file.path().join("machine.snap");
    subject.snapshot.write_to(&file).or_host()?;
    for (turn, &count) in alive.iter().enumerate() {
        while others.len() + 1 < count {
            let mut fork = Replica::spawn(kvm, &subject.snapshot, args.engine).or_host()?;
            fork.run(&subject.input, DEADLINE).or_host()?;
            others.push(fork);
        }
        let rounds = args.rounds as usize;
        let mut pool = Pool::new(args.engine, 1);
        for way in Way::ALL {
            let slow = matches!(way, Way::Boot | Way::Open);
            if slow && turn > 0 || way == Way::Boot && subject.image.is_none() {
                continue;
            }
            let rounds = if slow { rounds.div_ceil(10).max(4) } else { rounds };
            let site = ways::Site { kvm, subject, file: &file, config: &args.machine, engine: args.engine };
            let mut traces = Vec::with_capacity(rounds);
            for round in 0..rounds + ways::WARM_UP {
                let trace = site.trace(way, &mut pool, round % 2 == 0)?;
                if round >= ways::WARM_UP {
                    traces.push(trace);
                }
            }
            rows.push(row(&subject.name, way, count, &traces));
        }
    }
    Ok(rows)
}

fn row(name: &str, way: Way, alive: usize, traces: &[Trace]) -> Vec<Cell> {
    let mut cells = vec![Cell::text(name), Cell::text(way.name()), Cell::Number(alive as f64, 0)];
    for phase in 0..PHASES.len() {
        let times: Vec<Duration> = traces.iter().filter_map(|trace| trace.phases[phase]).collect();
        let sample = Sample::new(times).filter(|sample| !sample.percentile(100).is_zero());
        cells.push(Cell::micros(sample.as_ref()));
    }
    let whole = traces.iter().filter_map(Trace::until_first_instruction).collect();
    cells.push(Cell::micros(Sample::new(whole).as_ref()));
    let runs = traces.iter().filter_map(|trace| trace.run).collect();
    cells.push(Cell::micros(Sample::new(runs).as_ref()));
    cells.push(Cell::Number(traces.len() as f64, 0));
    cells
}

/// What each of `alive` forks takes that have run `input`: the median of three times.
fn footprints(
    kvm: &Kvm,
    subject: &Subject,
    input: &[u8],
    what: &str,
    engine: Engine,
    alive: &[usize],
) -> Result<Vec<Vec<Cell>>, Failure> {
    let mut rows = Vec::new();
    for &count in alive.iter().filter(|&&count| count >= 10 || alive.len() == 1) {
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let mut forks = Vec::with_capacity(count);
            let before = Footprint::now();
            for _ in 0..count {
                let mut fork = Replica::spawn(kvm, &subject.snapshot, engine).or_host()?;
                fork.run(input, DEADLINE).or_host()?;
                forks.push(fork);
            }
            rounds.push(Footprint::now().since(before, count));
        }
        rounds.sort_by(|a, b| a.total().total_cmp(&b.total()));
        let each = rounds[1];
        let kib = |bytes: f64| Cell::Number(bytes / 1024.0, 0);
        rows.push(vec![
            Cell::text(subject.name.as_str()),
            Cell::text(what),
            Cell::Number(count as f64, 0),
            kib(each.private),
            kib(each.kernel),
            kib(each.total()),
            Cell::Number(each.total() * count as f64 / f64::from(1 << 20), 1),
            kib(each.available),
        ]);
    }
    Ok(rows)
}

/// Size, memory and boot time of a guest.
fn guest(args: &Args, kvm: &Kvm, subject: &Subject) -> Result<Vec<Cell>, Failure> {
    let mut boots = Vec::new();
    if let Some(image) = &subject.image {
        for _ in 0..args.rounds.div_ceil(10).max(4) {
            let start = Instant::now();
            machine::boot(kvm, image, &args.machine.config(&[], &[])).map_err(machine_failure)?;
            boots.push(start.elapsed());
        }
    }
    let size =
        subject.image.as_ref().and_then(|image| image.metadata().ok()).map(|file| file.len() as f64 / 1024.0);
    let folder = tempfile::tempdir().context("cannot make a temporary folder").or_host()?;
    let file = folder.path().join("machine.snap");
    subject.snapshot.write_to(&file).or_host()?;
    let written = file.metadata().map_or(0, |file| file.len());
    Ok(vec![
        Cell::text(subject.name.as_str()),
        size.map_or(Cell::Blank, |size| Cell::Number(size, 0)),
        Cell::Number(subject.snapshot.memory_bytes() as f64 / f64::from(1 << 20), 0),
        Cell::Number(written as f64 / 1024.0, 0),
        Cell::micros(Sample::new(boots).as_ref()),
    ])
}

/// Where the slow ways and the fast are told apart, in microseconds.
const SLOW: f64 = 1e3;

/// One bar for each way with the fewest forks alive and with the most, set-up first and the run behind
/// it. Slow ways and fast ones have a linear axis each, over which parts can be compared.
fn picture(tables: &[Table]) -> Picture {
    let mut panels = Vec::new();
    let rows = &tables[0].rows;
    let mut names: Vec<&Cell> = rows.iter().map(|row| &row[0]).collect();
    names.dedup();
    for name in names {
        let of: Vec<_> = rows.iter().filter(|row| row[0] == *name).collect();
        let (fewest, most) =
            (of.first().and_then(|row| row[2].middle()), of.last().and_then(|row| row[2].middle()));
        let (mut slow, mut fast) = (Vec::new(), Vec::new());
        for row in of {
            let (alive, Cell::Text(way)) = (row[2].middle(), &row[1]) else { continue };
            if alive != fewest && (alive != most || *way == Way::Reset.name()) {
                continue;
            }
            let more = alive.filter(|_| alive != fewest);
            let label =
                more.map_or(way.clone(), |count| format!("{way}, {} alive", show_count(count as u64)));
            let bar = bar(label, row);
            if bar.values.iter().sum::<f64>() > SLOW { slow.push(bar) } else { fast.push(bar) }
        }
        let Cell::Text(name) = name else { continue };
        for (bars, which) in [(slow, "more than a millisecond"), (fast, "a millisecond and less")] {
            if !bars.is_empty() {
                panels.push(Panel::Bars(Bars {
                    heading: format!(
                        "{name}, ways that take {which}: p50 of each phase, from the request on"
                    ),
                    unit: "us".into(),
                    segments: SEGMENTS.map(str::to_owned).to_vec(),
                    log: false,
                    bars,
                }));
            }
        }
    }
    if let Some(peers) = tables.iter().find(|table| table.name == "peers") {
        panels.push(peer::panel(peers, rows.iter().find(|row| row[1] == Cell::text("pooled, kept"))));
    }
    Picture { title: "From the request to a running fork".into(), panels, ..Picture::default() }
}

/// What a bar is made of: [`PHASES`], the last of them the entry, and the rest of the run.
const SEGMENTS: [&str; PHASES.len() + 1] =
    ["boot or open", "vm", "vcpu", "memory", "state", "first instruction", "rest of the run"];

fn bar(label: String, row: &[Cell]) -> Bar {
    let phases: Vec<f64> = row[3..TO_FIRST].iter().map(|cell| cell.middle().unwrap_or(0.0)).collect();
    let run = row[TO_FIRST + 1].middle().unwrap_or(0.0);
    let (values, note) = split(&phases, run);
    Bar { label, values, note, range: None }
}

/// The parts of a bar and what is said of them. Stopping behind the first instruction takes a trap, which
/// may cost more than a whole run: then the entry is not told apart.
fn split(phases: &[f64], run: f64) -> (Vec<f64>, String) {
    let (entry, before) = phases.split_last().map_or((0.0, phases), |(entry, before)| (*entry, before));
    let setup: f64 = before.iter().sum();
    let mut values = before.to_vec();
    if entry < run {
        values.extend([entry, run - entry]);
        (values, format!("set-up {setup:.0} + entry {entry:.0} + work {:.0} us", run - entry))
    } else {
        values.extend([0.0, run]);
        (values, format!("set-up {setup:.0} + run {run:.0} us, entry included"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "work 0 us" stood behind a reset, whose traced entry costs more than its whole run.
    #[test]
    fn an_entry_that_costs_more_than_the_run_is_not_told_apart_from_it() {
        let told = split(&[0.0, 0.0, 0.0, 2.0, 1.0, 5.0], 20.0);
        assert_eq!(
            told,
            (vec![0.0, 0.0, 0.0, 2.0, 1.0, 5.0, 15.0], "set-up 3 + entry 5 + work 15 us".into())
        );
        let (values, note) = split(&[0.0, 0.0, 0.0, 2.0, 1.0, 25.0], 20.0);
        assert_eq!((values[5], values[6], values.len()), (0.0, 20.0, SEGMENTS.len()));
        assert_eq!(note, "set-up 3 + run 20 us, entry included");
    }

    /// Slow ways and fast ones shared one logarithmic axis, over which the parts of a bar say nothing.
    #[test]
    fn slow_ways_and_fast_ones_have_linear_axes_of_their_own() {
        let row = |way: Way, first: f64, run: f64| {
            let mut row = vec![Cell::text("x"), Cell::text(way.name()), Cell::Number(1.0, 0)];
            row.extend(
                PHASES.map(|phase| Cell::Number(if phase == "first" { first } else { run / 10.0 }, 0)),
            );
            row.extend([Cell::Blank, Cell::Number(run, 0), Cell::Number(1.0, 0)]);
            row
        };
        let rows = vec![row(Way::Boot, 20.0, 5000.0), row(Way::New, 20.0, 900.0), row(Way::Kept, 20.0, 40.0)];
        let table = Table { name: "spawn", title: String::new(), columns: columns(), rows };
        let picture = picture(&[table]);
        let panels: Vec<&Bars> = picture
            .panels
            .iter()
            .map(|panel| match panel {
                Panel::Bars(bars) => bars,
                Panel::Lines(_) => panic!("there are no lines"),
            })
            .collect();
        assert!(panels.iter().all(|panel| !panel.log));
        let labels: Vec<Vec<&str>> =
            panels.iter().map(|panel| panel.bars.iter().map(|bar| bar.label.as_str()).collect()).collect();
        assert_eq!(labels, [vec!["cold boot", "new fork"], vec!["pooled, kept"]]);
    }
}
