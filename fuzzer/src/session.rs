//! What the log says of a session when it begins and when it ends.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::findings::Machine;
use crate::signals;

/// The start of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Seconds since 1970.
    pub(crate) unix: u64,
    /// Of this program.
    pub(crate) version: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// Kernel, CPU and KVM, each with its name.
    pub(crate) host: Vec<(String, String)>,
    pub(crate) machine: Machine,
    /// Seeds that can be used, and words of the dictionary.
    pub(crate) seeds: usize,
    pub(crate) tokens: usize,
}

impl Session {
    /// A session of this process that begins now.
    pub(crate) fn begin(
        host: Vec<(&'static str, String)>,
        machine: Machine,
        seeds: usize,
        tokens: usize,
    ) -> Self {
        Self {
            unix: now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            host: host.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            machine,
            seeds,
            tokens,
        }
    }
}

/// The end of a session that came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Seconds since 1970.
    pub(crate) unix: u64,
    /// `limit`: one that was given; `signal`: someone stopped it.
    pub(crate) by: String,
}

/// The line of the log that says that this session came to its end.
pub(crate) fn end() -> serde_json::Value {
    let by = if signals::stop_requested() { "signal" } else { "limit" };
    serde_json::json!({ "ended": Ended { unix: now(), by: by.to_owned() } })
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}
