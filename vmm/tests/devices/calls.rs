//! Devices that the image calls: Solo5's hvt.

use std::sync::{Arc, OnceLock};

use unifork_vmm::foreign::{Base, Config, End, Fork, Machine, Power, Protocol, Ring0, Terms};
use unifork_vmm::reset::Mutation;
use unifork_vmm::virtio::DeviceConfig;
use unifork_vmm::{Engine, Kvm};

use crate::forks::{Held, kvm, random_devices, random_round};
use crate::{DEADLINE, World, build, disk};

fn image() -> Arc<[u8]> {
    static IMAGE: OnceLock<Arc<[u8]>> = OnceLock::new();
    let sources = [("../devices/calls.c", Some("-mgeneral-regs-only"))];
    Arc::clone(IMAGE.get_or_init(|| build::image(build::CLANG, &sources).into()))
}

/// A machine with what the kernel's manifest names.
fn config(append: &str, ring0: Ring0) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let disk = DeviceConfig::Disk { disk: disk(folder.path(), 20), read_only: false };
    let devices = vec![disk, DeviceConfig::Net, DeviceConfig::Net];
    Config { append: append.into(), devices, ring0, memory_bytes: 8 << 20, ..Config::default() }
}

fn base(ring0: Ring0) -> Arc<Base> {
    Base::boot(kvm(), "kernel", image(), &config("", ring0), &Terms::default(), DEADLINE).unwrap()
}

#[test]
fn a_kernel_calls_its_disk_and_its_cards() {
    let kvm = Kvm::open().unwrap();
    // Nothing in it is beyond KVM's emulator.
    for ring0 in [Ring0::Native, Ring0::Monitor] {
        let mut machine = Machine::boot(&kvm, "kernel", &image(), &config("show", ring0)).unwrap();
        assert_eq!(machine.protocol(), Protocol::Hvt);
        let mut world = World::default();
        let end = machine.run(DEADLINE, &mut world).unwrap();
        let said = String::from_utf8_lossy(&world.console);
        assert_eq!((&*said, end), ("from a file\n.wwping\n", End::Power(Power::Exit(7))), "{ring0:?}");
    }
}

#[test]
fn what_is_called_is_put_back_under_the_monitor() {
    for engine in [Engine::DirtyLog, Engine::HotSet] {
        random_devices(base(Ring0::Monitor), engine, 60);
    }
}

#[test]
fn what_is_called_is_put_back_at_ring_0() {
    random_devices(base(Ring0::Native), Engine::HotSet, 10);
}

#[test]
fn a_device_that_is_forgotten_is_noticed() {
    for mutation in [Mutation::KeepVirtio, Mutation::KeepBus, Mutation::ForgetHostWrites] {
        let mut held = Held::new(base(Ring0::Monitor), Engine::HotSet);
        held.used.plant(mutation);
        random_round(&mut held, mutation);
    }
}

/// A frame comes by the first card, and a run that waits for another one is over.
#[test]
fn a_frame_ends_a_wait_and_nothing_else_takes_any_time() {
    let base = base(Ring0::Auto);
    let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
    let wait_and_read = [4, 255, 3, 255, 7, 3];
    let nothing = fork.run(&wait_and_read, DEADLINE).unwrap();
    fork.reset().unwrap();
    fork.prepare(&wait_and_read).unwrap();
    assert!(fork.deliver(b"a frame"));
    let frame = fork.run_prepared(DEADLINE).unwrap();
    assert_ne!(frame, nothing);
    assert_eq!(fork.run(&wait_and_read, DEADLINE).unwrap(), nothing);
    // Both cards' frames, first card first.
    let two = fork.run(&[2, 2, 2, 1], DEADLINE).unwrap();
    assert_eq!(fork.frames().iter().map(Vec::len).collect::<Vec<_>>(), [15, 16], "{two:?}");
    assert_eq!((fork.frames()[0][0], fork.frames()[1][0]), (1, 2));
}
