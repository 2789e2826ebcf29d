//! What can be said of a crash without guessing.
//!
//! Two things are looked at. Registers that hold a value which is also in the input, byte for byte. And what
//! happens when one byte of the input is another: if the run crashes at the same instruction, with another
//! value in a register or another address, then that byte has a say in it. That is seen or not seen; it does
//! not say through how much arithmetic, and a byte whose change leads elsewhere shows nothing.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde::Serialize;
use unifork_abi::LOWEST_VA;
use unifork_vmm::introspect::{Access, AccessKind, Registers};
use unifork_vmm::{Cause, Crash, CrashKind, Engine, Outcome};

use crate::fork::{Fork, ForkError};
use crate::opened::Opened;
use crate::triage::Sighting;

/// Bytes of an input that are changed, from the first.
const BYTES_MAX: usize = 4096;
/// Time for that, over all bytes.
const TIME_MAX: Duration = Duration::from_secs(10);
/// What a byte is changed by: its lowest bit, its highest, and all of them.
const CHANGES: [u8; 3] = [0x01, 0x80, 0xff];
/// The smallest value worth looking for in the input: smaller ones are there by chance.
const VALUE_MIN: u64 = 0x10000;

/// A register whose value is in the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Held {
    pub(super) register: &'static str,
    pub(super) value: u64,
    /// Where the input has it, and how many bytes of it.
    pub(super) at: Range<usize>,
    pub(super) big_endian: bool,
}

/// Bytes that change something when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reach {
    /// A register, or `address`: of what was touched.
    pub(super) what: &'static str,
    pub(super) bytes: Vec<Range<usize>>,
}

/// How much of the instruction pointer comes from the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Rip {
    /// It did not leave the program.
    #[default]
    InCode,
    /// It went somewhere else, and no byte of the input is seen to decide where.
    Wild,
    /// It went where the input says.
    Controlled,
}

/// What is known of a crash.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Facts {
    pub(super) access: Option<Access>,
    /// The address is that of a null pointer, or near it.
    pub(super) near_null: bool,
    pub(super) rip: Rip,
    pub(super) held: Vec<Held>,
    pub(super) reach: Vec<Reach>,
    /// So many bytes of the input were changed, one by one; none where that would say nothing.
    pub(super) bytes_changed: usize,
}

/// What is compared between two crashes.
#[derive(Debug)]
struct Seen {
    registers: Registers,
    address: Option<u64>,
    jumped: bool,
}

impl Facts {
    /// Looks at the crash `sighting`, which `input` leads to.
    pub(super) fn find(
        machine: &Opened,
        input: &[u8],
        sighting: &Sighting,
        deadline: Duration,
    ) -> Result<Self, ForkError> {
        let Outcome::Crash(crash) = &sighting.outcome else { return Ok(Self::default()) };
        let access = sighting.report.access.clone();
        let mut facts = Self {
            near_null: access.as_ref().is_some_and(|access| access.address < LOWEST_VA),
            access,
            ..Self::default()
        };
        // What raises a signal or an assertion is the same code each time, and its registers say nothing.
        if !matches!(crash.cause, Cause::Exception { .. }) || crash.kind == CrashKind::StackOverflow {
            return Ok(facts);
        }
        facts.held = named(&crash.registers).filter_map(|(name, value)| held(name, value, input)).collect();
        let mut replica = machine.frozen.fork(&machine.kvm, Engine::HotSet)?;
        let base = replica.run(input, deadline)?;
        if let Some(base) = seen(&base, &mut replica) {
            facts.change_bytes(&mut replica, input, &base, deadline)?;
            if base.jumped {
                let decides = facts.reach.iter().any(|reach| matches!(reach.what, "rip" | "address"))
                    || facts.held.iter().any(|held| held.register == "rip");
                facts.rip = if decides { Rip::Controlled } else { Rip::Wild };
            }
        }
        Ok(facts)
    }

    fn change_bytes(
        &mut self,
        replica: &mut Fork,
        input: &[u8],
        base: &Seen,
        deadline: Duration,
    ) -> Result<(), ForkError> {
        let start = Instant::now();
        let mut found: Vec<(&'static str, Vec<usize>)> = Vec::new();
        let mut changed = input.to_vec();
        for at in 0..input.len().min(BYTES_MAX) {
            if start.elapsed() > TIME_MAX || crate::signals::stop_requested() {
                break;
            }
            for change in CHANGES {
                changed[at] = input[at] ^ change;
                let outcome = replica.run(&changed, deadline)?;
                let Some(other) = seen(&outcome, replica).filter(|other| other.same_place(base)) else {
                    continue;
                };
                for what in base.differences(&other) {
                    match found.iter_mut().find(|(name, _)| *name == what) {
                        Some((_, bytes)) if bytes.last() == Some(&at) => {}
                        Some((_, bytes)) => bytes.push(at),
                        None => found.push((what, vec![at])),
                    }
                }
            }
            changed[at] = input[at];
            self.bytes_changed = at + 1;
        }
        self.reach = found.into_iter().map(|(what, bytes)| Reach { what, bytes: ranges(&bytes) }).collect();
        // The address first: it is what matters.
        self.reach.sort_by_key(|reach| (reach.what != "address", reach.what != "rip"));
        Ok(())
    }

    /// The bytes that reach the address, or, where the crash has none, any register.
    pub(super) fn marked(&self) -> Vec<Range<usize>> {
        let address = self.reach.iter().filter(|reach| matches!(reach.what, "address" | "rip"));
        address.flat_map(|reach| reach.bytes.clone()).collect()
    }
}

/// What is compared of a run that ended with an exception.
fn seen(outcome: &Outcome, replica: &mut Fork) -> Option<Seen> {
    let Outcome::Crash(Crash { cause: Cause::Exception { vector, address, .. }, registers, .. }) = outcome
    else {
        return None;
    };
    let fault = (*vector == 14).then_some(*address);
    let access = replica.access(registers, fault);
    let jumped = access.as_ref().is_some_and(|access| access.kind == AccessKind::Execute);
    Some(Seen { registers: *registers, address: access.map(|access| access.address), jumped })
}

impl Seen {
    /// Whether it is the same instruction. After a jump to nowhere that is not known any more; the stack
    /// is where it was.
    fn same_place(&self, other: &Self) -> bool {
        if self.jumped || other.jumped {
            self.jumped && other.jumped && self.registers.rsp == other.registers.rsp
        } else {
            self.registers.rip == other.registers.rip
        }
    }

    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let address = (self.address != other.address).then_some("address");
        let registers = named(&self.registers).zip(named(&other.registers));
        address
            .into_iter()
            .chain(registers.filter(|((_, one), (_, other))| one != other).map(|((name, _), _)| name))
            .collect()
    }
}

/// The registers that hold values, by name.
fn named(registers: &Registers) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, .. } = *registers;
    let Registers { r8, r9, r10, r11, r12, r13, r14, r15, rip, .. } = *registers;
    [
        ("rip", rip),
        ("rax", rax),
        ("rbx", rbx),
        ("rcx", rcx),
        ("rdx", rdx),
        ("rsi", rsi),
        ("rdi", rdi),
        ("rbp", rbp),
        ("rsp", rsp),
        ("r8", r8),
        ("r9", r9),
        ("r10", r10),
        ("r11", r11),
        ("r12", r12),
        ("r13", r13),
        ("r14", r14),
        ("r15", r15),
    ]
    .into_iter()
}

/// Where `input` has the value of a register: all significant bytes of it, at least four.
fn held(register: &'static str, value: u64, input: &[u8]) -> Option<Held> {
    if value < VALUE_MIN {
        return None;
    }
    let significant = (8 - value.leading_zeros() as usize / 8).max(4);
    let little = value.to_le_bytes();
    let big = value.to_be_bytes();
    let find = |bytes: &[u8]| input.windows(bytes.len()).position(|window| window == bytes);
    let whole = [(&little[..significant], false), (&big[8 - significant..], true)];
    whole.into_iter().find_map(|(bytes, big_endian)| {
        let at = find(bytes)?;
        Some(Held { register, value, at: at..at + bytes.len(), big_endian })
    })
}

/// Ascending numbers as ranges.
fn ranges(numbers: &[usize]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some(range) if range.end == number => range.end += 1,
            _ => ranges.push(number..number + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_registers_are_found_in_the_input_in_both_orders() {
        let input = b"..ABCDEFGH..";
        let found = |value| held("rax", value, input).map(|held| (held.at, held.big_endian));
        assert_eq!(found(u64::from_le_bytes(*b"ABCDEFGH")), Some((2..10, false)));
        assert_eq!(found(u64::from_be_bytes(*b"ABCDEFGH")), Some((2..10, true)));
        assert_eq!(found(u64::from(u32::from_le_bytes(*b"CDEF"))), Some((4..8, false)));
        assert_eq!(found(u64::from(b'A')), None, "small values are there by chance");
        assert_eq!(found(0x1_4141_4141), None);
    }

    #[test]
    fn numbers_become_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 7, 9, 10]), [0..3, 7..8, 9..11]);
        assert_eq!(ranges(&[]), []);
    }
}
