//! `unifork bench exec`: fuzz each image for a while, and say where the time of a run goes.
//!
//! The campaign is the real one, in a folder that is thrown away. Beside it stands the floor: the
//! bare `KVM_RUN` round trip, measured in the same process before and after.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use unifork_vmm::{Engine, Kvm, Space, bench};

use crate::campaign::{self, Campaign, Plan};
use crate::cmd::fuzz;
use crate::cmd::{BlameExt as _, Failure, Status, machine_failure, say};
use crate::machine::{self, Machine, MachineArgs};
use crate::monitor::Show;
use crate::output::Output;
use crate::seeds;
use crate::units::{self, show_count};

/// Round trips measured before and after.
const ROUND_TRIPS: usize = 2_000;
/// Room for the times of single runs: four bytes each.
const SAMPLES: usize = 1 << 20;

/// Times the last map is judged again, to see what that costs.
const MAP_ROUNDS: u32 = 1_000;
/// Time a run may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// Flags of `unifork bench exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork bench exec noop.img sqlite.img --for 5s

Seeds and dictionaries are those beside the images. Times are microseconds per execution: `reset`
puts the fork back, `run` writes the input and runs the guest, `map` buckets and compares the
coverage, `engine` is the rest: choosing, mutating, keeping books. In batches the guest puts itself
back and tells news apart, which is then part of `run`; single runs have no time of their own.")]
pub(crate) struct Args {
    /// Images or snapshot files
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Reset engine; may be given again [default: all but copy-all]
    #[arg(long)]
    engine: Vec<Engine>,
    /// Measure runs one by one only, not in batches as well
    #[arg(long)]
    no_batch: bool,
    /// Time for each image and engine
    #[arg(long = "for", default_value = "3s", value_parser = units::duration, value_name = "TIME")]
    duration: Duration,
    #[command(flatten)]
    machine: MachineArgs,
}

/// What one image did with one engine. Times are microseconds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    image: String,
    engine: String,
    execs: u64,
    execs_per_s: f64,
    /// Reset and run together, of single executions; none in batches.
    p50_us: Option<f64>,
    p90_us: Option<f64>,
    /// Means per execution.
    reset_us: f64,
    run_us: f64,
    /// In batches it is part of the run.
    map_us: Option<f64>,
    engine_us: f64,
    pages_per_run: f64,
    edges_total: usize,
    /// `p50_us` over the p50 of the bare round trip.
    over_bare: Option<f64>,
}

/// The floor, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Floor {
    p50_us: f64,
    p90_us: f64,
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
struct Host {
    cpu: String,
    kernel: String,
    kvm: String,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let engines = if args.engine.is_empty() {
        Engine::ALL.into_iter().filter(|&engine| engine != Engine::CopyAll).collect()
    } else {
        args.engine.clone()
    };
    let kvm = Kvm::open().map_err(|error| machine_failure(error.into()))?;
    let before = floor(&kvm)?;
    let mut rows = Vec::new();
    for image in &args.images {
        for &engine in &engines {
            rows.push(measure(args, image, engine, false)?);
            if engine == Engine::HotSet && !args.no_batch {
                rows.push(measure(args, image, engine, true)?);
            }
        }
    }
    let after = floor(&kvm)?;
    for row in &mut rows {
        row.over_bare = row.p50_us.map(|p50_us| p50_us / ((before.p50_us + after.p50_us) / 2.0));
    }
    let host = host();
    if json {
        let line =
            serde_json::json!({ "host": host, "bare_before": before, "bare_after": after, "rows": rows });
        say(&format!("{line}\n"));
    } else {
        say(&table(&host, [before, after], &rows));
    }
    Ok(Status::Done)
}

fn floor(kvm: &Kvm) -> Result<Floor, Failure> {
    let sample = bench::round_trip(kvm, ROUND_TRIPS)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("cannot measure the bare round trip")
        .or_host()?;
    Ok(Floor { p50_us: us(sample.percentile(50)), p90_us: us(sample.percentile(90)) })
}

fn measure(args: &Args, image: &Path, engine: Engine, batches: bool) -> Result<Row, Failure> {
    let machine = machine::open(image, &args.machine).map_err(machine_failure)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder").or_host()?;
    let output = Output::open(folder.path()).or_host()?;
    let edges_total = machine.snapshot.counter_count(Space::Application);
    let plan = Plan { batches, ..plan(image, &machine, engine, args.duration)? };
    let mut campaign = Campaign::open(plan, &output).map_err(fuzz::campaign_failure)?;
    campaign.load().map_err(fuzz::campaign_failure)?;
    // Seeds and their first faults are not what is measured.
    let tally = campaign.tally_mut();
    *tally = crate::executor::Tally { kernel_seen: tally.kernel_seen.clone(), ..Default::default() };
    tally.samples.reserve_exact(SAMPLES);
    let start = Instant::now();
    campaign.run().map_err(fuzz::campaign_failure)?;
    let elapsed = start.elapsed();
    let map_us = us(campaign.time_map(MAP_ROUNDS).map_err(fuzz::campaign_failure)?) / f64::from(MAP_ROUNDS);
    let map_us = Some(map_us).filter(|_| !batches);
    let tally = campaign.tally_mut();
    tally.samples.sort_unstable();
    let percentile = |percent: usize| {
        let last = tally.samples.len().saturating_sub(1);
        let sample = tally.samples.get((last * percent).div_ceil(100)).filter(|_| !batches);
        sample.map(|&ns| f64::from(ns) / 1e3)
    };
    let runs = tally.runs.max(1) as f64;
    let (reset_us, run_us) = (us(tally.resetting) / runs, us(tally.running) / runs);
    Ok(Row {
        image: image.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        engine: if batches { "batches".to_owned() } else { engine.to_string() },
        execs: tally.runs,
        execs_per_s: runs / elapsed.as_secs_f64(),
        p50_us: percentile(50),
        p90_us: percentile(90),
        reset_us,
        run_us,
        map_us,
        engine_us: (us(elapsed) / runs - reset_us - run_us - map_us.unwrap_or(0.0)).max(0.0),
        pages_per_run: tally.reset_pages as f64 / runs,
        edges_total,
        over_bare: None,
    })
}

/// A campaign from the seeds and with the dictionary beside `image`.
fn plan(image: &Path, machine: &Machine, engine: Engine, duration: Duration) -> Result<Plan, Failure> {
    let (seeds_beside, dict_beside, _) = campaign::neighbours(image);
    let seeds = seeds::read(&[seeds_beside], machine.snapshot.input_max()).map_err(fuzz::seeds_failure)?;
    let dict = dict_beside.is_file().then(|| seeds::dictionary(&dict_beside));
    Ok(Plan {
        kvm: machine.kvm.clone(),
        snapshot: machine.snapshot.clone(),
        machine: machine.describe(image, DEADLINE, engine),
        audit: None,
        batches: false,
        engine,
        deadline: DEADLINE,
        seeds: seeds.usable,
        tokens: dict.transpose().map_err(fuzz::seeds_failure)?,
        kernel_coverage: false,
        seed: Some(0),
        execs: None,
        duration: Some(duration),
        until_finding: false,
        show: Show::Nothing,
    })
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn host() -> Host {
    let facts = crate::cmd::doctor::facts();
    let fact = |name: &str| {
        facts.iter().find(|(found, _)| *found == name).map_or_else(String::new, |(_, fact)| fact.clone())
    };
    Host { cpu: fact("CPU"), kernel: fact("kernel"), kvm: fact("KVM") }
}

fn table(host: &Host, floors: [Floor; 2], rows: &[Row]) -> String {
    let mut text = format!("{}; kernel {}; {}\n", host.cpu, host.kernel, host.kvm);
    let [before, after] = floors;
    let _ = writeln!(
        text,
        "bare KVM_RUN round trip: p50 {:.1} us, p90 {:.1} us before; p50 {:.1} us, p90 {:.1} us after\n",
        before.p50_us, before.p90_us, after.p50_us, after.p90_us
    );
    let _ = writeln!(
        text,
        "{:<22} {:<10} {:>8} {:>8} {:>8} {:>7} {:>8} {:>6} {:>7} {:>6} {:>7}",
        "image", "engine", "exec/s", "p50 us", "p90 us", "reset", "run", "map", "engine", "pages", "x bare"
    );
    let or_dash =
        |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    for row in rows {
        let _ = writeln!(
            text,
            "{:<22} {:<10} {:>8} {:>8} {:>8} {:>7.1} {:>8.1} {:>6} {:>7.1} {:>6.1} {:>7}",
            row.image,
            row.engine,
            show_count(row.execs_per_s as u64),
            or_dash(row.p50_us, 1),
            or_dash(row.p90_us, 1),
            row.reset_us,
            row.run_us,
            or_dash(row.map_us, 1),
            row.engine_us,
            row.pages_per_run,
            or_dash(row.over_bare, 2)
        );
    }
    text
}
