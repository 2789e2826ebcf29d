//! What an input reaches, found out without the program: by a new fork for each.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use unifork_vmm::{BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica, Snapshot, Space};

/// A frozen image.
pub(crate) struct Frozen {
    kvm: Kvm,
    snapshot: Arc<Snapshot>,
}

impl Frozen {
    pub(crate) fn open(image: &Path) -> Self {
        let kvm = Kvm::open().unwrap();
        let image = GuestImage::open(image).unwrap();
        let boot = unifork_vmm::boot(&kvm, unifork_guest::KERNEL, &image, &MachineConfig::default()).unwrap();
        let BootEnd::Snapshot(snapshot) = boot.end else { panic!("it ended before its first input") };
        Self { kvm, snapshot }
    }

    /// The edges that `input` reaches, each with the bucket of its count; none if the harness rejects it.
    pub(crate) fn reached(&self, input: &[u8]) -> BTreeSet<(usize, u8)> {
        let mut replica = Replica::spawn(&self.kvm, &self.snapshot, Engine::CopyAll).unwrap();
        let outcome = replica.run(input, Duration::from_secs(10)).unwrap();
        match outcome {
            Outcome::Done { code: -1 } => return BTreeSet::new(),
            Outcome::Done { .. } => {}
            other => panic!("{other:?}"),
        }
        let counters = replica.counters(Space::Application).iter().enumerate();
        counters.filter(|&(_, &count)| count > 0).map(|(edge, &count)| (edge, bucket(count))).collect()
    }
}

/// AFL's buckets.
fn bucket(count: u8) -> u8 {
    match count {
        0..=3 => count,
        4..=7 => 4,
        8..=15 => 5,
        16..=31 => 6,
        32..=127 => 7,
        128..=255 => 8,
    }
}
