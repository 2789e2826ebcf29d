//! The broker: LLMP's, with a memory of what has been said, and with the campaign's folder behind it.
//!
//! It passes each input and each finding on once, to all clients of this machine and to the gates of
//! others. What it has not been told, because a client died or a broker before it, it finds in the
//! folder. It is a process of its own, since LLMP's way out of many troubles is to panic; the parent
//! starts another.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use libafl_bolts::llmp::{Flags, Listener, LlmpBroker, LlmpBrokerInner, LlmpHook, LlmpMsgHookResult, Tag};
use libafl_bolts::shmem::ShMemProvider as _;
use libafl_bolts::shmem::unix_shmem::UnixShMem;
use libafl_bolts::tuples::tuple_list;
use libafl_bolts::{ClientId, Error};
use serde::{Deserialize, Serialize};
use unifork_vmm::regular;

use super::CoresError;
use super::gate::{Gate, Report};
use super::message::{Message, TAG};
use super::segments::Segments;
use crate::cmd::say;
use crate::queue;

/// Time between two looks at LLMP's messages,
const POLL: Duration = Duration::from_millis(4);
/// and between two at the folder.
const LOOK: Duration = Duration::from_secs(5);

/// What the parent tells its broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BrokerRole {
    /// The frozen machine that is fuzzed.
    pub(crate) machine: u64,
    /// The campaign's folder.
    pub(crate) root: PathBuf,
    /// Where others may join.
    pub(crate) serve: Option<SocketAddr>,
    /// Whom to join.
    pub(crate) join: Vec<String>,
}

/// What the broker tells the parent, a line of JSON each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum News {
    /// The port of loopback that clients attach to.
    Port(u16),
    /// It is at work.
    Alive,
    /// Others may join at this address.
    Serving(SocketAddr),
    /// A connection to another machine is there,
    Up(String),
    /// is gone,
    Down { peer: String, why: String },
    /// or is not wanted.
    Refused { peer: String, why: String },
}

impl News {
    fn tell(&self) {
        let line = serde_json::to_string(self).expect("news are plain data");
        say(&format!("{line}\n"));
    }
}

/// Runs the broker until the parent is gone.
pub(crate) fn run(role: &BrokerRole) -> Result<(), CoresError> {
    end_with_parent();
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen =
        |address| TcpListener::bind(address).map_err(|source| CoresError::Listen { address, source });
    let listener = listen(loopback)?;
    let broker = listener.local_addr().map_err(|error| CoresError::Broker(error.to_string()))?.port();
    let (reports, reported) = channel();
    let gate = Gate { machine: role.machine, broker, reports };
    let failed = |error: Error| CoresError::Broker(error.to_string());
    let said = Once::default();
    let mut llmp = Segments::new()
        .and_then(|segments| LlmpBroker::new(segments, tuple_list!(said.clone())))
        .map_err(failed)?;
    llmp.inner_mut().launch_listener(Listener::Tcp(listener)).map_err(failed)?;
    let mut folder = Folder::new(&role.root);
    News::Port(broker).tell();
    if let Some(address) = role.serve {
        let listener = listen(address)?;
        News::Serving(listener.local_addr().unwrap_or(address)).tell();
        gate.serve(listener);
    }
    for address in &role.join {
        gate.join(address.clone());
    }
    let mut looked: Option<Instant> = None;
    loop {
        llmp.broker_once().map_err(failed)?;
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            folder.tell_unseen(|message| {
                if said.is_new(&message) {
                    llmp.inner_mut().send_buf(TAG, &message.encode()).map_err(failed)?;
                }
                Ok(())
            })?;
            looked = Some(Instant::now());
            News::Alive.tell();
        }
        for report in reported.try_iter() {
            match report {
                Report::Up(peer) => News::Up(peer).tell(),
                Report::Down(peer, why) => News::Down { peer, why }.tell(),
                Report::Refused(peer, why) => News::Refused { peer, why }.tell(),
                Report::Connect(port) => {
                    if let Err(error) = llmp.inner_mut().connect_b2b((Ipv4Addr::LOCALHOST, port)) {
                        log::warn!("a connection ended before it began: {error}");
                    }
                }
            }
        }
        std::thread::sleep(POLL);
    }
}

/// Ends the process when the parent's end of stdin is closed: at the end of the campaign, or of the parent.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut nothing = [0; 64];
        while std::io::stdin().read(&mut nothing).is_ok_and(|count| count > 0) {}
        std::process::exit(0);
    });
}

/// Lets each message through once.
#[derive(Clone, Debug, Default)]
struct Once {
    said: Rc<RefCell<HashSet<u64>>>,
}

impl Once {
    fn is_new(&self, message: &Message) -> bool {
        self.said.borrow_mut().insert(message.key())
    }
}

impl LlmpHook<UnixShMem, Segments> for Once {
    fn on_new_message(
        &mut self,
        _: &mut LlmpBrokerInner<UnixShMem, Segments>,
        _: ClientId,
        tag: &mut Tag,
        flags: &mut Flags,
        bytes: &mut [u8],
        passed_on: &mut Vec<(Tag, Flags, Vec<u8>)>,
    ) -> Result<LlmpMsgHookResult, Error> {
        if *tag == TAG && Message::decode(bytes).is_some_and(|message| self.is_new(&message)) {
            // Not forwarded, but said by the broker itself. LLMP does not send to another broker what has
            // the same client's number as the connection to it, and numbers are given out twice.
            passed_on.push((TAG, *flags, bytes.to_vec()));
        }
        Ok(LlmpMsgHookResult::Handled)
    }
}

/// What of the campaign's folder has been read.
#[derive(Debug)]
struct Folder {
    queue: PathBuf,
    findings: PathBuf,
    read: HashSet<String>,
}

impl Folder {
    fn new(root: &Path) -> Self {
        Self { queue: root.join("queue"), findings: root.join("findings"), read: HashSet::new() }
    }

    /// Hands over the inputs and findings that were not there at the last look.
    fn tell_unseen(
        &mut self,
        mut tell: impl FnMut(Message) -> Result<(), CoresError>,
    ) -> Result<(), CoresError> {
        for name in names(&self.queue) {
            if !self.read.contains(&name)
                && let Some(fresh) = queue::read_one(&self.queue, &name)
            {
                self.read.insert(name);
                tell(Message::Entry { number: fresh.number, bytes: fresh.bytes })?;
            }
        }
        for name in names(&self.findings) {
            if !self.read.contains(&name)
                && let Some(message) = read_finding(&self.findings, &name)
            {
                self.read.insert(name);
                tell(message)?;
            }
        }
        Ok(())
    }
}

/// The finding `name` as a message, if it is there whole.
pub(crate) fn read_finding(findings: &Path, name: &str) -> Option<Message> {
    let folder = findings.join(name);
    let report = regular::read(folder.join("report.json")).ok()?;
    let input = regular::read(folder.join("input")).ok()?;
    Some(Message::Finding { name: name.to_owned(), report, input })
}

/// Names in a folder that are not of files half-written, in order.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}
