//! What comes from outside, when the host has services: standard input, and connections to published
//! ports. Without them, as in every fork, there is nothing outside.
//!
//! What the host is to be told is gathered, and goes out in one exchange with what has come: when nothing
//! can run, when there is much of it, and when a program looks without waiting.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use unifork_abi::{
    SERVICE_BYTES, SERVICE_HEADER_BYTES, SERVICES_INPUT_TERMINAL, SERVICES_ON, SERVICES_OUTPUT_TERMINAL,
    STDIN_HANDLE, ServiceHeader, ToGuest, ToHost,
};
use unifork_hal::{KernelCell, boot_info, service_exchange};

use crate::errno::{Errno, Outcome};
use crate::fd::buffers::Buffers;
use crate::sched;

/// Bytes of standard input that are asked for at a time.
const INPUT_BYTES: u32 = 16 << 10;

/// Everything known of the outside, beside the kernel's one struct, so that an object can look at it.
struct Host {
    out: Vec<u8>,
    input: VecDeque<u8>,
    input_ended: bool,
    // Asked for and not come yet.
    input_asked: bool,
    input_edges: u64,
}

static HOST: KernelCell<Host> = KernelCell::new(Host {
    out: Vec::new(),
    input: VecDeque::new(),
    input_ended: false,
    input_asked: false,
    input_edges: 1,
});

/// Whether the host has services.
pub(crate) fn is_on() -> bool {
    boot_info().services & SERVICES_ON != 0
}

/// Whether standard input or output is a terminal. In a fork it is: that is what most programs expect.
pub(crate) fn is_terminal(input: bool) -> bool {
    let bit = if input { SERVICES_INPUT_TERMINAL } else { SERVICES_OUTPUT_TERMINAL };
    !is_on() || boot_info().services & bit != 0
}

/// Whether anything can come from the host: when nothing can run, it is waited for.
pub(crate) fn is_awaited() -> bool {
    is_on() && (HOST.with(|host| host.input_asked) || crate::net::host_is_awaited())
}

impl Host {
    fn ask_for_input(&mut self) {
        if self.input.is_empty() && !self.input_ended && !self.input_asked {
            self.input_asked = true;
            let kind = ToHost::Credit as u32;
            push(
                &mut self.out,
                ServiceHeader { kind, handle: STDIN_HANDLE, bytes: 0, value: INPUT_BYTES },
                &[],
            );
        }
    }
}

/// Whether reading standard input would not wait. Asks for some.
pub(crate) fn input_ready() -> bool {
    !is_on()
        || HOST.with(|host| {
            host.ask_for_input();
            !host.input.is_empty() || host.input_ended
        })
}

/// How often standard input became readable.
pub(crate) fn input_edges() -> u64 {
    HOST.with(|host| host.input_edges)
}

/// Bytes of standard input that are there.
pub(crate) fn input_bytes() -> u32 {
    HOST.with(|host| host.input.len() as u32)
}

/// Reads standard input.
pub(crate) fn read_input(to: &mut Buffers) -> Outcome {
    if !is_on() || to.left() == 0 {
        return Ok(0);
    }
    let taken: Option<Vec<u8>> = HOST.with(|host| {
        host.ask_for_input();
        if host.input.is_empty() {
            return host.input_ended.then(Vec::new);
        }
        let count = host.input.len().min(usize::try_from(to.left()).unwrap_or(usize::MAX));
        Some(host.input.drain(..count).collect())
    });
    let taken = taken.ok_or(Errno::EAGAIN)?;
    Ok(to.put(&taken)? as u64)
}

fn push(out: &mut Vec<u8>, header: ServiceHeader, data: &[u8]) {
    for word in [header.kind, header.handle, data.len() as u32, header.value] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Tells the host something, at the next exchange.
pub(crate) fn tell(kind: ToHost, handle: u32, value: u32, data: &[u8]) {
    if !is_on() {
        return;
    }
    for piece in data.chunks(16 << 10).chain(data.is_empty().then_some(data)) {
        let room = HOST.with(|host| SERVICE_BYTES as usize - host.out.len());
        if room < SERVICE_HEADER_BYTES + piece.len() + 8 {
            exchange(0);
        }
        let header = ServiceHeader { kind: kind as u32, handle, bytes: 0, value };
        HOST.with(|host| push(&mut host.out, header, piece));
    }
}

/// Tells what is to be told, and takes in what has come; waits up to `wait_ns` for that. Returns how long
/// it waited.
pub(crate) fn exchange(wait_ns: u64) -> u64 {
    let out = HOST.with(|host| core::mem::take(&mut host.out));
    let (elapsed, said) = service_exchange(&out, wait_ns);
    let mut rest = said;
    while let Some((header, behind)) = rest.split_at_checked(SERVICE_HEADER_BYTES) {
        let word = |i: usize| header[i * 4..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let (kind, handle, bytes, value) = (word(0), word(1), word(2) as usize, word(3));
        let data = behind.get(..bytes).unwrap_or_default();
        rest = behind.get(bytes.next_multiple_of(8)..).unwrap_or_default();
        let Some(kind) = ToGuest::from_number(kind) else { continue };
        if handle != STDIN_HANDLE {
            crate::net::from_host(kind, handle, value, data);
            continue;
        }
        HOST.with(|host| {
            host.input_asked = false;
            host.input_edges += 1;
            match kind {
                ToGuest::Data => host.input.extend(data),
                _ => host.input_ended = true,
            }
        });
    }
    if !said.is_empty() {
        sched::event();
    }
    elapsed
}

/// Takes in what has come, without waiting.
pub(crate) fn glance() {
    if is_awaited() {
        exchange(0);
    }
}

/// Ends the program; what it has sent goes out first.
pub(crate) fn exit(code: i32) -> ! {
    if is_on() && HOST.with(|host| !host.out.is_empty()) {
        exchange(0);
    }
    unifork_hal::exit(code)
}
