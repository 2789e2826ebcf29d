//! Instructions that the monitor does for the guest behind one that it has to emulate, held to the CPU's: each random
//! block is run once behind a `cli`, from which the monitor goes on, and once behind an `fnop`, which it leaves to the CPU.
//! Where there is a difference, something is not done as the CPU does it.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_vmm::Kvm;
use unifork_vmm::foreign::Ring0;

use super::steps::{NAMES, SCRATCH, Step, any_register, any_value, log, pick, subset, with_memory};
use crate::{X86_64, build};

/// Blocks, each twice.
const BLOCKS: usize = 300;

/// ModRM with two registers, with what prefixes they need.
fn registers(rng: &mut StdRng, opcode: &[u8], wide: bool) -> Vec<u8> {
    let ((_, reg), (_, rm)) = (any_register(rng), any_register(rng));
    let mut code = Vec::new();
    let size = pick(rng, &[0u8, 1, 2]);
    if wide && size == 1 {
        code.push(0x66);
    }
    code.push(0x40 | if wide && size == 2 { 8 } else { 0 } | (reg >> 3) << 2 | rm >> 3);
    code.extend(opcode);
    code.push(0xc0 | (reg & 7) << 3 | rm & 7);
    code
}

/// The same with memory, at an address within the scratch memory.
fn memory(rng: &mut StdRng, opcode: &[u8], wide: bool, lock: bool) -> Vec<u8> {
    let (_, reg) = any_register(rng);
    let mut code = Vec::new();
    if lock {
        code.push(0xf0);
    }
    let size = pick(rng, &[0u8, 1, 2]);
    if wide && size == 1 {
        code.push(0x66);
    }
    code.push(0x40 | if wide && size == 2 { 8 } else { 0 } | (reg >> 3) << 2);
    code.extend(with_memory(opcode, reg & 7, SCRATCH + rng.random_range(0..16u32)));
    code
}

/// One instruction of at most 11 bytes, or a few that belong together.
fn any_code(rng: &mut StdRng) -> Vec<u8> {
    let wide = rng.random();
    let odd = u8::from(wide);
    match rng.random_range(0..16) {
        // add or adc sbb and sub xor cmp, to and from
        0 | 1 => {
            let opcode = [8 * rng.random_range(0..8u8) + odd + pick(rng, &[0, 2])];
            if rng.random() { registers(rng, &opcode, wide) } else { memory(rng, &opcode, wide, false) }
        }
        // test, xchg, mov
        2 => {
            let opcode = [pick(rng, &[0x84, 0x86, 0x88, 0x8a]) + odd];
            if rng.random() { registers(rng, &opcode, wide) } else { memory(rng, &opcode, wide, false) }
        }
        // With a number: add ... cmp
        3 => {
            let ((_, rm), operation) = (any_register(rng), rng.random_range(0..8u8));
            vec![0x48 | rm >> 3, 0x83, 0xc0 | operation << 3 | rm & 7, rng.random()]
        }
        // rol ror shl shr sar by a number, by one, by cl
        4 => {
            let ((_, rm), operation) = (any_register(rng), pick(rng, &[0u8, 1, 4, 5, 7]));
            let modrm = 0xc0 | operation << 3 | rm & 7;
            let rex = pick(rng, &[0x40, 0x48]) | rm >> 3;
            match rng.random_range(0..3) {
                // What OF is then is not said, and differs from the form with CL: test rax, rax.
                0 => vec![rex, 0xc0 + odd, modrm, rng.random(), 0x48, 0x85, 0xc0],
                1 => vec![rex, 0xd0 + odd, modrm],
                _ => vec![rex, 0xd2 + odd, modrm],
            }
        }
        // inc, dec; not, neg
        5 => {
            let (_, rm) = any_register(rng);
            let (opcode, operation) = pick(rng, &[(0xfe, 0u8), (0xfe, 1), (0xf6, 2), (0xf6, 3)]);
            vec![pick(rng, &[0x40, 0x48]) | rm >> 3, opcode + odd, 0xc0 | operation << 3 | rm & 7]
        }
        // movzx, movsx, imul, bsf, bsr, bt, bts, btr, btc of registers
        6 => {
            let opcodes = [0xb6, 0xb7, 0xbe, 0xbf, 0xaf, 0xbc, 0xbd, 0xa3, 0xab, 0xb3, 0xbb];
            let opcode = pick(rng, &opcodes);
            registers(rng, &[0x0f, opcode], true)
        }
        // bts, btr, btc of memory, with a number
        7 => {
            let mut code = vec![0xf0, 0x48];
            let operation = rng.random_range(5..8u8);
            code.extend(with_memory(&[0x0f, 0xba], operation, SCRATCH + 8));
            code.push(rng.random());
            code
        }
        // cmov, set
        8 => {
            let condition = rng.random_range(0..16u8);
            if rng.random() {
                registers(rng, &[0x0f, 0x40 + condition], true)
            } else {
                let (_, rm) = any_register(rng);
                vec![0x40 | rm >> 3, 0x0f, 0x90 + condition, 0xc0 | rm & 7]
            }
        }
        // A jump over a byte, if
        9 => vec![0x70 + rng.random_range(0..16u8), 1, pick(rng, &[0xf8, 0xf9, 0xfc])],
        // push; pop
        10 => {
            let ((_, one), (_, other)) = (any_register(rng), any_register(rng));
            vec![0x40 | one >> 3, 0x50 | one & 7, 0x40 | other >> 3, 0x58 | other & 7]
        }
        // lock xadd, lock cmpxchg
        11 => {
            let opcode = pick(rng, &[0xb0, 0xc0]);
            memory(rng, &[0x0f, opcode + odd], wide, true)
        }
        // lea
        12 => {
            let (_, reg) = any_register(rng);
            let (_, base) = any_register(rng);
            let base = if base & 7 == 4 { 0 } else { base };
            vec![0x48 | (reg >> 3) << 2 | base >> 3, 0x8d, 0x40 | (reg & 7) << 3 | base & 7, rng.random()]
        }
        // cdqe, cqo, cwde, cdq; bswap
        13 => {
            let (_, reg) = any_register(rng);
            let bswap = [0x48 | reg >> 3, 0x0f, 0xc8 | reg & 7];
            pick(rng, &[&[0x48, 0x98][..], &[0x48, 0x99], &[0x98], &[0x99], &bswap]).to_vec()
        }
        // call over nothing; pop of what it pushed, which is not the same at two places: xor
        14 => {
            let (_, reg) = any_register(rng);
            vec![
                0xe8,
                0,
                0,
                0,
                0,
                0x40 | reg >> 3,
                0x58 | reg & 7,
                0x48 | ((reg >> 3) * 5),
                0x31,
                0xc0 | ((reg & 7) * 9),
            ]
        }
        // lea rdi, scratch; mov ecx, few; rep stosb; nop of a few bytes
        _ => {
            let mut code = vec![0xbf];
            code.extend((SCRATCH + 4).to_le_bytes());
            code.extend([0x6a, rng.random_range(0..9u8), 0x59, 0xf3, pick(rng, &[0xaa, 0xab])]);
            code
        }
    }
}

#[test]
fn what_the_monitor_does_for_the_guest_the_cpu_would_have_done_alike() {
    let kvm = Kvm::open().unwrap();
    let kernel = build("steps", X86_64, "start", &[]);
    let seed: u64 =
        std::env::var("UNIFORK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("UNIFORK_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    for _ in 0..BLOCKS {
        let registers: [u64; 15] = std::array::from_fn(|_| any_value(&mut rng));
        let flags = 2 | subset(&mut rng, &[1, 4, 0x10, 0x40, 0x80, 0x800]);
        let mut code = Vec::new();
        loop {
            let more = any_code(&mut rng);
            if code.len() + more.len() > 40 {
                break;
            }
            code.extend(more);
        }
        for first in [[0x90, 0xfa], [0xd9, 0xd0]] {
            let code = [first.to_vec(), code.clone()].concat();
            steps.push(Step { registers, flags, code });
        }
    }
    let entries = log(&kvm, &kernel.bytes, &steps, Ring0::Monitor);
    let mut differences = Vec::new();
    for (number, pair) in entries.chunks(2).enumerate() {
        let code = &steps[2 * number].code;
        for (i, name) in NAMES.iter().enumerate() {
            if pair[0][i] != pair[1][i] {
                let what = format!("{name}: monitor {:#x}, CPU {:#x}", pair[0][i], pair[1][i]);
                differences.push(format!("block {number}, {code:02x?}: {what}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
