//! A campaign on several cores and machines: one process a core, LibAFL's LLMP between them.
//!
//! ```text
//!                     unifork fuzz ── holds the folder, adds up, starts again what dies (supervisor.rs)
//!          stdin: port │ stdout: figures
//!        ┌─────────────┼──────────────┬───────────────┐
//!        ▼             ▼              ▼               ▼
//!     client 0      client 1  ...   broker ◄─ gate ─TCP─ gate ─► broker of another machine
//!        │  ▲          │  ▲          ▲ │    (broker.rs, gate.rs)
//!        │  └──────────┼──┴── LLMP ──┼─┘    shared memory: segments.rs; what is said: message.rs
//!        ▼             ▼             ▼
//!       queue/ and findings/: what counts is there before it is told
//! ```
//!
//! Clients and broker are this program, started again with the same command line and a role. A process
//! whose stdin ends has lost its parent, and ends, too. Why it is not LibAFL's launcher is in
//! `docs/decisions/0013-cores.md`.

use std::path::PathBuf;
use std::str::FromStr;

use libafl_bolts::core_affinity;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use unifork_vmm::Engine;

use crate::findings::Machine;
use crate::output::OutputError;

pub(crate) mod broker;
mod child;
pub(crate) mod gate;
pub(crate) mod link;
pub(crate) mod message;
mod segments;
pub(crate) mod sum;
pub(crate) mod supervisor;

/// What ends a campaign on several cores before its time.
#[derive(Debug, Error)]
pub(crate) enum CoresError {
    /// No process could be started.
    #[error("cannot start a process")]
    Start(#[source] std::io::Error),
    /// The snapshot could not be handed to other processes.
    #[error("cannot share the machine with other processes")]
    Share(#[source] std::io::Error),
    /// The campaign's folder could not be written or read.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A client dies as soon as it is started.
    #[error("the client on core {core} dies soon each time it is started, the last time of {how}")]
    Dies {
        /// Its core.
        core: usize,
        /// Of what it died.
        how: String,
    },
    /// What a client or the broker says of itself.
    #[error("{message}")]
    Client {
        /// The whole chain.
        message: String,
        /// What to do.
        help: Option<String>,
        /// Whose fault it is, as an exit code.
        blame: u8,
    },
    /// Another machine does not want this one.
    #[error("cannot join {peer}: {why}")]
    Refused {
        /// The other machine.
        peer: String,
        /// Why.
        why: String,
    },
    /// No listening at the address given.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// LLMP's broker cannot go on.
    #[error("the broker failed: {0}")]
    Broker(String),
}

/// The environment variable that makes a process a part of somebody's campaign.
const ROLE: &str = "UNIFORK_ROLE";

/// What a process is in a campaign of several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// It fuzzes.
    Client(Box<ClientRole>),
    /// It passes on what is found.
    Broker(broker::BrokerRole),
}

impl Role {
    /// The role that the parent gave this process.
    pub(crate) fn of_this_process() -> Option<Self> {
        serde_json::from_str(&std::env::var(ROLE).ok()?).ok()
    }
}

/// What the parent tells a client beside the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClientRole {
    /// Its number, from 0.
    pub(crate) number: usize,
    /// The core it runs on.
    pub(crate) core: usize,
    /// The snapshot, as an inherited descriptor.
    pub(crate) snapshot: PathBuf,
    /// What findings say of the machine.
    pub(crate) machine: Machine,
    pub(crate) engine: Engine,
    /// Its share of `--execs`.
    pub(crate) execs: Option<u64>,
    /// Its own, made from `--seed`.
    pub(crate) seed: Option<u64>,
}

/// What a client tells the parent at its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) figures: crate::monitor::Figures,
    /// System calls the libOS does not serve, and how often they were made.
    pub(crate) unserved: Vec<(u64, u32)>,
    /// Edges whose counts differ between runs of one input.
    pub(crate) unstable: Vec<crate::edges::Edge>,
}

/// What a client tells the parent, a line of JSON each, beside its figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// It reached a limit, or was asked to stop.
    Ended(Box<Ended>),
    /// It cannot go on; another in its place could not either.
    Failed { message: String, help: Option<String>, blame: u8 },
}

/// Which cores to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CoreList {
    /// So many of those this process may use, the first ones.
    Count(usize),
    /// These.
    These(Vec<usize>),
    /// All that this process may use.
    All,
}

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{text}` is no number"));
        if text == "all" {
            return Ok(Self::All);
        }
        if !text.contains([',', '-']) {
            return match number(text)? {
                0 => Err("at least one core is needed".to_owned()),
                count => Ok(Self::Count(count)),
            };
        }
        let mut cores = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last || last >= CORE_MAX {
                return Err(format!("`{part}` is no range of cores"));
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self::These(cores))
    }
}

/// No machine has more cores.
const CORE_MAX: usize = 1 << 16;

impl CoreList {
    /// The cores' numbers.
    pub(crate) fn choose(&self) -> Result<Vec<usize>, String> {
        let mut allowed: Vec<usize> = core_affinity::get_core_ids()
            .map_err(|error| format!("cannot tell which cores there are: {error}"))?
            .into_iter()
            .map(usize::from)
            .collect();
        allowed.sort_unstable();
        match self {
            Self::All => Ok(allowed),
            Self::Count(count) if *count <= allowed.len() => Ok(allowed[..*count].to_vec()),
            Self::Count(count) => {
                Err(format!("--cores {count}: this process may use {} cores", allowed.len()))
            }
            Self::These(cores) => match cores.iter().find(|core| !allowed.contains(core)) {
                None => Ok(cores.clone()),
                Some(core) => {
                    Err(format!("--cores names core {core}; this process may use {}", show(&allowed)))
                }
            },
        }
    }
}

/// Cores as people write them.
pub(crate) fn show(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Keeps this thread, and those it starts, on one core.
pub(crate) fn pin(core: usize) -> Result<(), String> {
    core_affinity::CoreId(core).set_affinity().map_err(|error| format!("cannot use core {core}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_a_number_a_list_or_all() {
        assert_eq!("all".parse(), Ok(CoreList::All));
        assert_eq!("4".parse(), Ok(CoreList::Count(4)));
        assert_eq!("3,".parse(), Ok(CoreList::These(vec![3])));
        assert_eq!("0-2,7,1".parse(), Ok(CoreList::These(vec![0, 1, 2, 7])));
        for bad in ["0", "two", "3-1", "1-x", "", "0-99999999"] {
            assert!(bad.parse::<CoreList>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_cores_that_there_are_can_be_had() {
        let all = CoreList::All.choose().unwrap();
        assert_eq!(CoreList::Count(all.len()).choose().unwrap(), all);
        assert!(CoreList::Count(all.len() + 1).choose().unwrap_err().contains("may use"));
        assert!(CoreList::These(vec![CORE_MAX]).choose().is_err());
    }
}
