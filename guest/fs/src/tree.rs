//! All nodes of the file system, who holds them, and what they cost.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::budget::{Budget, DIRECTORY_BYTES, ENTRY_BYTES, NODE_BYTES};
use crate::directory::{Directory, Name};
use crate::errno::Errno;
use crate::node::{Kind, Node, NodeId, NodeKind, Stat, Time};
use crate::walk::NAME_MAX;

/// The set-group-id bit. On a directory: what is made in it has its group.
pub(crate) const S_ISGID: u32 = 0o2000;
/// Names of a file at most, as ext4 has it.
const LINKS_MAX: u32 = 65_000;

#[derive(Debug)]
enum Slot<'a> {
    // The next free slot, if there is one.
    Free(Option<u32>),
    Used(Node<'a>),
}

/// A file system in memory.
///
/// A caller that keeps a [`NodeId`] from one call to the next has to [`pin`](Self::pin) it, and to
/// [`unpin`](Self::unpin) it later: a file that has no name any more lives as long as it is pinned.
/// A node that is gone is `ESTALE`, never a panic.
#[derive(Debug)]
pub struct FileSystem<'a> {
    slots: Vec<Slot<'a>>,
    free: Option<u32>,
    root: NodeId,
    next_ino: u64,
    now: Time,
    pub(crate) budget: Budget,
}

impl<'a> FileSystem<'a> {
    /// An empty root directory. Everything that is ever put into it takes no more than about
    /// `bytes_max` bytes of the heap.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let root = NodeId(0);
        let node = Node {
            kind: Kind::Directory(Directory::new(root, Arc::from([]))),
            ino: 1,
            device: 1,
            permissions: 0o755,
            uid: 0,
            gid: 0,
            links: 2,
            pins: 1,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            mount_point: true,
            linkable: false,
        };
        let slots = Vec::from([Slot::Used(node)]);
        Self { slots, free: None, root, next_ino: 2, now: Time::default(), budget: Budget::new(bytes_max) }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// What time it is from now on.
    pub fn set_time(&mut self, now: Time) {
        self.now = now;
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Bytes that the file system may take in all, and how many of them are left.
    #[must_use]
    pub fn space(&self) -> (u64, u64) {
        (self.budget.total(), self.budget.left())
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> u64 {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Used(_))).count() as u64
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<&Node<'a>, Errno> {
        match self.slots.get(id.0 as usize) {
            Some(Slot::Used(node)) => Ok(node),
            _ => Err(Errno::ESTALE),
        }
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node<'a>, Errno> {
        match self.slots.get_mut(id.0 as usize) {
            Some(Slot::Used(node)) => Ok(node),
            _ => Err(Errno::ESTALE),
        }
    }

    /// The node and the budget, for changes of contents.
    pub(crate) fn node_and_budget(&mut self, id: NodeId) -> Result<(&mut Node<'a>, &mut Budget), Errno> {
        match self.slots.get_mut(id.0 as usize) {
            Some(Slot::Used(node)) => Ok((node, &mut self.budget)),
            _ => Err(Errno::ESTALE),
        }
    }

    pub(crate) fn directory(&self, id: NodeId) -> Result<&Directory, Errno> {
        match &self.node(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn directory_mut(&mut self, id: NodeId) -> Result<&mut Directory, Errno> {
        match &mut self.node_mut(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// What the node is.
    ///
    /// # Errors
    ///
    /// `ESTALE`.
    pub fn kind(&self, id: NodeId) -> Result<NodeKind, Errno> {
        Ok(self.node(id)?.node_kind())
    }

    /// What `stat` says of it.
    ///
    /// # Errors
    ///
    /// `ESTALE`.
    pub fn stat(&self, id: NodeId) -> Result<Stat, Errno> {
        let node = self.node(id)?;
        let kind = node.node_kind();
        let (size, blocks) = match &node.kind {
            Kind::Regular(contents) => (contents.len(), contents.allocated() / 512),
            // Linux mm/shmem.c: BOGO_DIRENT_SIZE an entry.
            Kind::Directory(directory) => ((directory.len() + 2) * 20, 0),
            Kind::Symlink(target) => (target.len() as u64, 0),
            Kind::Magic(..) => (64, 0),
            _ => (0, 0),
        };
        let rdev = match kind {
            NodeKind::Character(number) | NodeKind::Block(number) => number,
            _ => 0,
        };
        Ok(Stat {
            kind,
            device: node.device,
            ino: node.ino,
            mode: kind.mode_bits() | node.permissions,
            links: node.links,
            uid: node.uid,
            gid: node.gid,
            rdev,
            size,
            blocks,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
        })
    }

    /// Keeps the node alive.
    ///
    /// # Errors
    ///
    /// `ESTALE`.
    pub fn pin(&mut self, id: NodeId) -> Result<(), Errno> {
        let node = self.node_mut(id)?;
        node.pins = node.pins.checked_add(1).ok_or(Errno::EMLINK)?;
        Ok(())
    }

    /// Ends what [`Self::pin`] began. A node without names and pins is gone.
    pub fn unpin(&mut self, id: NodeId) {
        if let Ok(node) = self.node_mut(id) {
            node.pins = node.pins.saturating_sub(1);
            self.release(id);
        }
    }

    /// Adds a node that nothing refers to yet.
    pub(crate) fn add(&mut self, kind: Kind<'a>, permissions: u32, device: u32) -> Result<NodeId, Errno> {
        let cost = own_cost(&kind);
        self.budget.charge(cost)?;
        let now = self.now;
        let node = Node {
            kind,
            ino: self.next_ino,
            device,
            permissions: permissions & 0o7777,
            uid: 0,
            gid: 0,
            links: 0,
            pins: 0,
            atime: now,
            mtime: now,
            ctime: now,
            mount_point: false,
            linkable: false,
        };
        let index = if let Some(index) = self.free {
            let slot = self.slots.get_mut(index as usize).ok_or(Errno::ENOSPC)?;
            self.free = match slot {
                Slot::Free(next) => *next,
                Slot::Used(_) => None,
            };
            *slot = Slot::Used(node);
            index
        } else {
            let index = u32::try_from(self.slots.len()).ok();
            let Some(index) = index.filter(|_| self.slots.try_reserve(1).is_ok()) else {
                self.budget.refund(cost);
                return Err(Errno::ENOSPC);
            };
            self.slots.push(Slot::Used(node));
            index
        };
        self.next_ino += 1;
        Ok(NodeId(index))
    }

    /// Frees the node if nothing refers to it, and then what it alone held.
    pub(crate) fn release(&mut self, id: NodeId) {
        let mut next = Some(id);
        while let Some(id) = next.take() {
            let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
            let Slot::Used(node) = slot else { return };
            if node.links > 0 || node.pins > 0 {
                return;
            }
            let mut cost = own_cost(&node.kind);
            match &node.kind {
                Kind::Regular(contents) => contents.refund(&mut self.budget),
                Kind::Directory(directory) => {
                    cost += directory.list(0).map(|(_, name, _)| entry_cost(name)).sum::<u64>();
                    next = Some(directory.parent);
                }
                _ => {}
            }
            self.budget.refund(cost);
            *slot = Slot::Free(self.free);
            self.free = Some(id.0);
            if let Some(parent) = next {
                match self.node_mut(parent) {
                    Ok(node) => node.pins = node.pins.saturating_sub(1),
                    Err(_) => return,
                }
            }
        }
    }

    /// Gives `node` the name `name` in `directory`, which has no such name.
    pub(crate) fn link_in(&mut self, directory: NodeId, name: &Name, node: NodeId) -> Result<(), Errno> {
        if self.node(node)?.links >= LINKS_MAX && !self.node(node)?.is_directory() {
            return Err(Errno::EMLINK);
        }
        self.budget.charge(entry_cost(name))?;
        self.directory_mut(directory)?.set(Arc::clone(name), node);
        self.attach(directory, name, node)?;
        self.touch(directory);
        Ok(())
    }

    /// Makes a node with the free name `name` in `directory`.
    pub(crate) fn make(
        &mut self,
        directory: NodeId,
        name: &Name,
        kind: Kind<'a>,
        mode: u32,
    ) -> Result<NodeId, Errno> {
        let own = self.directory(directory)?;
        if own.dead {
            return Err(Errno::ENOENT);
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if own.sealed {
            // As procfs has it: its directories make no files.
            return Err(Errno::ENOENT);
        }
        let above = self.node(directory)?;
        let (device, gid, set_gid) = (above.device, above.gid, above.permissions & S_ISGID != 0);
        let is_directory = matches!(kind, Kind::Directory(_));
        if is_directory {
            // Held by its parent pointer, from now until it is freed.
            self.pin(directory)?;
        }
        let node = match self.add(kind, mode, device) {
            Ok(node) => node,
            Err(error) => {
                if is_directory {
                    self.unpin(directory);
                }
                return Err(error);
            }
        };
        if set_gid {
            let new = self.node_mut(node)?;
            new.gid = gid;
            if is_directory {
                new.permissions |= S_ISGID;
            }
        }
        if let Err(error) = self.link_in(directory, name, node) {
            self.release(node);
            return Err(error);
        }
        Ok(node)
    }

    /// Takes the name away, and frees the node if that was all.
    pub(crate) fn unlink_from(&mut self, directory: NodeId, name: &[u8]) -> Result<(), Errno> {
        let node = self.directory_mut(directory)?.remove(name).ok_or(Errno::ENOENT)?;
        self.budget.refund(entry_cost(name));
        self.detach(directory, node)?;
        self.touch(directory);
        self.release(node);
        Ok(())
    }

    /// Counts that an entry of `directory` points to `node` now.
    pub(crate) fn attach(&mut self, directory: NodeId, name: &Name, node: NodeId) -> Result<(), Errno> {
        let now = self.now;
        let child = self.node_mut(node)?;
        child.ctime = now;
        let Kind::Directory(own) = &mut child.kind else {
            child.links += 1;
            return Ok(());
        };
        // Its name, and its own ".".
        child.links += if child.links == 0 { 2 } else { 1 };
        own.name = Arc::clone(name);
        let before = core::mem::replace(&mut own.parent, directory);
        let parent = self.node_mut(directory)?;
        parent.links += 1;
        parent.pins += 1;
        self.unpin(before);
        Ok(())
    }

    /// Counts that an entry of `directory` does not point to `node` any more.
    pub(crate) fn detach(&mut self, directory: NodeId, node: NodeId) -> Result<(), Errno> {
        let now = self.now;
        let child = self.node_mut(node)?;
        child.ctime = now;
        child.links = child.links.saturating_sub(1);
        if child.is_directory() {
            let parent = self.node_mut(directory)?;
            parent.links = parent.links.saturating_sub(1);
        }
        Ok(())
    }

    /// The directory's contents have changed.
    pub(crate) fn touch(&mut self, directory: NodeId) {
        let now = self.now;
        if let Ok(node) = self.node_mut(directory) {
            node.mtime = now;
            node.ctime = now;
        }
    }

    /// Absolute path of a directory.
    ///
    /// # Errors
    ///
    /// `ENOENT` when it has been removed, `ENOTDIR`.
    pub fn path_of(&self, directory: NodeId) -> Result<Vec<u8>, Errno> {
        let mut names: Vec<Name> = Vec::new();
        let mut at = directory;
        while at != self.root {
            let own = self.directory(at)?;
            if own.dead {
                return Err(Errno::ENOENT);
            }
            names.push(Arc::clone(&own.name));
            at = own.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    /// An absolute path of any node, found by looking everywhere: the first in sorted order.
    #[must_use]
    pub fn find_path(&self, node: NodeId) -> Option<Vec<u8>> {
        let mut open = Vec::from([(self.root, Vec::new())]);
        if node == self.root {
            return Some(Vec::from(*b"/"));
        }
        while let Some((directory, path)) = open.pop() {
            for (name, child) in self.directory(directory).ok()?.sorted() {
                let mut path = path.clone();
                path.push(b'/');
                path.extend_from_slice(name);
                if child == node {
                    return Some(path);
                }
                if self.node(child).is_ok_and(Node::is_directory) {
                    open.push((child, path));
                }
            }
        }
        None
    }
}

pub(crate) fn entry_cost(name: &[u8]) -> u64 {
    ENTRY_BYTES + name.len() as u64
}

/// What a node costs besides its contents and entries.
fn own_cost(kind: &Kind<'_>) -> u64 {
    NODE_BYTES
        + match kind {
            Kind::Directory(_) => DIRECTORY_BYTES,
            Kind::Symlink(alloc::borrow::Cow::Owned(target))
            | Kind::Magic(_, alloc::borrow::Cow::Owned(target)) => target.len() as u64,
            _ => 0,
        }
}
