//! A stopped foreign machine's linear addresses.

use super::breakpoints::Breakpoints;
use super::monitor::walk::Paging;
use crate::addr::{Gpa, to_page_end};
use crate::agent::AddressSpace;
use crate::introspect::ReadMemory;
use crate::memory::GuestMemory;

/// Memory, as the page tables of the moment show it to the kernel, and as it would be without breakpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<'a> {
    pub(super) paging: Paging,
    pub(super) memory: &'a GuestMemory,
    pub(super) breakpoints: &'a Breakpoints,
}

impl ReadMemory for Linear<'_> {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        let mut done = 0;
        while done < out.len() {
            let at = gva.wrapping_add(done as u64);
            let here = usize::try_from(to_page_end(at)).unwrap_or(1).min(out.len() - done);
            let piece = &mut out[done..done + here];
            let Some(gpa) = self.translate(at) else { return false };
            if self.memory.read(gpa, piece).is_err() {
                return false;
            }
            self.breakpoints.hide(gpa.0, piece);
            done += here;
        }
        true
    }
}

impl AddressSpace for Linear<'_> {
    fn translate(&self, gva: u64) -> Option<Gpa> {
        let gpa = self.paging.look(self.memory, gva, false)?.0.gpa;
        // What is not RAM is a device's, or the monitor's.
        (gpa < self.memory.len()).then_some(Gpa(gpa))
    }
}
