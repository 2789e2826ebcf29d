//! Random programs for the interpreter.

use rand::RngExt as _;
use rand::rngs::StdRng;
use unifork_abi::{
    CONSOLE_VA, CONTROL_VA, COVERAGE_RING_VA, DOORBELL_VA, GOLDEN_VA, INPUT_RING_VA, INPUT_RW_VA, INPUT_VA,
    LOOP_STACK_TOP_VA, MACHINE_VA, RECORDS_VA,
};
use unifork_vmm::Snapshot;
use unifork_vmm::layout::{Mapping, Purpose};
use unifork_vmm::testing::CODE_VA;

use crate::interpreter::{AREA, Op, Program};

/// Draws programs for one machine.
#[derive(Debug)]
pub(crate) struct Programs {
    arena: Mapping,
    stack: Mapping,
}

impl Programs {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let of = |purpose| *snapshot.info().layout.mappings().iter().find(|m| m.purpose == purpose).unwrap();
        Self { arena: of(Purpose::Arena), stack: of(Purpose::Stack) }
    }

    /// An address in RAM with `room` bytes behind it.
    pub(crate) fn ram(&self, rng: &mut StdRng, room: u64) -> u64 {
        let mapping = if rng.random_ratio(3, 4) { self.arena } else { self.stack };
        // A third of them close to where a page ends, a third in the same few pages.
        let at = match rng.random_range(0..3) {
            0 => rng.random_range(0..mapping.bytes),
            1 => rng.random_range(1..=mapping.bytes / 4096) * 4096 - rng.random_range(0..9),
            _ => rng.random_range(0..16384),
        };
        mapping.start.0 + at.min(mapping.bytes.saturating_sub(room))
    }

    /// An address that may be anything.
    pub(crate) fn anywhere(&self, rng: &mut StdRng) -> u64 {
        let base = match rng.random_range(0..16) {
            0 => 0,
            1 => CODE_VA,
            2 => CONTROL_VA,
            3 => RECORDS_VA,
            4 => CONSOLE_VA,
            5 => INPUT_RW_VA,
            6 => INPUT_VA,
            7 => INPUT_RING_VA,
            8 => COVERAGE_RING_VA,
            9 => MACHINE_VA,
            10 => GOLDEN_VA,
            11 => LOOP_STACK_TOP_VA,
            12 => DOORBELL_VA,
            13 => rng.random(),
            14 => 1 << 47,
            _ => return self.ram(rng, 8),
        };
        base.wrapping_add(rng.random_range(0..0x2000)).wrapping_sub(rng.random_range(0..64))
    }

    /// A program that ends the same way every time: of nothing that reads the clock, or the windows
    /// that earlier runs wrote.
    pub(crate) fn draw(&self, rng: &mut StdRng) -> Program {
        let mut ops = Vec::new();
        for _ in 0..rng.random_range(0..14) {
            ops.push(self.step(rng));
        }
        if rng.random_ratio(1, 3) {
            ops.push(registers(rng));
        }
        ops.push(self.end(rng));
        Program { ops, area: area(rng) }
    }

    fn step(&self, rng: &mut StdRng) -> (Op, [u64; 3]) {
        let word: u64 = rng.random();
        match rng.random_range(0..31) {
            0..4 => (Op::StoreByte, [self.ram(rng, 8), word, 0]),
            4..8 => (Op::StoreWord, [self.ram(rng, 8), word, 0]),
            8 | 9 => {
                let bytes = rng.random_range(0..9000);
                (Op::Fill, [self.ram(rng, bytes), word, bytes])
            }
            10 => (
                Op::Scatter,
                [self.ram(rng, 40 * 4096), rng.random_range(3000..4200), rng.random_range(1..36)],
            ),
            11 => {
                (Op::Scatter, [self.ram(rng, 1 << 16), 4096 * rng.random_range(1..9), rng.random_range(1..8)])
            }
            12 => {
                let bytes = rng.random_range(0..6000);
                (Op::Copy, [self.ram(rng, bytes), self.ram(rng, bytes), bytes])
            }
            // CF PF AF ZF SF DF OF IOPL RF AC ID; and TF, which ends the run at the next instruction,
            // rarely. Not NT: software KVM forgets it at any exit, be it a page fault or a timer of
            // the host.
            13 | 14 => {
                let flags = word & 0x25_3cd5 | u64::from(rng.random_ratio(1, 8)) << 8;
                (Op::Flags, [flags, self.ram(rng, 0) & !7, 0])
            }
            15 => registers(rng),
            16 => (Op::Sse, rng.random()),
            17 => (Op::Avx, rng.random()),
            18 => (Op::Mxcsr, [word & 0xffc0 | 0x1f80 | u64::from(rng.random_ratio(1, 20)) << 20, 0, 0]),
            19 => {
                (Op::X87, [word | if rng.random_ratio(4, 5) { 0x3f } else { 0 }, rng.random(), rng.random()])
            }
            20 => (Op::X87Init, [0; 3]),
            21 => (Op::UpperInit, [0; 3]),
            22 => {
                let from = INPUT_RING_VA + AREA as u64;
                (*pick(rng, &[Op::Xrstor, Op::Xrstor, Op::Fxrstor]), [from, rng.random_range(0..8), 0])
            }
            23 => (Op::Xsave, [self.ram(rng, 4096) & !63, rng.random_range(0..8), 0]),
            24 => (Op::FsBase, [address_or(rng, word), 0, 0]),
            25 => (Op::GsBase, [address_or(rng, word), 0, 0]),
            26 => (Op::StoreFs, [self.ram(rng, 8), word, 0]),
            27 => {
                let selectors = [0, 3, 0x1b, 0x1b, 0x18];
                (Op::Segments, [*pick(rng, &selectors), *pick(rng, &selectors), *pick(rng, &selectors)])
            }
            // A null SS is #GP at CPL 3, except now and then where software KVM emulates the load.
            28 => (Op::StackSegment, [0x1b, 0, 0]),
            29 => (Op::Cpuid, [*pick(rng, &[0, 1, 7, 0xd, 0x8000_0002]), 0, 0]),
            _ => (*pick(rng, &[Op::X87Math, Op::SseMath]), rng.random()),
        }
    }

    fn end(&self, rng: &mut StdRng) -> (Op, [u64; 3]) {
        let word: u64 = rng.random();
        match rng.random_range(0..100) {
            0 => (Op::Forever, [0; 3]),
            1..6 => (Op::Ud, [0; 3]),
            6..9 => (Op::Int3, [0; 3]),
            9..13 => (Op::Divide, [0; 3]),
            13..17 => (Op::Privileged, [0; 3]),
            17..23 => (Op::Load, [address_or(rng, word), 0, 0]),
            23..29 => (Op::StoreWord, [address_or(rng, word), word, 0]),
            29..32 => (Op::Jump, [self.ram(rng, 8), 0, 0]),
            32..35 => (Op::Syscall, [0; 3]),
            35..40 => (Op::Hypercall, [rng.random_range(0..12), word, 0]),
            40..44 => (Op::Icebp, [0; 3]),
            44..47 => (Op::Int, [word, 0, 0]),
            47..50 => (Op::Flags, [0x100, self.ram(rng, 0) & !7, 0]),
            50..53 => (Op::Load, [DOORBELL_VA, 0, 0]),
            _ => (Op::Done, [word, 0, 0]),
        }
    }
}

/// Registers with random values; RSP is canonical, for software KVM emulates code with another one,
/// from its next exit on, and its emulator knows neither x87 nor SSE.
fn registers(rng: &mut StdRng) -> (Op, [u64; 3]) {
    (Op::Registers, [rng.random(), rng.random::<u64>() >> 17, rng.random()])
}

/// Null, not mapped, not canonical, or not the guest's.
fn address_or(rng: &mut StdRng, other: u64) -> u64 {
    *pick(rng, &[0, 0x10, 0x7fff_ffff_f000, 1 << 47, MACHINE_VA, CODE_VA, other])
}

pub(crate) fn pick<'a, T>(rng: &mut StdRng, all: &'a [T]) -> &'a T {
    &all[rng.random_range(0..all.len())]
}

/// An area for `xrstor` with a header that makes sense most of the time.
fn area(rng: &mut StdRng) -> Vec<u8> {
    let mut area = vec![0; 1024];
    rng.fill(&mut area[..]);
    area[24..28].copy_from_slice(&(rng.random::<u32>() & 0xffc0 | 0x1f80).to_le_bytes()); // MXCSR
    area[512..576].fill(0);
    area[512] = rng.random_range(0..8); // XSTATE_BV
    if rng.random_ratio(1, 20) {
        area[520] = 1; // XCOMP_BV, which must be 0
    }
    area
}
