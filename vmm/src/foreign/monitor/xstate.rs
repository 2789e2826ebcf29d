//! `xsave` and `xrstor` where the real XCR0 is not the guest's.
//!
//! Software KVM has no XCR0 but the host's, so that an `xsave` of everything writes up to 11 KiB and an `xrstor` reads
//! as much, for a guest that knows of AVX and has 832 bytes for it on its stack. Both are replaced there
//! ([`super::patch`]) and done here, to the parts that the guest's XCR0 has.
//!
//! Source: Intel SDM volume 1, 13.4 (the area), 13.7 and 13.8 (what the two instructions do to it).

use iced_x86::{Instruction, Mnemonic};

use super::emulate::Done;
use super::guest::{Fault, GP, Guest, UD, write_physical};
use super::walk::Use;
use super::{Monitor, VECTOR_NM};
use crate::foreign::bus::Bus;
use crate::memory::GuestMemory;
use crate::sys::xsave;
use crate::vcpu::VcpuError;

const CR0_TS: u64 = 1 << 3;
const CR4_OSXSAVE: u64 = 1 << 18;
/// Parts of the state, as XCR0 numbers them.
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
/// Where the header is, and AVX state behind it.
const HEADER: usize = 512;
const EXTENDED: usize = 576;
/// All of it.
const BYTES: usize = 832;
const ALIGNMENT: u64 = 64;
const MXCSR_KNOWN: u32 = 0xffff;
/// x87 state but MXCSR, which is in the middle of it.
const X87_RANGES: [std::ops::Range<usize>; 2] = [0..24, 32..160];
const MXCSR: std::ops::Range<usize> = 24..32;
const XMM: std::ops::Range<usize> = 160..416;

/// What is to be moved between the vCPU and an area in memory, which is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Xstate {
    address: u64,
    parts: u64,
    saves: bool,
}

/// Bytes of an area with these parts.
fn bytes_of(parts: u64) -> usize {
    if parts & AVX != 0 { BYTES } else { EXTENDED }
}

fn word(area: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*area[at..].first_chunk().expect("a header is in every area"))
}

fn copy(to: &mut [u8], from: &[u8], range: std::ops::Range<usize>) {
    to[range.clone()].copy_from_slice(&from[range]);
}

/// Does `xsave`: to `area`, of what the vCPU has in `real`.
fn save(area: &mut [u8], real: &[u8], parts: u64) {
    if parts & X87 != 0 {
        X87_RANGES.into_iter().for_each(|range| copy(area, real, range));
    }
    if parts & (SSE | AVX) != 0 {
        copy(area, real, MXCSR);
    }
    if parts & SSE != 0 {
        copy(area, real, XMM);
    }
    if parts & AVX != 0 {
        copy(area, real, EXTENDED..BYTES);
    }
    let there = word(area, HEADER) & !parts | word(real, HEADER) & parts;
    area[HEADER..HEADER + 8].copy_from_slice(&there.to_le_bytes());
}

/// Whether `xrstor` takes `area`, where XCR0 is `xcr0`.
fn is_sound(area: &[u8], parts: u64, xcr0: u64) -> bool {
    let mxcsr = word(area, MXCSR.start) as u32;
    word(area, HEADER) & !xcr0 == 0
        // Neither compacted nor with anything in what is reserved.
        && word(area, HEADER + 8) == 0
        && word(area, HEADER + 16) == 0
        && (parts & (SSE | AVX) == 0 || mxcsr & !MXCSR_KNOWN == 0)
}

/// Does `xrstor`: of `area`, to what the vCPU is to have.
fn restore(real: &mut [u8], area: &[u8], parts: u64) {
    let given = word(area, HEADER);
    let mut there = word(real, HEADER);
    if parts & X87 != 0 {
        if given & X87 != 0 {
            X87_RANGES.into_iter().for_each(|range| copy(real, area, range));
        }
        there = there & !X87 | given & X87;
    }
    if parts & (SSE | AVX) != 0 {
        real[MXCSR.start..MXCSR.start + 4].copy_from_slice(&area[MXCSR.start..MXCSR.start + 4]);
        // MXCSR is taken from the area only with one of the two.
        there |= SSE;
    }
    if parts & SSE != 0 {
        if given & SSE != 0 { copy(real, area, XMM) } else { real[XMM].fill(0) }
    }
    if parts & AVX != 0 {
        if given & AVX != 0 {
            copy(real, area, EXTENDED..BYTES);
        }
        there = there & !AVX | given & AVX;
    }
    real[HEADER..HEADER + 8].copy_from_slice(&there.to_le_bytes());
}

impl Guest<'_> {
    /// Sees to what an `xsave` or `xrstor` needs, and asks for the rest.
    pub(super) fn xstate(&mut self, i: &Instruction) -> Result<Done, Fault> {
        if self.cpu.paging.cr4 & CR4_OSXSAVE == 0 {
            return Err(UD);
        }
        if self.cpu.paging.cr0 & CR0_TS != 0 {
            return Err(Fault { vector: VECTOR_NM, code: 0, address: 0 });
        }
        let address = self.address(i, 0);
        if !address.is_multiple_of(ALIGNMENT) {
            return Err(GP);
        }
        let asked = self.regs.rdx << 32 | self.regs.rax & 0xffff_ffff;
        if asked & !self.cpu.xcr0 & xsave::host_parts() == 0 && self.lift()? {
            return Ok(Done::Jumped);
        }
        let parts = asked & self.cpu.xcr0;
        let saves = matches!(i.mnemonic(), Mnemonic::Xsave | Mnemonic::Xsave64);
        let mut area = [0; BYTES];
        let area = &mut area[..bytes_of(parts)];
        self.read(address, area)?;
        if saves {
            // As it is: now it is known that it can be written.
            self.write(address, area)?;
        } else if !is_sound(area, parts, self.cpu.xcr0) {
            return Err(GP);
        }
        self.asks.xstate = Some(Xstate { address, parts, saves });
        Ok(Done::Next)
    }

    /// Puts the guest's own byte back where it is: this instruction asks for no more than the guest has. Whether it
    /// was replaced at all.
    fn lift(&mut self) -> Result<bool, Fault> {
        let at = self.translate(self.regs.rip, Use { execute: true, ..self.as_now(false) })?.gpa;
        let Some(byte) = self.cpu.patches.remove(&at) else { return Ok(false) };
        write_physical(self.memory, at, &[byte]);
        Ok(true)
    }
}

impl Monitor {
    /// Moves what an `xsave` or `xrstor` of the guest has asked for.
    pub(super) fn move_xstate(
        &mut self,
        memory: &mut GuestMemory,
        bus: &mut Bus,
        wanted: Xstate,
    ) -> Result<(), VcpuError> {
        let mut real: Vec<u8> = self.vcpu.xsave_words()?.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut area = [0; BYTES];
        let area = &mut area[..bytes_of(wanted.parts)];
        let mut guest = self.guest(memory, bus);
        // It has just been read; only a guest that has its page tables there sees anything go wrong.
        if guest.read(wanted.address, area).is_err() {
            return Ok(());
        }
        if wanted.saves {
            save(area, &real, wanted.parts);
            let _own_tables = guest.write(wanted.address, area);
            return Ok(());
        }
        restore(&mut real, area, wanted.parts);
        let words: Vec<u32> = real.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
        self.vcpu.load_xsave_words(&words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An area with a different byte everywhere, and `parts` in its header.
    fn filled(seed: u8, parts: u64) -> Vec<u8> {
        let mut area: Vec<u8> = (0..BYTES).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect();
        area[HEADER..EXTENDED].fill(0);
        area[MXCSR].copy_from_slice(&[0x80 | seed & 0x3f, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
        area[HEADER..HEADER + 8].copy_from_slice(&parts.to_le_bytes());
        area
    }

    #[test]
    fn what_is_asked_for_is_saved_and_nothing_else_changes() {
        let real = filled(1, X87 | SSE | AVX);
        let before = filled(2, 0);
        for parts in 0..8 {
            let mut area = before.clone();
            save(&mut area, &real, parts);
            for (at, byte) in area.iter().enumerate() {
                let of = match at {
                    24..32 => parts & (SSE | AVX) != 0,
                    0..160 => parts & X87 != 0,
                    160..416 => parts & SSE != 0,
                    512 => continue,
                    576.. => parts & AVX != 0,
                    _ => false,
                };
                assert_eq!(*byte, if of { real[at] } else { before[at] }, "byte {at} with {parts:#x}");
            }
            assert_eq!(word(&area, HEADER), parts);
        }
    }

    #[test]
    fn what_was_saved_comes_back_and_what_is_initial_is_so() {
        let saved = filled(3, X87 | AVX);
        let mut real = filled(4, X87 | SSE | AVX);
        restore(&mut real, &saved, X87 | SSE | AVX);
        assert_eq!((&real[..160], &real[576..]), (&saved[..160], &saved[576..]));
        assert_eq!(real[XMM], [0; 256]);
        assert_eq!(word(&real, HEADER), X87 | SSE | AVX);
        restore(&mut real, &filled(5, 0), X87 | AVX);
        assert_eq!(word(&real, HEADER), SSE, "x87 and AVX are as after reset");
        let before = real.clone();
        restore(&mut real, &filled(6, 7), 0);
        assert_eq!(real, before);
    }

    #[test]
    fn an_area_that_a_cpu_would_refuse_is_refused() {
        let good = filled(7, 3);
        assert!(is_sound(&good, 7, 7));
        for (at, value) in
            [(HEADER, 8), (HEADER + 8, 1), (HEADER + 15, 0x80), (HEADER + 23, 1), (MXCSR.start + 2, 1)]
        {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(!is_sound(&bad, 7, 7), "byte {at}");
        }
        let mut bad = good;
        bad[MXCSR.start + 2] = 1;
        assert!(is_sound(&bad, X87, 7), "MXCSR is not asked for");
    }
}
