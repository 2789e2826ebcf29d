//! The parent of a campaign on several cores: starts clients and broker, starts again what dies, adds the
//! figures up, and says when it is over. It runs no input itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::broker::BrokerRole;
use super::child::{Child, From, Heard, Place, show_status};
use super::sum::{Part, sum};
use super::{ClientRole, CoresError, Role};
use crate::campaign::Summary;
use crate::cmd::{note, warn};
use crate::edges::Edge;
use crate::findings::Machine;
use crate::monitor::board::Board;
use crate::monitor::{self, Figures, Monitor, Show};
use crate::output::{self, Output};
use crate::queue::Queue;
use crate::units::{plural, show_count};
use crate::{session, signals};

mod hear;

/// Time between two looks at what nobody tells.
const POLL: Duration = Duration::from_millis(20);
/// A process that dies is started again after this long; after twice as long each time it dies soon.
const DELAY: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(20);
/// What lives this long did not die soon.
const SOON: Duration = Duration::from_secs(30);
/// A client that dies soon so often in a row is given up, and the campaign with it.
const SOON_MAX: u32 = 10;
/// A client that says nothing for this long, and this many deadlines, is ended and started again.
const SILENCE: Duration = Duration::from_secs(60);
const SILENCE_DEADLINES: u32 = 30;
/// So is a broker that says nothing for this long,
const SILENCE_BROKER: Duration = Duration::from_secs(30);
/// but what this process missed because it was stopped itself for this long, was said.
const STOPPED: Duration = Duration::from_secs(2);
/// Time that other machines get to hear what was found last.
const LINGER: Duration = Duration::from_secs(4);
/// Time that clients get to save and end.
const GRACE: Duration = Duration::from_secs(20);

/// What to fuzz, on what, and for how long.
#[derive(Debug)]
pub(crate) struct Orders {
    /// The cores, one client each.
    pub(crate) cores: Vec<usize>,
    /// The snapshot as a file, for the clients to open.
    pub(crate) snapshot: File,
    /// Tells it apart.
    pub(crate) snapshot_id: u64,
    pub(crate) counters: usize,
    pub(crate) machine: Machine,
    pub(crate) engine: unifork_vmm::Engine,
    pub(crate) deadline: Duration,
    pub(crate) seed: Option<u64>,
    pub(crate) execs: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) until_finding: bool,
    pub(crate) serve: Option<std::net::SocketAddr>,
    pub(crate) join: Vec<String>,
    pub(crate) show: Show,
    pub(crate) board: Arc<Board>,
}

/// A place and the process that has it.
#[derive(Debug, Default)]
struct Seat {
    child: Option<Child>,
    turn: u64,
    retry: Option<Instant>,
    soon: u32,
    heard: Option<Instant>,
    /// The process said that it is at its end.
    ended: bool,
    /// The process was ended because it said nothing.
    silent: bool,
    /// Nobody is to have the place any more.
    done: bool,
}

/// The campaign.
#[derive(Debug)]
pub(crate) struct Supervisor<'a> {
    orders: Orders,
    output: &'a Output,
    monitor: Monitor,
    // Executions of earlier sessions.
    before: u64,
    parts: Vec<Part>,
    seats: Vec<Seat>,
    broker: Seat,
    port: Option<u16>,
    links: BTreeSet<String>,
    linked: bool,
    // What was said once: where others may join, who cannot be reached.
    serving: Option<std::net::SocketAddr>,
    unreached: BTreeSet<String>,
    sender: Sender<Heard>,
    heard: Receiver<Heard>,
    start: Instant,
    // When nobody's silence was last looked at.
    looked: Instant,
    // Files of the queue when the clients' corpora had so many entries in all.
    queue: (usize, usize),
    findings: BTreeSet<String>,
    new_findings: u64,
    unserved: BTreeMap<u64, u32>,
    unstable: BTreeMap<usize, Edge>,
    stopping: Option<Instant>,
    failure: Option<CoresError>,
}

impl<'a> Supervisor<'a> {
    /// Looks through the folder and makes everything ready.
    pub(crate) fn new(orders: Orders, output: &'a Output) -> Result<Self, CoresError> {
        let (_, stored, aside) = Queue::open(&output.folder("queue")?, &output.path("corrupt"), false)?;
        for file in &aside {
            note(&file.sentence());
        }
        let findings = output.folder("findings")?;
        output::remove_partial(&findings);
        let stats = output.path("stats.jsonl");
        let before = monitor::last_figures(&stats);
        let monitor =
            Monitor::start(stats, before.as_ref(), orders.counters, orders.show, orders.board.clone())?;
        let before = before.map_or(0, |figures| figures.execs);
        if before > 0 {
            note(&format!(
                "resuming after {} executions, with {}",
                show_count(before),
                plural(stored.len(), "input")
            ));
        }
        output.hold_in_children()?;
        rustix::io::fcntl_setfd(&orders.snapshot, rustix::io::FdFlags::empty())
            .map_err(|error| CoresError::Start(error.into()))?;
        let (sender, heard) = channel();
        Ok(Self {
            parts: orders.cores.iter().map(|&core| Part::new(core)).collect(),
            seats: orders.cores.iter().map(|_| Seat::default()).collect(),
            findings: findings_in(&findings),
            orders,
            output,
            monitor,
            before,
            broker: Seat::default(),
            port: None,
            links: BTreeSet::new(),
            linked: false,
            serving: None,
            unreached: BTreeSet::new(),
            sender,
            heard,
            start: Instant::now(),
            looked: Instant::now(),
            queue: (stored.len(), 0),
            new_findings: 0,
            unserved: BTreeMap::new(),
            unstable: BTreeMap::new(),
            stopping: None,
            failure: None,
        })
    }

    /// Adds a line to the campaign's log.
    pub(crate) fn log(&mut self, line: &Value) -> Result<(), CoresError> {
        Ok(self.monitor.log(line)?)
    }

    /// Runs the campaign to its end.
    pub(crate) fn run(mut self) -> Result<Summary, CoresError> {
        self.start_broker()?;
        for client in 0..self.seats.len() {
            self.start_client(client)?;
        }
        while !self.seats.iter().all(|seat| seat.done) {
            if let Ok(heard) = self.heard.recv_timeout(POLL) {
                self.hear(heard);
                while let Ok(heard) = self.heard.try_recv() {
                    self.hear(heard);
                }
            }
            self.look_after()?;
        }
        // LLMP's brokers look for what to tell one another every three seconds.
        if !self.links.is_empty() {
            std::thread::sleep(LINGER);
        }
        if let Some(mut broker) = self.broker.child.take() {
            let _status = broker.wait(GRACE);
        }
        let now = Instant::now();
        let figures = self.figures(now);
        self.monitor.store(now, &figures)?;
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.monitor.log(&session::end())?;
        let folder = self.output.path("findings");
        Ok(Summary {
            runs: self.parts.iter().map(Part::execs).sum(),
            figures,
            session: self.monitor.session(),
            new_findings: self.new_findings,
            findings: self.findings.iter().map(|name| folder.join(name)).collect(),
            unserved: self.unserved.into_iter().collect(),
            unstable: self.unstable.into_values().collect(),
        })
    }

    fn start_broker(&mut self) -> Result<(), CoresError> {
        let role = Role::Broker(BrokerRole {
            machine: self.orders.snapshot_id,
            root: self.output.root().to_path_buf(),
            serve: self.orders.serve,
            join: self.orders.join.clone(),
        });
        let from = From { place: Place::Broker, turn: self.broker.turn };
        let child = Child::start(&role, from, self.sender.clone()).map_err(CoresError::Start)?;
        self.broker.child = Some(child);
        self.broker.heard = Some(Instant::now());
        Ok(())
    }

    fn start_client(&mut self, number: usize) -> Result<(), CoresError> {
        // A share each, so that the sum is exact; of the rest, one each.
        let (count, part) = (self.seats.len() as u64, &self.parts[number]);
        let share = self.orders.execs.map(|execs| {
            let execs = execs.saturating_sub(self.before);
            (execs / count + u64::from((number as u64) < execs % count)).saturating_sub(part.execs())
        });
        if share == Some(0) {
            self.seats[number].done = true;
            return Ok(());
        }
        let seat = &mut self.seats[number];
        let role = Role::Client(Box::new(ClientRole {
            number,
            core: part.core,
            snapshot: PathBuf::from(format!("/proc/self/fd/{}", self.orders.snapshot.as_raw_fd())),
            machine: self.orders.machine.clone(),
            engine: self.orders.engine,
            execs: share,
            seed: self.orders.seed.map(|seed| seed.wrapping_add(number as u64)),
        }));
        let from = From { place: Place::Client(number), turn: seat.turn };
        let mut child = Child::start(&role, from, self.sender.clone()).map_err(CoresError::Start)?;
        if let Some(port) = self.port {
            child.tell(&port.to_string());
        }
        self.parts[number].pid = child.pid();
        seat.heard = Some(Instant::now());
        seat.child = Some(child);
        Ok(())
    }

    fn fail(&mut self, failure: CoresError) {
        self.failure.get_or_insert(failure);
        self.stop();
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(Instant::now());
            for seat in &mut self.seats {
                match &mut seat.child {
                    Some(child) => child.stop(),
                    None => seat.done = true,
                }
            }
        }
    }

    /// A process is gone.
    fn bury(&mut self, from: From) {
        let seat = match from.place {
            Place::Broker => &mut self.broker,
            Place::Client(number) => &mut self.seats[number],
        };
        let Some(mut child) = seat.child.take_if(|child| child.from == from) else { return };
        let how = child.wait(GRACE).map_or_else(|error| error.to_string(), show_status);
        let silent = std::mem::take(&mut seat.silent);
        let how = if silent { "it said nothing any more".to_owned() } else { how };
        seat.turn += 1;
        let ended = std::mem::take(&mut seat.ended);
        seat.soon = if child.started.elapsed() < SOON { seat.soon + 1 } else { 1 };
        let delay = (DELAY * 2u32.saturating_pow(seat.soon - 1)).min(DELAY_MAX);
        let soon = seat.soon;
        seat.retry = Some(Instant::now() + delay);
        match from.place {
            Place::Broker => {
                self.port = None;
                self.links.clear();
                if !ended && self.stopping.is_none() {
                    warn(&format!("the broker died ({how}) and is started again; nothing is lost"));
                }
            }
            Place::Client(number) => {
                let part = &mut self.parts[number];
                part.pid = 0;
                if ended || self.stopping.is_some() {
                    self.seats[number].done = true;
                    if !ended && self.failure.is_none() {
                        warn(&format!("the client on core {} ended without saving ({how})", part.core));
                    }
                    return;
                }
                part.end();
                part.restarts += 1;
                warn(&format!("the client on core {} died ({how}) and is started again", part.core));
                if soon > SOON_MAX {
                    let core = part.core;
                    self.seats[number].done = true;
                    self.fail(CoresError::Dies { core, how });
                }
            }
        }
    }

    /// What nobody tells: limits, signals, processes to be started again or that say nothing, figures.
    fn look_after(&mut self) -> Result<(), CoresError> {
        let now = Instant::now();
        let late = self.orders.duration.is_some_and(|duration| now - self.start >= duration);
        if late || signals::stop_requested() || (self.orders.until_finding && self.new_findings > 0) {
            self.stop();
        }
        let silence = SILENCE + self.orders.deadline * SILENCE_DEADLINES;
        if now - self.looked > STOPPED {
            for seat in self.seats.iter_mut().chain([&mut self.broker]) {
                seat.heard = Some(now);
            }
        }
        self.looked = now;
        if let Some(broker) = &mut self.broker.child
            && self.broker.heard.is_some_and(|heard| now - heard > SILENCE_BROKER)
        {
            self.broker.silent = true;
            broker.kill();
        }
        for seat in &mut self.seats {
            let silent = seat.heard.is_some_and(|heard| now - heard > silence);
            let slow = self.stopping.is_some_and(|since| now - since > GRACE + self.orders.deadline * 4);
            if let Some(child) = seat.child.as_mut().filter(|_| silent || slow) {
                seat.silent = true;
                child.kill();
            }
        }
        if self.stopping.is_none() {
            for number in 0..self.seats.len() {
                if self.seats[number].retry.take_if(|retry| now >= *retry).is_some()
                    && !self.seats[number].done
                {
                    self.start_client(number)?;
                }
            }
            if self.broker.retry.take_if(|retry| now >= *retry).is_some() {
                self.start_broker()?;
            }
        }
        // A line without anybody's figures would say that nothing happens.
        if self.monitor.due(now) && self.parts.iter().any(|part| part.execs() > 0) {
            let figures = self.figures(now);
            self.monitor.tick_sum(now, &figures)?;
        }
        Ok(())
    }

    fn figures(&mut self, now: Instant) -> Figures {
        self.parts.iter_mut().for_each(|part| part.expect_news(now));
        let mut figures = sum(&self.parts);
        let corpora: usize = self.parts.iter().map(|part| part.now.corpus).sum();
        if corpora != self.queue.1 {
            self.queue = (count_files(&self.output.path("queue")), corpora);
        }
        figures.unix = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
        figures.runtime_s = self.monitor.runtime(now).as_secs_f64();
        figures.execs += self.before;
        figures.corpus = self.queue.0;
        figures.edges_total = self.orders.counters;
        figures.findings = self.findings.len();
        figures.links = self.links.len();
        figures
    }
}

fn findings_in(folder: &std::path::Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    let whole = entries.flatten().filter(|entry| entry.path().join("input").is_file());
    let names = whole.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

fn count_files(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
}
