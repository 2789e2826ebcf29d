//! A guest that does its worst: the host neither panics, hangs, reads out of bounds nor blames
//! itself, and once scrubbed the fork behaves like a new one.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_abi::{CONTROL_VA, DOORBELL_VA, INPUT_RING_VA};
use unifork_vmm::introspect::ReadMemory as _;
use unifork_vmm::testing::DONE;
use unifork_vmm::{Engine, Outcome, Replica, Space};

use crate::common::{frozen, kvm, reference};
use crate::equivalence::{rounds, seed};
use crate::interpreter::{self, Op, Program};
use crate::programs::{Programs, pick};

/// Deadline of a hostile run.
const SHORT: Duration = Duration::from_millis(20);
/// How far past its deadline a run may come back on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// Everything that can be asked of a fork between two runs.
fn look_at(fork: &mut Replica) {
    assert!(fork.console().len() <= unifork_abi::CONSOLE_BYTES as usize);
    assert!(fork.unserved().len() <= unifork_abi::UNSERVED_SLOTS);
    for space in [Space::Application, Space::Kernel] {
        assert_eq!(fork.counters(space).len(), fork.snapshot().counter_count(space));
    }
    let registers = fork.registers();
    let mut bytes = [0; 64];
    for at in [registers.rip, registers.rsp, registers.rsp.wrapping_sub(64), u64::MAX - 8] {
        let _readable_or_not = fork.read(at, &mut bytes);
    }
}

/// Runs `input` and puts the fork back. A guest that software KVM emulates can overrun the dirty ring;
/// that must be an error, as nothing is known then, and the fork is replaced.
fn run(fork: &mut Replica, input: &[u8]) -> Outcome {
    let started = Instant::now();
    let outcome = fork.run(input, SHORT).expect("whatever a guest does, the host is not to blame");
    assert!(started.elapsed() < SHORT + SLACK, "it came back after {:?}", started.elapsed());
    if let Outcome::Crash(crash) = &outcome {
        assert!(!crash.cause.to_string().is_empty());
    }
    look_at(fork);
    if let Err(e) = fork.reset() {
        let source = e.source().map(ToString::to_string).unwrap_or_default();
        assert!(fork.engine() == Engine::DirtyRing && source.contains("overran"), "{e}: {source}");
        *fork = Replica::spawn(&kvm(), &Arc::clone(fork.snapshot()), fork.engine()).unwrap();
    }
    outcome
}

/// A program that only tries to do harm.
fn harm(programs: &Programs, rng: &mut StdRng) -> Program {
    let mut ops = Vec::new();
    for _ in 0..rng.random_range(1..20) {
        let word = rng.random();
        let anywhere = programs.anywhere(rng);
        let elsewhere = programs.anywhere(rng);
        let bytes = rng.random_range(0..5000);
        ops.push(match rng.random_range(0..24) {
            0..5 => (Op::StoreWord, [anywhere, word, 0]),
            5..8 => (Op::StoreWord, [anywhere, elsewhere, 0]),
            8..10 => (Op::Fill, [anywhere, word, bytes]),
            10 | 11 => (Op::Copy, [anywhere, elsewhere, bytes]),
            // The control page, word by word.
            12..16 => {
                let value =
                    *pick(rng, &[0, 1, 2, 1023, 1024, 0x1_0000, u64::MAX, u64::MAX / 8, anywhere, word]);
                (Op::StoreWord, [CONTROL_VA + rng.random_range(0..16) * 8, value, 0])
            }
            16 => (Op::StoreSse, [*pick(rng, &[DOORBELL_VA, DOORBELL_VA + 4090, anywhere]), word, word]),
            17 => (Op::Flags, [word, programs.ram(rng, 0), 0]),
            18 => (Op::Registers, rng.random()),
            19 => (Op::Segments, rng.random()),
            20 => (*pick(rng, &[Op::Xrstor, Op::Xsave, Op::Fxrstor]), [anywhere, word, 0]),
            21 => (*pick(rng, &[Op::FsBase, Op::GsBase, Op::StoreFs, Op::StackSegment]), [anywhere, 0, 0]),
            22 => (Op::Iret, [anywhere, word, word]),
            _ => (*pick(rng, &[Op::Load, Op::Cpuid, Op::X87Math, Op::SseMath]), [anywhere, word, 0]),
        });
    }
    let lengths = [0, 1, 64, 4096, 4097, u64::MAX, 1 << 63, rng.random()];
    let numbers = [3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 0, 10, 255, rng.random()];
    ops.push(match rng.random_range(0..8) {
        0 => (Op::Jump, [programs.anywhere(rng), 0, 0]),
        1 => (Op::Syscall, [0; 3]),
        2 => (Op::Iret, rng.random()),
        _ => (Op::Hypercall, [*pick(rng, &numbers), programs.anywhere(rng), *pick(rng, &lengths)]),
    });
    let mut area = vec![0; 1024];
    rng.fill(&mut area[..]);
    Program { ops, area }
}

#[test]
fn nonsense_in_every_window_and_hypercall_is_the_guests_own_trouble() {
    let snapshot = frozen(interpreter::code());
    let programs = Programs::new(&snapshot);
    let kvm = kvm();
    let base = seed();
    let ordinary = programs.draw(&mut StdRng::seed_from_u64(7)).bytes();
    for engine in Engine::ALL {
        let expected = reference(&mut Replica::spawn(&kvm, &snapshot, engine).unwrap(), &ordinary);
        let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        for round in 0..rounds(1000) {
            let seed = base.wrapping_add(round);
            let mut rng = StdRng::seed_from_u64(seed);
            let program = harm(&programs, &mut rng);
            run(&mut fork, &program.bytes());
            if rng.random_ratio(1, 4) {
                fork.scrub().unwrap();
                let seen = reference(&mut fork, &ordinary);
                assert_eq!(seen, expected, "{engine}, round {round}, seed {seed:#x}, after {program:x?}");
            }
        }
    }
}

/// Bytes of the code that is not code.
const NOISE_BYTES: usize = 256 << 10;

/// First bytes of instructions that lead somewhere.
const STARTS: &[&[u8]] = &[
    &[0x0f, 0x01], // vmcall, xgetbv, swapgs, lgdt, ...
    &[0x0f, 0xae], // fxsave, xsave, ldmxcsr, wrfsbase, fences
    &[0x0f, 0xc7], // cmpxchg16b, xsavec, rdrand
    &[0xf3, 0xa4], // rep movsb
    &[0xf3, 0xaa], // rep stosb
    &[0x48, 0x89], // mov
    &[0x48, 0x8b], // mov
    &[0x48, 0x87], // xchg
    &[0xf0, 0x48], // lock
    &[0x9d],       // popfq
    &[0x8e],       // mov segment
    &[0x0f, 0x05], // syscall
    &[0xc5],       // AVX
    &[0x62],       // AVX-512
    &[0xc4, 0xe2], // AVX2, AMX
    &[0xd9],       // x87
    &[0xcf],       // iret
    &[0xff],       // inc, call, jmp, push
];

/// A guest that jumps into noise, to where the input says: registers are noise too.
fn noise(rng: &mut StdRng) -> Vec<u8> {
    let mut code = vec![0x49, 0xbf]; // movabs r15, INPUT_RING_VA
    code.extend_from_slice(&INPUT_RING_VA.to_le_bytes());
    code.extend_from_slice(&[
        0x41, 0x8b, 0x07, //                         mov eax, [r15]
        0x48, 0x8d, 0x0d, 0x22, 0x00, 0x00, 0x00, // lea rcx, [rip + 34]: the noise
        0x48, 0x01, 0xc1, //                         add rcx, rax
        0x49, 0x8b, 0x5f, 0x08, //                   mov rbx, [r15 + 8]
        0x49, 0x8b, 0x77, 0x10, //                   mov rsi, [r15 + 16]
        0x49, 0x8b, 0x7f, 0x18, //                   mov rdi, [r15 + 24]
        0x49, 0x8b, 0x6f, 0x20, //                   mov rbp, [r15 + 32]
        0x49, 0x8b, 0x57, 0x28, //                   mov rdx, [r15 + 40]
        0x4d, 0x8b, 0x47, 0x30, //                   mov r8, [r15 + 48]
        0xff, 0xe1, //                               jmp rcx
        0x90, 0x90, 0x90, 0x90, 0x90, //             nop ...
    ]);
    let mut bytes = vec![0; NOISE_BYTES];
    rng.fill(&mut bytes[..]);
    // Noise alone is mostly #GP and #PF at once: half of it is made of what leads somewhere.
    for chunk in bytes.chunks_exact_mut(8) {
        if rng.random_ratio(1, 2) {
            let start = *pick(rng, STARTS);
            chunk[..start.len()].copy_from_slice(start);
        }
    }
    code.extend_from_slice(&bytes);
    code.extend_from_slice(&DONE);
    code
}

#[test]
fn noise_for_code_is_the_guests_own_trouble() {
    let base = seed();
    println!("seed {base:#x}");
    let mut rng = StdRng::seed_from_u64(base);
    let snapshot = frozen(&noise(&mut rng));
    let programs = Programs::new(&snapshot);
    let kvm = kvm();
    let to_done = (NOISE_BYTES as u64).to_le_bytes();
    for engine in Engine::ALL {
        let expected = reference(&mut Replica::spawn(&kvm, &snapshot, engine).unwrap(), &to_done);
        assert!(matches!(expected.outcome, Outcome::Done { .. }), "{:?}", expected.outcome);
        let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        for round in 0..rounds(2000) {
            let mut input = rng.random_range(0..NOISE_BYTES as u64).to_le_bytes().to_vec();
            input.extend((0..6).flat_map(|_| programs.anywhere(&mut rng).to_le_bytes()));
            let outcome = run(&mut fork, &input);
            if round % 4 == 0 {
                fork.scrub().unwrap();
                let seen = reference(&mut fork, &to_done);
                assert_eq!(
                    seen, expected,
                    "{engine}, round {round}, seed {base:#x}, after {input:x?}: {outcome:x?}"
                );
            }
        }
    }
}
