//! The interrupt controllers, and how they are wired to each other and to the CPU.
//!
//! ```text
//!  lines 0..15 ──┬─► 8259s ───────────► LINT0 ─┐
//!                └─► I/O APIC ─► local APIC ───┴─► CPU
//! ```

use serde::{Deserialize, Serialize};

use super::ioapic::{self, IoApic};
use super::lapic::{self, LocalApic, Refused};
use super::pic::Pic;

/// All of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interrupts {
    pub(crate) pic: Pic,
    apic: LocalApic,
    ioapic: IoApic,
}

const PAGE: u64 = 0x1000;

impl Interrupts {
    pub(crate) fn new(pic: Pic) -> Self {
        Self { pic, apic: LocalApic::new(), ioapic: IoApic::new() }
    }

    /// Raises line `irq` for an instant: an edge.
    pub(crate) fn pulse(&mut self, irq: u8) {
        self.pic.pulse(irq);
        self.ioapic.pulse(irq, &mut self.apic);
    }

    /// The lines that are pulled from now on, a bit for each, by devices that hold them until they are served.
    pub(crate) fn set_lines(&mut self, lines: u32) {
        self.pic.set_lines(lines);
        self.ioapic.set_lines(lines, &mut self.apic);
    }

    /// It is now `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        self.apic.advance(now);
    }

    /// When the local APIC's timer will interrupt.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.apic.next_due()
    }

    /// Whether an interrupt waits for the CPU.
    pub(crate) fn is_pending(&mut self) -> bool {
        self.apic.pending().is_some() || self.apic.passes_external() && self.pic.is_pending()
    }

    /// Hands the CPU the vector of the interrupt that waits.
    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        let own = self.apic.acknowledge();
        own.or_else(|| if self.apic.passes_external() { self.pic.acknowledge() } else { None })
    }

    /// CR8.
    pub(crate) fn task_class(&self) -> u64 {
        self.apic.task_class()
    }

    /// Writes CR8.
    pub(crate) fn set_task_class(&mut self, class: u64) {
        self.apic.set_task_class(class);
    }

    /// Whether `msr` is the local APIC's.
    pub(crate) fn has_msr(msr: u32) -> bool {
        msr == lapic::MSR_BASE || (lapic::MSR_FIRST..=lapic::MSR_LAST).contains(&msr)
    }

    /// Reads it.
    pub(crate) fn read_msr(&self, msr: u32, now: u64) -> Result<u64, Refused> {
        self.apic.read_msr(msr, now)
    }

    /// Writes it.
    pub(crate) fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<(), Refused> {
        let ends = self.apic.level_in_service();
        self.apic.write_msr(msr, value, now)?;
        self.ended(ends);
        Ok(())
    }

    /// Reads device memory; says whether that is one of theirs.
    pub(crate) fn memory_read(&self, at: u64, data: &mut [u8], now: u64) -> bool {
        let aligned = at & !3;
        let value = match aligned & !(PAGE - 1) {
            lapic::BASE if self.apic.is_in_memory() => self.apic.read_memory(aligned % PAGE, now),
            ioapic::BASE => self.ioapic.read_memory(aligned % PAGE),
            _ => return false,
        };
        // Wider and unaligned accesses are undefined; these see the register that they begin in.
        let bytes = (u64::from(value) >> (at % 4 * 8)).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(bytes) {
            *byte = value;
        }
        true
    }

    /// Writes it, likewise.
    pub(crate) fn memory_write(&mut self, at: u64, data: &[u8], now: u64) -> bool {
        let mut value = [0; 4];
        for (value, byte) in value.iter_mut().zip(data) {
            *value = *byte;
        }
        let value = u32::from_le_bytes(value);
        match at & !(PAGE - 1) {
            lapic::BASE if self.apic.is_in_memory() => {
                let ends = self.apic.level_in_service();
                self.apic.write_memory(at % PAGE, value, now);
                self.ended(ends);
            }
            ioapic::BASE => self.ioapic.write_memory(at % PAGE, value, &mut self.apic),
            _ => return false,
        }
        true
    }

    /// Tells the I/O APIC if the level `vector` has just ended.
    fn ended(&mut self, vector: Option<u8>) {
        if let Some(vector) = vector
            && self.apic.level_in_service() != Some(vector)
        {
            self.ioapic.end(vector, &mut self.apic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reaches_the_cpu_by_the_8259s_or_by_the_io_apic() {
        let mut all = Interrupts::new(Pic::new(0));
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0)] {
            all.pic.write(port, value);
        }
        all.pulse(4);
        assert_eq!((all.acknowledge(), all.acknowledge()), (Some(0x24), None));
        all.pic.write(0x20, 0x20);
        // LINT0 masked, input 4 becomes vector 0x44.
        all.memory_write(lapic::BASE + 0x350, &[0, 0, 1, 0], 0);
        all.memory_write(ioapic::BASE, &[0x18], 0);
        all.memory_write(ioapic::BASE + 0x10, &[0x44, 0, 0, 0], 0);
        all.pulse(4);
        assert!(all.is_pending());
        assert_eq!((all.acknowledge(), all.acknowledge()), (Some(0x44), None));
    }

    #[test]
    fn narrow_reads_see_their_part_of_a_register() {
        let all = Interrupts::new(Pic::new(0));
        let mut data = [0; 2];
        assert!(all.memory_read(lapic::BASE + 0x32, &mut data, 0));
        assert_eq!(data, [5, 0]);
        assert!(!all.memory_read(0xfed0_0000, &mut data, 0));
    }
}
