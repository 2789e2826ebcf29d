//! Entries of a directory: found by name, listed in the order in which they were made.
//!
//! Every entry has a position that never changes and is never used twice, so that a listing that is
//! read in parts, while names come and go, misses none that stayed and repeats none, as POSIX asks
//! of `readdir`.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use crate::node::NodeId;

/// A name within a directory.
pub(crate) type Name = Arc<[u8]>;

/// The position of the first entry; "." and ".." come before it.
pub(crate) const FIRST_POSITION: u64 = 2;

#[derive(Clone, Copy, Debug)]
struct Entry {
    node: NodeId,
    position: u64,
}

#[derive(Debug)]
pub(crate) struct Directory {
    // Invariant: `order` has exactly the names of `entries`, each at its entry's position, and all
    // positions are below `next`.
    entries: BTreeMap<Name, Entry>,
    order: BTreeMap<u64, Name>,
    next: u64,
    /// The directory above it; its own for a root.
    pub parent: NodeId,
    /// Its name there; empty for a root.
    pub name: Name,
    /// Has been removed: nothing can be made in it.
    pub dead: bool,
    /// The caller fills it: programs can make and remove nothing in it.
    pub sealed: bool,
}

impl Directory {
    pub(crate) fn new(parent: NodeId, name: Name) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            next: FIRST_POSITION,
            parent,
            name,
            dead: false,
            sealed: false,
        }
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<NodeId> {
        self.entries.get(name).map(|entry| entry.node)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Adds an entry, or points the one that is there to `node`; says what it pointed to.
    pub(crate) fn set(&mut self, name: Name, node: NodeId) -> Option<NodeId> {
        if let Some(entry) = self.entries.get_mut(&name) {
            let old = entry.node;
            entry.node = node;
            return Some(old);
        }
        let position = self.next;
        self.next += 1;
        self.order.insert(position, Arc::clone(&name));
        self.entries.insert(name, Entry { node, position });
        None
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<NodeId> {
        let entry = self.entries.remove(name)?;
        self.order.remove(&entry.position);
        Some(entry.node)
    }

    /// Entries from `position` on, with their positions.
    pub(crate) fn list(&self, position: u64) -> impl Iterator<Item = (u64, &Name, NodeId)> {
        self.order
            .range(position..)
            .filter_map(|(&position, name)| self.entries.get(name).map(|entry| (position, name, entry.node)))
    }

    /// All names, sorted.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = (&Name, NodeId)> {
        self.entries.iter().map(|(name, entry)| (name, entry.node))
    }
}
