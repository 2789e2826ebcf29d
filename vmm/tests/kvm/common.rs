//! What the tests share: KVM, and machines of a few bytes of code.

use std::sync::Arc;
use std::time::Duration;

use unifork_vmm::boot::boot_bare;
use unifork_vmm::introspect::Registers;
use unifork_vmm::testing;
use unifork_vmm::{Boot, BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica, Snapshot};

/// Long enough for anything that ends at all on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// KVM, or one sentence why not.
pub(crate) fn kvm() -> Kvm {
    Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"))
}

/// The smallest machine.
pub(crate) fn small() -> MachineConfig {
    MachineConfig { memory_bytes: 4 << 20, stack_bytes: 1 << 16, input_max: 4096, ..MachineConfig::default() }
}

/// Boots a guest of a few bytes.
pub(crate) fn boot(code: &[u8]) -> Boot {
    boot_bare(&kvm(), &testing::guest(code), &small()).expect("a valid machine boots")
}

/// A machine that runs `code` in each fork, frozen.
pub(crate) fn frozen(code: &[u8]) -> Arc<Snapshot> {
    frozen_image(&testing::snapshot_then(code), &small())
}

/// The machine that `image` makes of itself, frozen.
pub(crate) fn frozen_image(image: &GuestImage, config: &MachineConfig) -> Arc<Snapshot> {
    let boot = boot_bare(&kvm(), image, config).expect("a valid machine boots");
    match boot.end {
        BootEnd::Snapshot(snapshot) => snapshot,
        BootEnd::Ended(outcome) => panic!("ended before the snapshot: {outcome:?}"),
    }
}

/// One fork of a machine that runs `code`.
pub(crate) fn fork(code: &[u8], engine: Engine) -> Replica {
    Replica::spawn(&kvm(), &frozen(code), engine).expect("a fork")
}

/// What a program leaves in a fork.
#[derive(Debug, PartialEq)]
pub(crate) struct Reference {
    pub(crate) outcome: Outcome,
    pub(crate) registers: Registers,
    pub(crate) console: Vec<u8>,
    pub(crate) unserved: Vec<(u64, u32)>,
    pub(crate) pages: Vec<u64>,
    pub(crate) memory: u64,
}

/// Runs `input` and looks at everything.
pub(crate) fn reference(fork: &mut Replica, input: &[u8]) -> Reference {
    let outcome = fork.run(input, DEADLINE).unwrap();
    Reference {
        outcome,
        registers: fork.registers(),
        console: fork.console(),
        unserved: fork.unserved(),
        pages: fork.differing_pages(),
        memory: fork.memory_hash(),
    }
}
