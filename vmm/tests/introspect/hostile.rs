//! Damaged images, random memory and random registers: nothing panics, and all of it ends soon.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use unifork_vmm::introspect::{CrashReport, ReadMemory, Registers, Stop, Symbols};

use crate::build::{Toolchain, build};
use crate::tracee::Tracee;

/// How long one look at a damaged program may take, in an unoptimised build on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

/// How many times each test damages something. `INTROSPECT_ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("INTROSPECT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(150)
}

/// A copy of a crashed program's memory, so that it can be damaged.
struct Copy {
    parts: Vec<(u64, Vec<u8>)>,
}

impl Copy {
    fn of(tracee: &Tracee) -> Self {
        let part = |start: u64, length: usize| {
            let mut bytes = vec![0; length];
            tracee.read(start, &mut bytes).then_some((start, bytes))
        };
        let stack = tracee.registers.rsp & !4095;
        let code = tracee.symbols.find("_start").unwrap() & !4095;
        let pages = |start: u64, count: u64| (0..count).map(move |page| start + page * 4096);
        Self { parts: pages(code, 64).chain(pages(stack, 8)).filter_map(|start| part(start, 4096)).collect() }
    }
}

impl ReadMemory for Copy {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        out.iter_mut().enumerate().all(|(index, byte)| {
            let Some(at) = gva.checked_add(index as u64) else { return false };
            let part = self.parts.iter().find(|(start, bytes)| at.wrapping_sub(*start) < bytes.len() as u64);
            let found = part.map(|(start, bytes)| bytes[usize::try_from(at - start).unwrap()]);
            *byte = found.unwrap_or(0);
            found.is_some()
        })
    }
}

/// Memory that holds something else wherever it is read, and never ends.
struct Noise(u64);

impl ReadMemory for Noise {
    fn read(&self, gva: u64, out: &mut [u8]) -> bool {
        out.iter_mut().zip(gva..).for_each(|(byte, at)| {
            let mixed = (at ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *byte = mixed.to_be_bytes()[0];
        });
        true
    }
}

/// Works out a crash and looks up some addresses, and asserts that it does not take long.
fn look(registers: Registers, memory: &dyn ReadMemory, symbols: &Symbols) -> CrashReport {
    let started = Instant::now();
    let stop = Stop { cause: "test".to_owned(), registers, ..Stop::default() };
    let report = CrashReport::collect(&stop, memory, symbols);
    assert!(!report.to_string().is_empty());
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    report
}

fn random_registers(random: &mut StdRng) -> Registers {
    let mut registers = Registers::default();
    for register in [
        &mut registers.rax,
        &mut registers.rcx,
        &mut registers.rdi,
        &mut registers.rsi,
        &mut registers.rbp,
        &mut registers.rsp,
        &mut registers.rip,
        &mut registers.rflags,
    ] {
        *register = match random.random_range(0..4) {
            0 => random.random(),
            1 => random.random_range(0x20_0000..0x30_0000),
            2 => u64::MAX - random.random_range(0..64),
            _ => random.random_range(0..64),
        };
    }
    registers
}

/// A small program with all kinds of debug information, where it crashed, and its memory.
fn victim(toolchain: Toolchain) -> (Vec<u8>, Registers, Copy) {
    let program = build(toolchain, "crashes.c", &["-g", "-O1"]);
    let tracee = Tracee::crash(&program, "callback");
    (program.bytes(), tracee.registers, Copy::of(&tracee))
}

#[test]
fn the_victim_is_understood_before_it_is_damaged() {
    let (bytes, registers, memory) = victim(Toolchain::MuslClang);
    let mut symbols = Symbols::new();
    symbols.load("app", bytes, 0).unwrap();
    let report = look(registers, &memory, &symbols);
    let names: Vec<_> = report.frames.iter().filter_map(|frame| frame.function()).collect();
    assert_eq!(names[..3], ["poke", "write_null", "compare"]);
    assert!(names.ends_with(&["callback", "how", "c", "b", "a", "main", "libc_start_main_stage2", "_start"]));
    assert!(report.frames[0].place.as_ref().unwrap().line.is_some());
}

#[test]
fn flipped_bits_in_an_image() {
    for toolchain in [Toolchain::MuslClang, Toolchain::MuslGcc] {
        let (bytes, registers, memory) = victim(toolchain);
        let mut loaded = 0;
        for seed in 0..rounds() {
            let mut random = StdRng::seed_from_u64(seed);
            let mut damaged = bytes.clone();
            for _ in 0..random.random_range(1..200) {
                let at = random.random_range(0..damaged.len());
                damaged[at] ^= 1 << random.random_range(0..8);
            }
            let mut symbols = Symbols::new();
            if symbols.load("app", damaged, 0).is_ok() {
                loaded += 1;
                look(registers, &memory, &symbols);
            }
        }
        assert!(loaded > rounds() / 4, "{loaded} of {} reached past the headers", rounds());
    }
}

#[test]
fn a_damaged_section_at_a_time() {
    let (bytes, registers, memory) = victim(Toolchain::MuslClang);
    let ranges = sections(&bytes);
    for seed in 0..rounds() {
        let mut random = StdRng::seed_from_u64(seed);
        let (start, length) = ranges[random.random_range(0..ranges.len())];
        let mut damaged = bytes.clone();
        let interesting = [0, 1, 0x7f, 0x80, 0xff];
        for _ in 0..random.random_range(1..=32) {
            let at = start + random.random_range(0..length);
            damaged[at] = match random.random_range(0..2) {
                0 => interesting[random.random_range(0..interesting.len())],
                _ => random.random(),
            };
        }
        let mut symbols = Symbols::new();
        symbols.load("app", damaged, 0).unwrap();
        look(registers, &memory, &symbols);
    }
}

/// Where the debug information, call-frame information and symbols are, by their sections' names.
fn sections(elf: &[u8]) -> Vec<(usize, usize)> {
    let u64_at =
        |at: usize| usize::try_from(u64::from_le_bytes(elf[at..at + 8].try_into().unwrap())).unwrap();
    let u16_at = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let table = u64_at(0x28);
    let header = |index: usize| table + index * 0x40;
    let place = |index: usize| (u64_at(header(index) + 0x18), u64_at(header(index) + 0x20));
    let (names, _) = place(u16_at(0x3e));
    let wanted = |index: &usize| {
        let name = names + u32::from_le_bytes(elf[header(*index)..][..4].try_into().unwrap()) as usize;
        let prefixes: [&[u8]; 4] = [b".debug", b".eh_frame", b".symtab", b".strtab"];
        prefixes.iter().any(|prefix| elf[name..].starts_with(prefix))
    };
    let found: Vec<_> =
        (1..u16_at(0x3c)).filter(wanted).map(place).filter(|(_, length)| *length > 0).collect();
    assert!(found.len() >= 8, "{found:?}");
    found
}

#[test]
fn an_image_cut_short() {
    let (bytes, registers, memory) = victim(Toolchain::MuslGcc);
    for seed in 0..rounds() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut symbols = Symbols::new();
        if symbols.load("app", &bytes[..random.random_range(0..bytes.len())], 0).is_ok() {
            look(registers, &memory, &symbols);
        }
    }
}

#[test]
fn an_overwritten_stack() {
    let (bytes, registers, memory) = victim(Toolchain::MuslClang);
    let mut symbols = Symbols::new();
    symbols.load("app", bytes, 0).unwrap();
    for seed in 0..rounds() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut damaged = Copy { parts: memory.parts.clone() };
        let stack =
            damaged.parts.iter_mut().rev().find(|(start, _)| *start >= registers.rsp & !4095).unwrap();
        for _ in 0..random.random_range(1..300) {
            let at = random.random_range(0..512) * 8;
            // Words that lead back into the stack, into the code, or nowhere.
            let word = match random.random_range(0..3) {
                0 => registers.rsp.wrapping_add(random.random_range(0..4096)),
                1 => registers.rip.wrapping_add(random.random_range(0..4096)),
                _ => random.next_u64(),
            };
            stack.1[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        look(registers, &damaged, &symbols);
    }
}

#[test]
fn random_registers_and_memory() {
    let (bytes, _, _) = victim(Toolchain::MuslClang);
    let mut symbols = Symbols::new();
    // A bias that makes addresses wrap around the end of the address space.
    for bias in [0, 0x1000, u64::MAX - 0x20_0000] {
        symbols.load("app", bytes.clone(), bias).unwrap();
        for seed in 0..rounds() {
            let mut random = StdRng::seed_from_u64(seed);
            let registers = random_registers(&mut random);
            look(registers, &Noise(random.random()), &symbols);
        }
    }
}

#[test]
fn memory_that_loops_back_on_itself_ends() {
    /// Every word is the same.
    struct Same(u64);
    impl ReadMemory for Same {
        fn read(&self, _: u64, out: &mut [u8]) -> bool {
            out.iter_mut().zip(self.0.to_le_bytes().iter().cycle()).for_each(|(byte, from)| *byte = *from);
            true
        }
    }
    let (bytes, registers, memory) = victim(Toolchain::MuslClang);
    let mut symbols = Symbols::new();
    symbols.load("app", bytes, 0).unwrap();
    let frames = look(registers, &memory, &symbols).frames;
    for frame in &frames {
        for word in [frame.address, frame.stack, registers.rsp, registers.rbp] {
            let registers = Registers { rip: frame.address, ..registers };
            let started = Instant::now();
            let walked = unifork_vmm::introspect::unwind(&registers, &Same(word), &symbols, usize::MAX);
            assert!(walked.len() <= 1 << 16);
            assert!(started.elapsed() < 3 * LIMIT);
        }
    }
}
