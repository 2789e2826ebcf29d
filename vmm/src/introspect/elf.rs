//! What is needed of an ELF file: its sections by name, where its code is, and its function symbols.
//!
//! Addresses here are as linked; [`Symbols`](super::Symbols) adds the load bias.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{
    Architecture, CompressionFormat, LittleEndian, Object, ObjectSection, ObjectSegment, ObjectSymbol,
    SectionFlags, SectionKind, SymbolKind,
};

/// An ELF file for x86-64.
type File<'data> = ElfFile<'data, FileHeader64<LittleEndian>>;

/// How many enclosing symbols are tried when the nearest one does not reach the address.
const ENCLOSING_MAX: usize = 16;

/// An ELF file, opened.
pub(super) struct Elf {
    bytes: Arc<[u8]>,
    sections: BTreeMap<String, Section>,
    // Invariant: sorted by address.
    text: Vec<Section>,
}

/// A section's place in memory and in the file.
#[derive(Clone)]
pub(super) struct Section {
    /// Its address as linked.
    pub address: u64,
    bytes: u64,
    // Invariant: inside the file. Empty where the file has only debug information for it.
    range: Range<usize>,
}

impl Section {
    fn contains(&self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|offset| offset < self.bytes)
    }
}

/// A function symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Where it starts and ends, as linked.
    pub range: Range<u64>,
    /// Its name, mangled.
    pub name: String,
    /// The symbol table says that it is a function, and how long; else it may be data among the code.
    pub is_certain: bool,
}

impl Elf {
    /// Reads the headers, and nothing behind them.
    pub(super) fn open(bytes: Arc<[u8]>) -> Result<Self, object::Error> {
        let mut sections = BTreeMap::new();
        let mut text = Vec::new();
        {
            let file = parse(&bytes)?;
            for section in file.sections() {
                let Some(found) = locate(&section, bytes.len()) else {
                    text.extend(elsewhere(&section));
                    continue;
                };
                if section.kind() == SectionKind::Text {
                    text.push(found.clone());
                }
                if let Ok(name) = section.name() {
                    sections.insert(name.to_owned(), found);
                }
            }
            if sections.is_empty() {
                text.extend(file.segments().filter_map(|segment| executable(&segment, bytes.len())));
            }
        }
        text.sort_by_key(|section| section.address);
        Ok(Self { bytes, sections, text })
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// Where a section is in the file. Compressed and absent ones are `None`.
    pub(super) fn range(&self, name: &str) -> Option<Range<usize>> {
        self.sections.get(name).map(|section| section.range.clone())
    }

    /// A section's address and contents.
    pub(super) fn section(&self, name: &str) -> Option<(u64, &[u8])> {
        let section = self.sections.get(name)?;
        Some((section.address, self.bytes.get(section.range.clone())?))
    }

    /// The executable section that `address` is in.
    fn text_at(&self, address: u64) -> Option<&Section> {
        let before = self.text.partition_point(|section| section.address <= address);
        self.text.get(before.checked_sub(1)?).filter(|section| section.contains(address))
    }

    /// Whether `address` is in an executable section, whose bytes may be in another file.
    pub(super) fn is_text(&self, address: u64) -> bool {
        self.text_at(address).is_some()
    }

    /// The executable section that `address` is in, from there on, as far as it is in the file.
    pub(super) fn text_from(&self, address: u64) -> Option<&[u8]> {
        let section = self.text_at(address)?;
        let offset = usize::try_from(address - section.address).ok()?;
        self.bytes.get(section.range.clone())?.get(offset..)
    }

    /// The symbol called `name`, of whatever kind: its address, and its size or 0.
    pub(super) fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        let file = parse(&self.bytes).ok()?;
        let mut symbols = file.symbols().chain(file.dynamic_symbols());
        let symbol = symbols.find(|s| s.is_definition() && s.name_bytes() == Ok(name.as_bytes()))?;
        Some((symbol.address(), symbol.size()))
    }

    /// Every function symbol, sorted by address, one for each address.
    pub(super) fn functions(&self) -> Vec<Function> {
        let Ok(file) = parse(&self.bytes) else { return Vec::new() };
        let mut found: Vec<(Function, Rank)> = file
            .symbols()
            .chain(file.dynamic_symbols())
            .filter(|symbol| {
                matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label)
            })
            .filter_map(|symbol| self.function(&symbol))
            .collect();
        found.sort_by(|(a, a_rank), (b, b_rank)| {
            (a.range.start, a_rank, &a.name).cmp(&(b.range.start, b_rank, &b.name))
        });
        found.dedup_by_key(|(function, _)| function.range.start);
        close_gaps(found.into_iter().map(|(function, _)| function).collect(), |address| {
            self.text_at(address).map_or(address, |text| text.address.saturating_add(text.bytes))
        })
    }

    /// A symbol as a function, with how good a name it is.
    fn function<'data>(&self, symbol: &impl ObjectSymbol<'data>) -> Option<(Function, Rank)> {
        let start = symbol.address();
        self.text_at(start)?;
        let name = String::from_utf8_lossy(symbol.name_bytes().ok()?).into_owned();
        // "$x" and ".L" are marks that assemblers leave.
        if name.is_empty() || name.starts_with(['$', '.']) {
            return None;
        }
        let rank = Rank {
            label: symbol.size() == 0,
            local: symbol.is_local(),
            weak: symbol.is_weak(),
            underscores: name.bytes().take_while(|byte| *byte == b'_').count(),
        };
        let is_certain = symbol.kind() == SymbolKind::Text && symbol.size() > 0;
        Some((Function { range: start..start.saturating_add(symbol.size()), name, is_certain }, rank))
    }
}

/// Orders the names of one address, the one to show first. The public name comes before binding, because
/// linkers differ in whether they leave a hidden alias such as `__qsort_r` global.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    label: bool,
    underscores: usize,
    local: bool,
    weak: bool,
}

/// Drops labels that are inside a function, and lets those outside reach up to the next function or to
/// `end_of_text`: hand-written assembly often has no sizes.
fn close_gaps(mut functions: Vec<Function>, end_of_text: impl Fn(u64) -> u64) -> Vec<Function> {
    let mut reached = 0;
    functions.retain(|function| {
        let inside = function.range.is_empty() && function.range.start < reached;
        reached = reached.max(function.range.end);
        !inside
    });
    let starts: Vec<u64> = functions.iter().skip(1).map(|next| next.range.start).collect();
    for (index, function) in functions.iter_mut().enumerate() {
        if function.range.is_empty() {
            let end = end_of_text(function.range.start);
            function.range.end = starts.get(index).map_or(end, |next| end.min(*next));
        }
    }
    functions
}

/// The function that `address` is in.
pub(super) fn enclosing(functions: &[Function], address: u64) -> Option<&Function> {
    let before = functions.partition_point(|function| function.range.start <= address);
    functions
        .get(..before)?
        .iter()
        .rev()
        .take(ENCLOSING_MAX)
        .find(|function| function.range.contains(&address))
}

fn parse(bytes: &[u8]) -> Result<File<'_>, object::Error> {
    let file = File::parse(bytes)?;
    match file.architecture() {
        Architecture::X86_64 => Ok(file),
        // Says the same as a wrong magic number, which is what the caller can act on.
        _ => File::parse(&[][..]),
    }
}

/// Where a section is, if its bytes are in the file and not compressed.
fn locate<'data>(section: &impl ObjectSection<'data>, file_bytes: usize) -> Option<Section> {
    let place = section.compressed_file_range().ok()?;
    if place.format != CompressionFormat::None {
        return None;
    }
    let range = inside(place.offset, place.uncompressed_size, file_bytes)?;
    (!range.is_empty()).then(|| Section { address: section.address(), bytes: range.len() as u64, range })
}

/// An executable section whose bytes are in another file: this one has only debug information.
fn elsewhere<'data>(section: &impl ObjectSection<'data>) -> Option<Section> {
    let executable = matches!(
        section.flags(),
        SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & object::elf::SHF_EXECINSTR.0 != 0
    );
    (executable && section.kind() == SectionKind::UninitializedData).then(|| Section {
        address: section.address(),
        bytes: section.size(),
        range: 0..0,
    })
}

/// An executable segment, which stands in when there are no section headers.
fn executable<'data>(segment: &impl ObjectSegment<'data>, file_bytes: usize) -> Option<Section> {
    let (offset, size) = segment.file_range();
    let range = inside(offset, size, file_bytes)?;
    (segment.permissions().executable() && !range.is_empty()).then(|| Section {
        address: segment.address(),
        bytes: range.len() as u64,
        range,
    })
}

/// A range of the file, if the file is that long.
fn inside(offset: u64, size: u64, file_bytes: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= file_bytes).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(start: u64, end: u64, name: &str) -> Function {
        Function { range: start..end, name: name.to_owned(), is_certain: true }
    }

    #[test]
    fn labels_reach_to_the_next_function_and_those_inside_one_are_dropped() {
        let closed = close_gaps(
            vec![
                function(0x10, 0x40, "sized"),
                function(0x20, 0x20, "label_inside"),
                function(0x40, 0x40, "label"),
                function(0x60, 0x60, "last"),
            ],
            |_| 0x100,
        );
        let expected =
            [function(0x10, 0x40, "sized"), function(0x40, 0x60, "label"), function(0x60, 0x100, "last")];
        assert_eq!(closed, expected);
    }

    #[test]
    fn a_function_that_encloses_another_is_found_behind_it() {
        let functions = [function(0x10, 0x80, "outer"), function(0x20, 0x30, "inner")];
        let name = |address| enclosing(&functions, address).map(|function| function.name.as_str());
        assert_eq!(name(0x28), Some("inner"));
        assert_eq!(name(0x40), Some("outer"));
        assert_eq!(name(0x80), None);
        assert_eq!(name(0x0f), None);
    }

    #[test]
    fn a_file_that_is_not_elf_is_refused() {
        assert!(Elf::open(Arc::from(&b"#!/bin/sh\n"[..])).is_err());
        assert!(Elf::open(Arc::from(&b""[..])).is_err());
    }
}
