//! Images without an agent: run to where they are to be frozen, and where their inputs go.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::breakpoints::Wanted;
use super::loader;
use super::terms::{InputTo, Register, SnapshotAt};
use super::watch::find;
use super::{End, ForeignError, Machine, Outside, Recorder};
use crate::agent::{AgentError, Pieces, Span};
use crate::introspect::Symbols;

/// Bytes of code that are compared with the file's, so that a breakpoint is not put elsewhere.
const CODE_BYTES: usize = 16;
/// The longest input there is.
const INPUT_MAX: u64 = unifork_abi::agent::INPUT_BYTES_MAX;

/// Why inputs cannot go where they were to.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// A page is not mapped.
    #[error("there is no room for {bytes} bytes of {what} at {at:#x}: {missing:#x} is not mapped there")]
    NotMapped {
        /// What was to go there.
        what: &'static str,
        /// Its first byte.
        at: u64,
        /// Its length.
        bytes: u64,
        /// The address without memory.
        missing: u64,
    },
    /// Nothing fits, or too much.
    #[error("{bytes} bytes at {at:#x} for {what}: it takes 1 to {INPUT_MAX}")]
    Size {
        /// What was to go there.
        what: &'static str,
        /// Its first byte.
        at: u64,
        /// Its length.
        bytes: u64,
    },
}

/// How a fork gets its input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// In memory; its length is the agent's answer.
    Agent,
    /// In memory, with its length there.
    Memory { length: Pieces },
    /// In memory, with its length in a register.
    Register { length: Option<Register> },
    /// By the serial line.
    Serial { max: u64 },
    /// By the first network card.
    Net { max: u64 },
}

/// Keeps the console, and stops where it has a text.
struct Until<'a> {
    recorder: &'a mut Recorder,
    text: &'a [u8],
    seen: usize,
    met: bool,
}

impl Outside for Until<'_> {
    fn console(&mut self, bytes: &[u8]) {
        self.recorder.console(bytes);
        let console = &self.recorder.console;
        self.met |= find(&console[self.seen.saturating_sub(self.text.len())..], self.text).is_some();
        self.seen = console.len();
    }
    fn typed(&mut self, room: usize) -> Vec<u8> {
        self.recorder.typed(room)
    }
    fn listens(&self) -> bool {
        self.recorder.listens()
    }
    fn stopped(&self) -> bool {
        self.met
    }
}

impl Machine {
    /// Runs to where the image is to be frozen, for at most `deadline`. Returns how it ended if it never came there.
    pub(super) fn run_to(
        &mut self,
        at: &SnapshotAt,
        image: &[u8],
        symbols: &Symbols,
        deadline: Duration,
        recorder: &mut Recorder,
    ) -> Result<Option<End>, ForeignError> {
        let end = match at {
            SnapshotAt::Address(address) => {
                let file = loader::find(image, *address, CODE_BYTES);
                let known = symbols.code(*address, CODE_BYTES);
                let code = if known.is_empty() { file.map_or(known, |(_, code)| code) } else { known };
                let physical = file.map(|(physical, _)| physical);
                self.wanted.push(Wanted { address: *address, code: code.to_vec(), physical });
                self.plant_wanted();
                let end = self.run(deadline, recorder)?;
                self.wanted.clear();
                self.breakpoints.clear(&mut self.memory);
                if let End::Breakpoint { .. } = end { None } else { Some(end) }
            }
            SnapshotAt::Console(text) => {
                let mut until = Until { recorder, text, seen: 0, met: false };
                let end = self.run(deadline, &mut until)?;
                if end == End::Stopped { None } else { Some(end) }
            }
            SnapshotAt::After(time) => {
                let end = self.run(*time, recorder)?;
                if end == End::Deadline { None } else { Some(end) }
            }
        };
        Ok(end)
    }

    /// Takes the counters that the image's compiler has put into it for coverage, if its symbols say where they are and
    /// memory is there.
    pub(super) fn note_sanitizer_counters(&mut self, symbols: &Symbols) {
        let Some(counters) = symbols.sanitizer_counters() else { return };
        let mut agent = self.agent.clone();
        let taken = agent.note_counters(&counters, symbols.section("__sancov_pcs").as_ref());
        if taken && agent.place(&self.linear()).is_ok() {
            self.agent = agent;
        }
    }

    /// Where in the machine, which is about to be frozen, inputs go.
    pub(super) fn place_input(&mut self, to: &InputTo) -> Result<(Pieces, Entry), PlaceError> {
        match *to {
            InputTo::Memory { at, max, length } => {
                let input = self.pieces("inputs", at, max)?;
                let length = match length {
                    None => Pieces::default(),
                    Some((at, bytes)) => self.pieces("their length", at, bytes)?,
                };
                Ok((input, Entry::Memory { length }))
            }
            InputTo::Registers { pointer, length, max } => {
                let regs = self.cpu.vcpu().regs_mut();
                let at = *pointer.of(regs);
                let known = length.map_or(0, |length| *length.of(regs));
                let input = self.pieces("inputs", at, max.unwrap_or(known))?;
                Ok((input, Entry::Register { length }))
            }
            InputTo::Net { max } => Ok((Pieces::default(), Entry::Net { max: max.min(INPUT_MAX) })),
            InputTo::Serial { max } => Ok((Pieces::default(), Entry::Serial { max: max.min(INPUT_MAX) })),
        }
    }

    fn pieces(&mut self, what: &'static str, at: u64, bytes: u64) -> Result<Pieces, PlaceError> {
        if bytes == 0 || bytes > INPUT_MAX || at.checked_add(bytes).is_none() {
            return Err(PlaceError::Size { what, at, bytes });
        }
        let mut pieces = Pieces::default();
        let added = pieces.add(what, Span { at, bytes }, &self.linear());
        added.map_err(|AgentError::NotMapped { missing, .. }| PlaceError::NotMapped {
            what,
            at,
            bytes,
            missing,
        })?;
        Ok(pieces)
    }
}
