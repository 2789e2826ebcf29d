//! What happens per input, run and reset, allocates nothing and makes the system calls that the
//! documentation of `replica` and `reset` says.
//!
//! `CopyAll` is the specification of reset and restores everything the slow way; it is not held to
//! this.

#[path = "common/calls.rs"]
mod calls;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use calls::{KVM_GET_DIRTY_LOG, KVM_RUN, ROUNDS};
use unifork_abi::ARENA_VA;
use unifork_abi::Filter;
use unifork_vmm::boot::boot_bare;
use unifork_vmm::testing::{DONE, snapshot_then};
use unifork_vmm::{BatchTime, BootEnd, Engine, Kvm, MachineConfig, Outcome, Replica, Snapshot};

const DEADLINE: Duration = Duration::from_secs(10);

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

/// A guest that dirties two pages next to each other and one far away, then does what `end` says.
fn frozen(end: &[u8]) -> (Kvm, Arc<Snapshot>) {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
    let mut code = vec![0x48, 0xb8]; // movabs rax, ARENA_VA
    code.extend_from_slice(&ARENA_VA.to_le_bytes());
    for page in [0u32, 1, 200] {
        code.extend_from_slice(&[0x48, 0x89, 0x80]); // mov [rax + page * 4096], rax
        code.extend_from_slice(&(page * 4096).to_le_bytes());
    }
    code.extend_from_slice(end);
    let config = MachineConfig {
        memory_bytes: 4 << 20,
        stack_bytes: 1 << 16,
        input_max: 4096,
        ..MachineConfig::default()
    };
    let boot = boot_bare(&kvm, &snapshot_then(&code), &config).expect("a valid machine boots");
    match boot.end {
        BootEnd::Snapshot(snapshot) => (kvm, snapshot),
        BootEnd::Ended(outcome) => panic!("ended before the snapshot: {outcome:?}"),
    }
}

const KVM_SET_XSAVE: u64 = 0x5000_aea5;
const KVM_CLEAR_DIRTY_LOG: u64 = 0xc018_aec0;
const KVM_RESET_DIRTY_RINGS: u64 = 0xaec7;

const TRACKED: [Engine; 3] = [Engine::DirtyLog, Engine::DirtyRing, Engine::HotSet];

/// Whether a run ended as it should.
type Expected = fn(&Outcome) -> bool;

#[test]
fn a_run_and_a_reset_allocate_nothing() {
    let ends: [(&[u8], Expected); 3] = [
        (&DONE, |outcome| matches!(outcome, Outcome::Done { .. })),
        (&[0x0f, 0x0b], |outcome| matches!(outcome, Outcome::Crash(_))), // ud2
        (&[0xeb, 0xfe], |outcome| *outcome == Outcome::Timeout),         // jmp $
    ];
    for (end, expected) in ends {
        let (kvm, snapshot) = frozen(end);
        for engine in TRACKED {
            let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
            let timeout = end[0] == 0xeb;
            let deadline = if timeout { Duration::from_millis(2) } else { DEADLINE };
            let mut round = || {
                let outcome = fork.run(b"some input", deadline).unwrap();
                assert!(expected(&outcome), "{outcome:?}");
                fork.reset().unwrap();
            };
            (0..5).for_each(|_| round());
            let before = ASKED.get();
            (0..if timeout { 10 } else { 500 }).for_each(|_| round());
            assert_eq!(ASKED.get() - before, 0, "{engine}, {end:x?}");
        }
    }
}

#[test]
fn a_batch_allocates_nothing() {
    let (kvm, snapshot) = frozen(&DONE);
    let mut fork = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
    let mut runs = Vec::with_capacity(8);
    for round in 0..500 {
        let before = ASKED.get();
        fork.run_batch([&b"some input"[..]; 1], BatchTime::each(DEADLINE), Filter::Off, &mut runs).unwrap();
        assert!(round < 5 || ASKED.get() == before, "round {round}");
    }
}

#[test]
fn a_run_and_a_reset_make_the_system_calls_that_are_documented() {
    let (_kvm, snapshot) = frozen(&DONE);
    let both = [KVM_RUN, KVM_SET_XSAVE].map(|which| (which, 1));
    let prepare = |engine| {
        let mut fork = Replica::spawn(&Kvm::open().unwrap(), &snapshot, engine).unwrap();
        move || {
            assert!(matches!(fork.run(b"some input", DEADLINE), Ok(Outcome::Done { .. })));
            fork.reset().unwrap();
        }
    };
    let expected: [(Engine, &[(u64, u64)]); 3] = [
        // The three pages are in two words of the log.
        (Engine::DirtyLog, &[(KVM_GET_DIRTY_LOG, 1), (KVM_CLEAR_DIRTY_LOG, 2)]),
        (Engine::DirtyRing, &[(KVM_RESET_DIRTY_RINGS, 1)]),
        (Engine::HotSet, &[(KVM_GET_DIRTY_LOG, 1)]),
    ];
    for (engine, calls) in expected {
        let expected = calls::ioctls(both.iter().chain(calls).copied());
        let counted = calls::traced(|| prepare(engine));
        assert_eq!(
            counted, expected,
            "{engine}: (call, ioctl): how often in {ROUNDS} rounds, in hexadecimal {counted:x?}"
        );
    }
}
