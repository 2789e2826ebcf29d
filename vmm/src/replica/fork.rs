//! Freezing a replica where it stands, and moving it between the nodes of a snapshot tree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unifork_abi::{CONSOLE_BYTES, Control, Hypercall};

use super::{Phase, Replica, ReplicaError};
use crate::outcome::Outcome;
use crate::reset::{ResetStats, for_each_page};
use crate::snapshot::Space;
use crate::tree::{Node, Page};
use crate::vm::Event;
use crate::windows;

/// Why a replica stopped that may go on.
#[derive(Clone, Debug, PartialEq)]
pub enum Advance {
    /// The guest asked for a snapshot here. [`SnapshotTree::take`](crate::tree::SnapshotTree::take)
    /// freezes it; [`Replica::advance`] goes on.
    Checkpoint,
    /// The run has ended.
    Ended(Outcome),
}

impl Replica {
    /// Begins a run with `input`, like [`Self::run`], but stops where the guest asks for a snapshot.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn begin(&mut self, input: &[u8], deadline: Duration) -> Result<Advance, ReplicaError> {
        self.prepare(input)?;
        self.advance(deadline)
    }

    /// Goes on from where the replica stands: a checkpoint, or the node it was put to.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn advance(&mut self, deadline: Duration) -> Result<Advance, ReplicaError> {
        let event = self.enter(deadline);
        if matches!(event, Event::Hypercall { number, .. } if number == Hypercall::Snapshot as u64) {
            self.vm.answer(0)?;
            return Ok(Advance::Checkpoint);
        }
        Ok(Advance::Ended(self.judge(event)))
    }

    /// What the replica is now, as a node below `base`: pages that equal the root's or `base`'s are
    /// shared with them.
    pub(crate) fn freeze(&mut self, base: Option<&Node>) -> Result<Node, ReplicaError> {
        let mut dirty = self.resetter.dirty(&mut self.vm)?;
        // The replica stands at `self.node`, which need not be `base`: all its pages count as well.
        for node in [self.node.as_deref(), base].into_iter().flatten() {
            for &page in node.pages.keys() {
                if let Some(word) = usize::try_from(page / 64).ok().and_then(|word| dirty.get_mut(word)) {
                    *word |= 1 << (page % 64);
                }
            }
        }
        let root = crate::memory::Golden { image: self.snapshot.memory(), over: None };
        let shared = |page: u64| base.and_then(|base| base.pages.get(&page));
        let mut pages = BTreeMap::new();
        for_each_page(&dirty, |page| {
            let Some(now) = self.vm.memory.page(page) else { return };
            if Some(now) == root.page(page) {
                return;
            }
            let content = match shared(page) {
                Some(content) if content.as_slice() == now => Arc::clone(content),
                _ => Arc::new(Page::try_from(now).expect("a page is a page")),
            };
            pages.insert(page, content);
        });
        let core = self.vm.vcpu.settled_core();
        let vcpu = self.vm.vcpu.save(core)?;
        Ok(Node { pages, vcpu, windows: self.live_windows(), input_extent: self.input_extent })
    }

    /// The windows that a run goes on from, as far as they are in use.
    fn live_windows(&self) -> Vec<(crate::addr::Gpa, Vec<u8>)> {
        let plan = &self.snapshot.info().windows;
        let (app, app_count) = self.counters_at(Space::Application);
        let (kernel, kernel_count) = self.counters_at(Space::Kernel);
        let input = self.input_extent.min(plan.input_bytes);
        let console = windows::control(&self.vm.memory, plan).console_len.min(CONSOLE_BYTES);
        let live = [
            (plan.control, size_of::<Control>() as u64),
            (plan.records, size_of::<unifork_abi::RunRecord>() as u64),
            (plan.console, console),
            (plan.input.offset(plan.input_bytes - input), input),
            (app, app_count as u64),
            (kernel, kernel_count as u64),
        ];
        live.into_iter()
            .map(|(at, bytes)| (at, windows::slice_ref(&self.vm.memory, at, bytes).to_vec()))
            .collect()
    }

    /// Puts the replica to `node`, `None` being the root, and makes that what resets go back to.
    pub(crate) fn settle_at(&mut self, node: Option<Arc<Node>>) -> Result<ResetStats, ReplicaError> {
        let old = std::mem::replace(&mut self.node, node);
        let empty = BTreeMap::new();
        let (was, is) =
            (old.as_ref().map_or(&empty, |n| &n.pages), self.node.as_ref().map_or(&empty, |n| &n.pages));
        // Pages in which the two nodes differ: those below their nearest common ancestor.
        let same = |a: Option<&Arc<Page>>, b: Option<&Arc<Page>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        for &page in was.keys().chain(is.keys()) {
            if !same(was.get(&page), is.get(&page)) {
                self.vm.memory.mark(page);
            }
        }
        self.xsave = match &self.node {
            Some(node) => self.vm.vcpu.xsave_from(&node.vcpu)?,
            None => self.vm.vcpu.xsave_from(self.snapshot.vcpu())?,
        };
        self.debug_dirty = true;
        self.phase = Phase::Ran;
        self.reset()
    }
}
