//! What a plain VM has beyond itself: a console that someone reads, standard input, and connections
//! that come to published ports. Off unless the caller gives some, and always off in forks.
//!
//! The guest speaks to it in exchanges ([`Hypercall::Service`](unifork_abi::Hypercall::Service)): all
//! that it wants to send goes out, and all that has come comes in, in one exit. When nothing in the
//! guest can run, the exchange waits.

use std::fmt;
use std::time::{Duration, Instant};

use unifork_abi::{SERVICE_BYTES, SERVICE_HEADER_BYTES, ServiceHeader};

use crate::addr::Gpa;
use crate::memory::GuestMemory;
use crate::plan::Windows;

/// The host's side of a VM that runs as a plain program.
pub trait Services {
    /// What `isatty` says in the guest.
    fn terminals(&self) -> Terminals;

    /// The program has written this to its console.
    fn console(&mut self, bytes: &[u8]);

    /// Whether the run is to end now.
    fn stopped(&self) -> bool;

    /// Takes what the guest says, and says what there is to say back, at most `room` bytes of it. Waits
    /// for that up to `wait`, or for as long as it takes.
    ///
    /// # Errors
    ///
    /// [`BadMessage`]: the guest speaks nonsense.
    fn exchange(
        &mut self,
        said: &[Message<'_>],
        wait: Option<Duration>,
        room: usize,
    ) -> Result<Vec<u8>, BadMessage>;
}

/// Which of the standard streams are terminals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminals {
    /// Standard input is.
    pub input: bool,
    /// Standard output is.
    pub output: bool,
}

/// The guest says what makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMessage;

/// A message of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What kind, of what, with which value.
    pub header: ServiceHeader,
    /// What follows it.
    pub data: &'a [u8],
}

/// The messages in `bytes`.
///
/// # Errors
///
/// [`BadMessage`] when the last one is cut off.
pub fn messages(bytes: &[u8]) -> Result<Vec<Message<'_>>, BadMessage> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (header, behind) = rest.split_at_checked(SERVICE_HEADER_BYTES).ok_or(BadMessage)?;
        let word = |i: usize| header[i * 4..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let header = ServiceHeader { kind: word(0), handle: word(1), bytes: word(2), value: word(3) };
        let data = behind.get(..header.bytes as usize).ok_or(BadMessage)?;
        rest = behind.get((header.bytes as usize).next_multiple_of(8)..).unwrap_or_default();
        all.push(Message { header, data });
    }
    Ok(all)
}

/// Appends a message to `to`.
pub fn push(to: &mut Vec<u8>, header: ServiceHeader, data: &[u8]) {
    for word in [header.kind, header.handle, data.len() as u32, header.value] {
        to.extend_from_slice(&word.to_le_bytes());
    }
    to.extend_from_slice(data);
    to.resize(to.len().next_multiple_of(8), 0);
}

/// Does one exchange; says how many bytes the guest finds.
pub(crate) fn exchange(
    services: &mut dyn Services,
    memory: &mut GuestMemory,
    windows: &Windows,
    [said, wait_ns]: [u64; 2],
) -> Result<u64, BadMessage> {
    let started = Instant::now();
    let out = slice(memory, windows.service_out, said.min(SERVICE_BYTES)).to_vec();
    let wait = (wait_ns != u64::MAX).then(|| Duration::from_nanos(wait_ns));
    let room = SERVICE_BYTES as usize - 8;
    let mut answer = services.exchange(&messages(&out)?, wait, room)?;
    answer.truncate(room);
    let elapsed = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // Without a wait no time has passed for the guest, however long the host took.
    let elapsed = if wait_ns == 0 { 0 } else { elapsed };
    let window = slice(memory, windows.service_in, SERVICE_BYTES);
    window[..8].copy_from_slice(&elapsed.to_le_bytes());
    window[8..8 + answer.len()].copy_from_slice(&answer);
    Ok(answer.len() as u64)
}

fn slice(memory: &mut GuestMemory, at: Gpa, bytes: u64) -> &mut [u8] {
    memory.window(at, bytes).expect("the plan put the windows there")
}

impl fmt::Debug for dyn Services + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Services")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were_pushed() {
        let header = |kind, bytes| ServiceHeader { kind, handle: 7, bytes, value: 9 };
        let mut bytes = Vec::new();
        push(&mut bytes, header(1, 3), b"abc");
        push(&mut bytes, header(2, 0), b"");
        assert_eq!(
            messages(&bytes).unwrap(),
            [Message { header: header(1, 3), data: b"abc" }, Message { header: header(2, 0), data: b"" }]
        );
        assert_eq!(messages(&bytes[..18]), Err(BadMessage));
        assert_eq!(messages(&bytes[..3]), Err(BadMessage));
    }
}
