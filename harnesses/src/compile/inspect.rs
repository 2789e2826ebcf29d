//! Whether a linked file is an image: static, where a guest has room for it, and with coverage.

use object::elf::{ET_EXEC, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};
use thiserror::Error;
use unifork_abi::{IMAGE_MAGIC, KERNEL_VA, LOWEST_VA, PAGE_BYTES};

/// Bytes of one entry of the pc-table: an address and flags.
const PC_ENTRY_BYTES: u64 = 16;

/// Why a linked file is no image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not even a readable ELF file.
    #[error("the linker's output is not a readable x86-64 ELF file: {what}")]
    Unreadable {
        /// What is wrong.
        what: String,
    },
    /// It wants a dynamic linker or a load address.
    #[error("the image is not static; leave out flags for shared libraries and position independence")]
    NotStatic,
    /// It would lie on addresses that the guest uses.
    #[error(
        "a segment at {start:#x} to {end:#x} is outside of what a guest has for it ({LOWEST_VA:#x} to {KERNEL_VA:#x})"
    )]
    OutOfRange {
        /// First address.
        start: u64,
        /// Address behind the last.
        end: u64,
    },
    /// No file was compiled with coverage.
    #[error(
        "no coverage: nothing that was compiled has an edge to count, so nothing could be learnt from a run; give \
         sources instead of .o and .a files, or compile those with \
         -fsanitize-coverage=inline-8bit-counters,pc-table (clang instruments no function that never returns)"
    )]
    NoCoverage,
    /// The runtime's linker script was not applied.
    #[error("{what}; leave out linker scripts of your own (-Wl,-T)")]
    Layout {
        /// What is not as it must be.
        what: String,
    },
}

/// Checks an image and returns how many coverage counters it has.
pub(super) fn inspect(bytes: &[u8]) -> Result<usize, ImageError> {
    let unreadable = |error: object::Error| ImageError::Unreadable { what: error.to_string() };
    let elf = ElfFile64::<Endianness>::parse(bytes).map_err(unreadable)?;
    let endian = elf.endian();
    if elf.architecture() != object::Architecture::X86_64 {
        return Err(ImageError::Unreadable { what: format!("it is for {:?}", elf.architecture()) });
    }
    if elf.elf_header().e_type(endian) != ET_EXEC {
        return Err(ImageError::NotStatic);
    }
    let mut entry_is_mapped = false;
    for header in elf.elf_program_headers() {
        match header.p_type(endian) {
            PT_INTERP | PT_DYNAMIC => return Err(ImageError::NotStatic),
            PT_LOAD => {
                let start = header.p_vaddr(endian);
                let end = start.saturating_add(header.p_memsz(endian));
                if start < LOWEST_VA || end > KERNEL_VA {
                    return Err(ImageError::OutOfRange { start, end });
                }
                entry_is_mapped |= (start..end).contains(&elf.entry());
            }
            _ => {}
        }
    }
    if !entry_is_mapped {
        return Err(ImageError::Unreadable { what: "its entry point is in no segment".into() });
    }
    let header = elf.section_by_name(".unifork.image").and_then(|section| section.data().ok());
    if !header.is_some_and(|header| header.starts_with(&IMAGE_MAGIC)) {
        return Err(ImageError::Layout { what: "the image header is missing".into() });
    }
    counters(&elf)
}

fn counters(elf: &ElfFile64<'_, Endianness>) -> Result<usize, ImageError> {
    let address =
        |name: &str| elf.symbols().find(|symbol| symbol.name() == Ok(name)).map(|symbol| symbol.address());
    let range =
        |name: &str| Some((address(&format!("__start_{name}"))?, address(&format!("__stop_{name}"))?));
    let Some((pcs_start, pcs_stop)) = range("__sancov_pcs") else { return Err(ImageError::NoCoverage) };
    let Some((start, stop)) = range("__sancov_cntrs") else { return Err(ImageError::NoCoverage) };
    if start == stop {
        return Err(ImageError::NoCoverage);
    }
    let pages_of_its_own = elf.section_by_name("__sancov_cntrs").is_some_and(|section| {
        section.address() == start
            && start.is_multiple_of(PAGE_BYTES)
            && section.size() == (stop - start).next_multiple_of(PAGE_BYTES)
    });
    if !pages_of_its_own {
        return Err(ImageError::Layout { what: "the coverage counters have no pages of their own".into() });
    }
    if (pcs_stop - pcs_start) / PC_ENTRY_BYTES != stop - start {
        return Err(ImageError::Layout { what: "counters and pc-table are of different lengths".into() });
    }
    usize::try_from(stop - start)
        .map_err(|_| ImageError::Layout { what: "the coverage counters are beyond measure".into() })
}

/// A warning for each of libFuzzer's hooks that the harness defines and unifork does not call.
pub(super) fn ignored_hooks(bytes: &[u8]) -> String {
    let Ok(file) = ElfFile64::<Endianness>::parse(bytes) else { return String::new() };
    let hooks = ["LLVMFuzzerCustomMutator", "LLVMFuzzerCustomCrossOver"];
    let defined = |hook: &&str| file.symbols().any(|s| s.is_definition() && s.name() == Ok(*hook));
    hooks
        .iter()
        .filter(|hook| defined(hook))
        .map(|hook| format!("warning: {hook} is not called: unifork mutates inputs by itself\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_elf_is_refused() {
        for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\n"] {
            assert!(matches!(inspect(bytes), Err(ImageError::Unreadable { .. })));
        }
    }

    #[test]
    fn every_truncation_of_this_very_program_is_refused_without_panic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in (0..own.len().min(4096)).chain((4096..own.len()).step_by(own.len() / 64)) {
            assert!(inspect(&own[..length]).is_err());
        }
        // Whole, it is an ELF file but not an image.
        assert!(inspect(&own).is_err());
    }
}
