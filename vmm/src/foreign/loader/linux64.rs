//! Linux's boot protocol on an ELF64 file, as Firecracker starts kernels: long mode, one-to-one page
//! tables, `boot_params` in RSI.
//!
//! Source: Linux, `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol".

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued as _;

use super::acpi;
use super::area::{self, BootArea};
use super::elf::Elf;
use super::{Extras, LoadError, Loaded, PAGE, Protocol, Request, memory_map, place_extras};
use crate::foreign::cpu::Start;

/// "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// The protected-mode code is at 1 MiB or above.
const LOADED_HIGH: u8 = 1;

pub(super) fn load<'a>(request: &Request<'a>, elf: &Elf) -> Result<Loaded<'a>, LoadError> {
    let mut pieces = elf.pieces(request)?;
    let mut extras = place_extras(request, elf.end(), u64::from(u32::MAX))?;
    pieces.append(&mut extras.pieces);
    let mut area = BootArea::new(true);
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: 0x020f,
        kernel_alignment: 0x0100_0000,
        ..setup_header::default()
    };
    let rsi = params(&mut area, request, header, &extras)?;
    let entry = if elf.entry < request.memory_bytes { Some(elf.entry) } else { elf.physical(elf.entry) };
    let start = Start {
        rip: entry.unwrap_or(elf.entry),
        rsi,
        cr3: Some(area.put_page_tables()?),
        gdt: area.gdt(),
        code: area::CODE_SELECTOR,
        data: area::DATA_SELECTOR,
        // Not promised, and counted on by kernels that Firecracker starts.
        rsp: area::START,
        ..Start::default()
    };
    pieces.push(area.into_piece());
    Ok(Loaded { protocol: Protocol::Linux64, pieces, start, code: elf.code(), handles: Vec::new() })
}

/// Puts `boot_params` with `header`, completed; says where.
pub(super) fn params(
    area: &mut BootArea,
    request: &Request<'_>,
    mut header: setup_header,
    extras: &Extras<'_>,
) -> Result<u64, LoadError> {
    if !extras.modules.is_empty() {
        return Err(LoadError::Unsupported { protocol: "Linux", what: "modules; give --initrd instead" });
    }
    header.type_of_loader = LOADER_UNDEFINED;
    header.loadflags |= LOADED_HIGH;
    // On a page of its own, and counted with its closing zero, as Firecracker has it and Hermit's loader insists on.
    let mut command = request.append.as_bytes().to_vec();
    command.push(0);
    header.cmd_line_ptr = area.put("command line", &command, PAGE)? as u32;
    header.cmdline_size = command.len() as u32;
    if let Some(initrd) = &extras.initrd {
        header.ramdisk_image = initrd.start as u32;
        header.ramdisk_size = (initrd.end - initrd.start) as u32;
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: acpi::RSDP, ..boot_params::default() };
    let map = memory_map(request.memory_bytes);
    params.e820_entries = map.len() as u8;
    for (slot, (range, kind)) in params.e820_table.iter_mut().zip(map) {
        *slot = boot_e820_entry { addr: range.start, size: range.end - range.start, r#type: kind };
    }
    area.put("tables", params.as_slice(), PAGE)
}
