//! How much memory the file system may still take: what does not fit is `ENOSPC`, before anything
//! is allocated. Costs are upper estimates of what the allocator really gives out, so that the maps
//! below, which cannot report a failed allocation, never meet one.

use crate::errno::Errno;

/// Charged for a node, its attributes and its place in the table.
pub(crate) const NODE_BYTES: u64 = 320;
/// Charged for a directory on top of its node: the first node of each of its two maps.
pub(crate) const DIRECTORY_BYTES: u64 = 1024;
/// Charged for an entry on top of its name: half-full nodes of both maps, and the name's header.
pub(crate) const ENTRY_BYTES: u64 = 192;
/// Charged for a page of a file on top of its bytes: its place in the map.
pub(crate) const PAGE_OVERHEAD_BYTES: u64 = 64;

/// Bytes that may be allocated, and bytes that are.
#[derive(Debug)]
pub(crate) struct Budget {
    // Invariant: used <= total.
    total: u64,
    used: u64,
}

impl Budget {
    pub(crate) const fn new(total: u64) -> Self {
        Self { total, used: 0 }
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    pub(crate) const fn left(&self) -> u64 {
        self.total - self.used
    }

    pub(crate) fn charge(&mut self, bytes: u64) -> Result<(), Errno> {
        if bytes > self.left() {
            return Err(Errno::ENOSPC);
        }
        self.used += bytes;
        Ok(())
    }

    pub(crate) fn refund(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }
}
