//! `unifork bench reset`: what putting a fork back costs, by the pages that it dirtied.
//!
//! The guest writes a word to each of N pages in a row and does nothing else. Beside each engine stands
//! a plain copy of the same number of pages, which no reset by copying can be faster than.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use unifork_vmm::bench::{self, Sample};
use unifork_vmm::{Engine, Kvm, Outcome, Replica};

use super::plot::{Line, Lines, Panel, Picture};
use super::report::{Cell, Host, OutputArgs, Report, Table};
use super::{fit, measured, us};
use crate::cmd::{BlameExt as _, Failure, Status, machine_failure};
use crate::{report, units};

/// Guest memory: room for 10,000 pages and what a bare machine has besides.
const MEMORY: u64 = 64 << 20;
/// Time a run may take: 10,000 pages cost a second where a fault is dear.
const DEADLINE: Duration = Duration::from_secs(60);
/// Samples of one point, and those before them that are thrown away. The hot set is learned in those.
const SAMPLES_MIN: usize = 8;
const SAMPLES_MAX: usize = 2_000;
const WARM_UP: usize = 4;
/// The first of the two fits is over as many pages as that.
const FEW: u64 = 300;

/// Flags of `unifork bench reset`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork bench reset --engine hot-set --plot reset.svg

Times are microseconds. `reset` is the host's part; `guest` is KVM_RUN less that of a run that writes
nothing: what tracking makes the guest pay for its writes. A fit is the line with the least sum of
squared relative errors through the medians.")]
pub(crate) struct Args {
    /// Dirty pages
    #[arg(long, value_delimiter = ',', value_name = "N,...", default_value = "1,2,5,10,16,20,50,100,200,300,500,1000,2000,5000,10000", value_parser = clap::value_parser!(u64).range(1..=12_000))]
    pages: Vec<u64>,
    /// Reset engine; may be given again [default: all]
    #[arg(long)]
    engine: Vec<Engine>,
    /// Time for each engine and number of pages
    #[arg(long = "for", default_value = "300ms", value_parser = units::duration, value_name = "TIME")]
    duration: Duration,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// What was measured of one engine, or of the copy.
struct Series {
    name: String,
    /// Pages, and the times to put them back.
    resets: Vec<(u64, Sample)>,
    /// Pages, and the guest's times to write them, less that to write none.
    writes: Vec<(u64, f64)>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let host = Host::here();
    let kvm = Kvm::open().map_err(|error| machine_failure(error.into()))?;
    let engines = if args.engine.is_empty() { Engine::ALL.to_vec() } else { args.engine.clone() };
    let mut pages = args.pages.clone();
    pages.sort_unstable();
    pages.dedup();
    let mut all = vec![copies(args, &pages)?];
    let mut notes = vec![format!(
        "memory of {} MiB; pages in a row. Target: at most 1.5x the plain copy plus 10 us. copy-all copies all memory whatever was dirtied.",
        MEMORY >> 20
    )];
    for engine in engines {
        all.push(sweep(args, &kvm, engine, &pages, &mut notes)?);
    }
    let report = Report {
        host,
        picture: Some(picture(&all)),
        tables: vec![sweep_table(&all), fit_table(&all)],
        notes,
    };
    report.publish(&args.output, json)?;
    Ok(Status::Done)
}

fn copies(args: &Args, pages: &[u64]) -> Result<Series, Failure> {
    let mut resets = Vec::new();
    for &count in pages {
        let few = usize::try_from(count).unwrap_or(usize::MAX);
        let started = Instant::now();
        let mut times = bench::copies(few, SAMPLES_MIN).context("cannot make memory to copy").or_host()?;
        while started.elapsed() < args.duration && times.len() < SAMPLES_MAX {
            times.extend(bench::copies(few, 32).context("cannot make memory to copy").or_host()?);
        }
        resets.extend(Sample::new(times).map(|sample| (count, sample)));
    }
    Ok(Series { name: "plain copy".into(), resets, writes: Vec::new() })
}

fn sweep(
    args: &Args,
    kvm: &Kvm,
    engine: Engine,
    pages: &[u64],
    notes: &mut Vec<String>,
) -> Result<Series, Failure> {
    let snapshot = measured(bench::writer(kvm, MEMORY))?;
    let mut resets = Vec::new();
    let mut writes = Vec::new();
    let mut nothing = 0.0;
    'sweep: for &count in std::iter::once(&0).chain(pages) {
        // A fork of its own, so that no point is measured with the hot set of another.
        let mut fork = Replica::spawn(kvm, &snapshot, engine).or_host()?;
        let (mut putting, mut writing) = (Vec::new(), Vec::new());
        let mut started = Instant::now();
        for round in 0..WARM_UP + SAMPLES_MAX {
            if round == WARM_UP {
                started = Instant::now();
            }
            let (outcome, steps) = bench::run(&mut fork, &bench::writes(count), DEADLINE).or_host()?;
            if outcome != (Outcome::Done { code: 0 }) {
                // A dirty ring can overrun where KVM emulates the guest.
                notes.push(format!(
                    "{engine} not measured from {count} pages on: {}",
                    report::sentence(&outcome)
                ));
                break 'sweep;
            }
            let start = Instant::now();
            fork.reset().or_host()?;
            if round >= WARM_UP {
                putting.push(start.elapsed());
                writing.push(steps.run);
            }
            if putting.len() >= SAMPLES_MIN && started.elapsed() >= args.duration {
                break;
            }
        }
        let writing = Sample::new(writing).map_or(0.0, |sample| us(sample.percentile(50)));
        if count == 0 {
            nothing = writing;
        } else {
            writes.push((count, writing - nothing));
            resets.extend(Sample::new(putting).map(|sample| (count, sample)));
        }
    }
    Ok(Series { name: engine.to_string(), resets, writes })
}

fn sweep_table(all: &[Series]) -> Table {
    let mut rows = Vec::new();
    for series in all {
        for (at, (pages, sample)) in series.resets.iter().enumerate() {
            let copy = all[0].resets[at].1.percentile(50);
            rows.push(vec![
                Cell::text(series.name.as_str()),
                Cell::Number(*pages as f64, 0),
                Cell::micros(Some(sample)),
                Cell::Number(us(sample.percentile(50)) / us(copy), 2),
                Cell::Number(us(sample.percentile(50)) - 1.5 * us(copy), 1),
                series.writes.get(at).map_or(Cell::Blank, |(_, us)| Cell::Number(*us, 1)),
                Cell::Number(sample.count() as f64, 0),
            ]);
        }
    }
    Table {
        name: "reset",
        title: "Putting back, us, p50/p90/p99".into(),
        columns: vec!["engine", "pages", "reset us", "x copy", "beyond 1.5x copy us", "guest us", "samples"],
        rows,
    }
}

fn fit_table(all: &[Series]) -> Table {
    let mut rows = Vec::new();
    for series in all {
        for (range, most) in [(format!("1 to {FEW}"), FEW), ("all".into(), u64::MAX)] {
            let points = |of: &mut dyn Iterator<Item = (u64, f64)>| -> Vec<(f64, f64)> {
                of.filter(|(pages, _)| *pages <= most).map(|(pages, us)| (pages as f64, us)).collect()
            };
            let resets =
                points(&mut series.resets.iter().map(|(pages, sample)| (*pages, us(sample.percentile(50)))));
            let writes = points(&mut series.writes.iter().copied().filter(|(_, us)| *us > 0.0));
            let Some(line) = fit::relative(&resets) else { continue };
            let guest = fit::relative(&writes);
            rows.push(vec![
                Cell::text(series.name.as_str()),
                Cell::text(range),
                Cell::Number(line.fixed, 2),
                Cell::Number(line.each, 4),
                Cell::Number(100.0 * line.error, 1),
                guest.map_or(Cell::Blank, |guest| Cell::Number(guest.each, 4)),
            ]);
        }
    }
    Table {
        name: "fit",
        title: "Putting back = fixed + pages x each".into(),
        columns: vec![
            "engine",
            "pages",
            "fixed us",
            "us a page",
            "off by %, root mean square",
            "guest us a page",
        ],
        rows,
    }
}

fn picture(all: &[Series]) -> Picture {
    let line = |(color, series): (usize, &Series)| {
        let points = series.resets.iter().map(|(pages, sample)| (*pages as f64, us(sample.percentile(50))));
        Line { name: series.name.clone(), points: points.collect(), color, reference: false }
    };
    let mut resets: Vec<Line> = all.iter().enumerate().map(line).collect();
    let target = |(pages, copy): &(u64, Sample)| (*pages as f64, 1.5 * us(copy.percentile(50)) + 10.0);
    resets.push(Line {
        name: "target: 1.5x copy + 10 us".into(),
        points: all[0].resets.iter().map(target).collect(),
        color: all.len(),
        reference: true,
    });
    let line = |(color, series): (usize, &Series)| {
        let above = series.writes.iter().filter(|(_, us)| *us > 0.0);
        let points = above.map(|&(pages, us)| (pages as f64, us)).collect();
        Line { name: series.name.clone(), points, color, reference: false }
    };
    let writes = all.iter().enumerate().filter(|(_, series)| !series.writes.is_empty()).map(line).collect();
    let panel = |heading: &str, legend_low, lines| {
        let (heading, x, y) = (heading.into(), "dirty pages".into(), "us".into());
        Panel::Lines(Lines { heading, x, y, legend_low, lines })
    };
    Picture {
        title: "Putting a fork back, by the pages it dirtied".into(),
        caption: String::new(),
        panels: vec![
            panel("The host's part: p50 of one reset", true, resets),
            panel(
                "What tracking makes the guest pay for writing: p50, less a run that writes nothing",
                false,
                writes,
            ),
        ],
    }
}
