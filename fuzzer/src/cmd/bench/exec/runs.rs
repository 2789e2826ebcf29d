//! Campaigns, one on each of some cores, for a while, several times.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use unifork_vmm::Engine;

use super::super::report::{self, Cell, Table};
use super::super::us;
use crate::campaign::{self, Campaign, Plan};
use crate::cmd::{BlameExt as _, Failure, fuzz, machine_failure};
use crate::executor::Tally;
use crate::machine::{self, MachineArgs};
use crate::monitor::Show;
use crate::opened::Opened;
use crate::output::Output;
use crate::seeds;
use crate::strategy::Strategy;

/// Room for the times of single runs: four bytes each.
const SAMPLES: usize = 1 << 20;
/// Times the last map is judged again, to see what that costs.
const MAP_ROUNDS: u32 = 1_000;
/// Time a run may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// How inputs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One by one, with this engine.
    Single(Engine),
    /// In batches, with the hot set.
    Batches,
}

impl Mode {
    fn engine(self) -> Engine {
        match self {
            Self::Single(engine) => engine,
            Self::Batches => Engine::HotSet,
        }
    }

    /// Its name in a table.
    pub(super) fn short(self) -> String {
        match self {
            Self::Single(engine) => engine.to_string(),
            Self::Batches => "batches".to_owned(),
        }
    }
}

/// What campaigns on one image did, all repetitions together. Times are microseconds per execution.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    pub(super) image: String,
    pub(super) mode: Mode,
    pub(super) cores: usize,
    /// Executions a second on all cores, of each repetition.
    pub(super) rates: Vec<f64>,
    pub(super) reset_us: f64,
    /// Of runs one by one; a batch writes while it runs.
    pub(super) write_us: f64,
    pub(super) run_us: f64,
    /// None of its own in batches.
    pub(super) map_us: f64,
    pub(super) engine_us: f64,
    /// Reset, write and run together, of single executions: p50, p90, p99.
    single_us: Option<[Option<f64>; 3]>,
    pages_per_run: f64,
}

impl Runs {
    /// For a plot.
    pub(super) fn label(&self) -> String {
        let mode = match self.mode {
            Mode::Single(engine) => format!("one by one, {engine}"),
            Mode::Batches => "in batches".to_owned(),
        };
        if self.cores == 1 { mode } else { format!("{mode}, {} cores", self.cores) }
    }

    fn rate(&self) -> f64 {
        Cell::range(&self.rates).middle().unwrap_or(0.0)
    }
}

/// What is fuzzed, and for how long.
pub(super) struct Site<'a> {
    pub(super) image: &'a Path,
    pub(super) machine: &'a MachineArgs,
    pub(super) duration: Duration,
}

/// What one campaign did.
#[derive(Debug, Default)]
struct Session {
    tally: Tally,
    elapsed: Duration,
    map: Duration,
}

impl Site<'_> {
    /// Runs campaigns on `cores` cores, `repeat` times.
    pub(super) fn measure(&self, name: &str, mode: Mode, cores: usize, repeat: u32) -> Result<Runs, Failure> {
        let machine = machine::open(self.image, self.machine).map_err(machine_failure)?.into();
        let (mut rates, mut sessions) = (Vec::new(), Vec::new());
        for _ in 0..repeat {
            let together = self.at_once(&machine, mode, cores)?;
            rates.push(together.iter().map(|one| one.tally.runs as f64 / one.elapsed.as_secs_f64()).sum());
            sessions.extend(together);
        }
        let sum = |of: fn(&Session) -> f64| sessions.iter().map(of).sum::<f64>();
        let runs = sum(|one| one.tally.runs as f64).max(1.0);
        let reset_us = sum(|one| us(one.tally.resetting)) / runs;
        let write_us = sum(|one| us(one.tally.writing)) / runs;
        let run_us = sum(|one| us(one.tally.running)) / runs;
        let map_us = match mode {
            Mode::Single(_) => sum(|one| us(one.map)) / sessions.len().max(1) as f64 / f64::from(MAP_ROUNDS),
            Mode::Batches => 0.0,
        };
        let whole_us = sum(|one| us(one.elapsed)) / runs;
        Ok(Runs {
            image: name.to_owned(),
            mode,
            cores,
            rates,
            reset_us,
            write_us,
            run_us,
            map_us,
            engine_us: (whole_us - reset_us - write_us - run_us - map_us).max(0.0),
            single_us: if mode == Mode::Batches { None } else { percentiles(&sessions) },
            pages_per_run: sum(|one| one.tally.reset_pages as f64) / runs,
        })
    }

    /// One campaign on each of `cores` threads.
    fn at_once(&self, machine: &Opened, mode: Mode, cores: usize) -> Result<Vec<Session>, Failure> {
        let start = Barrier::new(cores);
        thread::scope(|scope| {
            let campaigns: Vec<_> = (0..cores)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        self.campaign(machine, mode)
                    })
                })
                .collect();
            let ended = campaigns.into_iter().map(|campaign| {
                campaign.join().unwrap_or_else(|_| Err(Failure::host(anyhow!("a campaign panicked"))))
            });
            ended.collect()
        })
    }

    fn campaign(&self, machine: &Opened, mode: Mode) -> Result<Session, Failure> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder").or_host()?;
        let output = Output::open(folder.path()).or_host()?;
        let plan = self.plan(machine, mode)?;
        let mut campaign = Campaign::open(plan, &output).map_err(fuzz::campaign_failure)?;
        campaign.load().map_err(fuzz::campaign_failure)?;
        // Seeds and their first faults are not what is measured.
        let tally = campaign.tally_mut();
        *tally = Tally { kernel_seen: tally.kernel_seen.clone(), ..Default::default() };
        if mode != Mode::Batches {
            tally.samples.reserve_exact(SAMPLES);
        }
        let start = Instant::now();
        campaign.run().map_err(fuzz::campaign_failure)?;
        let elapsed = start.elapsed();
        let map = campaign.time_map(MAP_ROUNDS).map_err(fuzz::campaign_failure)?;
        Ok(Session { tally: std::mem::take(campaign.tally_mut()), elapsed, map })
    }

    /// A campaign from the seeds and with the dictionary beside the image.
    fn plan(&self, machine: &Opened, mode: Mode) -> Result<Plan, Failure> {
        let (seeds_beside, dict_beside, _) = campaign::neighbours(self.image);
        let seeds = seeds::read(&[seeds_beside], machine.frozen.input_max()).map_err(fuzz::seeds_failure)?;
        let dict = dict_beside.is_file().then(|| seeds::dictionary(&dict_beside));
        Ok(Plan {
            share: None,
            kvm: machine.kvm.clone(),
            frozen: machine.frozen.clone(),
            machine: machine.describe(self.image, DEADLINE, mode.engine()),
            audit: None,
            strategy: Strategy::default(),
            batches: mode == Mode::Batches,
            engine: mode.engine(),
            deadline: DEADLINE,
            seeds: seeds.usable,
            tokens: dict.transpose().map_err(fuzz::seeds_failure)?,
            // Its inputs are longer: the work is to be the same with and without one, and the peers'.
            grammar: None,
            kernel_coverage: false,
            // As users run it: batches adapt, and every campaign is another.
            seed: None,
            execs: None,
            duration: Some(self.duration),
            until_finding: false,
            boot_unserved: Vec::new(),
            show: Show::Nothing,
            board: std::sync::Arc::default(),
        })
    }
}

fn percentiles(sessions: &[Session]) -> Option<[Option<f64>; 3]> {
    let mut samples: Vec<u32> = sessions.iter().flat_map(|one| &one.tally.samples).copied().collect();
    samples.sort_unstable();
    let last = samples.len().checked_sub(1)?;
    let figure = |percent: usize| f64::from(samples[(last * percent).div_ceil(100)]) / 1e3;
    Some(report::percentiles(samples.len(), figure))
}

/// All of it; `bare` is the p50 of the bare round trip.
pub(super) fn table(all: &[Runs], bare: f64) -> Table {
    let row = |runs: &Runs| {
        let same = |other: &&Runs| other.image == runs.image && other.mode == runs.mode && other.cores == 1;
        let alone = all.iter().find(same).map(Runs::rate).filter(|_| runs.cores > 1);
        let whole = runs.reset_us + runs.write_us + runs.run_us + runs.map_us + runs.engine_us;
        let us = |us: f64| Cell::Number(us, if us < 10.0 { 2 } else { 1 });
        vec![
            Cell::text(runs.image.as_str()),
            Cell::text(runs.mode.short()),
            Cell::Number(runs.cores as f64, 0),
            Cell::range(&runs.rates),
            alone.map_or(Cell::Blank, |alone| Cell::Number(runs.rate() / alone, 2)),
            runs.single_us.map_or(Cell::Blank, Cell::Percentiles),
            us(runs.reset_us),
            if runs.mode == Mode::Batches { Cell::Blank } else { us(runs.write_us) },
            us(runs.run_us),
            if runs.mode == Mode::Batches { Cell::Blank } else { us(runs.map_us) },
            us(runs.engine_us),
            Cell::Number(100.0 * runs.engine_us / whole.max(f64::MIN_POSITIVE), 0),
            Cell::Number(runs.pages_per_run, 1),
            runs.single_us.and_then(|[p50, ..]| p50).map_or(Cell::Blank, |p50| Cell::Number(p50 / bare, 2)),
        ]
    };
    Table {
        name: "exec",
        title: "Executions".into(),
        columns: vec![
            "image",
            "mode",
            "cores",
            "exec/s",
            "x one core",
            "reset to end us",
            "reset us",
            "write us",
            "run us",
            "map us",
            "engine us",
            "engine %",
            "pages",
            "x bare",
        ],
        rows: all.iter().map(row).collect(),
    }
}
