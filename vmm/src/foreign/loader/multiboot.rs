//! Multiboot 1: a header in the first 8 KiB, with or without address fields of its own.
//!
//! Source: the Multiboot Specification 0.6.96.

use std::borrow::Cow;
use std::ops::Range;

use super::area::{self, BootArea};
use super::elf::Elf;
use super::{
    LoadError, Loaded, Piece, Protocol, Request, check_range, malformed, memory_map, modules, place_modules,
    word,
};
use crate::foreign::cpu::Start;

const MAGIC: u32 = 0x1bad_b002;
/// What EAX holds on entry.
const ENTRY_MAGIC: u64 = 0x2bad_b002;
const SEARCHED_BYTES: usize = 8192;
const FLAG_ADDRESSES: u32 = 1 << 16;
/// Requirements that are met: page-aligned modules, memory information. A video mode is not.
const REQUIREMENTS_KNOWN: u32 = 3;
const REQUIREMENTS: u32 = 0xffff;

/// A multiboot header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Where in the file it is.
    offset: usize,
    addresses: Option<Addresses>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

/// Finds the header of `image`.
pub(super) fn header(image: &[u8]) -> Result<Option<Header>, LoadError> {
    let searched = image.len().min(SEARCHED_BYTES);
    for offset in (0..searched.saturating_sub(11)).step_by(4) {
        if word(image, offset) != Some(MAGIC) {
            continue;
        }
        let (Some(flags), Some(checksum)) = (word(image, offset + 4), word(image, offset + 8)) else { break };
        if MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
            continue;
        }
        if flags & REQUIREMENTS & !REQUIREMENTS_KNOWN & !4 != 0 {
            return Err(malformed(format!("its multiboot header asks for what is not known: {flags:#x}")));
        }
        let field = |i: usize| {
            let found = word(image, offset + 12 + i * 4);
            found.ok_or_else(|| malformed("its multiboot header is cut off"))
        };
        let addresses = if flags & FLAG_ADDRESSES != 0 {
            Some(Addresses {
                header: field(0)?,
                load: field(1)?,
                load_end: field(2)?,
                bss_end: field(3)?,
                entry: field(4)?,
            })
        } else {
            None
        };
        return Ok(Some(Header { offset, addresses }));
    }
    Ok(None)
}

pub(super) fn load<'a>(
    request: &Request<'a>,
    header: &Header,
    elf: Option<&Elf>,
) -> Result<Loaded<'a>, LoadError> {
    let code = elf.map(Elf::code).unwrap_or_default();
    let (mut pieces, end, entry) = match (header.addresses, elf) {
        (Some(addresses), _) => by_addresses(request, header, addresses)?,
        (None, Some(elf)) if elf.is_64 => {
            return Err(malformed(
                "it is a 64-bit ELF file whose multiboot header has no address fields; multiboot loads those by their addresses alone",
            ));
        }
        (None, Some(elf)) => (elf.pieces(request)?, elf.end(), elf.physical(elf.entry).unwrap_or(elf.entry)),
        (None, None) => {
            return Err(malformed("it has a multiboot header without address fields, and is no ELF file"));
        }
    };
    // As QEMU has it: an initial RAM disk is a module, the first, and like all of them right behind the image.
    let initrd = request.initrd.map(|bytes| ("the initial RAM disk", "initrd", bytes));
    let all: Vec<_> = initrd.into_iter().chain(modules(request)).collect();
    let (module_pieces, modules) = place_modules(&all, end, request.memory_bytes)?;
    pieces.extend(module_pieces);
    let mut area = BootArea::new(false);
    let info = info(&mut area, request, &modules)?;
    let start = Start {
        rip: entry,
        rax: ENTRY_MAGIC,
        rbx: info,
        gdt: area.gdt(),
        code: area::CODE_SELECTOR,
        data: area::DATA_SELECTOR,
        ..Start::default()
    };
    pieces.push(area.into_piece());
    Ok(Loaded { protocol: Protocol::Multiboot, pieces, start, code, handles: Vec::new() })
}

/// What an image with address fields is: pieces, end and entry.
fn by_addresses<'a>(
    request: &Request<'a>,
    header: &Header,
    a: Addresses,
) -> Result<(Vec<Piece<'a>>, u64, u64), LoadError> {
    let before = a.header.checked_sub(a.load).map(|before| before as usize);
    let from = before.and_then(|before| header.offset.checked_sub(before));
    let Some(from) = from else {
        return Err(malformed("its multiboot header lies outside of what it loads"));
    };
    let file_bytes = request.image.len() - from;
    let bytes = match a.load_end {
        0 => file_bytes,
        end => end.checked_sub(a.load).map_or(usize::MAX, |bytes| bytes as usize),
    };
    if bytes > file_bytes {
        return Err(malformed("its multiboot header loads more than the file has"));
    }
    let load = u64::from(a.load);
    let end = load + bytes as u64;
    let end = if a.bss_end == 0 { end } else { end.max(u64::from(a.bss_end)) };
    check_range("the image", load, end, request.memory_bytes)?;
    let piece = Piece { at: load, bytes: Cow::Borrowed(&request.image[from..from + bytes]) };
    Ok((vec![piece], end, a.entry.into()))
}

/// Puts the multiboot information structure; says where.
fn info(
    area: &mut BootArea,
    request: &Request<'_>,
    modules: &[(Range<u64>, String)],
) -> Result<u64, LoadError> {
    let name = area.put_text("tables", "unifork")?;
    let mut list = Vec::new();
    for (range, text) in modules {
        let text = area.put_text("modules' command lines", text)?;
        for value in [range.start, range.end, text, 0] {
            list.extend_from_slice(&(value as u32).to_le_bytes());
        }
    }
    let list = area.put("modules", &list, 16)?;
    let mut map = Vec::new();
    let [low, boot, high] = memory_map(request.memory_bytes);
    for (range, kind) in [&low, &boot, &high] {
        map.extend_from_slice(&20u32.to_le_bytes());
        map.extend_from_slice(&range.start.to_le_bytes());
        map.extend_from_slice(&(range.end - range.start).to_le_bytes());
        map.extend_from_slice(&kind.to_le_bytes());
    }
    let map_bytes = map.len() as u64;
    let map = area.put("tables", &map, 16)?;
    // The command line comes last: Hermit's loader takes what is behind it, and behind this structure, to be free.
    let mut info = [0u32; 32];
    // Memory, command line, modules, map, loader's name.
    info[0] = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    info[1] = (low.0.end >> 10) as u32;
    info[2] = ((high.0.end - high.0.start) >> 10) as u32;
    info[5] = modules.len() as u32;
    info[6] = list as u32;
    info[11] = map_bytes as u32;
    info[12] = map as u32;
    info[16] = name as u32;
    let at = area.put("tables", &[0; 128], 16)?;
    let separator = if request.append.is_empty() { "" } else { " " };
    let command = format!("{}{separator}{}", request.name, request.append);
    info[4] = area.put_text("command line", &command)? as u32;
    let bytes: Vec<u8> = info.iter().flat_map(|field| field.to_le_bytes()).collect();
    area.set(at, &bytes);
    Ok(at)
}
