//! Xen's PVH entry, without Xen: protected mode, and `hvm_start_info` in EBX.
//!
//! Source: Xen, `xen/include/public/arch-x86/hvm/start_info.h`.

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::ByteValued as _;

use super::acpi;
use super::area::{self, BootArea};
use super::elf::Elf;
use super::{LoadError, Loaded, PAGE, Protocol, Request, memory_map, place_extras};
use crate::foreign::cpu::Start;

const MAGIC: u32 = 0x336e_c578;

pub(super) fn load<'a>(request: &Request<'a>, elf: &Elf, entry: u32) -> Result<Loaded<'a>, LoadError> {
    let mut pieces = elf.pieces(request)?;
    let extras = place_extras(request, elf.end(), u64::from(u32::MAX))?;
    pieces.extend(extras.pieces);
    let mut modules = extras.modules;
    modules.splice(0..0, extras.initrd.map(|range| (range, String::new())));
    let mut area = BootArea::new(false);
    let cmdline_paddr = area.put_text("command line", request.append)?;
    let mut list = Vec::new();
    for (range, command) in &modules {
        let entry = hvm_modlist_entry {
            paddr: range.start,
            size: range.end - range.start,
            cmdline_paddr: area.put_text("modules' command lines", command)?,
            reserved: 0,
        };
        list.extend_from_slice(entry.as_slice());
    }
    let modlist_paddr = area.put("modules", &list, 16)?;
    let map: Vec<u8> = memory_map(request.memory_bytes)
        .into_iter()
        .flat_map(|(range, type_)| {
            let size = range.end - range.start;
            let entry = hvm_memmap_table_entry { addr: range.start, size, type_, reserved: 0 };
            entry.as_slice().to_vec()
        })
        .collect();
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: modules.len() as u32,
        modlist_paddr,
        cmdline_paddr,
        memmap_paddr: area.put("tables", &map, 16)?,
        memmap_entries: 3,
        rsdp_paddr: acpi::RSDP,
        ..hvm_start_info::default()
    };
    let info = area.put("tables", info.as_slice(), PAGE)?;
    let start = Start {
        rip: entry.into(),
        rbx: info,
        // The protocol promises no stack, but Nanos calls functions before it has set one up.
        rsp: area::START,
        gdt: area.gdt(),
        code: area::CODE_SELECTOR,
        data: area::DATA_SELECTOR,
        ..Start::default()
    };
    pieces.push(area.into_piece());
    Ok(Loaded { protocol: Protocol::Pvh, pieces, start, code: elf.code(), handles: Vec::new() })
}
