//! The host's side of the agent: what each call of `guest/runtime/include/unifork.h` makes the VMM do.
//!
//! ```text
//!   image boots ── Hello, Input, Counters, CounterPcs, Comparisons, Again ──► Agent: what was announced
//!                  Snapshot ──► Agent::place: where that is in guest-physical memory
//!   each fork   ── input to Placement::input, its length to RAX; counters are read when the run is over
//!                  Done, Report ──► the outcome
//! ```
//!
//! Whoever runs the image hands every `out` to [`abi::PORT`] to [`Agent::call`] and does what the
//! [`AgentEvent`] says. All that comes from the guest is a claim: ranges are bounded, and an address is
//! looked up page by page.
//!
//! The protocol is in [`unifork_abi::agent`].

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use unifork_abi::agent::{self as abi, Call};
use unifork_abi::{Comparison as Record, ComparisonLog};

use crate::addr::{Gpa, PAGE_BYTES, to_page_end};
use crate::introspect::ReadMemory;
use crate::memory::{GuestMemory, OutOfBounds};
use crate::vcpu::cpuid::Leaf;

/// A stopped guest's linear addresses.
pub trait AddressSpace: ReadMemory {
    /// The guest-physical address of the byte at `gva`; `None` where nothing is mapped.
    fn translate(&self, gva: u64) -> Option<Gpa>;
}

/// What CPUID returns for hypervisor leaf `leaf`, in a machine that serves the agent.
#[must_use]
pub fn cpuid(leaf: u32) -> Option<Leaf> {
    let word = |at: usize| {
        let signature = abi::SIGNATURE;
        u32::from_le_bytes([signature[at], signature[at + 1], signature[at + 2], signature[at + 3]])
    };
    match leaf.checked_sub(abi::CPUID_LEAF)? {
        0 => Some([abi::CPUID_LEAF + 1, word(0), word(4), word(8)]),
        // Kernels take EAX for KVM's features, without a look at the signature.
        1 => Some([0, u32::from(abi::PORT), abi::VERSION, 0]),
        _ => None,
    }
}

/// The registers that a call consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallRegisters {
    /// Which call, in its lower half.
    pub rax: u64,
    /// First argument.
    pub rdi: u64,
    /// Second.
    pub rsi: u64,
    /// Third.
    pub rdx: u64,
}

/// What is to be done about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The guest goes on behind the `out`, with this in RAX.
    Continue {
        /// The result.
        rax: u64,
    },
    /// The machine is frozen behind the `out`. Each fork gets the bytes of its input in RAX.
    Snapshot,
    /// The run is over.
    Done {
        /// What the image says about it.
        code: i64,
    },
    /// The run is over, and the image says that something is wrong.
    Report {
        /// In its words; what is not UTF-8 is replaced.
        message: String,
    },
}

/// A range of linear addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub at: u64,
    /// Length.
    pub bytes: u64,
}

impl Span {
    /// At least one byte, at most `max`, and not past the end of the address space.
    fn new(at: u64, bytes: u64, max: u64) -> Option<Self> {
        at.checked_add(bytes)?;
        (1..=max).contains(&bytes).then_some(Self { at, bytes })
    }
}

/// Why the machine cannot be frozen as the image announced it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AgentError {
    /// A page of a range that was announced is not mapped.
    #[error("the image announced {bytes} bytes for {what} at {at:#x}, and {missing:#x} is not mapped")]
    NotMapped {
        /// What the range is for.
        what: &'static str,
        /// Its first byte.
        at: u64,
        /// Its length.
        bytes: u64,
        /// The address without memory.
        missing: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Counters {
    counters: Span,
    pcs: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Log {
    span: Span,
    flag: Span,
}

/// What an image has announced so far. Part of its snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    greeted: bool,
    input: Option<Span>,
    counters: Vec<Counters>,
    log: Option<Log>,
    again: Option<Span>,
}

impl Agent {
    /// Whether the image has an agent that speaks this version.
    #[must_use]
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Where the image wants its inputs.
    #[must_use]
    pub fn input(&self) -> Option<Span> {
        self.input
    }

    /// What the guest's `out` to [`abi::PORT`] means; `None` when it is no call of an agent's, and nothing
    /// is to happen.
    pub fn call(&mut self, registers: &CallRegisters, guest: &dyn AddressSpace) -> Option<AgentEvent> {
        let eax = u32::try_from(registers.rax & u64::from(u32::MAX)).unwrap_or(0);
        if eax & 0xffff_0000 != abi::CALL_TAG {
            return None;
        }
        let done =
            |accepted: bool| AgentEvent::Continue { rax: if accepted { abi::OK } else { abi::REFUSED } };
        let (rdi, rsi) = (registers.rdi, registers.rsi);
        Some(match Call::from_eax(eax) {
            None => done(false),
            Some(Call::Hello) => {
                self.greeted = rdi == u64::from(abi::VERSION);
                done(self.greeted)
            }
            Some(Call::Input) => done(self.announce_input(rdi, rsi)),
            Some(Call::Counters) => done(self.announce_counters(rdi, rsi)),
            Some(Call::CounterPcs) => done(self.announce_pcs(rdi, rsi)),
            Some(Call::Comparisons) => done(self.announce_log(rdi, rsi, registers.rdx)),
            Some(Call::Again) => done(self.announce_again(rdi)),
            Some(Call::Snapshot) => AgentEvent::Snapshot,
            Some(Call::Done) => AgentEvent::Done { code: rdi.cast_signed() },
            Some(Call::Report) => AgentEvent::Report { message: message(guest, rdi, rsi) },
        })
    }

    fn announce_input(&mut self, at: u64, bytes: u64) -> bool {
        let span = Span::new(at, bytes, abi::INPUT_BYTES_MAX);
        if span.is_none() || self.input.is_some_and(|input| Some(input) != span) {
            return false;
        }
        self.input = span;
        true
    }

    /// Announces the counters of an image without an agent, and where their code is, as its symbols say.
    pub(crate) fn note_counters(&mut self, counters: &Range<u64>, pcs: Option<&Range<u64>>) -> bool {
        let bytes = |range: &Range<u64>| range.end.saturating_sub(range.start);
        let taken = self.announce_counters(counters.start, bytes(counters));
        // Without them, the counters have no addresses.
        let _named = taken && pcs.is_some_and(|pcs| self.announce_pcs(pcs.start, bytes(pcs)));
        taken
    }

    fn announce_counters(&mut self, at: u64, bytes: u64) -> bool {
        let announced: u64 = self.counters.iter().map(|range| range.counters.bytes).sum();
        let span = Span::new(at, bytes, abi::COUNTERS_MAX - announced);
        let Some(counters) = span.filter(|_| self.counters.len() < abi::COUNTER_RANGES_MAX) else {
            return false;
        };
        self.counters.push(Counters { counters, pcs: None });
        true
    }

    /// Two words for each counter announced last, or they are those of something else.
    fn announce_pcs(&mut self, at: u64, bytes: u64) -> bool {
        let Some(last) = self.counters.last_mut() else { return false };
        let span = Span::new(at, bytes, 16 * abi::COUNTERS_MAX);
        last.pcs = span.filter(|pcs| pcs.bytes == 16 * last.counters.bytes);
        last.pcs.is_some()
    }

    fn announce_log(&mut self, at: u64, records: u64, flag: u64) -> bool {
        let most = unifork_abi::COMPARISONS_MAX as u64;
        if records > most {
            return false;
        }
        let bytes = size_of::<ComparisonLog>() as u64 + records * size_of::<Record>() as u64;
        let log = Span::new(at, bytes, u64::MAX).zip(Span::new(flag, 4, 4));
        self.log = log.map(|(span, flag)| Log { span, flag });
        self.log.is_some()
    }

    fn announce_again(&mut self, at: u64) -> bool {
        self.again = Span::new(at, 8, 8);
        self.again.is_some()
    }

    /// Finds in guest-physical memory what was announced. To be done when the machine is frozen: from then
    /// on the pages stay where they are.
    ///
    /// # Errors
    ///
    /// [`AgentError::NotMapped`].
    pub fn place(&self, guest: &dyn AddressSpace) -> Result<Placement, AgentError> {
        let mut placement = Placement::default();
        if let Some(input) = self.input {
            placement.input.add("inputs", input, guest)?;
        }
        for range in &self.counters {
            placement.counters.add("counters", range.counters, guest)?;
            placement.sites.extend(sites(range, guest));
        }
        if let Some(log) = self.log {
            placement.comparisons.add("the comparison log", log.span, guest)?;
            placement.comparison_flag.add("the comparison flag", log.flag, guest)?;
        }
        if let Some(again) = self.again {
            placement.again.add("the next run's address", again, guest)?;
        }
        Ok(placement)
    }
}

/// The text at `at`, as far as it is mapped.
fn message(guest: &dyn AddressSpace, at: u64, bytes: u64) -> String {
    let length = usize::try_from(bytes.min(abi::MESSAGE_BYTES_MAX)).unwrap_or(0);
    String::from_utf8_lossy(&crate::introspect::read_prefix(guest, at, length)).into_owned()
}

/// The address of the code of each counter; 0 where the image does not say.
fn sites(range: &Counters, guest: &dyn AddressSpace) -> Vec<u64> {
    let counters = usize::try_from(range.counters.bytes).unwrap_or(0);
    let mut sites = vec![0; counters];
    if let Some(pcs) = range.pcs {
        let table = crate::introspect::read_prefix(guest, pcs.at, 16 * counters);
        for (site, entry) in sites.iter_mut().zip(table.chunks_exact(16)) {
            *site = entry.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        }
    }
    sites
}

/// Where in guest-physical memory everything is that an image announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Where inputs go; empty when no window was announced.
    pub input: Pieces,
    /// All counters, in the order in which they were announced.
    pub counters: Pieces,
    /// For each counter, the address of its code, or 0.
    pub sites: Vec<u64>,
    /// The comparison log; empty when there is none.
    pub comparisons: Pieces,
    /// The word that makes the image log.
    pub comparison_flag: Pieces,
    /// The word with the address that ends a run, instead of a call; empty when the image has none.
    pub again: Pieces,
}

/// Bytes that follow each other in the guest's eyes, wherever they are in guest-physical memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    // Invariant: none is empty, and none goes on where the one before it ends.
    pieces: Vec<(Gpa, u64)>,
}

impl Pieces {
    /// Appends the memory of `span`.
    pub(crate) fn add(
        &mut self,
        what: &'static str,
        span: Span,
        guest: &dyn AddressSpace,
    ) -> Result<(), AgentError> {
        let mut done = 0;
        while done < span.bytes {
            let gva = span.at + done;
            let bytes = to_page_end(gva).min(span.bytes - done);
            let Some(gpa) = guest.translate(gva) else {
                return Err(AgentError::NotMapped { what, at: span.at, bytes: span.bytes, missing: gva });
            };
            match self.pieces.last_mut() {
                Some((last, length)) if last.0.checked_add(*length) == Some(gpa.0) => *length += bytes,
                _ => self.pieces.push((gpa, bytes)),
            }
            done += bytes;
        }
        Ok(())
    }

    /// How many bytes they are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// First byte and length of each.
    pub fn iter(&self) -> impl Iterator<Item = (Gpa, u64)> + '_ {
        self.pieces.iter().copied()
    }

    /// Writes as much of `bytes` as fits, and says how much that is. On the data plane.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when the guest's page tables pointed outside its memory.
    pub fn write(&self, memory: &mut GuestMemory, bytes: &[u8]) -> Result<u64, OutOfBounds> {
        let mut rest = bytes;
        for (at, length) in self.iter() {
            let here = rest.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at(here);
            memory.write(at, now)?;
            rest = later;
        }
        Ok((bytes.len() - rest.len()) as u64)
    }

    /// Zeroes all of it.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when the guest's page tables pointed outside its memory.
    pub fn clear(&self, memory: &mut GuestMemory) -> Result<(), OutOfBounds> {
        let zeros = [0; PAGE_BYTES as usize];
        for (at, length) in self.iter() {
            for done in (0..length).step_by(zeros.len()) {
                let here = usize::try_from(length - done).unwrap_or(usize::MAX).min(zeros.len());
                memory.write(at.offset(done), &zeros[..here])?;
            }
        }
        Ok(())
    }

    /// Reads into `out`, and says how many bytes of it that filled. On the data plane.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] when the guest's page tables pointed outside its memory.
    pub fn read(&self, memory: &GuestMemory, out: &mut [u8]) -> Result<u64, OutOfBounds> {
        let mut done = 0;
        for (at, length) in self.iter() {
            let rest = &mut out[done..];
            let here = rest.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            memory.read(at, &mut rest[..here])?;
            done += here;
        }
        Ok(done as u64)
    }
}

#[cfg(test)]
mod image_tests;
#[cfg(test)]
mod tests;
