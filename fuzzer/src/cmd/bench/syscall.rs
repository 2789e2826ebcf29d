//! `unifork bench syscall`: what a system call costs on Linux, in a guest where it traps, and in a guest
//! where it was rewritten to a jump; and what a guest costs a program that makes none.
//!
//! The measurement of 10,000 times `ioctl(TIOCGWINSZ)` is that of the HermiTux paper. One program,
//! `syscall/measure.c`, runs all three ways in turn and reads the CPU's counter itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use unifork_vmm::bench::Sample;
use unifork_vmm::{BootEnd, GuestImage, Kvm, MachineConfig, Outcome};

use super::plot::{Bar, Bars, Panel, Picture};
use super::report::{Cell, Host, OutputArgs, Report, Table};
use crate::cmd::{BlameExt as _, Failure, Status, machine_failure};
use crate::report;

const PROGRAM: &str = include_str!("syscall/measure.c");
/// Calls between two readings of the counter, in the program.
const IN_A_ROW: f64 = 100.0;
/// Time a run may take: under software KVM a trap may cost tens of microseconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// Flags of `unifork bench syscall`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork bench syscall --plot syscall.svg

Each round is 10,000 times ioctl(TIOCGWINSZ) and 10,000 times getppid, natively, in a guest whose calls trap
and in one whose calls were rewritten, in turn. Times are nanoseconds of one call, p50/p90/p99 over
hundreds of calls in a row. `of rounds` is the median round, with the least and the most.")]
pub(crate) struct Args {
    /// Rounds
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How much a program does that makes no system calls; 100 is a tenth of a second or so
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    work: u32,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// How the program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Native,
    Trapping,
    Direct,
}

impl Way {
    const ALL: [Self; 3] = [Self::Native, Self::Trapping, Self::Direct];

    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Trapping => "guest, trapping",
            Self::Direct => "guest, direct",
        }
    }
}

/// Where the program is, and how it is run.
struct Bench {
    kvm: Kvm,
    program: PathBuf,
    /// Ticks of the counter in a nanosecond.
    rate: f64,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let host = Host::here();
    let kvm = Kvm::open().map_err(|error| machine_failure(error.into()))?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder").or_host()?;
    let mut bench = Bench { kvm, program: compile(folder.path())?, rate: 1.0 };
    let said = bench.native(&["rate"])?.1;
    bench.rate = numbers(&said, "rate").first().map_or(1.0, |ticks| ticks / 1_000.0);

    let mut calls: Vec<(&str, Way, Vec<Vec<f64>>)> = Vec::new();
    let mut terminal = true;
    for name in ["ioctl", "getppid"] {
        calls.extend(Way::ALL.map(|way| (name, way, Vec::new())));
    }
    let mut work = Way::ALL.map(|way| (way, Vec::new(), Vec::new()));
    let amount = args.work.to_string();
    for _ in 0..args.rounds {
        for way in Way::ALL {
            let (_, said) = bench.run(way, &[])?;
            terminal &= numbers(&said, "terminal") == [1.0];
            for (name, _, rounds) in calls.iter_mut().filter(|(_, of, _)| *of == way) {
                rounds.push(numbers(&said, name).iter().map(|t| t / IN_A_ROW / bench.rate).collect());
            }
        }
        for (way, inside, whole) in &mut work {
            let (took, said) = bench.run(*way, &["work", &amount])?;
            inside.extend(numbers(&said, "work").first().map(|ticks| ticks / bench.rate / 1e6));
            whole.push(took.as_secs_f64() * 1e3);
        }
    }
    let mut notes = vec![format!("the counter has {:.3} ticks a nanosecond", bench.rate)];
    if !terminal {
        notes.push("no terminal could be had: ioctl returns an error on this side".into());
    }
    notes.push(
        "`of it itself` is from main on; the rest is starting a process, or making and booting a VM. Target: at most 1.1x"
            .into(),
    );
    let tables = vec![call_table(&calls), work_table(&work)];
    let picture = picture(&tables[0]);
    Report { host, tables, notes, picture: Some(picture) }.publish(&args.output, json)?;
    Ok(Status::Done)
}

fn compile(folder: &Path) -> Result<PathBuf, Failure> {
    let (source, program) = (folder.join("measure.c"), folder.join("measure"));
    std::fs::write(&source, PROGRAM).context("cannot write a temporary file").or_host()?;
    let output = Command::new("musl-gcc")
        .args(["-O2", "-static", "-no-pie", "-o"])
        .args([&program, &source])
        .output()
        .context("cannot run musl-gcc");
    let output = output.or_host().map_err(|failure| failure.help("install musl-tools"))?;
    if output.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error = anyhow!("musl-gcc does not build it: {}", said.lines().next().unwrap_or_default());
    Err(Failure::host(error).help("install musl-tools and gcc"))
}

impl Bench {
    /// How long it took, and what it said.
    fn run(&self, way: Way, args: &[&str]) -> Result<(Duration, String), Failure> {
        match way {
            Way::Native => self.native(args),
            Way::Trapping => self.guest(args, false),
            Way::Direct => self.guest(args, true),
        }
    }

    fn native(&self, args: &[&str]) -> Result<(Duration, String), Failure> {
        let start = Instant::now();
        let output = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context("cannot run the program")
            .or_host()?;
        let took = start.elapsed();
        if !output.status.success() {
            return Err(Failure::host(anyhow!("the program fails here: {}", output.status)));
        }
        Ok((took, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    fn guest(&self, args: &[&str], direct_calls: bool) -> Result<(Duration, String), Failure> {
        let start = Instant::now();
        let image = GuestImage::open(&self.program).or_host()?;
        let mut all = vec!["measure".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let config =
            MachineConfig { args: all, direct_calls, boot_deadline: DEADLINE, ..MachineConfig::default() };
        let boot = unifork_vmm::boot(&self.kvm, unifork_guest::KERNEL, &image, &config).or_host()?;
        let took = start.elapsed();
        match boot.end {
            BootEnd::Ended(Outcome::Exit { code: 0 }) => {
                Ok((took, String::from_utf8_lossy(&boot.console).into_owned()))
            }
            BootEnd::Ended(outcome) => {
                Err(Failure::host(anyhow!("the program fails in a guest: {}", report::sentence(&outcome))))
            }
            BootEnd::Snapshot(_) => Err(Failure::host(anyhow!("the program asks for an input"))),
        }
    }
}

/// The numbers behind `name` in its line.
fn numbers(said: &str, name: &str) -> Vec<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or_else(Vec::new, |line| line.split(' ').filter_map(|number| number.parse().ok()).collect())
}

fn middle(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn call_table(calls: &[(&str, Way, Vec<Vec<f64>>)]) -> Table {
    let rows = calls.iter().map(|(name, way, rounds)| {
        let medians = medians_of(rounds);
        // Nanoseconds, kept as picoseconds: a call may take less than ten.
        let all = rounds.iter().flatten().map(|ns| Duration::from_nanos((ns * 1e3) as u64)).collect();
        let native = calls.iter().find(|(of, by, _)| of == name && *by == Way::Native);
        let native = native.and_then(|(_, _, rounds)| middle(&medians_of(rounds)));
        let ratio = middle(&medians).zip(native).map(|(own, native)| own / native);
        vec![
            Cell::text(if *name == "ioctl" { "ioctl(TIOCGWINSZ)" } else { *name }),
            Cell::text(way.name()),
            Cell::micros(Sample::new(all).as_ref()),
            Cell::range(&medians),
            ratio.map_or(Cell::Blank, |ratio| Cell::Number(ratio, 3)),
        ]
    });
    Table {
        name: "syscall",
        title: "A system call, ns".into(),
        columns: vec!["call", "way", "ns", "ns of rounds", "x native"],
        rows: rows.collect(),
    }
}

fn medians_of(rounds: &[Vec<f64>]) -> Vec<f64> {
    rounds.iter().filter_map(|round| middle(round)).collect()
}

/// A way, and the times of its rounds inside the program and in all.
type Work = (Way, Vec<f64>, Vec<f64>);

fn work_table(work: &[Work]) -> Table {
    let of_native = |of: fn(&Work) -> &Vec<f64>| {
        work.iter().find(|row| row.0 == Way::Native).and_then(|row| middle(of(row)))
    };
    let (inside_native, whole_native) = (of_native(|row| &row.1), of_native(|row| &row.2));
    let ratio = |own: &[f64], native: Option<f64>| {
        middle(own).zip(native).map_or(Cell::Blank, |(own, native)| Cell::Number(own / native, 3))
    };
    let rows = work.iter().map(|(way, inside, whole)| {
        vec![
            Cell::text(way.name()),
            Cell::range(whole),
            ratio(whole, whole_native),
            Cell::range(inside),
            ratio(inside, inside_native),
        ]
    });
    Table {
        name: "work",
        title: "A program that makes no system calls, ms".into(),
        columns: vec!["way", "whole run ms", "whole x native", "of it itself ms", "itself x native"],
        rows: rows.collect(),
    }
}

fn picture(table: &Table) -> Picture {
    let bar = |row: &Vec<Cell>| {
        let (Cell::Text(call), Cell::Text(way)) = (&row[0], &row[1]) else { return Bar::default() };
        let value = row[3].middle().unwrap_or(0.0);
        let range = match row[3] {
            Cell::Range([_, least, most]) => Some((least, most)),
            _ => None,
        };
        Bar { label: format!("{call}, {way}"), values: vec![value], note: format!("{value:.0} ns"), range }
    };
    let bars = Bars {
        heading: "one call, median of rounds".into(),
        unit: "ns".into(),
        segments: vec!["a call".into()],
        log: true,
        bars: table.rows.iter().map(bar).collect(),
    };
    Picture { title: "A system call".into(), panels: vec![Panel::Bars(bars)], ..Picture::default() }
}
