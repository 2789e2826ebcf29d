//! The boot structures' own 64 KiB, which every memory map says are taken.

use std::borrow::Cow;

use super::{LoadError, Piece};

/// Where it begins.
pub(crate) const START: u64 = 0x9_0000;
/// Where it ends.
pub(crate) const END: u64 = 0xa_0000;
/// Selectors of the GDT that is in it: what Linux's protocol asks for.
pub(crate) const CODE_SELECTOR: u16 = 0x10;
pub(crate) const DATA_SELECTOR: u16 = 0x18;
const PAGE: u64 = 4096;

/// The boot structures, as they are put together.
#[derive(Debug)]
pub(crate) struct BootArea {
    bytes: Vec<u8>,
    gdt: (u64, u16),
}

/// The two words of a PC's BIOS data that kernels look at: where what is reserved below 1 MiB begins, as a segment
/// and in KiB. Xen puts its real-mode code below that.
pub(crate) fn bios_data() -> Piece<'static> {
    let mut bytes = vec![0; 7];
    bytes[..2].copy_from_slice(&((START >> 4) as u16).to_le_bytes());
    bytes[5..].copy_from_slice(&((START >> 10) as u16).to_le_bytes());
    Piece { at: 0x40e, bytes: Cow::Owned(bytes) }
}

impl BootArea {
    /// An area with a GDT, whose code segment is for long mode if `long`.
    pub(crate) fn new(long: bool) -> Self {
        let mut area = Self { bytes: Vec::new(), gdt: (0, 0) };
        let code: u64 = if long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
        let entries = [0, 0, code, 0x00cf_9300_0000_ffff];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let at = area.put("tables", &bytes, 16).expect("an empty area has room for a GDT");
        area.gdt = (at, bytes.len() as u16 - 1);
        area
    }

    /// Address and limit of the GDT.
    pub(crate) fn gdt(&self) -> (u64, u16) {
        self.gdt
    }

    /// Puts `bytes` at a multiple of `align`; says where.
    ///
    /// # Errors
    ///
    /// [`LoadError::ArgumentsTooLong`], about `what`.
    pub(crate) fn put(&mut self, what: &'static str, bytes: &[u8], align: u64) -> Result<u64, LoadError> {
        let at = (START + self.bytes.len() as u64).next_multiple_of(align);
        if at + bytes.len() as u64 > END {
            return Err(LoadError::ArgumentsTooLong(what));
        }
        self.bytes.resize((at - START) as usize, 0);
        self.bytes.extend_from_slice(bytes);
        Ok(at)
    }

    /// Writes `bytes` over what was put at `at`.
    pub(crate) fn set(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - START) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Puts `text` with its closing zero.
    pub(crate) fn put_text(&mut self, what: &'static str, text: &str) -> Result<u64, LoadError> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(what, &bytes, 1)
    }

    /// Puts page tables that map the first 4 GiB one to one with 2 MiB pages; says where the root is.
    pub(crate) fn put_page_tables(&mut self) -> Result<u64, LoadError> {
        let mut bytes = vec![0; 6 * PAGE as usize];
        let at = (START + self.bytes.len() as u64).next_multiple_of(PAGE);
        let mut entry = |index: u64, value: u64| {
            bytes[index as usize * 8..][..8].copy_from_slice(&value.to_le_bytes());
        };
        entry(0, (at + PAGE) | 3);
        for gib in 0..4 {
            entry(512 + gib, (at + (2 + gib) * PAGE) | 3);
        }
        for large in 0..2048 {
            entry(1024 + large, large << 21 | 0x83);
        }
        self.put("tables", &bytes, PAGE)
    }

    pub(crate) fn into_piece(self) -> Piece<'static> {
        Piece { at: START, bytes: Cow::Owned(self.bytes) }
    }
}
