//! The checks of batches notice mistakes: planted ones, in what the host tells the guest and believes of
//! it, and in the guest's own run loop, whose code is changed before it boots.
//!
//! `vmm/tests/kvm/mutants.rs` does it for resets by the host.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_harnesses::BuildRequest;
use unifork_vmm::reset::Mutation;
use unifork_vmm::{
    BatchEnd, BatchTime, BootEnd, Engine, GuestImage, Kvm, MachineConfig, Outcome, Replica, Snapshot, Space,
};

const DEADLINE: Duration = Duration::from_secs(5);
/// Batches within which a mistake must be noticed.
const ROUNDS: usize = 60;

fn freeze(kvm: &Kvm, kernel: &[u8], image: &Path) -> Arc<Snapshot> {
    let guest = GuestImage::open(image).unwrap();
    let config = MachineConfig { memory_bytes: 16 << 20, input_max: 64 << 10, ..MachineConfig::default() };
    match unifork_vmm::boot(kvm, kernel, &guest, &config).unwrap().end {
        BootEnd::Snapshot(snapshot) => snapshot,
        BootEnd::Ended(outcome) => panic!("asks for no input: {outcome:?}"),
    }
}

/// Runs batches on `batched`, and each of their inputs on `alone`; the first batch of which something
/// that it vouches for is not so, and what.
fn noticed(
    batched: &mut Replica,
    alone: &mut Replica,
    mut input: impl FnMut(&mut StdRng) -> Vec<u8>,
) -> Option<(usize, String)> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut runs = Vec::new();
    for round in 0..ROUNDS {
        let inputs: Vec<Vec<u8>> = (0..rng.random_range(2..24)).map(|_| input(&mut rng)).collect();
        let all = inputs.iter().map(Vec::as_slice);
        let (report, pages) = batched.run_batch_and_look(all, BatchTime::each(DEADLINE), &mut runs).unwrap();
        let mut dirtied = Vec::new();
        for (n, input) in inputs.iter().take(report.taken).enumerate() {
            let outcome = alone.run(input, DEADLINE).unwrap();
            let counters = [alone.counters(Space::Application), alone.counters(Space::Kernel)].concat();
            dirtied = alone.differing_pages();
            if let Some(run) = runs.get(n) {
                if outcome != (Outcome::Done { code: run.code }) {
                    return Some((round, format!("run {n} returned {}, alone {outcome:?}", run.code)));
                }
                if run.slot.is_some_and(|slot| *batched.batch_counters(slot) != counters) {
                    return Some((round, format!("run {n} has other counters")));
                }
            }
            if let BatchEnd::Stopped { at, outcome: stopped } = &report.end
                && *at == n
                && matches!(outcome, Outcome::Done { .. })
            {
                return Some((round, format!("run {n} ended with {stopped:?}, alone it returns")));
            }
        }
        if report.end == BatchEnd::Complete && pages != dirtied {
            return Some((round, "other pages were dirty at the end".into()));
        }
    }
    None
}

/// Mutants of a harness's seeds.
fn mutant_of(image: &Path) -> impl FnMut(&mut StdRng) -> Vec<u8> {
    let folder = image.with_extension("seeds");
    let seeds: Vec<Vec<u8>> =
        common::names(&folder).iter().map(|seed| std::fs::read(folder.join(seed)).unwrap()).collect();
    move |rng| {
        let mut input = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..input.len().max(1));
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.random();
            }
        }
        input
    }
}

#[test]
fn mistakes_planted_in_what_the_host_does_for_batches_are_noticed() {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
    let image = common::image("cjson");
    let snapshot = freeze(&kvm, unifork_guest::KERNEL, &image);
    let mutations = [Mutation::HideHotPage, Mutation::WrongGolden, Mutation::TrustBatch];
    for mutation in std::iter::once(None).chain(mutations.map(Some)) {
        let mut batched = Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap();
        let mut alone = Replica::spawn(&kvm, &snapshot, Engine::DirtyLog).unwrap();
        mutation.into_iter().for_each(|mutation| batched.plant(mutation));
        let noticed = noticed(&mut batched, &mut alone, mutant_of(&image));
        println!("{mutation:?}: {noticed:?}");
        assert_eq!(noticed.is_some(), mutation.is_some(), "{mutation:?}: {noticed:?}");
    }
}

/// The kernel with the first instruction behind `unifork_resume` that begins with `code` made nothing.
fn without(code: &[u8], bytes: usize) -> Vec<u8> {
    nor(unifork_guest::KERNEL.to_vec(), code, bytes)
}

/// [`without`], of a kernel that lacks something already.
fn nor(mut kernel: Vec<u8>, code: &[u8], bytes: usize) -> Vec<u8> {
    let header = kernel.windows(8).position(|eight| eight == unifork_abi::KERNEL_MAGIC).unwrap();
    let resume = u64::from_le_bytes(kernel[header + 40..header + 48].try_into().unwrap());
    let resume = header + (resume - unifork_abi::KERNEL_VA) as usize;
    let at = kernel[resume..resume + 160].windows(code.len()).position(|window| window == code);
    let at = resume + at.expect("the run loop has this instruction");
    kernel[at..at + bytes].fill(0x90);
    kernel
}

/// An image of a C file of ours.
fn image_of(source: &str) -> PathBuf {
    let file = common::root().join("fuzzer/tests/guests").join(source);
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mutants-{source}.img"));
    let request = BuildRequest::new(&[file], &["-mavx".to_owned(), "-mfsgsbase".to_owned()], output.clone());
    if let Err(error) = unifork_harnesses::build(&request.unwrap()) {
        panic!("cannot build {source}: {error}: {:?}", error.diagnostics());
    }
    output
}

#[test]
fn mistakes_planted_in_the_guests_run_loop_are_noticed() {
    let kvm = Kvm::open().unwrap_or_else(|e| panic!("this test needs KVM: {e}"));
    let (fpu, bases) = (image_of("fpu.c"), image_of("bases.c"));
    let none = || unifork_guest::KERNEL.to_vec();
    let kernels = [
        ("nothing, x87 to AVX", &fpu, none(), false),
        ("nothing, bases", &bases, none(), false),
        // Intel SDM volume 2: the opcodes, with a 32-bit address.
        ("xrstor64", &fpu, without(&[0x48, 0x0f, 0xae, 0x2c, 0x25], 9), true),
        ("wrfsbase rax", &bases, without(&[0xf3, 0x48, 0x0f, 0xae, 0xd0], 5), true),
        // On Intel a null selector clears the base as well.
        (
            "mov gs; wrgsbase rax",
            &bases,
            nor(without(&[0x8e, 0xe8], 2), &[0xf3, 0x48, 0x0f, 0xae, 0xd8], 5),
            true,
        ),
        ("push 2; popfq", &fpu, without(&[0x6a, 0x02, 0x9d], 3), true),
    ];
    for (left_out, image, kernel, wrong) in kernels {
        let right = freeze(&kvm, unifork_guest::KERNEL, image);
        let mutant = freeze(&kvm, &kernel, image);
        let mut batched = Replica::spawn(&kvm, &mutant, Engine::HotSet).unwrap();
        let mut alone = Replica::spawn(&kvm, &right, Engine::DirtyLog).unwrap();
        let input = |rng: &mut StdRng| (0..40).map(|_| rng.random_range(b'f'..=255)).collect();
        let noticed = noticed(&mut batched, &mut alone, input);
        println!("without {left_out}: {noticed:?}");
        assert_eq!(noticed.is_some(), wrong, "without {left_out}: {noticed:?}");
    }
}
