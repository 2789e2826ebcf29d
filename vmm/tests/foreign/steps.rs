//! The monitor's emulation, instruction by instruction, held to a CPU's: random privileged instructions
//! with random registers, at CPL 0 of KVM and under the monitor. What is seen afterwards must be the
//! same.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use unifork_vmm::Kvm;
use unifork_vmm::addr::Gpa;
use unifork_vmm::foreign::{Config, End, Machine, Power, Profile, Recorder, Ring0};

use crate::{DEADLINE, X86_64, build};

/// As `steps.S` has them.
const LOG: u64 = 0x40_0000;
pub(super) const SCRATCH: u32 = 0x30_0000;
const TABLES: u32 = 0x30_1000;
const DONE: u32 = 0x10_0000;
const ENTRY_BYTES: usize = 512;
const STEPS: usize = 400;

const RAX: usize = 0;
const RCX: usize = 2;
const RDX: usize = 3;
const RSI: usize = 4;
const RDI: usize = 5;
/// Numbers of the general registers in the order of [`Step::registers`].
const ORDER: [u8; 15] = [0, 3, 1, 2, 6, 7, 5, 8, 9, 10, 11, 12, 13, 14, 15];

/// A step: what is in the registers, and the code.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) registers: [u64; 15],
    pub(super) flags: u64,
    pub(super) code: Vec<u8>,
}

/// A general register but RSP: its index in [`Step::registers`] and its number.
pub(super) fn any_register(rng: &mut StdRng) -> (usize, u8) {
    let index = rng.random_range(0..ORDER.len());
    (index, ORDER[index])
}

pub(super) fn any_value(rng: &mut StdRng) -> u64 {
    let picks = [
        0,
        1,
        0x10,
        u64::from(SCRATCH),
        0x7fff_ffff_ffff,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        u64::MAX,
        0x1_2345_6780,
        rng.random(),
    ];
    picks[rng.random_range(0..picks.len())]
}

pub(super) fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

/// Any of `bits`, set or not.
pub(super) fn subset(rng: &mut StdRng, bits: &[u64]) -> u64 {
    bits.iter().filter(|_| rng.random()).sum()
}

/// `opcode` with a ModRM byte for field `reg` and register `rm`, and the REX prefix that they need.
fn with_register(opcode: &[u8], reg: u8, rm: u8) -> Vec<u8> {
    let mut code = Vec::new();
    let rex = 0x40 | (reg >> 3) << 2 | rm >> 3;
    if rex != 0x40 {
        code.push(rex);
    }
    code.extend(opcode);
    code.push(0xc0 | (reg & 7) << 3 | rm & 7);
    code
}

/// The same for memory at an absolute address.
pub(super) fn with_memory(opcode: &[u8], reg: u8, at: u32) -> Vec<u8> {
    let mut code = opcode.to_vec();
    code.extend([reg << 3 | 4, 0x25]);
    code.extend(at.to_le_bytes());
    code
}

fn push(value: u32) -> Vec<u8> {
    let mut code = vec![0x68];
    code.extend(value.to_le_bytes());
    code
}

/// Software KVM has segments of its own at 0x20 to 0x33, which are loaded without a trap; the rest traps. KVM's
/// emulator has no #GP for a jump to a task, and knows no returns to another privilege: `long.S` has one.
const SELECTORS: [u16; 13] = [0, 1, 3, 0x08, 0x10, 0x11, 0x13, 0x18, 0x1b, 0x38, 0x40, 0x48, 0x1230];
const RETURNS: [u16; 7] = [0, 0x08, 0x10, 0x38, 0x40, 0x48, 0x1230];

fn any_step(rng: &mut StdRng) -> Step {
    let mut step = Step {
        registers: std::array::from_fn(|_| any_value(rng)),
        // Arithmetic flags, DF and IOPL. Not AC, which software KVM drops at an exception.
        flags: 2 | subset(rng, &[1, 4, 0x10, 0x40, 0x80, 0x800, 0x400, 0x3000]),
        code: Vec::new(),
    };
    let (index, number) = any_register(rng);
    let value = &mut step.registers[index];
    step.code = match rng.random_range(0..26) {
        0 => with_register(&[0x0f, 0x20], pick(rng, &[0, 2, 3, 4, 8]), number),
        1 => {
            // Of what a CPU refuses, software KVM lets pass all but this.
            let wrong = [0x8000_0010];
            let right = 0x8000_0011 | subset(rng, &[2, 8, 0x20, 0x1_0000, 0x4_0000]);
            *value = if rng.random_ratio(1, 4) { pick(rng, &wrong) } else { right };
            with_register(&[0x0f, 0x22], 0, number)
        }
        2 => {
            let wrong = [0];
            let right = 0x20 | subset(rng, &[4, 8, 0x10, 0x80, 0x100, 0x200, 0x400]);
            *value = if rng.random_ratio(1, 4) { pick(rng, &wrong) } else { right };
            with_register(&[0x0f, 0x22], 4, number)
        }
        3 => with_register(&[0x0f, 0x22], 2, number),
        4 => {
            *value = if rng.random() { rng.random_range(0..16) } else { *value };
            with_register(&[0x0f, 0x22], 8, number)
        }
        // MSRs.
        5 | 6 => {
            // KVM takes what a CPU with 57-bit addresses would, if the host is one.
            let address = pick(rng, &[0, 0x30_0000, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, u64::MAX >> 1]);
            let efer = 0x500 | subset(rng, &[1, 0x800]);
            let (msr, value): (u32, u64) = match rng.random_range(0..6) {
                0 => (
                    0xc000_0080,
                    if rng.random_ratio(1, 3) { pick(rng, &[0, 0x400, 0x100_0500]) } else { efer },
                ),
                1 => (0xc000_0081, any_value(rng)),
                2 => (0xc000_0082, address),
                3 => (0xc000_0084, rng.random_range(0..0x10_0000)),
                _ => (0xc000_0100 + rng.random_range(0..3u32), address),
            };
            step.registers[RCX] = u64::from(msr) | rng.random::<u64>() << 32;
            step.registers[RAX] = value & 0xffff_ffff;
            step.registers[RDX] = value >> 32;
            let write = [0x0f, 0x30].to_vec();
            if rng.random() { [write, vec![0x0f, 0x32]].concat() } else { write }
        }
        7 => vec![pick(rng, &[0xfa, 0xfb])],
        8 => pick(rng, &[&[0x0f, 0x06][..], &[0x0f, 0x09], &[0x0f, 0x01, 0xf8]]).to_vec(),
        // pushfq; pop
        9 => [&[0x9c][..], &pop(number)].concat(),
        // push; popfq, at CPL 0
        10 => {
            *value = subset(
                rng,
                &[1, 4, 0x10, 0x40, 0x80, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x4_0000, 2],
            );
            [pushed(number), vec![0x9d]].concat()
        }
        // sgdt, sidt; lgdt, lidt of the same tables
        11 => match rng.random_range(0..4) {
            n @ 0..2 => with_memory(&[0x0f, 0x01], n, SCRATCH),
            2 => with_memory(&[0x0f, 0x01], 2, TABLES),
            _ => with_memory(&[0x0f, 0x01], 3, TABLES + 16),
        },
        // sldt, str, smsw
        12 => match rng.random_range(0..3) {
            n @ 0..2 => with_register(&[0x0f, 0x00], n, number),
            _ => with_register(&[0x0f, 0x01], 4, number),
        },
        13 => {
            *value = 1 | subset(rng, &[2, 8]);
            with_register(&[0x0f, 0x01], 6, number)
        }
        // lldt, ltr
        14 => {
            *value = pick(rng, &[0u64, 1, 0x10, 0x28, 0x1230]);
            with_register(&[0x0f, 0x00], pick(rng, &[2, 3]), number)
        }
        // mov to a segment register
        15 | 16 => {
            *value = pick(rng, &SELECTORS).into();
            with_register(&[0x8e], pick(rng, &[0, 2, 3, 4, 5]), number)
        }
        // retfq to where every step ends
        17 => {
            let selector = pick(rng, &RETURNS);
            [push(selector.into()), push(DONE), vec![0x48, 0xcb]].concat()
        }
        // iretq
        18 | 19 => {
            let flags = subset(rng, &[1, 0x40, 0x200, 0x400, 2]) as u32;
            let ss = pick(rng, &[0x10, 0]);
            // Where CPL 0 is emulated, `iretq` checks nothing and leaves IOPL alone.
            let cs = 0x08;
            [push(ss), push(0x38_0000), push(flags), push(cs), push(DONE), vec![0x48, 0xcf]].concat()
        }
        // A far jump through memory.
        20 => {
            let mut code = with_memory(&[0xc7], 0, SCRATCH);
            code.extend(DONE.to_le_bytes());
            code.extend(with_memory(&[0xc7], 0, SCRATCH + 4));
            code.extend(u32::from(pick(rng, &SELECTORS)).to_le_bytes());
            code.extend(with_memory(&[0xff], 5, SCRATCH));
            code
        }
        // Ports.
        21 => {
            let width = pick(rng, &[&[0xec][..], &[0x66, 0xed], &[0xed]]);
            step.registers[RDX] = pick(rng, &[0x21u64, 0xa1, 0x92, 0x3ff, 0xcf8, 0xcfc, 0x1234]);
            width.to_vec()
        }
        22 => {
            let width = pick(rng, &[&[0xee][..], &[0x66, 0xef], &[0xef]]);
            step.registers[RDX] = pick(rng, &[0x80u64, 0xa1, 0x3ff, 0xcf8, 0x1234]);
            step.registers[RAX] |= 0xff;
            width.to_vec()
        }
        // rep outsb, rep insb
        23 => {
            step.registers[RDX] = 0x3ff;
            step.registers[RCX] = rng.random_range(0..5);
            step.registers[RSI] = (SCRATCH + 8).into();
            step.registers[RDI] = (SCRATCH + 16).into();
            pick(rng, &[&[0xf3, 0x6e][..], &[0xf3, 0x6c], &[0x6e], &[0x6c]]).to_vec()
        }
        // Exceptions: ud2, a division by zero, and accesses to nothing. Software interrupts KVM's emulator does
        // not know; `long.S` has them.
        24 => {
            step.registers[RDX] = 0;
            pick(rng, &[&[0x0f, 0x0b][..], &[0xf6, 0xf6]]).to_vec()
        }
        _ => {
            step.registers[RSI] =
                pick(rng, &[0x1_2345_6780, 0x7fff_0000_0000, 0x8000_0000_0000, 0xffff_9000_0000_0000]);
            // mov rax, [rsi]; mov [rsi], al; jmp rsi; invlpg [rsi]
            pick(rng, &[&[0x48, 0x8b, 0x06][..], &[0x88, 0x06], &[0xff, 0xe6], &[0x0f, 0x01, 0x3e]]).to_vec()
        }
    };
    step
}

fn pop(number: u8) -> Vec<u8> {
    if number >= 8 { vec![0x41, 0x58 | number & 7] } else { vec![0x58 | number] }
}

fn pushed(number: u8) -> Vec<u8> {
    if number >= 8 { vec![0x41, 0x50 | number & 7] } else { vec![0x50 | number] }
}

/// The initial RAM disk that `steps.S` works through: how many steps there are, registers for each, and from a
/// page of its own on the code of each.
fn disk(steps: &[Step]) -> Vec<u8> {
    let mut bytes = (steps.len() as u64).to_le_bytes().to_vec();
    let code_at = (64 + steps.len() * 256).next_multiple_of(4096);
    bytes.extend((code_at as u64).to_le_bytes());
    bytes.resize(64, 0);
    for step in steps {
        let mut slot: Vec<u8> = step.registers.iter().flat_map(|value| value.to_le_bytes()).collect();
        slot.resize(128, 0);
        slot.extend(step.flags.to_le_bytes());
        slot.resize(256, 0);
        bytes.extend(slot);
    }
    bytes.resize(code_at, 0);
    for step in steps {
        let mut slot = step.code.clone();
        // To the end, by a return, which needs no register.
        slot.extend(push(DONE));
        slot.push(0xc3);
        assert!(slot.len() <= 48, "{step:x?}");
        slot.resize(64, 0x90);
        bytes.extend(slot);
    }
    bytes
}

/// What is written down about each step.
pub(super) fn log(kvm: &Kvm, kernel: &[u8], steps: &[Step], ring0: Ring0) -> Vec<Vec<u64>> {
    // Not `pc`, whose loader would look for other headers; but its ports.
    let config = Config { initrd: Some(disk(steps)), ring0, profile: Profile::Pc, ..Config::default() };
    let mut machine = Machine::boot(kvm, "steps", kernel, &config).unwrap();
    let end = machine.run(DEADLINE, &mut Recorder::default()).unwrap();
    let mut bytes = vec![0; steps.len() * ENTRY_BYTES];
    machine.memory().read(Gpa(LOG), &mut bytes).unwrap();
    let entries: Vec<Vec<u64>> = bytes
        .chunks(ENTRY_BYTES)
        .map(|entry| entry.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect())
        .collect();
    let made = entries.iter().take_while(|entry| entry[19] != 0).count();
    assert_eq!(end, End::Power(Power::Off), "{ring0:?}, in step {made}: {:02x?}", steps.get(made));
    entries
}

pub(super) const NAMES: [&str; 35] = [
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "rsp",
    "rflags",
    "cr0",
    "cr2",
    "cr4",
    "cr8",
    "FS base",
    "GS base",
    "kernel GS base",
    "EFER",
    "vector",
    "error code",
    "RIP of the exception",
    "its CS",
    "its flags",
    "its RSP",
    "scratch",
    "scratch",
    "scratch",
    "scratch",
];

#[test]
fn the_monitor_does_to_a_kernel_what_a_cpu_does() {
    let kvm = Kvm::open().unwrap();
    let kernel = build("steps", X86_64, "start", &[]);
    let seed: u64 =
        std::env::var("UNIFORK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("UNIFORK_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let steps: Vec<Step> = (0..STEPS).map(|_| any_step(&mut rng)).collect();
    let native = log(&kvm, &kernel.bytes, &steps, Ring0::Native);
    let monitor = log(&kvm, &kernel.bytes, &steps, Ring0::Monitor);
    let raised = native.iter().filter(|entry| entry[25] != u64::MAX).count();
    assert!(raised > STEPS / 10 && raised < STEPS * 9 / 10, "{raised} of {STEPS} steps raise exceptions");
    let mut differences = Vec::new();
    for (number, (one, other)) in native.iter().zip(&monitor).enumerate() {
        for (i, name) in NAMES.iter().enumerate() {
            if one[i] != other[i] {
                let what = format!("{name}: CPU {:#x}, monitor {:#x}", one[i], other[i]);
                differences.push(format!("step {number}, {:02x?}: {what}", steps[number].code));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
