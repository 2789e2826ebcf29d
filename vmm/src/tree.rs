//! A tree of snapshots: a fork that has run on (past a login, past `accept`) can be frozen again, and
//! costs what it dirtied.
//!
//! ```text
//!        root: Snapshot            each node: the pages that differ from the root, shared with its
//!        ├─ after accept()          ancestors page by page, and the vCPU's state
//!        │   ├─ after USER
//!        │   └─ after AUTH         a replica goes from node to node by the pages in which they differ:
//!        └─ after bind()            those below their nearest common ancestor
//! ```
//!
//! A page is shared by reference, so two nodes have the same page exactly if they have the same
//! reference, and everything they inherit from a common ancestor costs nothing to go past. Nodes do
//! not need their parents to live: evicting one frees the pages that only it has.
//!
//! Not on the data plane: taking a node and going to one allocate. Running and resetting at a node do
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;

use crate::addr::PAGE_BYTES;
use crate::replica::{Replica, ReplicaError};
use crate::reset::ResetStats;
use crate::snapshot::Snapshot;
use crate::vcpu::VcpuState;

/// The content of one page.
pub(crate) type Page = [u8; PAGE_BYTES as usize];

/// A frozen state somewhere below the root.
#[derive(Debug)]
pub(crate) struct Node {
    /// Every page that differs from the root's.
    pub pages: BTreeMap<u64, Arc<Page>>,
    /// The vCPU.
    pub vcpu: VcpuState,
    /// The windows that a run goes on from: control page, console, input and counters, as far as they
    /// are in use.
    pub windows: Vec<(crate::addr::Gpa, Vec<u8>)>,
    /// Bytes at the end of the input window that its input takes.
    pub input_extent: u64,
}

impl Node {
    /// What it takes besides its pages.
    fn fixed_bytes(&self) -> u64 {
        let windows: usize = self.windows.iter().map(|(_, bytes)| bytes.len()).sum();
        (size_of::<Self>() + windows + self.vcpu.xsave.len() * 4) as u64
    }
}

/// Names a node of one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

/// Why a node could not be taken or gone to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The node was evicted: take it again by running its prefix.
    #[error("snapshot {} is no longer kept; run its prefix again", .0.0)]
    Evicted(NodeId),
    /// One node alone, with what it inherits, is larger than the limit.
    #[error("a snapshot of {bytes} bytes does not fit a tree of at most {max}")]
    TooLarge {
        /// What it takes.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The replica is a fork of another snapshot.
    #[error("this replica is not a fork of the tree's root")]
    OtherRoot,
    /// The replica could not be read or put back.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    parent: NodeId,
    depth: u32,
    // Bytes of the pages that its parent does not have, and of the rest of it.
    own_bytes: u64,
    used: u64,
}

/// Snapshots below one root, at most so many bytes of them.
#[derive(Debug)]
pub struct SnapshotTree {
    root: Arc<Snapshot>,
    nodes: BTreeMap<NodeId, Entry>,
    bytes: u64,
    bytes_max: u64,
    next: u64,
    clock: u64,
}

/// The root of every tree.
pub const ROOT: NodeId = NodeId(0);

impl SnapshotTree {
    /// A tree with nothing but its root, which is not counted.
    #[must_use]
    pub fn new(root: Arc<Snapshot>, bytes_max: u64) -> Self {
        Self { root, nodes: BTreeMap::new(), bytes: 0, bytes_max, next: 1, clock: 0 }
    }

    /// How many nodes are kept besides the root.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether only the root is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Bytes that the nodes take, each page counted once however many nodes have it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that `node` added to its parent's; 0 for the root, `None` when it is not kept.
    #[must_use]
    pub fn own_bytes(&self, node: NodeId) -> Option<u64> {
        if node == ROOT { Some(0) } else { self.nodes.get(&node).map(|entry| entry.own_bytes) }
    }

    /// Steps from the root to `node`; `None` when it is not kept.
    #[must_use]
    pub fn depth(&self, node: NodeId) -> Option<u32> {
        if node == ROOT { Some(0) } else { self.nodes.get(&node).map(|entry| entry.depth) }
    }

    /// Freezes `replica` as it stands, below the node that it started from. It must have stopped at a
    /// checkpoint ([`Replica::advance`]); it goes on from the new node at its next reset.
    ///
    /// When the tree grows past its limit, the nodes that were used least recently are dropped.
    ///
    /// # Errors
    ///
    /// [`TreeError`]; the tree is then as it was.
    pub fn take(&mut self, replica: &mut Replica, parent: NodeId) -> Result<NodeId, TreeError> {
        if !Arc::ptr_eq(replica.snapshot(), &self.root) {
            return Err(TreeError::OtherRoot);
        }
        let depth = self.depth(parent).ok_or(TreeError::Evicted(parent))? + 1;
        let base = self.nodes.get(&parent).map(|entry| Arc::clone(&entry.node));
        let node = replica.freeze(base.as_deref())?;
        let inherited = |page: &u64, content: &Arc<Page>| {
            base.as_ref()
                .and_then(|base| base.pages.get(page))
                .is_some_and(|other| Arc::ptr_eq(other, content))
        };
        let own = node.pages.iter().filter(|(page, content)| !inherited(page, content)).count() as u64;
        let own_bytes = own * PAGE_BYTES + node.fixed_bytes();
        let all_bytes = node.pages.len() as u64 * PAGE_BYTES + node.fixed_bytes();
        if all_bytes > self.bytes_max {
            return Err(TreeError::TooLarge { bytes: all_bytes, max: self.bytes_max });
        }
        let id = NodeId(self.next);
        self.next += 1;
        self.clock += 1;
        self.bytes += own_bytes;
        let node = Arc::new(node);
        replica.settle_at(Some(Arc::clone(&node)))?;
        self.nodes.insert(id, Entry { node, parent, depth, own_bytes, used: self.clock });
        while self.bytes > self.bytes_max {
            self.evict_oldest();
        }
        Ok(id)
    }

    /// Puts `replica` to `node`: it copies the pages in which the two differ and those it dirtied.
    ///
    /// # Errors
    ///
    /// [`TreeError`]; after [`TreeError::Replica`] the replica must be dropped.
    pub fn go(&mut self, replica: &mut Replica, node: NodeId) -> Result<ResetStats, TreeError> {
        if !Arc::ptr_eq(replica.snapshot(), &self.root) {
            return Err(TreeError::OtherRoot);
        }
        let to = if node == ROOT {
            None
        } else {
            self.clock += 1;
            let entry = self.nodes.get_mut(&node).ok_or(TreeError::Evicted(node))?;
            entry.used = self.clock;
            Some(Arc::clone(&entry.node))
        };
        Ok(replica.settle_at(to)?)
    }

    /// The deepest node that both descend from or are; the root when all between them are gone.
    #[must_use]
    pub fn common_ancestor(&self, a: NodeId, b: NodeId) -> NodeId {
        let (mut a, mut b) = (a, b);
        while a != b {
            let (x, y) = (self.depth(a).unwrap_or(0), self.depth(b).unwrap_or(0));
            if x == 0 && y == 0 {
                return ROOT;
            }
            if x >= y {
                a = self.nodes.get(&a).map_or(ROOT, |entry| entry.parent);
            } else {
                b = self.nodes.get(&b).map_or(ROOT, |entry| entry.parent);
            }
        }
        a
    }

    /// Drops `node`, and of its pages those that no other node has; replicas that stand there keep it
    /// until they go elsewhere.
    pub fn evict(&mut self, node: NodeId) {
        if self.nodes.remove(&node).is_some() {
            let pages = self.nodes.values().flat_map(|entry| entry.node.pages.values().map(Arc::as_ptr));
            let pages = pages.collect::<BTreeSet<_>>().len() as u64;
            let fixed: u64 = self.nodes.values().map(|entry| entry.node.fixed_bytes()).sum();
            self.bytes = pages * PAGE_BYTES + fixed;
        }
    }

    fn evict_oldest(&mut self) {
        let oldest = self.nodes.iter().min_by_key(|(_, entry)| entry.used).map(|(&id, _)| id);
        if let Some(id) = oldest {
            self.evict(id);
        }
    }
}
