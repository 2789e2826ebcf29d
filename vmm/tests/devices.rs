//! Virtio devices as a kernel meets them: found, driven and heard by a driver that runs in a machine.

#[path = "agent/build.rs"]
mod build;
#[path = "devices/calls.rs"]
mod calls;
#[path = "devices/forks.rs"]
mod forks;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::Duration;

use unifork_vmm::Kvm;
use unifork_vmm::foreign::{Config, End, Machine, Outside, Power, Profile, Ring0};
use unifork_vmm::virtio::{DeviceConfig, Disk};

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a kernel reaches its devices, and the machine that has them so.
const WAYS: [(&str, Profile); 3] =
    [("mmio", Profile::Firecracker), ("modern", Profile::Pc), ("legacy", Profile::Pc)];

fn kernel() -> Vec<u8> {
    build::image(build::CLANG, &[("../devices/kernel.c", Some("-mgeneral-regs-only"))])
}

/// What a kernel's devices are connected to: frames come back to their card the other way round, and what was said to be typed is.
#[derive(Default)]
struct World {
    console: Vec<u8>,
    frames: VecDeque<(usize, Vec<u8>)>,
    to_type: Vec<u8>,
}

impl Outside for World {
    fn console(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }
    fn typed(&mut self, room: usize) -> Vec<u8> {
        let rest = self.to_type.split_off(self.to_type.len().min(room));
        std::mem::replace(&mut self.to_type, rest)
    }
    fn listens(&self) -> bool {
        !self.to_type.is_empty()
    }
    fn stopped(&self) -> bool {
        false
    }
    fn sent(&mut self, card: usize, frame: &[u8]) {
        self.frames.push_back((card, frame.iter().rev().copied().collect()));
    }
    fn arrived(&mut self, card: usize) -> Option<Vec<u8>> {
        self.frames.pop_front_if(|(to, _)| *to == card).map(|(_, frame)| frame)
    }
    fn is_connected(&self) -> bool {
        true
    }
}

/// A disk of `sectors` sectors, the second of which says so.
fn disk(folder: &Path, sectors: usize) -> std::sync::Arc<Disk> {
    let mut bytes = vec![b'.'; sectors * 512];
    bytes[512..525].copy_from_slice(b"from a file\n\0");
    let path = folder.join(format!("{sectors}.img"));
    fs::write(&path, bytes).unwrap();
    Disk::open(&path).unwrap()
}

#[test]
fn a_kernel_finds_and_drives_its_devices_by_every_way_there_is() {
    let kvm = Kvm::open().unwrap();
    let kernel = kernel();
    let folder = tempfile::tempdir().unwrap();
    for (way, profile) in WAYS {
        for ring0 in [Ring0::Native, Ring0::Monitor] {
            let devices = vec![
                DeviceConfig::Disk { disk: disk(folder.path(), 20), read_only: false },
                DeviceConfig::Entropy { seed: 7 },
                DeviceConfig::Net,
                DeviceConfig::Disk { disk: disk(folder.path(), 30), read_only: true },
                DeviceConfig::Console,
            ];
            let append = format!("{way} d e n d c");
            let config =
                Config { append, profile, devices, ring0, memory_bytes: 8 << 20, ..Config::default() };
            let mut machine = Machine::boot(&kvm, "kernel", &kernel, &config).unwrap();
            let mut world = World { to_type: b"typed\n".to_vec(), ..World::default() };
            let end = machine.run(DEADLINE, &mut world).unwrap();
            let said = String::from_utf8_lossy(&world.console);
            let expected = "disk 14\nfrom a file\nentropy d70d3259e4e1cb63\nnet 525400554601\ngnip\ndisk 1e\nfrom a file\nit cannot be written\nconsole: typed\ndone\n";
            assert_eq!(said, expected, "{way} {ring0:?}: {end:?}");
            let power = if profile == Profile::Pc { Power::Off } else { Power::Reset };
            assert_eq!(end, End::Power(power), "{way} {ring0:?}");
        }
    }
}
