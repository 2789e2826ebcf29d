//! ELF32 and ELF64 files for x86, with physical addresses.

use std::borrow::Cow;
use std::ops::Range;

use object::read::elf::{FileHeader, ProgramHeader as _, SectionHeader as _};
use object::{LittleEndian, elf};

use super::{LoadError, Piece, Request, check_range, hvt, malformed};

const LE: LittleEndian = LittleEndian;
/// Program headers at most; a file with more is not one that a linker wrote.
const SEGMENTS_MAX: usize = 64;
const SECTIONS_MAX: usize = 4096;
/// Notes looked at, at most.
const NOTES_MAX: usize = 256;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_PVH_ENTRY: u32 = 18;

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub physical: u64,
    pub linear: u64,
    pub bytes: u64,
    pub file: Range<usize>,
    pub executable: bool,
    pub writable: bool,
}

/// What of an ELF file matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elf {
    pub is_64: bool,
    /// As the file has it: linear.
    pub entry: u64,
    pub segments: Vec<Segment>,
    pub pvh_entry: Option<u32>,
    pub solo5: hvt::Notes,
    /// Linear ranges of sections with code, or of executable segments when there are no sections.
    code: Vec<Range<u64>>,
}

/// Reads an ELF file; `None` if it is none.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Elf>, LoadError> {
    match bytes.first_chunk() {
        Some([0x7f, b'E', b'L', b'F', 1]) => parse_as::<elf::FileHeader32<LittleEndian>>(bytes).map(Some),
        Some([0x7f, b'E', b'L', b'F', 2]) => parse_as::<elf::FileHeader64<LittleEndian>>(bytes).map(Some),
        Some([0x7f, b'E', b'L', b'F', _]) => Err(malformed("it is neither a 32-bit nor a 64-bit ELF file")),
        _ => Ok(None),
    }
}

fn parse_as<H: FileHeader<Endian = LittleEndian>>(bytes: &[u8]) -> Result<Elf, LoadError> {
    let header = H::parse(bytes).map_err(|e| malformed(e.to_string()))?;
    if !header.is_little_endian() {
        return Err(malformed("it is a big-endian ELF file"));
    }
    let machine = header.e_machine(LE);
    if machine != elf::EM_386 && machine != elf::EM_X86_64 {
        return Err(malformed(format!("it is an ELF file for machine {}, not for x86", machine.0)));
    }
    let programs = header.program_headers(LE, bytes).map_err(|e| malformed(e.to_string()))?;
    if programs.len() > SEGMENTS_MAX {
        return Err(malformed("it has too many program headers"));
    }
    let mut segments = Vec::new();
    let mut pvh_entry = None;
    let mut solo5 = hvt::Notes::default();
    for program in programs {
        match program.p_type(LE) {
            elf::PT_LOAD if program.p_memsz(LE).into() > 0 => {
                segments.push(segment::<H>(program, bytes.len())?);
            }
            elf::PT_NOTE => {
                let cut_off = |e: object::read::Error| malformed(format!("its notes cannot be read: {e}"));
                let Some(mut notes) = program.notes(LE, bytes).map_err(cut_off)? else { continue };
                for _ in 0..NOTES_MAX {
                    let Some(note) = notes.next().map_err(cut_off)? else { break };
                    if note.name() == b"Xen" && note.n_type(LE).0 == NOTE_PVH_ENTRY {
                        pvh_entry = Some(pvh_note(note.desc())?);
                    }
                    if note.name() == hvt::NOTE_NAME {
                        match note.n_type(LE).0 {
                            hvt::NOTE_ABI => solo5.abi = note.desc().to_vec(),
                            hvt::NOTE_MANIFEST => solo5.manifest = note.desc().to_vec(),
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err(malformed("it is an ELF file with nothing to load"));
    }
    let code = code_ranges(header, bytes, &segments);
    Ok(Elf { is_64: header.is_type_64(), entry: header.e_entry(LE).into(), segments, pvh_entry, solo5, code })
}

/// Whether a file that cannot be read has the beginning of a note that only a kernel has.
pub(super) fn has_kernel_note(bytes: &[u8]) -> bool {
    let mut note = NOTE_PVH_ENTRY.to_le_bytes().to_vec();
    note.extend(b"Xen\0");
    bytes.windows(note.len()).any(|found| found == note)
}

fn segment<H: FileHeader<Endian = LittleEndian>>(
    program: &H::ProgramHeader,
    file_bytes: usize,
) -> Result<Segment, LoadError> {
    let (offset, size): (u64, u64) = (program.p_offset(LE).into(), program.p_filesz(LE).into());
    let bytes: u64 = program.p_memsz(LE).into();
    let physical: u64 = program.p_paddr(LE).into();
    let linear: u64 = program.p_vaddr(LE).into();
    let end = offset.checked_add(size).and_then(|end| usize::try_from(end).ok());
    let file = end.filter(|&end| end <= file_bytes).map(|end| offset as usize..end);
    let Some(file) = file else { return Err(malformed("a segment lies outside of the file: it is cut off")) };
    if size > bytes {
        return Err(malformed("a segment is larger in the file than in memory"));
    }
    if physical.checked_add(bytes).is_none() || linear.checked_add(bytes - 1).is_none() {
        return Err(malformed("a segment wraps round"));
    }
    let executable = program.p_flags(LE).0 & elf::PF_X.0 != 0;
    let writable = program.p_flags(LE).0 & elf::PF_W.0 != 0;
    Ok(Segment { physical, linear, bytes, file, executable, writable })
}

/// The entry in a PVH note, which 32-bit and 64-bit tools write 4 and 8 bytes wide.
fn pvh_note(description: &[u8]) -> Result<u32, LoadError> {
    let entry = match *description {
        [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, 0, 0, 0, 0] => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    };
    entry.ok_or_else(|| malformed("its PVH note does not hold a 32-bit address"))
}

fn code_ranges<H: FileHeader<Endian = LittleEndian>>(
    header: &H,
    bytes: &[u8],
    segments: &[Segment],
) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    if let Ok(sections) = header.section_headers(LE, bytes) {
        for section in sections.iter().take(SECTIONS_MAX) {
            if section.sh_flags(LE).0 & elf::SHF_EXECINSTR.0 != 0 {
                let (start, size): (u64, u64) = (section.sh_addr(LE).into(), section.sh_size(LE).into());
                ranges.extend(start.checked_add(size).map(|end| start..end));
            }
        }
    }
    if ranges.is_empty() {
        ranges.extend(segments.iter().filter(|s| s.executable).map(|s| s.linear..s.linear + s.bytes));
    }
    ranges
}

impl Elf {
    /// Where a linear address of the file is in physical memory.
    pub(super) fn physical(&self, linear: u64) -> Option<u64> {
        let inside = |s: &&Segment| linear >= s.linear && linear - s.linear < s.bytes;
        self.segments.iter().find(inside).map(|s| s.physical + (linear - s.linear))
    }

    /// The end of the last segment.
    pub(super) fn end(&self) -> u64 {
        self.segments.iter().map(|s| s.physical + s.bytes).max().unwrap_or(0)
    }

    /// Its segments as pieces, each checked to lie in free memory.
    pub(super) fn pieces<'a>(&self, request: &Request<'a>) -> Result<Vec<Piece<'a>>, LoadError> {
        let mut pieces = Vec::new();
        for s in &self.segments {
            check_range("a segment of the image", s.physical, s.physical + s.bytes, request.memory_bytes)?;
            pieces.push(Piece { at: s.physical, bytes: Cow::Borrowed(&request.image[s.file.clone()]) });
        }
        Ok(pieces)
    }

    /// Guest-physical ranges of code.
    pub(super) fn code(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for range in &self.code {
            for s in &self.segments {
                let (start, end) =
                    (range.start.max(s.linear), range.end.min(s.linear.saturating_add(s.bytes)));
                if start < end {
                    ranges.push(s.physical + (start - s.linear)..s.physical + (end - s.linear));
                }
            }
        }
        ranges
    }
}
