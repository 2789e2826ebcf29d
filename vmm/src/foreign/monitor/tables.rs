//! The real CPU's own tables while the monitor runs an image: GDT, TSS, IDT, 256 trap stubs, and one
//! page of the guest's CPL. The same idea as [`crate::machine`], elsewhere: where no known kernel
//! maps anything, and with selectors that no kernel uses, so that every segment load by the guest
//! traps.
//!
//! ```text
//! MONITOR_VA + 0x0000   GDT, TSS
//!            + 0x1000   IDT
//!            + 0x2000   256 trap stubs, and code that writes entries of shadow tables once more
//!            + 0x3000   the list that it goes by; trap stack
//!            + 0x4000   `hlt`s at CPL 3, for a `syscall` that does not trap
//!            + 16 MiB   all of the monitor's windows, for that code
//! ```

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use unifork_abi::{STUB_BYTES, TRAP_PORT};

use super::WINDOWS_BYTES;
use super::state::{CS, DS, ES, Mode, SS, Virtual};
use crate::addr::{Gpa, PAGE_BYTES};
use crate::memory::{GuestMemory, WINDOWS_GPA};

/// The entry of the root table that is the monitor's.
pub(crate) const ROOT_INDEX: usize = 509;
/// The first linear address of it.
pub(crate) const MONITOR_VA: u64 = 0xffff_0000_0000_0000 | (ROOT_INDEX as u64) << 39;
const IDT_VA: u64 = MONITOR_VA + PAGE_BYTES;
const STUBS_VA: u64 = MONITOR_VA + 2 * PAGE_BYTES;
/// Code that writes entries once more.
const EDIT_VA: u64 = STUBS_VA + EDIT_OFFSET;
const EDIT_OFFSET: u64 = 0x800;
/// What it goes by: addresses of entries.
const LIST_VA: u64 = MONITOR_VA + 3 * PAGE_BYTES;
const LIST: Gpa = Gpa(BASE + 3 * PAGE_BYTES);
/// Entries in one go, at most: the trap stack is behind them.
pub(crate) const LIST_MAX: usize = 256;
/// `1: lodsq; mov rdi, [rax]; mov [rax], rdi; dec ecx; jnz 1b; mov rax, cr3; mov cr3, rax; out TRAP_PORT, al`
const EDIT: [u8; 20] = [
    0x48,
    0xad,
    0x48,
    0x8b,
    0x38,
    0x48,
    0x89,
    0x38,
    0xff,
    0xc9,
    0x75,
    0xf4,
    0x0f,
    0x20,
    0xd8,
    0x0f,
    0x22,
    0xd8,
    0xe6,
    TRAP_PORT as u8,
];
const STACK_TOP_VA: u64 = MONITOR_VA + 4 * PAGE_BYTES;
/// Where a `syscall` ends up that does not trap.
pub(crate) const SYSCALL_VA: u64 = MONITOR_VA + 4 * PAGE_BYTES;

const BASE: u64 = WINDOWS_GPA.0;
const STACK_TOP: Gpa = Gpa(BASE + 4 * PAGE_BYTES);
/// Page tables for the above: the entry of every root, and two levels below.
const POINTERS: u64 = BASE + 5 * PAGE_BYTES;
const DIRECTORY: u64 = BASE + 6 * PAGE_BYTES;
const PAGES: u64 = BASE + 7 * PAGE_BYTES;
/// Large pages that show the windows, and the first entry for them.
const LARGE_BYTES: u64 = 2 << 20;
const WINDOWS_INDEX: u64 = 8;
const WINDOWS_VA: u64 = MONITOR_VA + WINDOWS_INDEX * LARGE_BYTES;
/// What every root has at [`ROOT_INDEX`].
pub(crate) const ROOT_ENTRY: u64 = POINTERS | 0x67;
/// Guest-physical memory for shadow tables begins here.
pub(crate) const ARENA: u64 = BASE + 8 * PAGE_BYTES;

const TSS_OFFSET: u64 = 0x800;
const TSS_BYTES: u64 = 104;
const GDT_ENTRIES: u64 = 0x100;
const KERNEL_CODE: u16 = 0xf0 << 3;
const USER_CODE64: u16 = 0xf2 << 3 | 3;
const USER_CODE32: u16 = 0xf3 << 3 | 3;
const USER_DATA: u16 = 0xf4 << 3 | 3;
const TASK: u16 = 0xf6 << 3;

/// Whether `selector` is one that the real CPU shows in CS or SS: ours, or what software KVM has there.
pub(crate) fn is_own_selector(selector: u16) -> bool {
    matches!(selector, USER_CODE64 | USER_CODE32 | USER_DATA | 0x33 | 0x2b | 0x23)
}

/// Fills the monitor's part of the windows.
pub(crate) fn write(memory: &mut GuestMemory) {
    let mut bytes = vec![0u8; 8 * PAGE_BYTES as usize];
    let mut put = |at: u64, value: u64| {
        bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    };
    let tss = MONITOR_VA + TSS_OFFSET;
    for (selector, entry) in [
        (KERNEL_CODE, 0x00af_9b00_0000_ffff),
        (KERNEL_CODE + 8, 0x00cf_9300_0000_ffff),
        (USER_CODE64, 0x00af_fb00_0000_ffff),
        (USER_CODE32, 0x00cf_fb00_0000_ffff),
        (USER_DATA, 0x00cf_f300_0000_ffff),
        (TASK, (TSS_BYTES - 1) | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56),
        (TASK + 8, tss >> 32),
    ] {
        put(u64::from(selector & !7), entry);
    }
    // RSP0 and IST1; no I/O permission bitmap.
    put(TSS_OFFSET + 4, STACK_TOP_VA);
    put(TSS_OFFSET + 36, STACK_TOP_VA);
    put(TSS_OFFSET + 96, TSS_BYTES << 48);
    for vector in 0..256u64 {
        let stub = STUBS_VA + vector * STUB_BYTES;
        // Software raises none of them but #BP and #OF: `int N` is a #GP that says which.
        let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = stub & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | 1 << 32
            | (0x8e | dpl << 5) << 40
            | (stub >> 16 & 0xffff) << 48;
        put(PAGE_BYTES + vector * 16, low);
        put(PAGE_BYTES + vector * 16 + 8, stub >> 32);
        let out = u64::from_le_bytes([0xe6, TRAP_PORT as u8, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4]);
        put(2 * PAGE_BYTES + vector * STUB_BYTES, out);
    }
    for word in 0..PAGE_BYTES / 8 {
        put(4 * PAGE_BYTES + word * 8, u64::from_le_bytes([0xf4; 8]));
    }
    for (word, at) in EDIT.chunks(8).zip((2 * PAGE_BYTES + EDIT_OFFSET..).step_by(8)) {
        let mut bytes = [0xf4; 8];
        bytes[..word.len()].copy_from_slice(word);
        put(at, u64::from_le_bytes(bytes));
    }
    for page in 0..WINDOWS_BYTES / LARGE_BYTES {
        // Present, writable, accessed, dirty, large; for supervisors, and not executable.
        put(DIRECTORY - BASE + (WINDOWS_INDEX + page) * 8, (BASE + page * LARGE_BYTES) | 0xe3 | 1 << 63);
    }
    put(POINTERS - BASE, DIRECTORY | 0x67);
    put(DIRECTORY - BASE, PAGES | 0x67);
    for page in 0..5 {
        let user = if page == 4 { 4 } else { 0 };
        put(PAGES - BASE + page * 8, (BASE + page * PAGE_BYTES) | 0x63 | user);
    }
    memory.write(Gpa(BASE), &bytes).expect("the windows are larger than this");
}

/// Puts `entry` into the monitor's part of every root, for the GiB `index` of it, which nobody has used yet.
pub(crate) fn set_second_level(memory: &mut GuestMemory, index: u64, entry: u64) {
    let at = Gpa(POINTERS + (index & 511) * 8);
    memory.write(at, &entry.to_le_bytes()).expect("the windows are larger than this");
}

/// The vector whose stub contains `rip`.
pub(crate) fn vector_of(rip: u64) -> Option<u8> {
    u8::try_from(rip.checked_sub(STUBS_VA)? / STUB_BYTES).ok()
}

/// What the CPU pushed when it entered a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub error_code: u32,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
}

/// Reads the frame of a trap by `vector`.
pub(crate) fn frame(memory: &GuestMemory, vector: u8) -> Frame {
    let mut bytes = [0; 48];
    memory.read(Gpa(STACK_TOP.0 - 48), &mut bytes).expect("the trap stack is a page of the windows");
    let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[i * 8 + byte]));
    let error_code = if crate::machine::has_error_code(vector) { word(0) as u32 } else { 0 };
    Frame { error_code, rip: word(1), rflags: word(3), rsp: word(4) }
}

/// PAE OSFXSR OSXMMEXCPT.
const CR4: u64 = 0x620;
/// UMIP FSGSBASE OSXSAVE, of which a host may refuse some.
pub(crate) const CR4_WISHES: [u64; 5] =
    [1 << 11 | 1 << 16 | 1 << 18, 1 << 11 | 1 << 18, 1 << 16 | 1 << 18, 1 << 18, 0];

/// The real control registers and tables.
pub(crate) fn set_up(sregs: &mut kvm_sregs, wishes: u64) {
    sregs.cr0 = 0x8001_0033; // PG WP NE ET MP PE
    sregs.cr4 = CR4 | wishes;
    sregs.efer = 0xd00; // NXE LMA LME; without SCE `syscall` is #UD
    sregs.gdt = kvm_dtable { base: MONITOR_VA, limit: (GDT_ENTRIES * 8 - 1) as u16, ..Default::default() };
    sregs.idt = kvm_dtable { base: IDT_VA, limit: 4095, ..Default::default() };
    sregs.tr = kvm_segment {
        base: MONITOR_VA + TSS_OFFSET,
        limit: (TSS_BYTES - 1) as u32,
        selector: TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
}

/// Registers with which the real CPU writes the entries at `entries` (guest-physical) once more, and stops.
pub(crate) fn enter_edit(
    memory: &mut GuestMemory,
    regs: &mut kvm_regs,
    sregs: &mut kvm_sregs,
    entries: &[u64],
) {
    let list: Vec<u8> =
        entries.iter().take(LIST_MAX).flat_map(|at| (WINDOWS_VA + (at - BASE)).to_le_bytes()).collect();
    memory.write(LIST, &list).expect("the windows are larger than this");
    let count = list.len() as u64 / 8;
    *regs = kvm_regs { rip: EDIT_VA, rsp: STACK_TOP_VA, rsi: LIST_VA, rcx: count, rflags: 2, ..*regs };
    let data = kvm_segment {
        limit: u32::MAX,
        selector: KERNEL_CODE + 8,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: KERNEL_CODE, type_: 11, db: 0, l: 1, ..data };
    (sregs.ss, sregs.ds, sregs.es) = (data, data, data);
}

/// Segments with which the real CPU runs what `guest` is running.
pub(crate) fn enter(sregs: &mut kvm_sregs, guest: &Virtual) {
    let data = kvm_segment {
        limit: u32::MAX,
        selector: USER_DATA,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let long = guest.mode() == Mode::Bits64;
    let base = |index: usize| if long { 0 } else { guest.segments[index].base };
    sregs.cs = kvm_segment {
        base: base(CS),
        selector: if long { USER_CODE64 } else { USER_CODE32 },
        type_: 11,
        db: u8::from(guest.mode() == Mode::Bits32),
        l: u8::from(long),
        ..data
    };
    sregs.ss = kvm_segment { base: base(SS), ..data };
    sregs.ds = kvm_segment { base: base(DS), ..data };
    sregs.es = kvm_segment { base: base(ES), ..data };
    sregs.fs = kvm_segment { base: sregs.fs.base, ..data };
    sregs.gs = kvm_segment { base: sregs.gs.base, ..data };
}
