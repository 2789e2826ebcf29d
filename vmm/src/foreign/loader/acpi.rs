//! ACPI tables, as firmware would leave them: which interrupt controllers there are, how the machine is switched
//! off, where the PCI bus is. In the PC's hole, where nobody takes memory to be free and everybody looks.
//!
//! ```text
//! 0x000e_0000  RSDP ─► XSDT ─┬─► FADT ─► DSDT, FACS
//!                            └─► MADT
//! ```
//!
//! Source: ACPI Specification 6.5.

use std::borrow::Cow;

use acpi_tables::Aml;
use acpi_tables::aml;
use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::Piece;
use crate::foreign::Profile;
use crate::foreign::bus::{PM_TIMER, PM1_CONTROL, PM1_EVENTS};
use crate::foreign::devices::{ioapic, lapic};
use crate::virtio;

/// Where the RSDP is.
pub(super) const RSDP: u64 = 0xe_0000;
const OEM: [u8; 6] = *b"UNIFRK";
const OEM_TABLE: [u8; 8] = *b"UNIFORK ";
const ALIGN: usize = 64;

/// Input of the I/O APIC that is ACPI's own.
const ACPI_LINE: u8 = 9;
/// How MADT and PCI routing say it: active high and level-triggered, or as the ISA bus has it.
const LEVEL: u16 = 0xd;
const AS_THE_BUS: u16 = 0;

/// The tables of a machine of this profile.
pub(super) fn tables(profile: Profile) -> Piece<'static> {
    let mut all = Tables(vec![0; Rsdp::len()]);
    let facs = all.put(&FACS::new());
    let dsdt = all.put_sdt(&dsdt(profile));
    let fadt = all.put_sdt(&fadt(profile, dsdt, facs));
    let madt = all.put_sdt(&madt(profile));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = all.put(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    all.0[..rsdp.len()].copy_from_slice(&rsdp);
    Piece { at: RSDP, bytes: Cow::Owned(all.0) }
}

struct Tables(Vec<u8>);

impl Tables {
    fn put_bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.0.len().next_multiple_of(ALIGN);
        self.0.resize(at, 0);
        self.0.extend_from_slice(bytes);
        RSDP + at as u64
    }

    fn put(&mut self, table: &dyn Aml) -> u64 {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.put_bytes(&bytes)
    }

    fn put_sdt(&mut self, table: &Sdt) -> u64 {
        self.put_bytes(table.as_slice())
    }
}

/// Offsets and bits of the FADT.
const FADT_BYTES: u32 = 244;
const WBINVD: u32 = 1;
const C1: u32 = 1 << 2;
const NO_POWER_BUTTON: u32 = 1 << 4;
const NO_SLEEP_BUTTON: u32 = 1 << 5;
const TIMER_HAS_32_BITS: u32 = 1 << 8;
const RESET_REGISTER: u32 = 1 << 10;
const HARDWARE_REDUCED: u32 = 1 << 20;

fn fadt(profile: Profile, dsdt: u64, facs: u64) -> Sdt {
    let mut fadt = Sdt::new(*b"FACP", FADT_BYTES, 3, OEM, OEM_TABLE, 1);
    fadt.write_u32(40, dsdt as u32);
    fadt.write_u64(140, dsdt);
    let flags = WBINVD | C1 | NO_POWER_BUTTON | NO_SLEEP_BUTTON;
    // There are ISA devices, and an 8042.
    fadt.write_u16(109, 3);
    match profile {
        Profile::Pc => {
            fadt.write_u32(36, facs as u32);
            fadt.write_u16(46, ACPI_LINE.into());
            for (offset, extended, port, bytes) in
                [(56, 148, PM1_EVENTS, 4), (64, 172, PM1_CONTROL, 2), (76, 208, PM_TIMER, 4u8)]
            {
                fadt.write_u32(offset, port.into());
                put_port(&mut fadt, extended, port, bytes);
            }
            // How wide those are.
            fadt.write_bytes(88, &[4, 2, 0, 4]);
            // C2 and C3 take too long to be had.
            fadt.write_u16(96, 0xfff);
            fadt.write_u16(98, 0xfff);
            put_port(&mut fadt, 116, 0xcf9, 1);
            fadt.write_u8(128, 6);
            fadt.write_u32(112, flags | TIMER_HAS_32_BITS | RESET_REGISTER);
        }
        Profile::Firecracker => fadt.write_u32(112, flags | HARDWARE_REDUCED),
    }
    fadt.update_checksum();
    fadt
}

/// A generic address structure about `bytes` bytes of ports.
fn put_port(fadt: &mut Sdt, offset: usize, port: u16, bytes: u8) {
    fadt.write_bytes(offset, &[1, bytes * 8, 0, 0]);
    fadt.write_u64(offset + 4, port.into());
}

fn madt(profile: Profile) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 36, 3, OEM, OEM_TABLE, 1);
    madt.append_slice(&(lapic::BASE as u32).to_le_bytes());
    // There are 8259s, too.
    madt.append_slice(&1u32.to_le_bytes());
    // Processor 0, whose APIC is 0, on.
    madt.append_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
    madt.append_slice(&[1, 12, 0, 0]);
    madt.append_slice(&(ioapic::BASE as u32).to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    let mut wire = |line: u8, input: u8, how: u16| {
        madt.append_slice(&[2, 10, 0, line, input, 0, 0, 0]);
        madt.append_slice(&how.to_le_bytes());
    };
    wire(0, ioapic::TIMER_INPUT, AS_THE_BUS);
    if profile == Profile::Pc {
        wire(ACPI_LINE, ACPI_LINE, LEVEL);
        for line in virtio::PCI_LINES {
            wire(line, line, LEVEL);
        }
    }
    // NMIs of all processors come by LINT1.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt.update_checksum();
    madt
}

/// Slots of the PCI bus whose interrupts are said.
const SLOTS: u32 = 32;

fn dsdt(profile: Profile) -> Sdt {
    let mut code = Vec::new();
    if profile == Profile::Pc {
        let zero = aml::ZERO;
        // Sleep type 0 is off.
        aml::Name::new("_S5_".into(), &aml::Package::new(vec![&zero, &zero, &zero, &zero]))
            .to_aml_bytes(&mut code);
        let routes: Vec<[u32; 4]> =
            (1..SLOTS).map(|slot| [slot << 16 | 0xffff, 0, 0, virtio::line_of_slot(slot).into()]).collect();
        let routes: Vec<aml::Package<'_>> = routes
            .iter()
            .map(|route| aml::Package::new(route.iter().map(|number| number as &dyn Aml).collect()))
            .collect();
        let routes = aml::Package::new(routes.iter().map(|route| route as &dyn Aml).collect());
        let resources: [&dyn Aml; 5] = [
            &aml::AddressSpace::new_bus_number(0u16, 0),
            &aml::IO::new(0xcf8, 0xcf8, 1, 8),
            &aml::AddressSpace::new_io(0u16, 0xcf7, None),
            &aml::AddressSpace::new_io(0xd00u16, 0xffff, None),
            &aml::AddressSpace::new_memory(
                aml::AddressSpaceCacheable::NotCacheable,
                true,
                virtio::PCI_MEMORY.start,
                virtio::PCI_MEMORY.end - 1,
                None,
            ),
        ];
        let names: [(&str, &dyn Aml); 4] = [
            ("_HID", &aml::EISAName::new("PNP0A03")),
            ("_UID", &zero),
            ("_CRS", &aml::ResourceTemplate::new(resources.to_vec())),
            ("_PRT", &routes),
        ];
        let names = names.map(|(name, value)| aml::Name::new(name.into(), value));
        let bus = aml::Device::new("PCI0".into(), names.iter().map(|name| name as &dyn Aml).collect());
        aml::Scope::new("\\_SB_".into(), vec![&bus]).to_aml_bytes(&mut code);
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, 1);
    dsdt.append_slice(&code);
    dsdt.update_checksum();
    dsdt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: u64, size: usize) -> u64 {
        let from = (at - RSDP) as usize;
        let mut word = [0; 8];
        word[..size].copy_from_slice(&bytes[from..from + size]);
        u64::from_le_bytes(word)
    }

    fn sum(bytes: &[u8], at: u64, count: u64) -> u8 {
        let from = (at - RSDP) as usize;
        bytes[from..from + count as usize].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn all_tables_are_found_from_the_first_and_their_checksums_are_right() {
        for profile in [Profile::Pc, Profile::Firecracker] {
            let piece = tables(profile);
            let bytes = &piece.bytes;
            assert!(piece.at + bytes.len() as u64 <= 0x10_0000);
            assert_eq!((sum(bytes, RSDP, 20), sum(bytes, RSDP, 36)), (0, 0));
            let xsdt = number(bytes, RSDP + 24, 8);
            let fadt = number(bytes, xsdt + 36, 8);
            let tables = [xsdt, fadt, number(bytes, xsdt + 44, 8), number(bytes, fadt + 140, 8)];
            let names = tables.map(|table| {
                assert_eq!(sum(bytes, table, number(bytes, table + 4, 4)), 0, "{profile:?} {table:#x}");
                number(bytes, table, 4).to_le_bytes()[..4].to_vec()
            });
            assert_eq!(names, [b"XSDT", b"FACP", b"APIC", b"DSDT"]);
            let off = number(bytes, fadt + 64, 4);
            assert_eq!(off, if profile == Profile::Pc { PM1_CONTROL.into() } else { 0 });
        }
    }
}
