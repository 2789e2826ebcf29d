//! The two 8259A interrupt controllers.
//!
//! Sources: Intel 8259A data sheet; QEMU and Linux agree on what they leave out (no polling across
//! cascades, no rotation modes).

use serde::{Deserialize, Serialize};

/// One 8259A.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    base: u8,
    mask: u8,
    requested: u8,
    /// Inputs that are pulled now, of those that are wired to something that holds them.
    lines: u8,
    /// Inputs for which the level counts, and not its change.
    levels: u8,
    in_service: u8,
    /// How many initialisation words are still to come, and which is next (2, 3, 4; 0: none).
    next_word: u8,
    wants_fourth: bool,
    auto_end: bool,
    read_in_service: bool,
    poll: bool,
}

impl Chip {
    /// The line that wants service most, if it may have it now.
    fn pending(&self) -> Option<u8> {
        let wanted = self.requested & !self.mask;
        let line = wanted.trailing_zeros();
        (wanted != 0 && line < self.in_service.trailing_zeros()).then_some(line as u8)
    }

    fn acknowledge(&mut self, line: u8) {
        self.requested = self.requested & !(1 << line) | self.lines & self.levels;
        if !self.auto_end {
            self.in_service |= 1 << line;
        }
    }

    fn command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            let (lines, levels) = (self.lines, self.levels);
            let requested = lines & levels;
            *self = Self {
                next_word: 2,
                wants_fourth: value & 1 != 0,
                requested,
                lines,
                levels,
                ..Self::default()
            };
        } else if value & 0x08 != 0 {
            self.poll = value & 4 != 0;
            if value & 2 != 0 {
                self.read_in_service = value & 1 != 0;
            }
        } else {
            match value >> 5 {
                // End of interrupt, of the most urgent or of a named one; rotation is ignored.
                1 | 5 => self.in_service &= self.in_service.wrapping_sub(1),
                3 | 7 => self.in_service &= !(1 << (value & 7)),
                _ => {}
            }
        }
    }

    fn set_lines(&mut self, lines: u8) {
        let (rose, fell) = (lines & !self.lines, self.lines & !lines);
        self.lines = lines;
        self.requested = (self.requested | rose) & !(fell & self.levels);
    }

    fn data(&mut self, value: u8) {
        match self.next_word {
            2 => {
                self.base = value & 0xf8;
                self.next_word = 3;
            }
            3 => self.next_word = if self.wants_fourth { 4 } else { 0 },
            4 => {
                self.auto_end = value & 2 != 0;
                self.next_word = 0;
            }
            _ => self.mask = value,
        }
    }

    fn read(&mut self, data: bool) -> u8 {
        if self.poll {
            self.poll = false;
            return self.pending().map_or(0, |line| {
                self.acknowledge(line);
                0x80 | line
            });
        }
        match (data, self.read_in_service) {
            (true, _) => self.mask,
            (false, true) => self.in_service,
            (false, false) => self.requested,
        }
    }
}

/// Line of the first that the second is wired to.
const CASCADE: u8 = 2;

/// The pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pic {
    chips: [Chip; 2],
}

impl Pic {
    /// A pair whose inputs are edge-triggered but for those in `levels`.
    pub(crate) fn new(levels: u16) -> Self {
        // As firmware leaves them: everything masked but the second at the first, which is not a device's. Unikraft
        // unmasks a device's input alone.
        let [first, second] = levels.to_le_bytes();
        let chip = |base, levels, mask| Chip { base, levels, mask, ..Chip::default() };
        Self { chips: [chip(0x08, first, !(1 << CASCADE)), chip(0x70, second, 0xff)] }
    }

    /// Raises line `irq` for an instant: an edge.
    pub(crate) fn pulse(&mut self, irq: u8) {
        let chip = &mut self.chips[usize::from(irq >= 8)];
        chip.requested |= 1 << (irq & 7);
    }

    /// The inputs that are pulled from now on, a bit for each, by devices that hold them until they are served.
    pub(crate) fn set_lines(&mut self, lines: u32) {
        let [first, second, ..] = lines.to_le_bytes();
        self.chips[0].set_lines(first);
        self.chips[1].set_lines(second);
    }

    fn cascade(&mut self) {
        let wanted = self.chips[1].pending().is_some();
        let first = &mut self.chips[0];
        if wanted {
            first.requested |= 1 << CASCADE;
        } else {
            first.requested &= !(1 << CASCADE);
        }
    }

    /// Whether an interrupt waits for the CPU.
    pub(crate) fn is_pending(&mut self) -> bool {
        self.cascade();
        self.chips[0].pending().is_some()
    }

    /// Hands the CPU the vector of the interrupt that waits.
    pub(crate) fn acknowledge(&mut self) -> Option<u8> {
        self.cascade();
        let line = self.chips[0].pending()?;
        self.chips[0].acknowledge(line);
        if line != CASCADE {
            return Some(self.chips[0].base | line);
        }
        // Spurious if it went away: line 7 of the second.
        let second = &mut self.chips[1];
        let line = second.pending();
        if let Some(line) = line {
            second.acknowledge(line);
        }
        Some(second.base | line.unwrap_or(7))
    }

    /// Reads port `port`, one of 0x20, 0x21, 0xa0, 0xa1.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        self.chips[usize::from(port >= 0xa0)].read(port & 1 != 0)
    }

    /// Reads port 0x4d0 or 0x4d1: which inputs are level-triggered.
    pub(crate) fn read_triggers(&self, port: u16) -> u8 {
        self.chips[usize::from(port & 1)].levels
    }

    /// Writes it.
    pub(crate) fn write_triggers(&mut self, port: u16, value: u8) {
        // Those of the timer, keyboard, cascade, clock and coprocessor cannot be changed.
        let fixed = [0x07, 0x21][usize::from(port & 1)];
        self.chips[usize::from(port & 1)].levels = value & !fixed;
    }

    /// Writes one of the ports that [`Self::read`] reads.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        let chip = &mut self.chips[usize::from(port >= 0xa0)];
        if port & 1 == 0 { chip.command(value) } else { chip.data(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_up() -> Pic {
        let mut pic = Pic::new(1 << 10);
        for (port, value) in [
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x20),
            (0xa1, 0x28),
            (0x21, 4),
            (0xa1, 2),
            (0x21, 1),
            (0xa1, 1),
        ] {
            pic.write(port, value);
        }
        pic
    }

    #[test]
    fn the_more_urgent_line_comes_first_and_the_other_after_its_end() {
        let mut pic = set_up();
        pic.pulse(4);
        pic.pulse(0);
        assert_eq!(pic.acknowledge(), Some(0x20));
        assert_eq!(pic.acknowledge(), None, "line 0 is in service");
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x24));
    }

    #[test]
    fn masked_lines_wait_and_the_second_chip_is_reached_through_the_first() {
        let mut pic = set_up();
        pic.write(0x21, 0xfb);
        pic.write(0xa1, 0xff);
        pic.pulse(11);
        assert!(!pic.is_pending());
        pic.write(0xa1, 0xf7);
        assert!(pic.is_pending());
        assert_eq!(pic.acknowledge(), Some(0x2b));
        assert!(!pic.is_pending());
        assert_eq!(pic.read(0xa1), 0xf7);
    }

    #[test]
    fn a_kernel_that_keeps_the_masks_it_found_unmasks_one_input_alone() {
        let mut pic = Pic::new(0);
        let found = [pic.read(0x21), pic.read(0xa1)];
        for (port, value) in [(0x20, 0x11), (0xa0, 0x11), (0x21, 0x20), (0xa1, 0x28), (0x21, 4), (0xa1, 2)] {
            pic.write(port, value);
        }
        for (port, mask) in [(0x21, found[0]), (0xa1, found[1])] {
            pic.write(port, 1);
            pic.write(port, mask);
        }
        pic.pulse(0);
        pic.pulse(11);
        assert!(!pic.is_pending());
        pic.write(0xa1, found[1] & !(1 << 3));
        assert_eq!(pic.acknowledge(), Some(0x2b));
    }

    #[test]
    fn a_level_asks_again_until_it_falls_and_an_edge_once() {
        let mut pic = set_up();
        pic.set_lines(1 << 10 | 1 << 5);
        for (end, vector) in [(0xa0, 0x2a), (0xa0, 0x2a), (0x20, 0x2a)] {
            assert_eq!(pic.acknowledge(), Some(vector), "the second controller's come first");
            pic.write(end, 0x20);
            pic.write(0x20, 0x20);
        }
        pic.set_lines(1 << 5);
        pic.write(0xa0, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x25));
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), None, "it has not risen again");
        pic.set_lines(0);
        pic.set_lines(1 << 5);
        assert_eq!(pic.acknowledge(), Some(0x25));
    }

    #[test]
    fn how_an_input_is_triggered_can_be_read_and_changed() {
        let mut pic = set_up();
        assert_eq!((pic.read_triggers(0x4d0), pic.read_triggers(0x4d1)), (0, 4));
        pic.write_triggers(0x4d0, 0xff);
        pic.write_triggers(0x4d1, 0xff);
        assert_eq!((pic.read_triggers(0x4d0), pic.read_triggers(0x4d1)), (0xf8, 0xde));
    }
}
