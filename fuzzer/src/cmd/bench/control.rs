//! `unifork bench control`: the price of asking for a fork, one run on it, and giving it back, from the
//! same process and over sockets.
//!
//! The server is that of `unifork serve`, on threads of this process; the client is on another.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use unifork_vmm::bench::{self, Sample};
use unifork_vmm::{Engine, Kvm, Pool, Snapshot};

use super::measured;
use super::plot::{Bar, Bars, Panel, Picture};
use super::report::{Cell, Host, OutputArgs, Report, Table};
use crate::cmd::serve::protocol::Client;
use crate::cmd::serve::server::{Limits, Server, Stream};
use crate::cmd::{BlameExt as _, Failure, Status, default_engine, fuzz, machine_failure};
use crate::machine::{self, MachineArgs};
use crate::{campaign, seeds};

/// Time a run may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Samples that are thrown away.
const WARM_UP: usize = 20;

/// Flags of `unifork bench control`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  unifork bench control cjson.img --plot control.svg

Without an image: a bare machine whose program ends at once. The input is the first seed beside the
image. Times are microseconds, p50/p90/p99: `fork`, `run` and `release` are whole requests, and `replica`
is what of `run` the server spent on the fork itself.")]
pub(crate) struct Args {
    /// The image or snapshot file
    image: Option<PathBuf>,
    /// Forks asked for in each way
    #[arg(long, default_value_t = 2_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rounds: u32,
    /// Reset engine
    #[arg(long, default_value_t = default_engine())]
    engine: Engine,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// One request of each kind.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    fork: Duration,
    run: Duration,
    replica: Duration,
    release: Duration,
}

/// Runs the command.
pub(crate) fn run(args: &Args, json: bool) -> Result<Status, Failure> {
    let host = Host::here();
    let kvm = Kvm::open().map_err(|error| machine_failure(error.into()))?;
    let (name, snapshot, input) = subject(args, &kvm)?;
    let rounds = args.rounds as usize;
    let mut rows = vec![row(&name, "call", &calls(args, &kvm, &snapshot, &input)?)];

    let limits = Limits { connections: 4, forks: 4, deadline: DEADLINE, idle: DEADLINE, kept: 4 };
    let server = Server::new(kvm, snapshot, args.engine, limits).or_host()?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder").or_host()?;
    let path = folder.path().join("socket");
    server.listen_unix(UnixListener::bind(&path).context("cannot make a Unix socket").or_host()?);
    let stream = UnixStream::connect(&path).context("cannot connect to a Unix socket").or_host()?;
    rows.push(row(&name, "Unix socket", &requests(stream, &input, rounds)?));
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback").or_host()?;
    let address = listener.local_addr().context("cannot listen on loopback").or_host()?;
    server.listen_tcp(listener);
    let stream = TcpStream::connect(address).context("cannot connect to loopback").or_host()?;
    rows.push(row(&name, "TCP, loopback", &requests(stream, &input, rounds)?));

    let table = Table {
        name: "control",
        title: "A fork asked for, one run, and given back, us, p50/p90/p99".into(),
        columns: vec![
            "machine",
            "through",
            "fork",
            "run",
            "of it replica",
            "release",
            "all three",
            "samples",
        ],
        rows,
    };
    let picture = picture(&table);
    let notes = vec![
        "the fork comes from the pool. Giving it back puts it back, windows and all, ready for the next."
            .into(),
    ];
    Report { host, tables: vec![table], notes, picture: Some(picture) }.publish(&args.output, json)?;
    Ok(Status::Done)
}

fn subject(args: &Args, kvm: &Kvm) -> Result<(String, Arc<Snapshot>, Vec<u8>), Failure> {
    let Some(image) = &args.image else {
        return Ok(("bare".into(), measured(bench::idler(kvm, args.machine.memory))?, Vec::new()));
    };
    let machine = machine::open(image, &args.machine).map_err(machine_failure)?;
    let (beside, _, _) = campaign::neighbours(image);
    let mut input = Vec::new();
    if beside.is_dir() {
        let found = seeds::read(&[beside], machine.snapshot.input_max()).map_err(fuzz::seeds_failure)?;
        input = found.usable.into_iter().next().map_or_else(Vec::new, |seed| seed.bytes);
    }
    let name = image.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, machine.snapshot, input))
}

/// By calling functions.
fn calls(args: &Args, kvm: &Kvm, snapshot: &Arc<Snapshot>, input: &[u8]) -> Result<Vec<Times>, Failure> {
    let mut pool = Pool::new(args.engine, 1);
    pool.warm(kvm, snapshot, 1).or_host()?;
    let mut all = Vec::new();
    for round in 0..args.rounds as usize + WARM_UP {
        let mut times = Times::default();
        let start = Instant::now();
        let (mut fork, _) = pool.fork(kvm, snapshot).or_host()?;
        times.fork = start.elapsed();
        let start = Instant::now();
        fork.run(input, DEADLINE).or_host()?;
        times.run = start.elapsed();
        times.replica = times.run;
        let start = Instant::now();
        pool.give_back(fork).or_host()?;
        times.release = start.elapsed();
        if round >= WARM_UP {
            all.push(times);
        }
    }
    Ok(all)
}

/// By asking over a socket.
fn requests(stream: impl Stream, input: &[u8], rounds: usize) -> Result<Vec<Times>, Failure> {
    stream.limit(2 * DEADLINE, 2 * DEADLINE).context("cannot set up a socket").or_host()?;
    let mut client = Client::new(stream);
    let mut all = Vec::new();
    for round in 0..rounds + WARM_UP {
        let mut times = Times::default();
        let start = Instant::now();
        let fork = client.fork().or_host()?;
        times.fork = start.elapsed();
        let start = Instant::now();
        let (_, replica) = client.run(fork, input).or_host()?;
        times.run = start.elapsed();
        times.replica = replica;
        let start = Instant::now();
        client.release(fork).or_host()?;
        times.release = start.elapsed();
        if round >= WARM_UP {
            all.push(times);
        }
    }
    Ok(all)
}

fn row(name: &str, through: &str, all: &[Times]) -> Vec<Cell> {
    let cell =
        |part: fn(&Times) -> Duration| Cell::micros(Sample::new(all.iter().map(part).collect()).as_ref());
    vec![
        Cell::text(name),
        Cell::text(through),
        cell(|times| times.fork),
        cell(|times| times.run),
        cell(|times| times.replica),
        cell(|times| times.release),
        cell(|times| times.fork + times.run + times.release),
        Cell::Number(all.len() as f64, 0),
    ]
}

fn picture(table: &Table) -> Picture {
    let bar = |row: &Vec<Cell>| {
        let part = |at: usize| row[at].middle().unwrap_or(0.0);
        let (fork, run, replica, release) = (part(2), part(3), part(4), part(5));
        let Cell::Text(label) = &row[1] else { return Bar::default() };
        Bar {
            label: label.clone(),
            values: vec![fork, (run - replica).max(0.0), release, replica],
            note: format!("asking {:.0} + run {replica:.0} us", fork + (run - replica).max(0.0) + release),
            range: None,
        }
    };
    let bars = Bars {
        heading: "p50 of a fork asked for, one run on it, and giving it back".into(),
        unit: "us".into(),
        segments: ["asking for a fork", "asking for the run", "giving back", "the run itself"]
            .map(str::to_owned)
            .to_vec(),
        log: false,
        bars: table.rows.iter().map(bar).collect(),
    };
    Picture { title: "The price of asking".into(), panels: vec![Panel::Bars(bars)], ..Picture::default() }
}
