//! Static x86-64 ELF files: what is to be loaded where, and where the coverage counters are.
//!
//! Everything in a file is a claim until checked here; a file that is truncated, overlapping or not
//! ours is an error that says what to do, never a panic. Loading itself is in [`crate::boot`].

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _};
use object::{LittleEndian, elf};
use unifork_abi::{ABI_VERSION, IMAGE_MAGIC, ImageHeader, KERNEL_VA, LOWEST_VA, PIE_VA};

use crate::addr::{PAGE_BYTES, page_ceil, page_floor};
use crate::layout::Access;

mod error;

pub use error::ImageError;

type Header = elf::FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

/// Program headers at most; a file with more is not one that a linker wrote.
const SEGMENTS_MAX: usize = 64;

/// A segment to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First linear address.
    pub start: u64,
    /// Bytes in memory.
    pub bytes: u64,
    /// The bytes in the file that it begins with; the rest is zero.
    pub file: Range<usize>,
    /// Who may use it.
    pub access: Access,
}

/// Coverage counters: one byte per edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Linear address of the first, page-aligned.
    pub start: u64,
    /// How many.
    pub count: u64,
    /// Bytes of the pages that hold them and nothing else.
    pub page_bytes: u64,
}

/// A static x86-64 ELF file, checked.
#[derive(Clone, Debug)]
pub struct GuestImage {
    name: String,
    bytes: Arc<[u8]>,
    // Invariant: sorted by address, no two overlap, each `file` range is inside `bytes`, and all
    // lie in the window that `parse` was given.
    pub(crate) segments: Vec<Segment>,
    pub(crate) entry: u64,
    pub(crate) bias: u64,
    pub(crate) headers: ProgramHeaders,
    counters: Option<Counters>,
}

/// Where the program headers are in memory, for the auxiliary vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProgramHeaders {
    pub address: u64,
    pub count: u64,
    pub entry_bytes: u64,
}

impl GuestImage {
    /// Reads and checks an application.
    ///
    /// # Errors
    ///
    /// Any [`ImageError`]; no file makes it panic.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let bytes = crate::regular::read(path)
            .map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        Self::parse(name, bytes.into())
    }

    /// Checks an application that is in memory.
    ///
    /// # Errors
    ///
    /// Any [`ImageError`] but [`ImageError::Read`].
    pub fn parse(name: String, bytes: Arc<[u8]>) -> Result<Self, ImageError> {
        Self::parse_within(name, bytes, LOWEST_VA..KERNEL_VA)
    }

    /// Checks an ELF file that must lie inside `window`.
    pub(crate) fn parse_within(
        name: String,
        bytes: Arc<[u8]>,
        window: Range<u64>,
    ) -> Result<Self, ImageError> {
        let malformed =
            |reason: &str| ImageError::Malformed { name: name.clone(), reason: reason.to_owned() };
        let data: &[u8] = &bytes;
        error::check_kind(&name, data)?;
        let header = Header::parse(data).map_err(|e| malformed(&e.to_string()))?;
        if !header.is_little_endian() {
            return Err(malformed("it is big-endian"));
        }
        let machine = header.e_machine.get(LE).0;
        if machine != elf::EM_X86_64.0 {
            return Err(ImageError::WrongMachine { name, machine });
        }
        let bias = match header.e_type.get(LE) {
            elf::ET_EXEC => 0,
            elf::ET_DYN => PIE_VA,
            _ => return Err(malformed("it is not an executable (an object file or a core?)")),
        };
        let programs = header.program_headers(LE, data).map_err(|e| malformed(&e.to_string()))?;
        if programs.len() > SEGMENTS_MAX {
            return Err(malformed("it has too many program headers"));
        }
        let mut segments = Vec::new();
        let mut headers = ProgramHeaders {
            address: 0,
            count: programs.len() as u64,
            entry_bytes: u64::from(header.e_phentsize.get(LE)),
        };
        for program in programs {
            match program.p_type(LE) {
                elf::PT_INTERP => {
                    let text = program.data(LE, data).unwrap_or_default();
                    let interpreter = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
                    return Err(ImageError::Dynamic { name, interpreter });
                }
                elf::PT_LOAD if program.p_memsz(LE) > 0 => {
                    let (start, bytes) = (program.p_vaddr(LE), program.p_memsz(LE));
                    let start = start.checked_add(bias).ok_or_else(|| malformed("a segment wraps round"))?;
                    let end = start.checked_add(bytes).ok_or_else(|| malformed("a segment wraps round"))?;
                    let (low, high) = (window.start, window.end);
                    if start < low || end > high {
                        return Err(ImageError::Outside { name, start, end, low, high });
                    }
                    let file = file_range(program.p_offset(LE), program.p_filesz(LE), data.len())
                        .ok_or_else(|| malformed("a segment lies outside of the file: it is truncated"))?;
                    if file.len() as u64 > bytes {
                        return Err(malformed("a segment is larger in the file than in memory"));
                    }
                    let flags = program.p_flags(LE).0;
                    let access = Access {
                        write: flags & elf::PF_W.0 != 0,
                        execute: flags & elf::PF_X.0 != 0,
                        user: true,
                    };
                    let table = header.e_phoff.get(LE);
                    let offset = program.p_offset(LE);
                    if table >= offset && table - offset < program.p_filesz(LE) {
                        headers.address = start + (table - offset);
                    }
                    segments.push(Segment { start, bytes, file, access });
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(malformed("it has nothing to load"));
        }
        segments.sort_by_key(|s| s.start);
        if let Some(pair) = segments.windows(2).find(|w| w[0].start + w[0].bytes > w[1].start) {
            return Err(ImageError::Overlap { name, at: pair[1].start });
        }
        let entry =
            header.e_entry.get(LE).checked_add(bias).ok_or_else(|| malformed("its entry wraps round"))?;
        if !segments.iter().any(|s| s.access.execute && entry >= s.start && entry - s.start < s.bytes) {
            return Err(malformed("its entry point is not in an executable segment"));
        }
        let mut image =
            Self { name, bytes: Arc::clone(&bytes), segments, entry, bias, headers, counters: None };
        image.check_version(header)?;
        image.counters = image.find_counters(header)?;
        Ok(image)
    }

    /// What it is called in reports: the file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file, whole.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// What is added to the addresses in the file: not 0 for a position-independent one.
    #[must_use]
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// Its coverage counters, if it was built with any.
    #[must_use]
    pub fn counters(&self) -> Option<Counters> {
        self.counters
    }

    /// First linear address and first one past the last.
    pub(crate) fn span(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |s| page_floor(s.start));
        let end = self.segments.last().map_or(0, |s| s.start + s.bytes);
        start..page_ceil(end).unwrap_or(end)
    }

    /// The bytes in the file of `bytes` bytes of code from linear address `start`.
    pub(crate) fn code(&self, start: u64, bytes: u64) -> Option<&[u8]> {
        let end = start.checked_add(bytes)?;
        let segment = self.segments.iter().find(|s| s.access.execute && s.start <= start)?;
        let (from, to) =
            (usize::try_from(start - segment.start).ok()?, usize::try_from(end - segment.start).ok()?);
        self.bytes.get(segment.file.clone())?.get(from..to)
    }

    fn check_version(&self, header: &Header) -> Result<(), ImageError> {
        let data: &[u8] = &self.bytes;
        let sections = header.sections(LE, data).map_err(|_| ImageError::Malformed {
            name: self.name.clone(),
            reason: "its section headers lie outside of the file: it is truncated".into(),
        })?;
        let Some((_, section)) = sections.section_by_name(LE, b".unifork.image") else { return Ok(()) };
        let found = section.data(LE, data).unwrap_or_default();
        let version = found.get(8..12).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        if found.len() < size_of::<ImageHeader>() || found[..8] != IMAGE_MAGIC || version != ABI_VERSION {
            return Err(ImageError::Version { name: self.name.clone(), found: version });
        }
        Ok(())
    }

    /// The counters are what lies between the linker's symbols; the size of the table of program
    /// counters, which has no padding, says how many there are.
    fn find_counters(&self, header: &Header) -> Result<Option<Counters>, ImageError> {
        let data: &[u8] = &self.bytes;
        let malformed =
            |reason: &str| ImageError::Malformed { name: self.name.clone(), reason: reason.to_owned() };
        let Ok(sections) = header.sections(LE, data) else { return Ok(None) };
        let Ok(symbols) = sections.symbols(LE, data, elf::SHT_SYMTAB) else { return Ok(None) };
        let find = |name: &[u8]| {
            symbols
                .iter()
                .find(|s| {
                    symbols.symbol_name(LE, s).is_ok_and(|n| n == name) && s.st_shndx(LE) != elf::SHN_UNDEF
                })
                .map(|s| s.st_value(LE).wrapping_add(self.bias))
        };
        let bounds = (
            find(b"__start___sancov_cntrs"),
            find(b"__stop___sancov_cntrs"),
            find(b"__start___sancov_pcs"),
            find(b"__stop___sancov_pcs"),
        );
        let (Some(start), Some(stop), Some(pcs), Some(pcs_end)) = bounds else { return Ok(None) };
        let bad = || malformed("its coverage symbols make no sense");
        let table = pcs_end.checked_sub(pcs).filter(|t| t % 16 == 0).ok_or_else(bad)?;
        let count = table / 16;
        if count == 0 {
            return Ok(None);
        }
        let end = start.checked_add(count).ok_or_else(bad)?;
        let inside =
            self.segments.iter().any(|s| s.access.write && start >= s.start && end <= s.start + s.bytes);
        if end > stop || !inside {
            return Err(bad());
        }
        let pages = page_floor(start)..page_ceil(stop).ok_or_else(bad)?;
        for section in sections.iter() {
            let (at, bytes) = (section.sh_addr(LE).wrapping_add(self.bias), section.sh_size(LE));
            let flags = section.sh_flags(LE).0;
            let allocated = flags & elf::SHF_ALLOC.0 != 0;
            let itself = start >= at && start - at < bytes;
            // Thread-local .tbss takes no room in the image.
            let tbss = flags & elf::SHF_TLS.0 != 0 && section.sh_type(LE) == elf::SHT_NOBITS;
            if allocated
                && bytes > 0
                && !itself
                && !tbss
                && at < pages.end
                && at.saturating_add(bytes) > pages.start
            {
                let section = sections
                    .section_name(LE, section)
                    .map_or("?".into(), |n| String::from_utf8_lossy(n).into_owned());
                return Err(ImageError::SharedCounters { name: self.name.clone(), section });
            }
        }
        if start % PAGE_BYTES != 0 {
            return Err(ImageError::SharedCounters {
                name: self.name.clone(),
                section: "what precedes them".into(),
            });
        }
        Ok(Some(Counters { start, count, page_bytes: pages.end - pages.start }))
    }
}

fn file_range(offset: u64, bytes: u64, len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    (end <= len).then_some(start..end)
}
