//! Prices of the host's basic operations, measured where they are paid, and the guests that pay them.
//!
//! Nothing here prints or decides: `unifork bench` does.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use unifork_abi::{ARENA_VA, INPUT_RING_VA};

use crate::addr::PAGE_BYTES;
use crate::boot::{BootEnd, BootError, MachineConfig, boot_bare};
use crate::caps::Kvm;
use crate::outcome::Outcome;
use crate::replica::{Replica, ReplicaError};
use crate::reset::Engine;
use crate::snapshot::Snapshot;
use crate::{sys, testing};

/// Why something could not be measured, in words.
pub type Unmeasured = Box<dyn std::error::Error + Send + Sync>;

/// A sorted sample of durations.
#[derive(Clone, Debug)]
pub struct Sample {
    // Invariant: sorted and not empty.
    times: Vec<Duration>,
}

impl Sample {
    /// Sorts `times`; `None` when there are none.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        (!times.is_empty()).then_some(Self { times })
    }

    /// The time that `percent` of 100 samples did not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.times.len() - 1;
        self.times[(last * percent.min(100)).div_ceil(100)]
    }

    /// How many times there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.times.len()
    }
}

/// Measures `count` bare round trips: load registers, `KVM_RUN`, a hypercall at once, and back.
/// Nothing is written by the guest and nothing is put back: the floor below any run.
///
/// # Errors
///
/// [`BootError`] or [`ReplicaError`] in words, when the host cannot run it.
pub fn round_trip(kvm: &Kvm, count: usize) -> Result<Sample, Unmeasured> {
    let mut replica = Replica::spawn(kvm, &bare(kvm, &testing::DONE, 4 << 20)?, Engine::HotSet)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let started = Instant::now();
        replica.bare_round_trip()?;
        times.push(started.elapsed());
    }
    Sample::new(times).ok_or_else(|| "no samples".into())
}

/// A machine of `memory_bytes` that ends each run at once, frozen.
///
/// # Errors
///
/// [`BootError`] in words, when the host cannot run it.
pub fn idler(kvm: &Kvm, memory_bytes: u64) -> Result<Arc<Snapshot>, Unmeasured> {
    bare(kvm, &testing::DONE, memory_bytes)
}

/// A machine of `memory_bytes` that writes a word to each of as many pages in a row as its input, eight
/// bytes, says, and does nothing else. Frozen.
///
/// # Errors
///
/// As [`idler`].
pub fn writer(kvm: &Kvm, memory_bytes: u64) -> Result<Arc<Snapshot>, Unmeasured> {
    let mut code = Vec::new();
    code.extend_from_slice(&[0x48, 0xb9]); //                         mov rcx, INPUT_RING_VA
    code.extend_from_slice(&INPUT_RING_VA.to_le_bytes());
    code.extend_from_slice(&[0x48, 0x8b, 0x09]); //                   mov rcx, [rcx]
    code.extend_from_slice(&[0x48, 0xbb]); //                         mov rbx, ARENA_VA
    code.extend_from_slice(&ARENA_VA.to_le_bytes());
    code.extend_from_slice(&[0x48, 0x85, 0xc9, 0x74, 0x0f]); //       test rcx, rcx; jz end
    code.extend_from_slice(&[0x48, 0x89, 0x0b]); //             next: mov [rbx], rcx
    code.extend_from_slice(&[0x48, 0x81, 0xc3, 0, 0x10, 0, 0]); //    add rbx, 4096
    code.extend_from_slice(&[0x48, 0xff, 0xc9, 0x75, 0xf1]); //       dec rcx; jnz next
    code.extend_from_slice(&testing::DONE); //                   end:
    bare(kvm, &code, memory_bytes)
}

/// The input that makes [`writer`] write to `pages` pages.
#[must_use]
pub fn writes(pages: u64) -> [u8; 8] {
    pages.to_le_bytes()
}

fn bare(kvm: &Kvm, code: &[u8], memory_bytes: u64) -> Result<Arc<Snapshot>, Unmeasured> {
    let config = MachineConfig { memory_bytes, stack_bytes: 1 << 16, ..MachineConfig::default() };
    let boot: Result<_, BootError> = boot_bare(kvm, &testing::snapshot_then(code), &config);
    match boot?.end {
        BootEnd::Snapshot(snapshot) => Ok(snapshot),
        BootEnd::Ended(outcome) => Err(format!("the bare guest ended with {outcome:?}").into()),
    }
}

/// How long a fork took over an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Giving it the input.
    pub input: Duration,
    /// `KVM_RUN`, until the guest had stopped.
    pub run: Duration,
}

/// Gives `replica`, put back already, `input`, and runs the first instruction alone: [`Steps::run`] is
/// the time from the entry to the exit behind it. The replica must be put back afterwards.
///
/// # Errors
///
/// [`ReplicaError`] in words, or that the guest did not stop there.
pub fn first_instruction(
    replica: &mut Replica,
    input: &[u8],
    deadline: Duration,
) -> Result<Steps, Unmeasured> {
    let start = Instant::now();
    replica.prepare(input)?;
    let given = Instant::now();
    let stepped = replica.first_instruction(deadline)?;
    let steps = Steps { input: given - start, run: given.elapsed() };
    if stepped { Ok(steps) } else { Err("the guest does not stop behind its first instruction".into()) }
}

/// [`Replica::run`], and how long its parts took.
///
/// # Errors
///
/// As [`Replica::run`].
pub fn run(
    replica: &mut Replica,
    input: &[u8],
    deadline: Duration,
) -> Result<(Outcome, Steps), ReplicaError> {
    let start = Instant::now();
    replica.prepare(input)?;
    let given = Instant::now();
    let event = replica.enter(deadline);
    let steps = Steps { input: given - start, run: given.elapsed() };
    Ok((replica.judge(event), steps))
}

/// Copies `pages` pages, `count` times, from one mapping of small pages to another whose pages have each
/// just been written to, like those of a guest: what no reset by copying can be faster than.
///
/// # Errors
///
/// The host's, when there is not that much memory.
pub fn copies(pages: usize, count: usize) -> io::Result<Vec<Duration>> {
    const PAGE: usize = PAGE_BYTES as usize;
    let bytes = pages.max(1) * PAGE;
    let (mut from, mut to) = (MmapMut::map_anon(bytes)?, MmapMut::map_anon(bytes)?);
    for mapping in [&from, &to] {
        // Not known to every kernel; those have no huge pages either.
        let _small = mapping.advise(Advice::NoHugePage);
    }
    from.fill(1);
    to.fill(2);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        to.chunks_exact_mut(PAGE).take(pages).for_each(|page| page[0] = page[0].wrapping_add(3));
        let start = Instant::now();
        for (to, from) in to.chunks_exact_mut(PAGE).zip(from.chunks_exact(PAGE)).take(pages) {
            to.copy_from_slice(from);
        }
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Lets this process open as many files as it ever may, and says how many that is. A live fork takes two
/// descriptors.
///
/// # Errors
///
/// The host's.
pub fn raise_open_files() -> io::Result<u64> {
    sys::limits::raise_open_files()
}
