//! Linux's bzImage: a setup header, and a payload that unpacks itself. Entered in long mode if its
//! header allows that, else in protected mode.
//!
//! Source: Linux, `Documentation/arch/x86/boot.rst`.

use std::borrow::Cow;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued as _;

use super::area::{self, BootArea};
use super::linux64::{BOOT_FLAG, HEADER_MAGIC, params};
use super::{HIGH_MEMORY, LoadError, Loaded, Piece, Protocol, Request, check_range, malformed, place_extras};
use crate::foreign::cpu::Start;

const HEADER_OFFSET: usize = 0x1f1;
const SECTOR: usize = 512;
/// `setup_sects` when it says 0.
const SETUP_SECTORS_DEFAULT: usize = 4;
/// The first version with a protected-mode payload at 1 MiB.
const VERSION_MIN: u16 = 0x200;
/// Versions from which `pref_address` and `init_size`, and `xloadflags`, are there.
const VERSION_PREFERRED: u16 = 0x20a;
const VERSION_XLOADFLAGS: u16 = 0x20c;
/// The version from which `cmdline_size` is there, and the longest command line before.
const VERSION_CMDLINE_SIZE: u16 = 0x206;
const COMMAND_LINE_DEFAULT: u64 = 255;
/// What `syssize` counts.
const PARAGRAPH: u64 = 16;
/// There is a 64-bit entry 0x200 bytes into the payload.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// Where an initial RAM disk must end at the latest, when the header does not say.
const INITRD_MAX_DEFAULT: u64 = 0x37ff_ffff;

/// The setup header, if `image` is a bzImage.
pub(super) fn header(image: &[u8]) -> Option<setup_header> {
    let mut header = setup_header::default();
    let found = image.get(HEADER_OFFSET..HEADER_OFFSET + size_of::<setup_header>())?;
    header.as_mut_slice().copy_from_slice(found);
    let (flag, magic) = (header.boot_flag, header.header);
    (flag == BOOT_FLAG && magic == HEADER_MAGIC).then_some(header)
}

pub(super) fn load<'a>(request: &Request<'a>, header: &setup_header) -> Result<Loaded<'a>, LoadError> {
    let version = header.version;
    if version < VERSION_MIN || header.loadflags & 1 == 0 {
        return Err(malformed("it is a Linux image that is loaded below 1 MiB, from before 2.6.14"));
    }
    let sectors = match usize::from(header.setup_sects) {
        0 => SETUP_SECTORS_DEFAULT,
        sectors => sectors,
    };
    let from = (sectors + 1) * SECTOR;
    let payload = request.image.get(from..).filter(|payload| !payload.is_empty());
    let payload = payload.ok_or_else(|| malformed("it is a bzImage without a payload: it is cut off"))?;
    // Rounded up; not every build pads the file.
    if payload.len().next_multiple_of(PARAGRAPH as usize) as u64 / PARAGRAPH < header.syssize.into() {
        return Err(malformed("the bzImage's payload is shorter than its header says: it is cut off"));
    }
    let longest = match version {
        VERSION_CMDLINE_SIZE.. => header.cmdline_size.into(),
        _ => COMMAND_LINE_DEFAULT,
    };
    if request.append.len() as u64 > longest {
        return Err(LoadError::CommandLineTooLong { longest });
    }
    let long = version >= VERSION_XLOADFLAGS && header.xloadflags & XLF_KERNEL_64 != 0;
    let preferred = header.pref_address;
    let at = if version >= VERSION_PREFERRED && preferred != 0 { preferred } else { HIGH_MEMORY };
    let needed = if version >= VERSION_PREFERRED { u64::from(header.init_size) } else { 0 };
    let needed = needed.max(payload.len() as u64);
    let end = at.checked_add(needed).ok_or_else(|| malformed("its preferred address wraps round"))?;
    check_range("the kernel", at, end, request.memory_bytes)?;
    let limit = match header.initrd_addr_max {
        0 => INITRD_MAX_DEFAULT,
        max => u64::from(max),
    };
    let mut extras = place_extras(request, end, limit + 1)?;
    let mut pieces = vec![Piece { at, bytes: Cow::Borrowed(payload) }];
    pieces.append(&mut extras.pieces);
    let mut area = BootArea::new(long);
    let mut completed = *header;
    completed.code32_start = at as u32;
    let rsi = params(&mut area, request, completed, &extras)?;
    let mut start = Start {
        rip: at,
        rsi,
        gdt: area.gdt(),
        code: area::CODE_SELECTOR,
        data: area::DATA_SELECTOR,
        rsp: area::START,
        ..Start::default()
    };
    if long {
        start.rip += ENTRY_64;
        start.cr3 = Some(area.put_page_tables()?);
    }
    pieces.push(area.into_piece());
    Ok(Loaded { protocol: Protocol::BzImage, pieces, start, code: Vec::new(), handles: Vec::new() })
}
