//! Solo5's *hvt* target: an ELF64 file whose notes say so, entered in long mode with the address of what its tender
//! has to say in RDI. It wants nothing else: no firmware, and no devices but those of its manifest
//! ([`manifest`]), which it calls ([`crate::foreign::devices::hvt`]).
//!
//! Its page tables map memory one to one. As under its tender, there is nothing below what it is told, and what is not to
//! be written according to its file cannot be.
//!
//! Source: Solo5's public headers, `hvt_abi.h` and `elf_abi.h`, ABI version 2.

use super::area::{self, BootArea};
use super::elf::{Elf, Segment};
use super::{LoadError, Loaded, PAGE, Protocol, Request, malformed, manifest};
use crate::foreign::cpu::Start;

pub(super) const NOTE_NAME: &[u8] = b"Solo5";
/// "ABI1" and "MFT1".
pub(super) const NOTE_ABI: u32 = 0x3149_4241;
pub(super) const NOTE_MANIFEST: u32 = 0x3154_464d;
const TARGET_HVT: u32 = 1;
const VERSION: u32 = 2;
/// The manifest is aligned to 8 bytes behind a note's header of 20.
const MANIFEST_PADDING: usize = 4;
/// Where in [`boot_info`] the frequency of the time stamp counter goes, which is not known yet.
const CYCLES_OFFSET: u64 = 16;

/// What Solo5's notes say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    pub abi: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Notes {
    /// Whether they are those of an image for hvt.
    pub(super) fn is_hvt(&self) -> bool {
        super::word(&self.abi, 0) == Some(TARGET_HVT)
    }
}

pub(super) fn load<'a>(request: &Request<'a>, elf: &Elf) -> Result<Loaded<'a>, LoadError> {
    let version = super::word(&elf.solo5.abi, 4);
    if version != Some(VERSION) {
        return Err(malformed(format!(
            "it is for version {version:?} of Solo5's hvt, and this is version {VERSION}"
        )));
    }
    if request.initrd.is_some() || !request.modules.is_empty() {
        return Err(LoadError::Unsupported {
            protocol: "Solo5's hvt",
            what: "modules and initial RAM disks",
        });
    }
    let mut pieces = elf.pieces(request)?;
    let mut area = BootArea::new(true);
    let cr3 = put_page_tables(&mut area, request.memory_bytes, elf)?;
    let manifest = elf.solo5.manifest.get(MANIFEST_PADDING..).unwrap_or_default();
    let attached = manifest::attach(manifest, request.devices)?;
    let manifest = area.put("tables", &attached.bytes, 8)?;
    let command = area.put_text("command line", request.append)?;
    let end = elf.end().next_multiple_of(PAGE);
    let words = [request.memory_bytes, end, 0, command, manifest, 0, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
    let info = area.put("tables", &bytes, 8)?;
    let start = Start {
        rip: elf.entry,
        // As a function is entered.
        rsp: request.memory_bytes - 8,
        rdi: info,
        cr3: Some(cr3),
        sse: true,
        write_protect: true,
        gdt: area.gdt(),
        code: area::CODE_SELECTOR,
        data: area::DATA_SELECTOR,
        cycles_at: Some(info + CYCLES_OFFSET),
        ..Start::default()
    };
    pieces.push(area.into_piece());
    Ok(Loaded { protocol: Protocol::Hvt, pieces, start, code: elf.code(), handles: attached.handles })
}

const LARGE: u64 = 2 << 20;
/// Parts of 2 MiB that are mapped page by page, at most: those in which a part that must not be written begins or ends.
/// What is in others can be written.
const MIXED_MAX: usize = 5;

/// Puts page tables that map memory one to one.
fn put_page_tables(area: &mut BootArea, memory: u64, elf: &Elf) -> Result<u64, LoadError> {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const SIZE: u64 = 0x80;
    // A table's page is its own.
    let table = |mut entries: Vec<u64>| {
        entries.resize(entries.len().next_multiple_of(512), 0);
        entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<u8>>()
    };
    // As its tender has it: no part of the page is to be written.
    let fixed = |page: u64| {
        let touches = |s: &&Segment| s.physical < page + PAGE && page < s.physical + s.bytes;
        let mut segments = elf.segments.iter().filter(touches).peekable();
        segments.peek().is_some() && segments.all(|s| !s.writable)
    };
    let page_entry = |page: u64| match page {
        ..area::START => 0,
        _ if page < super::HIGH_MEMORY || fixed(page) => page | PRESENT,
        _ => page | PRESENT | WRITE,
    };
    let (mut directories, mut mixed) = (Vec::new(), 0);
    for large in (0..memory).step_by(LARGE as usize) {
        let touches = |s: &&Segment| s.physical < large + LARGE && large < s.physical + s.bytes;
        let pages = || (large..memory.min(large + LARGE)).step_by(PAGE as usize);
        let some = large == 0 || elf.segments.iter().filter(touches).any(|s| !s.writable);
        let whole = memory - large >= LARGE;
        directories.push(if some && pages().all(fixed) && whole {
            large | PRESENT | SIZE
        } else if !whole || some && mixed < MIXED_MAX {
            mixed += 1;
            area.put("tables", &table(pages().map(page_entry).collect()), PAGE)? | PRESENT | WRITE
        } else {
            large | PRESENT | WRITE | SIZE
        });
    }
    let directories = area.put("tables", &table(directories), PAGE)?;
    let gibs = 0..memory.div_ceil(1 << 30);
    let gibs = gibs.map(|gib| (directories + gib * PAGE) | PRESENT | WRITE).collect();
    let gibs = area.put("tables", &table(gibs), PAGE)?;
    area.put("tables", &table(vec![gibs | PRESENT | WRITE]), PAGE)
}
