//! What happens per batch and per run of a real image, with the libOS, allocates nothing and makes the system
//! calls that are documented. `vmm/tests/data_plane.rs` says so of bare guests.

#[path = "../../vmm/tests/common/calls.rs"]
mod calls;
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use unifork_abi::Filter;
use unifork_vmm::{
    BatchEnd, BatchTime, BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica, Snapshot,
};

const DEADLINE: Duration = Duration::from_secs(10);
/// Inputs of a batch.
const BATCH: usize = 64;

/// The system's allocator, with a count of what this thread asked of it.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to `System` unchanged, which upholds the contract; the count is a
// thread-local without destructor and allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn frozen(name: &str) -> (Kvm, Arc<Snapshot>, Vec<u8>) {
    let image = common::image(name);
    let kvm = Kvm::open().unwrap();
    let guest = GuestImage::open(&image).unwrap();
    let config = MachineConfig { memory_bytes: 24 << 20, input_max: 64 << 10, ..MachineConfig::default() };
    let boot = unifork_vmm::boot(&kvm, unifork_guest::KERNEL, &guest, &config).unwrap();
    let BootEnd::Snapshot(snapshot) = boot.end else { panic!("{name}: {:?}", boot.end) };
    let seeds = image.with_extension("seeds");
    let seed = common::names(&seeds).first().map(|seed| std::fs::read(seeds.join(seed)).unwrap()).unwrap();
    (kvm, snapshot, seed)
}

#[test]
fn a_batch_of_a_real_image_allocates_nothing() {
    for name in ["cjson", "png", "planted/noop"] {
        let (kvm, snapshot, seed) = frozen(name);
        let mut fork = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
        let mut runs = Vec::with_capacity(BATCH);
        let mut whole = 0;
        for round in 0..200 {
            let before = ASKED.get();
            let batch = std::iter::repeat_n(seed.as_slice(), BATCH);
            let report = fork
                .run_batch(
                    batch,
                    BatchTime::each(DEADLINE),
                    [Filter::Off, Filter::Application][round % 2],
                    &mut runs,
                )
                .unwrap();
            let asked = ASKED.get() - before;
            assert!(round < 5 || asked == 0, "{name}, round {round}: {asked}");
            assert_eq!(report.taken, BATCH, "{name}");
            whole += usize::from(report.end == BatchEnd::Complete && runs.len() == BATCH);
        }
        assert!(whole > 190, "{name}: {whole} of 200 batches were whole");
    }
}

#[test]
fn a_run_of_a_real_image_and_its_reset_allocate_nothing() {
    let (kvm, snapshot, seed) = frozen("cjson");
    for engine in [Engine::DirtyLog, Engine::DirtyRing, Engine::HotSet] {
        let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        for round in 0..200 {
            let before = ASKED.get();
            let outcome = fork.run(&seed, DEADLINE).unwrap();
            fork.reset().unwrap();
            let asked = ASKED.get() - before;
            assert!(matches!(outcome, Outcome::Done { .. }), "{engine}: {outcome:?}");
            assert!(round < 5 || asked == 0, "{engine}, round {round}: {asked}");
        }
    }
}

/// The outcome of the run that stopped a batch is boxed.
#[test]
fn a_batch_that_is_stopped_allocates_for_its_outcome_alone() {
    let (kvm, snapshot, seed) = frozen("planted/null-write");
    let mut fork = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
    let mut runs = Vec::with_capacity(BATCH);
    let mut stopped = 0;
    for round in 0..100 {
        let batch = (0..BATCH).map(|i| if i == BATCH / 2 { &b"NU"[..] } else { seed.as_slice() });
        let before = ASKED.get();
        let report = fork.run_batch(batch, BatchTime::each(DEADLINE), Filter::All, &mut runs).unwrap();
        let asked = ASKED.get() - before;
        let ended = matches!(report.end, BatchEnd::Stopped { at, .. } if at == BATCH / 2);
        assert!(round < 5 || asked == usize::from(ended), "round {round}: {asked}, {:?}", report.end);
        stopped += usize::from(ended);
    }
    assert!(stopped > 90, "{stopped} of 100 batches were stopped");
}

#[test]
fn a_batch_of_a_real_image_makes_two_system_calls() {
    for name in ["cjson", "planted/noop"] {
        let (_kvm, snapshot, seed) = frozen(name);
        let counted = calls::traced(|| {
            let mut fork = Replica::spawn(&Kvm::open().unwrap(), &snapshot, Engine::HotSet).unwrap();
            let mut runs = Vec::with_capacity(BATCH);
            let mut batch = move || {
                let batch = std::iter::repeat_n(seed.as_slice(), BATCH);
                fork.run_batch(batch, BatchTime::each(DEADLINE), Filter::Off, &mut runs).unwrap();
                runs.len()
            };
            // The first ones learn the hot set, and are thrown away.
            (0..5).for_each(|_| {
                batch();
            });
            move || assert_eq!(batch(), BATCH)
        });
        let expected = [calls::KVM_RUN, calls::KVM_GET_DIRTY_LOG].map(|which| (which, 1));
        assert_eq!(counted, calls::ioctls(expected), "{name}: (call, ioctl), in hexadecimal {counted:x?}");
    }
}
