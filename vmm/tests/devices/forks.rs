//! Forks of machines with devices: whatever was done to them, they are put back.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_vmm::foreign::{Base, Config, Fork, Profile, Ring0, Terms};
use unifork_vmm::reset::Mutation;
use unifork_vmm::virtio::{DeviceConfig, Disk};
use unifork_vmm::{Engine, Kvm, Outcome};

use crate::{DEADLINE, WAYS, build, disk};

pub(crate) fn kvm() -> &'static Kvm {
    static KVM: OnceLock<Kvm> = OnceLock::new();
    KVM.get_or_init(|| Kvm::open().unwrap())
}

fn base(way: (&str, Profile), ring0: Ring0) -> Arc<Base> {
    let folder = tempfile::tempdir().unwrap();
    base_with(way, ring0, disk(folder.path(), 20))
}

fn base_with((way, profile): (&str, Profile), ring0: Ring0, disk: Arc<Disk>) -> Arc<Base> {
    static IMAGE: OnceLock<Arc<[u8]>> = OnceLock::new();
    let sources = [("../devices/steps.c", Some("-mgeneral-regs-only"))];
    let image = IMAGE.get_or_init(|| build::image(build::CLANG, &sources).into());
    let devices = vec![
        DeviceConfig::Disk { disk, read_only: false },
        DeviceConfig::Entropy { seed: 7 },
        DeviceConfig::Net,
        DeviceConfig::Console,
    ];
    let append = way.to_owned();
    let config = Config { append, profile, devices, ring0, memory_bytes: 8 << 20, ..Config::default() };
    Base::boot(kvm(), "kernel", Arc::clone(image), &config, &Terms::default(), DEADLINE).unwrap()
}

/// What a run is given: its input and frames.
#[derive(Debug)]
struct Given {
    input: Vec<u8>,
    frames: Vec<Vec<u8>>,
}

fn any_given(random: &mut StdRng) -> Given {
    let bytes = |random: &mut StdRng, count| (0..count).map(|_| random.random()).collect();
    let steps = random.random_range(1..60);
    let frames = random.random_range(0..5);
    Given {
        input: bytes(random, 2 * steps),
        frames: (0..frames)
            .map(|_| {
                let count = random.random_range(0..1700);
                bytes(random, count)
            })
            .collect(),
    }
}

/// Runs a fork that is as it was frozen.
fn run(fork: &mut Fork, given: &Given) -> Outcome {
    fork.prepare(&given.input).unwrap();
    assert!(given.frames.iter().all(|frame| fork.deliver(frame)));
    fork.run_prepared(DEADLINE).unwrap()
}

/// A fork that is held to others of its base.
pub(crate) struct Held {
    base: Arc<Base>,
    pub(crate) used: Fork,
    fresh: Fork,
}

impl Held {
    pub(crate) fn new(base: Arc<Base>, engine: Engine) -> Self {
        let used = Fork::spawn(kvm(), &base, engine).unwrap();
        let fresh = Fork::spawn(kvm(), &base, Engine::CopyAll).unwrap();
        Self { base, used, fresh }
    }

    /// Runs what was `given`, puts back, and says what of it is not as in a fork that is new; else the outcome.
    fn round(&mut self, given: &Given) -> Result<Outcome, String> {
        let mut new = Fork::spawn(kvm(), &self.base, Engine::CopyAll).unwrap();
        let outcome = run(&mut new, given);
        let again = run(&mut self.used, given);
        let same = |what: &str, same: bool| if same { Ok(()) } else { Err(format!("{what} differ")) };
        same("outcomes", outcome == again)?;
        same("counters", new.counters() == self.used.counters())?;
        same("frames", new.frames() == self.used.frames())?;
        same("consoles", new.console() == self.used.console())?;
        if outcome == Outcome::Timeout {
            // How far it came is the host's clock's affair.
            self.used.reset().unwrap();
            return Ok(outcome);
        }
        same("states", new.state().unwrap() == self.used.state().unwrap())?;
        same("memories", new.ram() == self.used.ram())?;
        self.used.reset().unwrap();
        same("states after the reset", self.fresh.state().unwrap() == self.used.state().unwrap())?;
        same("memories after the reset", self.fresh.ram() == self.used.ram())?;
        Ok(outcome)
    }
}

/// Runs random inputs and frames in forks of `base`.
pub(crate) fn random_devices(base: Arc<Base>, engine: Engine, rounds: usize) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut held = Held::new(base, engine);
    let (mut outcomes, mut sent) = (BTreeSet::new(), 0);
    for round in 0..rounds {
        let outcome = held.round(&any_given(&mut random));
        let outcome = outcome.unwrap_or_else(|e| panic!("seed {seed}, round {round}, {engine}: {e}"));
        outcomes.insert(format!("{outcome:?}"));
        sent += held.used.frames().len();
    }
    assert!(outcomes.len() > rounds / 2, "seed {seed}: only {} outcomes", outcomes.len());
    assert!(sent > 0, "seed {seed}");
}

/// Runs random inputs and frames until `mutation`, which is planted, is noticed.
pub(crate) fn random_round(held: &mut Held, mutation: Mutation) {
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let round = (0..200).find(|_| held.round(&any_given(&mut random)).is_err());
    println!("{mutation:?}: noticed in round {round:?}");
    assert!(round.is_some(), "seed {seed}: {mutation:?} went unnoticed");
}

#[test]
fn devices_are_put_back_under_the_monitor() {
    for (engine, way) in [Engine::DirtyLog, Engine::HotSet].into_iter().flat_map(|e| WAYS.map(|way| (e, way)))
    {
        println!("{way:?}");
        random_devices(base(way, Ring0::Monitor), engine, 40);
    }
}

#[test]
fn devices_are_put_back_at_ring_0() {
    for way in WAYS {
        println!("{way:?}");
        random_devices(base(way, Ring0::Native), Engine::HotSet, 8);
    }
}

#[test]
fn a_device_that_is_forgotten_is_noticed() {
    for (way, mutation) in WAYS.into_iter().flat_map(|way| {
        [Mutation::KeepVirtio, Mutation::KeepBus, Mutation::ForgetHostWrites].map(|mutation| (way, mutation))
    }) {
        println!("{way:?}");
        let mut held = Held::new(base(way, Ring0::Monitor), Engine::HotSet);
        held.used.plant(mutation);
        random_round(&mut held, mutation);
    }
}

/// Frames come in with the input and go out with the outcome.
#[test]
fn frames_are_part_of_a_run_and_of_nothing_else() {
    let base = base(WAYS[0], Ring0::Auto);
    let mut fork = Fork::spawn(kvm(), &base, Engine::HotSet).unwrap();
    assert!(fork.has_net());
    // Two steps that make room and one that sends.
    let steps = [4, 0, 4, 0, 3, 5];
    let alone = fork.run(&steps, DEADLINE).unwrap();
    let sent = fork.frames().to_vec();
    assert_eq!(sent, [vec![5; 5]]);
    fork.reset().unwrap();
    let given = Given { input: steps.to_vec(), frames: vec![b"one".to_vec(), b"two".to_vec()] };
    let with_frames = run(&mut fork, &given);
    assert_ne!(with_frames, alone, "the image has seen them");
    assert_eq!(fork.frames(), sent);
    assert_eq!(fork.run(&steps, DEADLINE).unwrap(), alone, "they are gone");
    assert_eq!(fork.run(&[], DEADLINE).unwrap(), fork.run(&[], DEADLINE).unwrap());
    assert!(fork.frames().is_empty());
    assert!(!fork.deliver(&vec![0; unifork_vmm::virtio::FRAME_BYTES_MAX + 1]));
}

/// A frozen machine that another process is handed has the same disks.
#[test]
fn disks_are_behind_a_machine_that_is_shared() {
    use std::os::fd::AsRawFd as _;
    let folder = tempfile::tempdir().unwrap();
    let base = base_with(WAYS[0], Ring0::Auto, disk(folder.path(), 20));
    let file = base.share().unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let shared = Base::open_shared(path.as_ref()).unwrap();
    // Two sectors that were not written, and one that was.
    let steps = [0, 10, 0, 12, 1, 7, 0, 7];
    let outcomes = [base, shared]
        .map(|base| Fork::spawn(kvm(), &base, Engine::HotSet).unwrap().run(&steps, DEADLINE).unwrap());
    assert_eq!(outcomes[0], outcomes[1]);
    std::fs::write(folder.path().join("20.img"), "short").unwrap();
    assert!(Base::open_shared(path.as_ref()).is_err(), "another size");
}
