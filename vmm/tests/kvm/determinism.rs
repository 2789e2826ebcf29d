//! One input, again and again: always the same.

use std::arch::global_asm;
use std::slice;

use unifork_abi::{ARENA_VA, DOORBELL_VA, Hypercall, INPUT_RING_VA, RECORDS_VA};
use unifork_vmm::testing::{COUNTERS_VA, counting_then};
use unifork_vmm::{Engine, Outcome, Replica, Space};

use crate::common::{DEADLINE, frozen_image, kvm, reference, small};

// Counts every byte of the input in the counter of its value, hashes it into pages of the arena and
// the stack, and returns the hash.
global_asm!(
    r#"
    .pushsection .rodata.counting, "a", @progbits
    .globl unifork_test_counting
    .globl unifork_test_counting_end
unifork_test_counting:
    movabs rbx, {records}
    movabs rdi, {counters}
    mov ecx, 256
    xor eax, eax
    rep stosb
    movabs rdi, {counters}
    movabs rsi, {ring}
    movabs rbp, {arena}
    mov rcx, [rbx + 8]                  // the input's length
    mov rdx, rcx
    jrcxz 3f
2:  movzx eax, byte ptr [rsi]
    inc byte ptr [rdi + rax]
    add rdx, rax
    imul rdx, rdx, 0x01000193
    push rdx
    cvtsi2sd xmm0, rdx
    sqrtsd xmm1, xmm0
    addsd xmm2, xmm1
    shl eax, 11
    movq [rbp + rax], xmm2
    inc rsi
    dec rcx
    jnz 2b
3:  mov [rbx + 16], rdx                 // what it returns
    mov eax, {done}
    movabs rcx, {door}
    mov [rcx], rax
unifork_test_counting_end:
    .popsection
    "#,
    records = const RECORDS_VA,
    counters = const COUNTERS_VA,
    ring = const INPUT_RING_VA,
    arena = const ARENA_VA,
    done = const Hypercall::Done as u64,
    door = const DOORBELL_VA,
);

unsafe extern "C" {
    static unifork_test_counting: u8;
    static unifork_test_counting_end: u8;
}

fn code() -> &'static [u8] {
    let (start, end) = (&raw const unifork_test_counting, &raw const unifork_test_counting_end);
    // SAFETY: both labels are in the same section, in this order, with nothing but the guest's code
    // between them; the section is read-only and lives as long as the program.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

#[test]
fn one_input_a_hundred_times_gives_one_outcome_one_coverage_and_one_memory() {
    let snapshot = frozen_image(&counting_then(code(), 256), &small());
    let kvm = kvm();
    let input: Vec<u8> = (0..1500u32).map(|i| ((i * i) >> 3) as u8).collect();
    let mut first = None;
    for engine in Engine::ALL {
        let mut fork = Replica::spawn(&kvm, &snapshot, engine).unwrap();
        for run in 0..100 {
            let seen = reference(&mut fork, &input);
            let counters = fork.counters(Space::Application).to_vec();
            assert_eq!(counters.iter().map(|&c| u64::from(c)).sum::<u64>(), 1500);
            assert!(seen.pages.len() > 50, "{:?}", seen.pages);
            let seen = (seen, counters);
            match &first {
                Some(first) => {
                    assert!(seen == *first, "{engine}, run {run}: {:?}, not {:?}", seen.0, first.0)
                }
                None => first = Some(seen),
            }
        }
    }
}

#[test]
fn counters_survive_a_reset_and_start_anew_in_the_next_run() {
    let snapshot = frozen_image(&counting_then(code(), 256), &small());
    for engine in Engine::ALL {
        let mut fork = Replica::spawn(&kvm(), &snapshot, engine).unwrap();
        assert_eq!(snapshot.counter_count(Space::Application), 256);
        let outcome = fork.run(b"aab", DEADLINE).unwrap();
        assert!(matches!(outcome, Outcome::Done { .. }));
        let (pointer, count) = fork.counters_ptr(Space::Application);
        assert_eq!((pointer.addr() % 4096, count), (0, 256));
        fork.reset().unwrap();
        let counters = fork.counters(Space::Application);
        assert_eq!((counters[usize::from(b'a')], counters[usize::from(b'b')]), (2, 1));
        fork.run(b"b", DEADLINE).unwrap();
        assert_eq!(fork.counters_ptr(Space::Application).0, pointer);
        let counters = fork.counters(Space::Application);
        assert_eq!((counters[usize::from(b'a')], counters[usize::from(b'b')]), (0, 1));
    }
}
