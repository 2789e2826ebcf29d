//! Each protocol on small images made here, and each parser on images that somebody broke on purpose.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

mod manifests;

const MEMORY: u64 = 64 << 20;
const CODE: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// An ELF file with one segment at 1 MiB, which begins with `front`, and notes.
#[derive(Clone, Default)]
struct ElfFile {
    is_64: bool,
    front: Vec<u8>,
    pvh: Option<Vec<u8>>,
    /// Solo5's, with this manifest.
    hvt: Option<Vec<u8>>,
}

impl ElfFile {
    fn build(&self) -> Vec<u8> {
        let word = if self.is_64 { 8 } else { 4 };
        let (header_bytes, program_bytes) = if self.is_64 { (64, 56) } else { (52, 32) };
        let mut note = Vec::new();
        let mut add = |name: &[u8], kind: u32, bytes: &[u8]| {
            for value in [name.len() as u32, bytes.len() as u32, kind] {
                note.extend(value.to_le_bytes());
            }
            note.extend(name);
            note.resize(note.len().next_multiple_of(4), 0);
            note.extend(bytes);
            note.resize(note.len().next_multiple_of(4), 0);
        };
        if let Some(entry) = &self.pvh {
            add(b"Xen\0", 18, entry);
        }
        if let Some(manifest) = &self.hvt {
            add(b"Solo5\0", hvt::NOTE_ABI, &[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            add(b"Solo5\0", hvt::NOTE_MANIFEST, &[&[0; 4], &manifest[..]].concat());
        }
        let programs = if note.is_empty() { 1 } else { 2 };
        let note_at = header_bytes + programs * program_bytes;
        let body_at = (note_at + note.len() as u64).next_multiple_of(16);
        let mut body = self.front.clone();
        body.extend(CODE);
        let mut out = vec![0x7f, b'E', b'L', b'F', if self.is_64 { 2 } else { 1 }, 1, 1];
        out.resize(16, 0);
        let put = |out: &mut Vec<u8>, value: u64, bytes: usize| out.extend(&value.to_le_bytes()[..bytes]);
        put(&mut out, 2, 2);
        put(&mut out, if self.is_64 { 62 } else { 3 }, 2);
        put(&mut out, 1, 4);
        put(&mut out, 0x10_0000 + self.front.len() as u64, word);
        put(&mut out, header_bytes, word);
        put(&mut out, 0, word);
        for (value, bytes) in
            [(0, 4), (header_bytes, 2), (program_bytes, 2), (programs, 2), (0, 2), (0, 2), (0, 2)]
        {
            put(&mut out, value, bytes);
        }
        let mut program = |kind: u64, at: u64, address: u64, file: u64, memory: u64| {
            put(&mut out, kind, 4);
            if self.is_64 {
                put(&mut out, 7, 4);
            }
            for value in [at, address, address, file, memory] {
                put(&mut out, value, word);
            }
            if !self.is_64 {
                put(&mut out, 7, 4);
            }
            put(&mut out, 4, word);
        };
        program(1, body_at, 0x10_0000, body.len() as u64, 0x3000);
        if programs == 2 {
            program(4, note_at, 0, note.len() as u64, note.len() as u64);
        }
        out.extend(&note);
        out.resize(body_at as usize, 0);
        out.extend(&body);
        out
    }
}

fn multiboot_header(flags: u32, fields: &[u32]) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let words = [&[0x1bad_b002, flags, checksum], fields].concat();
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn multiboot_elf32() -> Vec<u8> {
    ElfFile { front: multiboot_header(3, &[]), ..ElfFile::default() }.build()
}

/// As Solo5 links its virtio images: ELF64, with address fields.
fn multiboot_elf64() -> Vec<u8> {
    let front = multiboot_header(0x1_0003, &[0x10_0000, 0x10_0000, 0, 0x10_4000, 0x10_0020]);
    ElfFile { is_64: true, front, ..ElfFile::default() }.build()
}

fn pvh(is_64: bool, wide: bool) -> Vec<u8> {
    let mut entry = 0x10_0000u32.to_le_bytes().to_vec();
    entry.resize(if wide { 8 } else { 4 }, 0);
    ElfFile { is_64, pvh: Some(entry), ..ElfFile::default() }.build()
}

fn linux64() -> Vec<u8> {
    ElfFile { is_64: true, ..ElfFile::default() }.build()
}

fn bzimage(xloadflags: u16) -> Vec<u8> {
    let mut image = vec![0; 4 * 512];
    image[0x1f1] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&64u32.to_le_bytes());
    image[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x37ff_ffffu32.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&255u32.to_le_bytes());
    image[0x236..0x238].copy_from_slice(&xloadflags.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&0x20_0000u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[1024..1028].copy_from_slice(&CODE);
    image
}

fn request(image: &[u8]) -> Request<'_> {
    Request {
        image,
        name: "image",
        append: "one two",
        initrd: None,
        modules: &[],
        devices: &[],
        memory_bytes: MEMORY,
        profile: Profile::Pc,
    }
}

/// Guest memory as the pieces make it.
fn memory_of(loaded: &Loaded<'_>) -> Vec<u8> {
    let mut memory = vec![0; MEMORY as usize];
    for piece in &loaded.pieces {
        memory[piece.at as usize..][..piece.bytes.len()].copy_from_slice(&piece.bytes);
    }
    memory
}

fn text_at(memory: &[u8], at: u32) -> String {
    let bytes: Vec<u8> = memory[at as usize..].iter().copied().take_while(|&byte| byte != 0).collect();
    String::from_utf8(bytes).unwrap()
}

fn number(memory: &[u8], at: u64) -> u32 {
    word(memory, at as usize).unwrap()
}

#[test]
fn multiboot_hands_over_command_line_modules_and_a_map_from_reserved_memory() {
    let image = multiboot_elf32();
    let modules = [Module { command: "first a".into(), bytes: vec![7; 5000] }];
    let loaded = load(&Request { modules: &modules, initrd: Some(b"disk"), ..request(&image) }).unwrap();
    assert_eq!(loaded.protocol, Protocol::Multiboot);
    assert_eq!((loaded.start.rip, loaded.start.rax, loaded.start.cr3), (0x10_000c, 0x2bad_b002, None));
    let memory = memory_of(&loaded);
    assert_eq!(memory[0x10_000c..0x10_0010], CODE);
    let info = loaded.start.rbx;
    assert!((area::START..area::END).contains(&info));
    let field = |i: u64| number(&memory, info + i * 4);
    assert_eq!(field(0) & 0x4d, 0x4d);
    assert_eq!(text_at(&memory, field(4)), "image one two");
    assert_eq!(field(5), 2);
    let list = u64::from(field(6));
    let (initrd, module) = (number(&memory, list), number(&memory, list + 16));
    assert_eq!(memory[initrd as usize..][..4], *b"disk");
    assert_eq!(initrd, 0x10_4000, "a page behind the image, which has 0x3000 bytes");
    assert_eq!(memory[module as usize..number(&memory, list + 20) as usize], modules[0].bytes);
    assert_eq!(text_at(&memory, number(&memory, list + 24)), "first a");
    // Everything of the protocol's own lies where the map has no free memory.
    let (mut at, end) = (u64::from(field(12)), u64::from(field(12) + field(11)));
    while at < end {
        let (start, bytes, kind) =
            (number(&memory, at + 4), number(&memory, at + 12), number(&memory, at + 20));
        let overlaps = u64::from(start) < area::END && u64::from(start) + u64::from(bytes) > area::START;
        assert!(kind != 1 || !overlaps, "free memory at {start:#x}");
        at += u64::from(number(&memory, at)) + 4;
    }
}

#[test]
fn multiboot_address_fields_decide_in_a_64_bit_file() {
    let image = multiboot_elf64();
    let loaded = load(&request(&image)).unwrap();
    assert_eq!((loaded.protocol, loaded.start.rip), (Protocol::Multiboot, 0x10_0020));
    assert_eq!(memory_of(&loaded)[0x10_0020..0x10_0024], CODE);
    let front = multiboot_header(3, &[]);
    let without = ElfFile { is_64: true, front, ..ElfFile::default() }.build();
    assert!(matches!(load(&request(&without)), Err(LoadError::Malformed(_))));
    // Firecracker knows no multiboot: the same file is a Linux64 one there.
    let firecracker = Request { profile: Profile::Firecracker, ..request(&without) };
    assert_eq!(load(&firecracker).unwrap().protocol, Protocol::Linux64);
}

#[test]
fn pvh_notes_may_be_4_or_8_bytes_wide_in_either_kind_of_file() {
    for (is_64, wide) in [(false, false), (false, true), (true, false), (true, true)] {
        let image = pvh(is_64, wide);
        let loaded = load(&Request { initrd: Some(b"disk"), ..request(&image) }).unwrap();
        assert_eq!((loaded.protocol, loaded.start.rip), (Protocol::Pvh, 0x10_0000));
        assert!((0x1000..=0x9_0000).contains(&loaded.start.rsp), "Nanos calls before it has a stack");
        let memory = memory_of(&loaded);
        let info = loaded.start.rbx;
        assert_eq!(number(&memory, info), 0x336e_c578);
        assert_eq!(text_at(&memory, number(&memory, info + 24)), "one two");
        let module = number(&memory, info + 16);
        assert_eq!(number(&memory, info + 12), 1);
        assert_eq!(memory[number(&memory, module.into()) as usize..][..4], *b"disk");
    }
    let far = ElfFile { is_64: true, pvh: Some(vec![0, 0, 0, 0, 1, 0, 0, 0]), ..ElfFile::default() }.build();
    assert!(matches!(load(&request(&far)), Err(LoadError::Malformed(_))));
}

#[test]
fn linux_images_begin_in_long_mode_with_tables_that_map_them() {
    let (elf, bz) = (linux64(), bzimage(1));
    for (image, protocol, rip) in [(&elf, Protocol::Linux64, 0x10_0000), (&bz, Protocol::BzImage, 0x20_0200)]
    {
        let loaded = load(&Request { initrd: Some(&[9; 4097]), ..request(image) }).unwrap();
        assert_eq!((loaded.protocol, loaded.start.rip), (protocol, rip));
        let memory = memory_of(&loaded);
        let params = loaded.start.rsi;
        assert_eq!(number(&memory, params + 0x202), 0x5372_6448);
        assert_eq!(text_at(&memory, number(&memory, params + 0x228)), "one two");
        let (disk, bytes) = (number(&memory, params + 0x218), number(&memory, params + 0x21c));
        assert_eq!(memory[disk as usize..][..bytes as usize], [9; 4097]);
        assert_eq!(memory[params as usize + 0x1e8], 3, "three ranges in the map");
        // Walk the tables for an address in the fourth GiB.
        let entry = |table: u64, index: u64| u64::from(number(&memory, table + index * 8)) & !0xfff;
        let table = entry(entry(loaded.start.cr3.unwrap(), 0), 3);
        assert_eq!(entry(table, 5), (3 << 30) + (5 << 21));
    }
    let loaded = bzimage(0);
    let loaded = load(&request(&loaded)).unwrap();
    assert_eq!((loaded.start.rip, loaded.start.cr3), (0x20_0000, None), "no 64-bit entry: the 32-bit one");
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let image = multiboot_elf32();
    let too_long = "x".repeat(70_000);
    assert_eq!(
        load(&Request { append: &too_long, ..request(&image) }),
        Err(LoadError::ArgumentsTooLong("command line"))
    );
    let disk = vec![0; MEMORY as usize];
    let large = load(&Request { initrd: Some(&disk), ..request(&image) });
    assert!(matches!(large, Err(LoadError::TooLarge { what: "the initial RAM disk", .. })), "{large:?}");
    assert_eq!(load(&Request { memory_bytes: 4096, ..request(&image) }), Err(LoadError::Memory(4096)));
    assert_eq!(load(&request(b"#!/bin/sh\n")), Err(LoadError::NotAKernel));
    let modules = [Module { command: String::new(), bytes: vec![1] }];
    let linux = linux64();
    assert!(matches!(
        load(&Request { modules: &modules, ..request(&linux) }),
        Err(LoadError::Unsupported { .. })
    ));
}

/// `image` with a segment's or a note's header, number `program` in the file, changed by `change`.
fn with_program(image: &[u8], program: usize, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let (header, bytes) = if image[4] == 2 { (64, 56) } else { (52, 32) };
    let mut changed = image.to_vec();
    change(&mut changed[header + program * bytes..][..bytes]);
    changed
}

#[test]
fn what_contradicts_itself_is_an_error_and_still_a_kernel() {
    let refused = |image: &[u8], why: &str| {
        let error = load(&request(image)).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    };
    // What was an entry is now an address where nothing is loaded.
    let mut nowhere = linux64();
    nowhere[24..32].copy_from_slice(&0x30_0000u64.to_le_bytes());
    refused(&nowhere, "its entry, 0x300000");
    let mut image = bzimage(1);
    image.truncate(image.len() - 16);
    refused(&image, "cut off");
    assert!(is_kernel(&image));
    let mut short = bzimage(1);
    short[0x238..0x23c].copy_from_slice(&3u32.to_le_bytes());
    assert_eq!(load(&request(&short)), Err(LoadError::CommandLineTooLong { longest: 3 }));
    // A second segment over the first one, in place of a note.
    let overlapping = with_program(&pvh(true, false), 1, |note| {
        note[0] = 1;
        note[16..24].copy_from_slice(&0x10_0000u64.to_le_bytes());
        note[24..32].copy_from_slice(&0x10_0000u64.to_le_bytes());
    });
    refused(&overlapping, "are loaded to 0x100000");
    // A note that claims more bytes than there are.
    let whole = pvh(true, false);
    let at = whole.windows(4).position(|found| found == b"Xen\0").unwrap();
    let mut long = whole.clone();
    long[at - 8..at - 4].fill(0xff);
    refused(&long, "its notes cannot be read");
    let wants_video = ElfFile { front: multiboot_header(8, &[]), ..ElfFile::default() }.build();
    refused(&wants_video, "asks for what is not known");
    for image in [&long, &wants_video] {
        assert!(is_kernel(image));
    }
    assert!(!is_kernel(&linux64()), "it says nothing");
}

#[test]
fn broken_images_are_errors_and_never_panics() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let seeds = [
        (Protocol::Multiboot, multiboot_elf32()),
        (Protocol::Multiboot, multiboot_elf64()),
        (Protocol::Pvh, pvh(false, false)),
        (Protocol::Pvh, pvh(false, true)),
        (Protocol::Pvh, pvh(true, false)),
        (Protocol::Pvh, pvh(true, true)),
        (Protocol::Linux64, linux64()),
        (Protocol::BzImage, bzimage(1)),
        (Protocol::BzImage, bzimage(0)),
        (Protocol::Hvt, manifests::hvt(&[])),
    ];
    for (protocol, image) in &seeds {
        // The seeds themselves get past every header.
        assert_eq!(load(&request(image)).unwrap().protocol, *protocol);
        let (mut refused, mut parsed) = (0, 0);
        for _ in 0..4000 {
            let mut broken = image.clone();
            for _ in 0..rng.random_range(1..4) {
                match rng.random_range(0..5) {
                    0 => {
                        let keep = rng.random_range(0..broken.len());
                        broken.truncate(keep.max(1));
                    }
                    1 => {
                        // A whole word of extremes.
                        let at = rng.random_range(0..broken.len());
                        let values = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x9_0000, 0xfff_ffff];
                        let value = values[rng.random_range(0..values.len())];
                        for (byte, new) in broken[at..].iter_mut().zip(value.to_le_bytes()) {
                            *byte = new;
                        }
                    }
                    _ => {
                        let at = rng.random_range(0..broken.len().min(2048));
                        broken[at] = rng.random();
                    }
                }
            }
            if rng.random() {
                repair_multiboot(&mut broken);
            }
            let profile = if rng.random() { Profile::Pc } else { Profile::Firecracker };
            let modules = [Module { command: "two words".into(), bytes: vec![7; 100] }];
            let modules = &modules[..usize::from(rng.random_range(0..4) == 0)];
            // Solo5's hvt has none.
            let initrd = Some(&b"disk"[..]).filter(|_| *protocol != Protocol::Hvt);
            match load(&Request { profile, initrd, modules, ..request(&broken) }) {
                // What is accepted lies in memory, and outside of the boot structures but for those.
                Ok(loaded) => {
                    let _fits = memory_of_bounds(&loaded);
                    parsed += usize::from(loaded.protocol == *protocol);
                }
                Err(error) => {
                    refused += 1;
                    parsed += usize::from(error != LoadError::NotAKernel);
                }
            }
            let _says = is_kernel(&broken);
        }
        assert!(refused > 100, "seed {seed}: only {refused} of 4000 broken images were refused");
        assert!(parsed > 1000, "seed {seed}: only {parsed} of 4000 got past the first look, {protocol:?}");
    }
}

/// Makes the checksum of a multiboot header right again, so that what is broken in it is looked at.
fn repair_multiboot(image: &mut [u8]) {
    let magic = 0x1bad_b002u32.to_le_bytes();
    let Some(at) = image.windows(12).position(|window| window.starts_with(&magic)) else { return };
    let flags = image[at + 4..at + 8].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    image[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
}

/// Panics if a piece does not fit.
fn memory_of_bounds(loaded: &Loaded<'_>) -> usize {
    for (i, piece) in loaded.pieces.iter().enumerate() {
        let end = piece.at.checked_add(piece.bytes.len() as u64).unwrap();
        assert!(end <= MEMORY, "{:#x}..{end:#x}", piece.at);
        let own = i + 3 >= loaded.pieces.len();
        assert!(own || piece.at >= area::END || end <= area::START, "{:#x}..{end:#x}", piece.at);
    }
    loaded.pieces.len()
}
