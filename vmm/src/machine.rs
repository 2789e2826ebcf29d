//! The CPU's own tables: GDT, IDT, TSS, and the trap stubs that are all there is at CPL 0.
//!
//! ```text
//! MACHINE_VA + 0x0000   GDT, TSS        (RAM, supervisor)
//!            + 0x1000   IDT             (RAM, supervisor)
//!            + 0x2000   256 trap stubs  (RAM, supervisor, executable)
//!            + 0x8000   trap stack      (window: it is written by every trap and is dead memory
//!                                        between two of them, so it is exempt from reset)
//! ```
//!
//! Every vector enters its own 16-byte stub on the same stack (IST 1). A stub is one instruction,
//! `out 0xf5, al`, which makes KVM exit; the host knows the vector by the address of the stub, reads
//! the frame that the CPU pushed from the top of the trap stack, and all other registers are still
//! the guest's own. The host never lets the stub return: it loads the registers that `iretq` would
//! have loaded. So CPL-0 code costs one emulated instruction where ring 0 is emulated.
//!
//! # Sources
//!
//! Intel SDM volume 3: 3.4.5 (segment descriptors), 7.14 (64-bit interrupts and IST), 8.2.3 (TSS).

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};
use unifork_abi::{MACHINE_VA, STUB_BYTES, TRAP_PORT};

use crate::addr::PAGE_BYTES;

/// Where the stubs begin.
pub(crate) const STUBS_VA: u64 = MACHINE_VA + 2 * PAGE_BYTES;
/// Pages of RAM for the tables and stubs.
pub(crate) const TABLE_PAGES: u64 = 3;
/// The page that traps push their frames to.
pub(crate) const TRAP_STACK_VA: u64 = MACHINE_VA + 0x8000;

const IDT_VA: u64 = MACHINE_VA + PAGE_BYTES;
const TSS_OFFSET: u64 = 0x100;
const TSS_BYTES: u64 = 104;
const GDT_ENTRIES: u64 = 7;

const KERNEL_CODE: u16 = 0x08;
const USER_DATA: u16 = 0x18 | 3;
const USER_CODE: u16 = 0x20 | 3;
const TASK: u16 = 0x28;

/// `STAR`: `syscall` enters `0x08`/`0x10`; `sysretq` leaves to `0x10 + 16` and `0x10 + 8`.
pub(crate) const STAR: u64 = (0x13 << 48) | ((KERNEL_CODE as u64) << 32);

/// Vectors that push an error code (SDM volume 3, table 7-1).
pub(crate) const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// The vector whose stub contains `rip`.
pub(crate) fn vector_of(rip: u64) -> Option<u8> {
    let offset = rip.checked_sub(STUBS_VA)?;
    u8::try_from(offset / STUB_BYTES).ok()
}

/// The tables' pages, ready to be copied to where [`MACHINE_VA`] is mapped.
pub(crate) fn tables() -> Vec<u8> {
    let mut bytes = vec![0u8; (TABLE_PAGES * PAGE_BYTES) as usize];
    let tss = MACHINE_VA + TSS_OFFSET;
    let gdt: [u64; GDT_ENTRIES as usize] = [
        0,
        0x00af_9b00_0000_ffff, // 0x08 code, CPL 0, accessed
        0x00cf_9300_0000_ffff, // 0x10 data, CPL 0, accessed
        0x00cf_f300_0000_ffff, // 0x18 data, CPL 3, accessed
        0x00af_fb00_0000_ffff, // 0x20 code, CPL 3, accessed
        (TSS_BYTES - 1) | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56, // 0x28 busy TSS
        tss >> 32,
    ];
    for (i, entry) in gdt.iter().enumerate() {
        put(&mut bytes, i as u64 * 8, &entry.to_le_bytes());
    }
    let stack = TRAP_STACK_VA + PAGE_BYTES;
    for offset in [4u64, 36] {
        // RSP0 and IST1.
        put(&mut bytes, TSS_OFFSET + offset, &stack.to_le_bytes());
    }
    // No I/O permission bitmap: its base is the segment's end.
    put(&mut bytes, TSS_OFFSET + 102, &(TSS_BYTES as u16).to_le_bytes());
    for vector in 0..=255u8 {
        let stub = STUBS_VA + u64::from(vector) * STUB_BYTES;
        // Software may raise only #BP and #OF; `int 14` must not forge a #PF.
        let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = stub & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | 1 << 32
            | (0x8e | dpl << 5) << 40
            | (stub >> 16 & 0xffff) << 48;
        let at = PAGE_BYTES + u64::from(vector) * 16;
        put(&mut bytes, at, &low.to_le_bytes());
        put(&mut bytes, at + 8, &(stub >> 32).to_le_bytes());
        let mut code = [0xf4u8; STUB_BYTES as usize]; // hlt
        code[0] = 0xe6; // out imm8, al
        code[1] = TRAP_PORT as u8;
        put(&mut bytes, 2 * PAGE_BYTES + u64::from(vector) * STUB_BYTES, &code);
    }
    bytes
}

fn put(bytes: &mut [u8], at: u64, value: &[u8]) {
    let at = at as usize;
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The segment and control registers of a machine at CPL 3, from what KVM gave a new vCPU.
pub(crate) fn user_sregs(mut sregs: kvm_sregs, cr3: u64, cr4: u64) -> kvm_sregs {
    sregs.cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
    sregs.cr2 = 0;
    sregs.cr3 = cr3;
    sregs.cr4 = cr4;
    sregs.efer = 0xd01; // NXE LMA LME SCE
    sregs.gdt = kvm_dtable { base: MACHINE_VA, limit: (GDT_ENTRIES * 8 - 1) as u16, ..Default::default() };
    sregs.idt = kvm_dtable { base: IDT_VA, limit: 4095, ..Default::default() };
    sregs.tr = kvm_segment {
        base: MACHINE_VA + TSS_OFFSET,
        limit: (TSS_BYTES - 1) as u32,
        selector: TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    // As Linux starts a program: 64-bit code needs no data selectors.
    let null = kvm_segment { unusable: 1, ..Default::default() };
    sregs.ds = null;
    sregs.es = null;
    sregs.fs = null;
    sregs.gs = null;
    enter_user(&mut sregs);
    sregs
}

/// Whether these are registers of a machine that [`user_sregs`] began: its mode and its tables, which
/// CPL 3 cannot change.
pub(crate) fn has_own_tables(sregs: &kvm_sregs) -> bool {
    let began = user_sregs(*sregs, sregs.cr3, sregs.cr4);
    sregs.cr0 == began.cr0
        && sregs.efer == began.efer
        && (sregs.gdt.base, sregs.gdt.limit) == (began.gdt.base, began.gdt.limit)
        && (sregs.idt.base, sregs.idt.limit) == (began.idt.base, began.idt.limit)
        && (sregs.tr.base, sregs.tr.selector) == (began.tr.base, began.tr.selector)
}

/// Sets CS and SS as `iretq` to CPL 3 would; the other segments are the guest's own.
pub(crate) fn enter_user(sregs: &mut kvm_sregs) {
    let ss = user_data();
    sregs.ss = ss;
    sregs.cs = kvm_segment { selector: USER_CODE, type_: 11, db: 0, l: 1, ..ss };
}

/// A flat data segment at CPL 3.
fn user_data() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: USER_DATA,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_names_its_vector_before_and_behind_the_out() {
        for vector in [0u8, 13, 14, 128, 255] {
            let stub = STUBS_VA + u64::from(vector) * STUB_BYTES;
            assert_eq!(vector_of(stub), Some(vector));
            assert_eq!(vector_of(stub + 2), Some(vector));
        }
        assert_eq!(vector_of(STUBS_VA - 1), None);
        assert_eq!(vector_of(STUBS_VA + 4096), None);
    }

    #[test]
    fn only_two_vectors_may_be_raised_by_software() {
        let tables = tables();
        let open: Vec<usize> =
            (0..256).filter(|v| tables[PAGE_BYTES as usize + v * 16 + 5] >> 5 & 3 == 3).collect();
        assert_eq!(open, [3, 4]);
    }
}
