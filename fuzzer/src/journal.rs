//! The fuzzer's state on disk: what resuming needs beside the queue itself.
//!
//! The queue is the truth; this file only saves work and memory of schedules. It holds LibAFL's
//! state (postcard) behind a header that says what it belongs to. A file that is damaged, of
//! another build, or of another image is not used: the queue is then run again.

use std::path::Path;

use libafl::corpus::HasCurrentCorpusId;
use libafl::state::HasCurrentStageId;
use libafl_bolts::hash_std;
use serde::{Deserialize, Serialize};
use unifork_vmm::regular;

use crate::campaign::State;
use crate::output::{self, OutputError};

const MAGIC: [u8; 8] = *b"UFSTATE\x01";

/// What a state belongs to: another build or another image makes its maps meaningless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Version of this program.
    pub(crate) version: String,
    /// Hash of the snapshot.
    pub(crate) snapshot: u64,
    /// The libOS's coverage is judged, too.
    pub(crate) kernel_coverage: bool,
    /// Seed and clock, where they were given.
    pub(crate) seed: Option<u64>,
}

impl Key {
    fn differs_from(&self, other: &Self) -> &'static str {
        if self.version != other.version {
            "it is of another version of unifork"
        } else if self.snapshot != other.snapshot {
            "it is of another image or machine"
        } else if self.seed != other.seed {
            "it is of another --seed"
        } else {
            "it is of another --kernel-coverage"
        }
    }
}

/// Writes `state`, whole or not at all.
pub(crate) fn save(path: &Path, key: &Key, state: &State) -> Result<(), OutputError> {
    let failed = |error: postcard::Error| OutputError::io("write", path)(std::io::Error::other(error));
    let body = postcard::to_allocvec(&(key, state)).map_err(failed)?;
    let mut bytes = Vec::with_capacity(body.len() + 16);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&hash_std(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    output::write_whole(path, &bytes)
}

/// Reads a state that belongs to `key`. An error says why there is none that can be used.
pub(crate) fn load(path: &Path, key: &Key) -> Result<State, &'static str> {
    let bytes = regular::read(path).map_err(|_| "there is none")?;
    let rest = bytes.strip_prefix(&MAGIC).ok_or("it is of another version")?;
    let (hash, body) = rest.split_first_chunk::<8>().ok_or("it is cut short")?;
    if hash_std(body) != u64::from_le_bytes(*hash) {
        return Err("it is damaged");
    }
    let (found, rest) = postcard::take_from_bytes::<Key>(body).map_err(|_| "it is of another version")?;
    if found != *key {
        return Err(found.differs_from(key));
    }
    let mut state: State = postcard::from_bytes(rest).map_err(|_| "it is of another version")?;
    settle(&mut state).map_err(|_| "it is of another version")?;
    Ok(state)
}

/// Ends the round that was under way when the state was saved, so that the next one is scheduled
/// afresh and LibAFL does not take the interruption for a crash of ours.
pub(crate) fn settle(state: &mut State) -> Result<(), libafl::Error> {
    state.clear_corpus_id()?;
    state.clear_stage_id()
}
