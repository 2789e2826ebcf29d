//! The server: a thread for each connection, forks from a pool that all share.
//!
//! Whatever a client sends, or does not, costs its own connection at most: a body is parsed before
//! anything is done, a frame that is begun must be finished in time, nobody may have more than so many
//! forks, and a run ends at its deadline.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use unifork_vmm::{Engine, Kvm, Outcome, Pool, Replica, ReplicaError, Snapshot, Space};

use super::protocol::{self, ErrorCode, Ran, Refusal, Request, Stop};

/// Time to send the rest of a frame that has begun, and to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a failed `accept`, which is for want of descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// How much is given to clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Forks of one connection.
    pub(crate) forks: usize,
    /// Time of one run.
    pub(crate) deadline: Duration,
    /// Time between two requests.
    pub(crate) idle: Duration,
    /// Forks kept for the next who asks.
    pub(crate) kept: usize,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Server {
    kvm: Kvm,
    snapshot: Arc<Snapshot>,
    engine: Engine,
    limits: Limits,
    pool: Mutex<Pool>,
    connections: AtomicUsize,
}

/// A connection of either kind.
pub(crate) trait Stream: Read + Write + Send + 'static {
    /// Sets how long reads and writes may take.
    fn limit(&self, read: Duration, write: Duration) -> io::Result<()>;
    /// Ends it in both directions.
    fn end(&self);
}

impl Stream for UnixStream {
    fn limit(&self, read: Duration, write: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(read))?;
        self.set_write_timeout(Some(write))
    }
    fn end(&self) {
        // It may have ended by itself.
        let _ended = self.shutdown(Shutdown::Both);
    }
}

impl Stream for TcpStream {
    fn limit(&self, read: Duration, write: Duration) -> io::Result<()> {
        // An answer is one small write, which is to leave at once.
        self.set_nodelay(true)?;
        self.set_read_timeout(Some(read))?;
        self.set_write_timeout(Some(write))
    }
    fn end(&self) {
        // As above.
        let _ended = self.shutdown(Shutdown::Both);
    }
}

impl Server {
    /// A server of forks of `snapshot`, the first of which is made now.
    pub(crate) fn new(
        kvm: Kvm,
        snapshot: Arc<Snapshot>,
        engine: Engine,
        limits: Limits,
    ) -> Result<Arc<Self>, ReplicaError> {
        let mut pool = Pool::new(engine, limits.kept);
        pool.warm(&kvm, &snapshot, 1)?;
        let pool = Mutex::new(pool);
        Ok(Arc::new(Self { kvm, snapshot, engine, limits, pool, connections: AtomicUsize::new(0) }))
    }

    /// Takes connections for as long as the process lives.
    pub(crate) fn listen_unix(self: &Arc<Self>, listener: UnixListener) {
        let server = Arc::clone(self);
        thread::spawn(move || server.accept(|| listener.accept().map(|(stream, _)| stream)));
    }

    /// As [`Self::listen_unix`].
    pub(crate) fn listen_tcp(self: &Arc<Self>, listener: TcpListener) {
        let server = Arc::clone(self);
        thread::spawn(move || server.accept(|| listener.accept().map(|(stream, _)| stream)));
    }

    fn accept<S: Stream>(self: &Arc<Self>, next: impl Fn() -> io::Result<S>) {
        loop {
            let Ok(mut stream) = next() else {
                thread::sleep(BREATH);
                continue;
            };
            let open = self.connections.fetch_add(1, Ordering::Relaxed);
            if open < self.limits.connections {
                let server = Arc::clone(self);
                let started = thread::Builder::new().name("connection".into()).spawn(move || {
                    server.converse(&mut stream);
                    stream.end();
                    server.connections.fetch_sub(1, Ordering::Relaxed);
                });
                if started.is_ok() {
                    continue;
                }
            } else if stream.limit(PATIENCE, BREATH).is_ok() {
                let refusal = Refusal::new(
                    ErrorCode::TooMany,
                    format!("{open} connections are open; that is the limit"),
                );
                let mut frame = Vec::new();
                protocol::refuse(&mut frame, &refusal);
                // It is told if it listens.
                let _told = protocol::send(&mut stream, &mut frame);
                stream.end();
            }
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Answers requests until there are no more.
    fn converse(&self, stream: &mut impl Stream) {
        let mut connection = Connection { server: self, forks: HashMap::new(), next: 1 };
        let most = protocol::body_max(self.snapshot.input_max());
        let (mut body, mut answer) = (Vec::new(), Vec::new());
        if stream.limit(self.limits.idle, PATIENCE).is_err() {
            return;
        }
        loop {
            match protocol::read_frame(stream, &mut body, most, PATIENCE) {
                Ok(()) => {
                    protocol::begin(&mut answer, 0);
                    let done =
                        protocol::parse(&body).and_then(|request| connection.serve(request, &mut answer));
                    if let Err(refusal) = done {
                        protocol::refuse(&mut answer, &refusal);
                    }
                    if protocol::send(stream, &mut answer).is_err() {
                        return;
                    }
                }
                Err(Stop::TooLong(bytes)) => {
                    let message = format!("a request of {bytes} bytes; the longest is {most}");
                    protocol::refuse(&mut answer, &Refusal::new(ErrorCode::BadLength, message));
                    // The connection ends either way.
                    let _told = protocol::send(stream, &mut answer);
                    return;
                }
                Err(Stop::Closed | Stop::Cut(_)) => return,
            }
        }
    }

    /// A fork from the pool, or a new one. Making one does not keep the others waiting.
    fn fork(&self) -> Result<Replica, ReplicaError> {
        {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            if !pool.is_empty() {
                return Ok(pool.fork(&self.kvm, &self.snapshot)?.0);
            }
        }
        Replica::spawn(&self.kvm, &self.snapshot, self.engine)
    }

    /// Keeps a fork for the next, if it can be put back.
    fn take_back(&self, mut fork: Replica) {
        // Most of the work, before the lock is taken.
        if fork.scrub().is_ok() {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            // A fork that cannot be put back is gone, and a new one will be made.
            let _kept = pool.give_back(fork);
        }
    }
}

/// One client, with its forks.
struct Connection<'a> {
    server: &'a Server,
    forks: HashMap<u32, Replica>,
    next: u32,
}

impl Connection<'_> {
    /// Does what is asked and puts the answer behind what is in `answer`.
    fn serve(&mut self, request: Request<'_>, answer: &mut Vec<u8>) -> Result<(), Refusal> {
        match request {
            Request::Hello => {
                let snapshot = &self.server.snapshot;
                let counters = u32::try_from(snapshot.counter_count(Space::Application)).unwrap_or(u32::MAX);
                answer.extend_from_slice(&protocol::VERSION.to_le_bytes());
                answer.extend_from_slice(&snapshot.id().to_le_bytes());
                answer.extend_from_slice(&snapshot.input_max().to_le_bytes());
                answer.extend_from_slice(&counters.to_le_bytes());
            }
            Request::Fork => {
                let most = self.server.limits.forks;
                if self.forks.len() >= most {
                    return Err(Refusal::new(
                        ErrorCode::TooMany,
                        format!("this connection has {most} forks; release one"),
                    ));
                }
                let fork = self.server.fork().map_err(|error| host(&error))?;
                let name = self.next;
                self.next = self.next.wrapping_add(1);
                // With so many forks given out, the oldest of all may still be alive.
                if self.forks.contains_key(&name) {
                    self.server.take_back(fork);
                    return Err(Refusal::new(ErrorCode::TooMany, "the next number is in use; ask again"));
                }
                self.forks.insert(name, fork);
                answer.extend_from_slice(&name.to_le_bytes());
            }
            Request::Run { fork, deadline_ms, input } => {
                let longest = self.server.limits.deadline;
                let deadline = match deadline_ms {
                    0 => longest,
                    ms => Duration::from_millis(ms.into()).min(longest),
                };
                let start = Instant::now();
                let replica = self.find(fork)?;
                match replica.run(input, deadline) {
                    Ok(outcome) => {
                        let counters = hash(replica.counters(Space::Application));
                        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        protocol::put_ran(answer, &ran(&outcome, counters, ns));
                    }
                    Err(error @ ReplicaError::InputTooLong { .. }) => {
                        return Err(Refusal::new(ErrorCode::BadLength, error.to_string()));
                    }
                    Err(error) => return Err(self.lost(fork, &error)),
                }
            }
            Request::Reset { fork } => match self.find(fork)?.reset() {
                Ok(stats) => {
                    let pages = u32::try_from(stats.pages).unwrap_or(u32::MAX);
                    answer.extend_from_slice(&pages.to_le_bytes());
                }
                Err(error) => return Err(self.lost(fork, &error)),
            },
            Request::Release { fork } => match self.forks.remove(&fork) {
                Some(replica) => self.server.take_back(replica),
                None => return Err(unknown(fork)),
            },
        }
        Ok(())
    }

    fn find(&mut self, fork: u32) -> Result<&mut Replica, Refusal> {
        self.forks.get_mut(&fork).ok_or_else(|| unknown(fork))
    }

    /// A fork that is in no known state is dropped.
    fn lost(&mut self, fork: u32, error: &ReplicaError) -> Refusal {
        self.forks.remove(&fork);
        host(error)
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        for (_, fork) in self.forks.drain() {
            self.server.take_back(fork);
        }
    }
}

fn unknown(fork: u32) -> Refusal {
    Refusal::new(ErrorCode::UnknownFork, format!("this connection has no fork {fork}"))
}

fn host(error: &ReplicaError) -> Refusal {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    Refusal::new(ErrorCode::Host, message)
}

fn ran(outcome: &Outcome, counters: u64, ns: u64) -> Ran {
    let (kind, code, what) = match outcome {
        Outcome::Done { code } => (0, *code, String::new()),
        Outcome::Exit { code } => (1, i64::from(*code), String::new()),
        Outcome::Timeout => (2, 0, String::new()),
        Outcome::Crash(crash) => (3, 0, crash.kind.to_string()),
    };
    Ran { kind, code, counters, ns, what }
}

fn hash(counters: &[u8]) -> u64 {
    #[expect(deprecated, reason = "the protocol names the algorithm; DefaultHasher's may change")]
    let mut hasher = std::hash::SipHasher::new();
    hasher.write(counters);
    hasher.finish()
}
