//! From addresses to functions and source lines.
//!
//! [`Symbols`] keeps the images that a guest's address space was made from. Loading one reads its headers
//! only; symbol table, line tables and call-frame information are parsed when first asked for, and one
//! that turns out to be damaged is as if it were absent: what is left still answers.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use addr2line::gimli::{self, EndianArcSlice, LittleEndian, Reader as _};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::elf::{Elf, Function, enclosing};
use super::names::{demangle, printable};
use super::unwind::CallFrames;

/// How many functions inlined into each other are shown for one address.
const INLINED_MAX: usize = 64;

/// Why an image could not be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SymbolsError {
    /// It is some other file, or its headers are damaged.
    #[error("{name} is not an ELF file for x86-64 that can be read")]
    NotElf {
        /// The name it was to be loaded under.
        name: String,
        /// What is wrong with it.
        source: object::Error,
    },
}

/// The symbols and debug information of everything in a guest's address space.
#[derive(Debug, Default)]
pub struct Symbols {
    images: Vec<Image>,
}

/// Where an address is in the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The image, by the name it was loaded under.
    pub module: String,
    /// The function, demangled.
    pub function: Option<String>,
    /// Bytes from the start of the function that holds the instruction, or from where the image is
    /// loaded if that is not known.
    pub offset: u64,
    /// The source file, as the compiler recorded it.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
}

impl Symbols {
    /// No images yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image that is loaded `bias` bytes above where it was linked (0 for one that is not
    /// relocated). Reads headers only.
    ///
    /// # Errors
    ///
    /// [`SymbolsError::NotElf`]; the images loaded before are as they were.
    pub fn load(&mut self, name: &str, bytes: impl Into<Arc<[u8]>>, bias: u64) -> Result<(), SymbolsError> {
        let elf = Elf::open(bytes.into())
            .map_err(|source| SymbolsError::NotElf { name: name.to_owned(), source })?;
        self.images.push(Image {
            name: name.to_owned(),
            bias,
            elf,
            functions: OnceCell::new(),
            lines: OnceCell::new(),
            call_frames: OnceCell::new(),
        });
        Ok(())
    }

    /// Where `address` is: the innermost inlined function first, the function that it is inlined into
    /// last. Empty if no image has code there.
    pub fn places(&self, address: u64) -> Vec<Place> {
        self.image(address).map_or_else(Vec::new, |image| image.places(address))
    }

    /// The address of the function with this symbol-table name, which is mangled for C++ and Rust.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.images.iter().find_map(|image| {
            let function = image.functions().iter().find(|function| function.name == name)?;
            Some(function.range.start.wrapping_add(image.bias))
        })
    }

    /// The address and size of what has this symbol-table name, be it function or variable; the size is 0
    /// where the table does not say.
    pub fn find_any(&self, name: &str) -> Option<(u64, u64)> {
        self.images.iter().find_map(|image| {
            let (address, size) = image.elf.symbol(name)?;
            Some((address.wrapping_add(image.bias), size))
        })
    }

    /// What is between the symbols that a linker puts at both ends of the section called `name`.
    pub fn section(&self, name: &str) -> Option<Range<u64>> {
        let (start, _) = self.find_any(&format!("__start_{name}"))?;
        let (stop, _) = self.find_any(&format!("__stop_{name}"))?;
        (start < stop).then_some(start..stop)
    }

    /// Counters of `-fsanitize-coverage=inline-8bit-counters`, if there are any.
    pub fn sanitizer_counters(&self) -> Option<Range<u64>> {
        self.section("__sancov_cntrs")
    }

    /// Every function of the symbol tables, with its symbol-table name.
    pub fn functions(&self) -> impl Iterator<Item = (&str, Range<u64>)> {
        self.images.iter().flat_map(|image| {
            let moved = |at: u64| at.wrapping_add(image.bias);
            let functions = image.functions().iter();
            functions.map(move |f| (f.name.as_str(), moved(f.range.start)..moved(f.range.end)))
        })
    }

    /// Those of them that the symbol table says are functions, and how long they are.
    pub(super) fn certain_functions(&self) -> impl Iterator<Item = (&str, Range<u64>)> {
        self.images.iter().flat_map(|image| {
            let moved = |at: u64| at.wrapping_add(image.bias);
            let functions = image.functions().iter().filter(|function| function.is_certain);
            functions.map(move |f| (f.name.as_str(), moved(f.range.start)..moved(f.range.end)))
        })
    }

    /// The image that has code at `address`: of several, the one that was loaded first.
    pub(super) fn image(&self, address: u64) -> Option<&Image> {
        self.images.iter().find(|image| image.elf.is_text(image.linked(address)))
    }

    /// Whether `address` is inside the code of an image.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.image(address).is_some()
    }

    /// Up to `length` bytes of code, as the image holds them.
    pub(crate) fn code(&self, address: u64, length: usize) -> &[u8] {
        let code = self
            .images
            .iter()
            .find_map(|image| image.elf.text_from(image.linked(address)).filter(|code| !code.is_empty()));
        code.map_or(&[][..], |code| code.get(..length).unwrap_or(code))
    }

    /// Where the function around `address` starts and ends, from the symbol table.
    pub fn function_range(&self, address: u64) -> Option<Range<u64>> {
        let image = self.image(address)?;
        let range = &image.function(address)?.range;
        Some(range.start.wrapping_add(image.bias)..range.end.wrapping_add(image.bias))
    }

    /// The name of the function around `address`, from the symbol table and mangled.
    pub(super) fn function_name(&self, address: u64) -> Option<&str> {
        Some(&self.image(address)?.function(address)?.name)
    }
}

/// One image and what has been parsed of it so far.
pub(super) struct Image {
    name: String,
    bias: u64,
    elf: Elf,
    functions: OnceCell<Vec<Function>>,
    lines: OnceCell<Option<addr2line::Context<DwarfReader>>>,
    call_frames: OnceCell<CallFrames>,
}

/// Reads debug information out of the image's own bytes.
type DwarfReader = EndianArcSlice<LittleEndian>;

impl Image {
    /// An address as it was when the image was linked.
    pub(super) fn linked(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    /// The file.
    pub(super) fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The call-frame information.
    pub(super) fn call_frames(&self) -> &CallFrames {
        self.call_frames.get_or_init(|| CallFrames::parse(&self.elf))
    }

    fn functions(&self) -> &[Function] {
        self.functions.get_or_init(|| self.elf.functions())
    }

    fn function(&self, address: u64) -> Option<&Function> {
        enclosing(self.functions(), self.linked(address))
    }

    fn lines(&self) -> Option<&addr2line::Context<DwarfReader>> {
        self.lines.get_or_init(|| open_lines(&self.elf)).as_ref()
    }

    fn places(&self, address: u64) -> Vec<Place> {
        let mut places = self.dwarf_places(address).unwrap_or_default();
        // The symbol table knows the function's full name where the debug information, if it was cut down
        // to line tables, has only the last part of it.
        match (self.function(address), places.last_mut()) {
            (Some(function), Some(last)) => last.function = Some(demangle(&function.name)),
            (Some(function), None) => places.push(self.place(Some(demangle(&function.name)))),
            (None, Some(_)) => (),
            (None, None) => places.push(self.place(None)),
        }
        let start = self.function(address).map(|function| function.range.start);
        let start = start.or_else(|| self.dwarf_start(address)).unwrap_or(0);
        for place in &mut places {
            place.offset = self.linked(address).wrapping_sub(start);
        }
        places
    }

    fn place(&self, function: Option<String>) -> Place {
        Place { module: self.name.clone(), function, offset: 0, file: None, line: None, column: None }
    }

    /// The places that line tables and inlining records give.
    fn dwarf_places(&self, address: u64) -> Option<Vec<Place>> {
        let mut frames = self.lines()?.find_frames(self.linked(address)).skip_all_loads().ok()?;
        let mut places = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|name| Some(demangle(&name.raw_name().ok()?)));
            let mut place = self.place(name);
            if let Some(location) = frame.location {
                place.file = location.file.map(printable);
                place.line = location.line.filter(|line| *line != 0);
                place.column = location.column.filter(|column| *column != 0);
            }
            places.push(place);
            if places.len() == INLINED_MAX {
                break;
            }
        }
        Some(places)
    }

    /// Where the function starts, from debug information: for an image without a symbol table.
    fn dwarf_start(&self, address: u64) -> Option<u64> {
        let lines = self.lines()?;
        let mut frames = lines.find_frames(self.linked(address)).skip_all_loads().ok()?;
        let mut function = None;
        while let Ok(Some(frame)) = frames.next() {
            function = frame.dw_die_offset;
        }
        let unit = lines.find_dwarf_and_unit(self.linked(address)).skip_all_loads()?;
        let entry = unit.entry(function?).ok()?;
        unit.attr_address(entry.attr_value(gimli::DW_AT_low_pc)?).ok()?
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("name", &self.name).field("bias", &self.bias).finish_non_exhaustive()
    }
}

/// Opens an image's line tables, without reading further than the list of compilation units.
fn open_lines(elf: &Elf) -> Option<addr2line::Context<DwarfReader>> {
    elf.range(".debug_info")?;
    let whole = DwarfReader::new(Arc::clone(elf.bytes()), LittleEndian);
    let dwarf = gimli::Dwarf::load(|id| -> Result<_, gimli::Error> {
        let mut section = whole.clone();
        let range = elf.range(id.name()).unwrap_or(0..0);
        section.skip(range.start)?;
        section.truncate(range.len())?;
        Ok(section)
    });
    addr2line::Context::from_dwarf(dwarf.ok()?).ok()
}
