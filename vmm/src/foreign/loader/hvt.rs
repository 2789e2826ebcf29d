//! Solo5's *hvt* target: an ELF64 file whose notes say so, entered in long mode with the address of what its tender
//! has to say in RDI. It wants nothing else: no firmware, no devices; see [`crate::foreign::devices::hvt`].
//!
//! Source: Solo5's public headers, `hvt_abi.h` and `elf_abi.h`, ABI version 2.

use super::area::{self, BootArea};
use super::elf::Elf;
use super::{LoadError, Loaded, PAGE, Protocol, Request, malformed};
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
    let cr3 = area.put_page_tables()?;
    let manifest = area.put("tables", elf.solo5.manifest.get(MANIFEST_PADDING..).unwrap_or_default(), 8)?;
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
        gdt: area.gdt(),
        code: area::CODE_SELECTOR,
        data: area::DATA_SELECTOR,
        cycles_at: Some(info + CYCLES_OFFSET),
        ..Start::default()
    };
    pieces.push(area.into_piece());
    Ok(Loaded { protocol: Protocol::Hvt, pieces, start, code: elf.code() })
}
