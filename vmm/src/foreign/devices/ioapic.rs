//! The I/O APIC (82093AA): 24 inputs, each with an entry that says which interrupt it becomes.
//!
//! Input 2 is the timer's, as PCs have it and the tables for the guest say; the other lines of the 8259s are
//! wired to the inputs of their number.

use serde::{Deserialize, Serialize};

use super::lapic::LocalApic;

/// Where its registers are in memory.
pub(crate) const BASE: u64 = 0xfec0_0000;
const INPUTS: usize = 24;
/// The timer's.
pub(crate) const TIMER_INPUT: u8 = 2;
/// Version 0x11, and the number of the last entry.
const VERSION: u32 = 0x0017_0011;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
/// The interrupt was taken, and its end was not said.
const IN_SERVICE: u64 = 1 << 14;
const LOGICAL: u64 = 1 << 11;
/// What can be written of an entry: not the two status bits.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IoApic {
    select: u32,
    id: u32,
    entries: [u64; INPUTS],
    /// Inputs that are pulled now.
    lines: u32,
}

impl IoApic {
    pub(crate) const fn new() -> Self {
        Self { select: 0, id: 0, entries: [MASKED; INPUTS], lines: 0 }
    }

    /// Reads the 32 bits at `offset` from [`BASE`].
    pub(crate) fn read_memory(&self, offset: u64) -> u32 {
        match (offset, self.select) {
            (0, select) => select,
            (0x10, 0 | 2) => self.id,
            (0x10, 1) => VERSION,
            (0x10, select) => match self.entry(select) {
                Some((index, high)) => (self.entries[index] >> (32 * u32::from(high))) as u32,
                None => 0,
            },
            _ => 0,
        }
    }

    /// Writes them.
    pub(crate) fn write_memory(&mut self, offset: u64, value: u32, apic: &mut LocalApic) {
        match (offset, self.select) {
            (0, _) => self.select = value & 0xff,
            (0x10, 0) => self.id = value & 0x0f00_0000,
            (0x10, select) => {
                let Some((index, high)) = self.entry(select) else { return };
                let entry = &mut self.entries[index];
                let shift = 32 * u32::from(high);
                let written = *entry & !(0xffff_ffff << shift) | u64::from(value) << shift;
                *entry = *entry & !WRITABLE | written & WRITABLE;
                if *entry & LEVEL == 0 {
                    *entry &= !IN_SERVICE;
                }
                self.serve_levels(apic);
            }
            _ => {}
        }
    }

    fn entry(&self, select: u32) -> Option<(usize, bool)> {
        let at = select.checked_sub(0x10)? as usize;
        (at / 2 < INPUTS).then_some((at / 2, at & 1 != 0))
    }

    /// Raises 8259 line `irq` for an instant: an edge.
    pub(crate) fn pulse(&mut self, irq: u8, apic: &mut LocalApic) {
        let input = usize::from(if irq == 0 { TIMER_INPUT } else { irq });
        if irq != TIMER_INPUT && self.entries[input] & LEVEL == 0 {
            self.deliver(input, apic);
        }
    }

    /// The inputs that are pulled from now on, by devices that hold them until they are served.
    pub(crate) fn set_lines(&mut self, lines: u32, apic: &mut LocalApic) {
        if lines == self.lines {
            return;
        }
        let rose = lines & !self.lines;
        self.lines = lines;
        for input in 0..INPUTS {
            if rose >> input & 1 != 0 && self.entries[input] & LEVEL == 0 {
                self.deliver(input, apic);
            }
        }
        self.serve_levels(apic);
    }

    /// The guest has said the end of interrupt `vector`, which was a level.
    pub(crate) fn end(&mut self, vector: u8, apic: &mut LocalApic) {
        for entry in &mut self.entries {
            if *entry as u8 == vector {
                *entry &= !IN_SERVICE;
            }
        }
        self.serve_levels(apic);
    }

    fn serve_levels(&mut self, apic: &mut LocalApic) {
        for input in 0..INPUTS {
            let pulled = self.lines >> input & 1 != 0;
            if pulled && self.entries[input] & (LEVEL | IN_SERVICE) == LEVEL {
                self.deliver(input, apic);
            }
        }
    }

    fn deliver(&mut self, input: usize, apic: &mut LocalApic) {
        let entry = &mut self.entries[input];
        // Fixed or lowest priority, of which there is one CPU.
        let fixed = *entry >> 8 & 7 <= 1;
        if *entry & MASKED != 0 || !fixed || !apic.is_meant((*entry >> 56) as u8, *entry & LOGICAL != 0) {
            return;
        }
        let level = *entry & LEVEL != 0;
        if level {
            *entry |= IN_SERVICE;
        }
        apic.request(*entry as u8, level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 0xb0;

    fn set(ioapic: &mut IoApic, apic: &mut LocalApic, input: u32, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry)] {
            ioapic.write_memory(0, 0x10 + input * 2 + half, apic);
            ioapic.write_memory(0x10, value as u32, apic);
        }
    }

    #[test]
    fn an_edge_becomes_one_interrupt_and_the_timers_comes_by_input_2() {
        let (mut ioapic, mut apic) = (IoApic::new(), LocalApic::new());
        ioapic.pulse(4, &mut apic);
        assert_eq!(apic.acknowledge(), None, "all are masked");
        set(&mut ioapic, &mut apic, 4, 0x34);
        set(&mut ioapic, &mut apic, 2, 0x50);
        assert_eq!(apic.acknowledge(), None, "an edge that came while it was masked is gone");
        ioapic.pulse(4, &mut apic);
        ioapic.pulse(0, &mut apic);
        assert_eq!((apic.acknowledge(), apic.acknowledge()), (Some(0x50), None));
        apic.write_memory(END, 0, 0);
        assert_eq!(apic.acknowledge(), Some(0x34));
        set(&mut ioapic, &mut apic, 4, 1 << 56 | 0x34);
        apic.write_memory(END, 0, 0);
        ioapic.pulse(4, &mut apic);
        assert_eq!(apic.acknowledge(), None, "it is for another CPU");
    }

    #[test]
    fn a_level_asks_again_after_its_end_until_it_falls() {
        let (mut ioapic, mut apic) = (IoApic::new(), LocalApic::new());
        set(&mut ioapic, &mut apic, 11, LEVEL | 0x41);
        ioapic.set_lines(1 << 11, &mut apic);
        for _ in 0..2 {
            assert_eq!((apic.acknowledge(), apic.pending()), (Some(0x41), None));
            ioapic.write_memory(0, 0x10 + 22, &mut apic);
            assert_eq!(u64::from(ioapic.read_memory(0x10)), LEVEL | IN_SERVICE | 0x41);
            let vector = apic.level_in_service().unwrap();
            apic.write_memory(END, 0, 0);
            ioapic.end(vector, &mut apic);
        }
        ioapic.set_lines(0, &mut apic);
        assert_eq!(apic.acknowledge(), Some(0x41), "it was requested while the line was up");
        let vector = apic.level_in_service().unwrap();
        apic.write_memory(END, 0, 0);
        ioapic.end(vector, &mut apic);
        assert_eq!(apic.acknowledge(), None);
    }

    #[test]
    fn it_says_what_it_is() {
        let (mut ioapic, mut apic) = (IoApic::new(), LocalApic::new());
        ioapic.write_memory(0, 1, &mut apic);
        assert_eq!(ioapic.read_memory(0x10), VERSION);
        ioapic.write_memory(0, 0xff, &mut apic);
        ioapic.write_memory(0x10, u32::MAX, &mut apic);
        assert_eq!(ioapic.read_memory(0x10), 0);
        assert_eq!(ioapic.entries, IoApic::new().entries);
    }
}
