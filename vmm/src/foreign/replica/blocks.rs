//! Breakpoints in one fork: where they are in memory, and which blocks need none any more.
//!
//! A block is noticed once. Then its breakpoint is taken away, in memory and in the pages that a reset puts back, and
//! later runs do not stop there. To count all blocks of a run, the pages with all breakpoints are put in place for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::addr::{Gpa, PAGE_BYTES};
use crate::foreign::Machine;
use crate::foreign::base::Base;
use crate::memory::OutOfBounds;
use crate::tree::Page;

/// Pages of code with breakpoints in them.
pub(super) type Pages = BTreeMap<u64, Arc<Page>>;

/// The breakpoints of one fork.
#[derive(Debug, Default)]
pub(in crate::foreign) struct Blocks {
    // Pages of code as they are with all breakpoints, and without those of blocks that were seen.
    all: Pages,
    unseen: Pages,
    byte: u8,
    counts_all: bool,
    /// Which of them are to be in memory, from the next input on.
    pub count_all: bool,
    /// The last run came to a block that no run had come to.
    pub news: bool,
}

impl Blocks {
    /// Puts breakpoints to all points of `base` in `machine`, a new fork of it.
    pub(super) fn plant(machine: &mut Machine, base: &Base) -> Result<Self, OutOfBounds> {
        let byte = machine.cpu.breakpoint();
        let mut all = Pages::new();
        for (page, points) in base.watch.pages() {
            let mut content = [0; PAGE_BYTES as usize];
            let at = Gpa(page * PAGE_BYTES);
            machine.memory.read(at, &mut content)?;
            for point in points {
                content[(point.gpa % PAGE_BYTES) as usize] = byte;
                machine.breakpoints.insert(point.gpa, point.original, byte);
            }
            machine.memory.write(at, &content)?;
            all.insert(page, Arc::new(content));
        }
        machine.memory.forget_host_writes();
        Ok(Self { unseen: all.clone(), all, byte, counts_all: true, count_all: true, news: false })
    }

    /// The block at `gpa` was come to. It is not looked for again, but by runs that count all.
    pub(super) fn seen(&mut self, gpa: u64, original: u8) {
        let Some(page) = self.unseen.get_mut(&(gpa / PAGE_BYTES)) else { return };
        let at = (gpa % PAGE_BYTES) as usize;
        if page[at] == self.byte {
            self.news = true;
            Arc::make_mut(page)[at] = original;
        }
    }

    /// Whether the last run passed by the block at `gpa`, as it was seen before.
    pub(super) fn passed_by(&self, gpa: u64) -> bool {
        let page = self.unseen.get(&(gpa / PAGE_BYTES)).filter(|_| !self.counts_all);
        page.is_some_and(|page| page[(gpa % PAGE_BYTES) as usize] != self.byte)
    }

    /// Whether the run at hand counts all blocks that it comes to.
    pub(super) fn counts_all(&self) -> bool {
        self.counts_all || self.all.values().zip(self.unseen.values()).all(|(all, un)| Arc::ptr_eq(all, un))
    }

    /// Puts the right breakpoints in place. The fork is as it was when it was put back.
    pub(in crate::foreign) fn switch(&mut self, machine: &mut Machine) -> Result<(), OutOfBounds> {
        if self.counts_all == self.count_all {
            return Ok(());
        }
        self.counts_all = self.count_all;
        for ((page, all), unseen) in self.all.iter().zip(self.unseen.values()) {
            if !Arc::ptr_eq(all, unseen) {
                let content = if self.counts_all { all } else { unseen };
                machine.memory.write(Gpa(page * PAGE_BYTES), &content[..])?;
            }
        }
        // They are as the next reset would make them.
        machine.memory.forget_host_writes();
        Ok(())
    }

    /// Page `page` as it is with the breakpoints that are in memory; `None` where none are.
    pub(in crate::foreign) fn page(&self, page: u64) -> Option<&[u8]> {
        let pages = if self.counts_all { &self.all } else { &self.unseen };
        pages.get(&page).map(|content| &content[..])
    }

    /// The pages that a reset puts back in place of the frozen machine's.
    pub(super) fn pages(&mut self) -> &mut Pages {
        if self.counts_all { &mut self.all } else { &mut self.unseen }
    }
}
