//! The code that goes through a batch inside of somebody else's image ([`crate::foreign`]): next input, run, put
//! the hot pages back, next input. It is copied into each fork that has an agent and runs at whatever
//! privilege the image runs at, at an address of the monitor's.
//!
//! It uses no stack and keeps nothing in registers while the image runs: what it knows is in the read-only page
//! behind it ([`plan`]), which no guest can write, and in the control words and records, which any guest can.
//! Copies of what the host put there are all that it takes from the former; what is in the latter is a claim.

use std::arch::global_asm;

/// Words of the read-only page behind the code, by their number.
pub(crate) mod plan {
    /// Registers that a run begins with.
    pub(crate) const RIP: usize = 0;
    pub(crate) const RSP: usize = 1;
    pub(crate) const RFLAGS: usize = 2;
    pub(crate) const FS_BASE: usize = 3;
    pub(crate) const GS_BASE: usize = 4;
    pub(crate) const RBX: usize = 5;
    pub(crate) const RCX: usize = 6;
    pub(crate) const RDX: usize = 7;
    pub(crate) const RSI: usize = 8;
    pub(crate) const RDI: usize = 9;
    pub(crate) const RBP: usize = 10;
    /// R8 to R15.
    pub(crate) const R8: usize = 11;
    /// Linear addresses: inputs, the novelty map, stored counters.
    pub(crate) const RING: usize = 19;
    pub(crate) const NOVELTY: usize = 20;
    pub(crate) const COVERAGE: usize = 21;
    /// Bytes from one run's stored counters to the next's, and how many there is room for.
    pub(crate) const STRIDE: usize = 22;
    pub(crate) const SLOTS: usize = 23;
    /// Whether only runs with news are stored.
    pub(crate) const FILTER: usize = 24;
    /// Pages to put back after each run.
    pub(crate) const HOT_COUNT: usize = 25;
    /// How many words there are.
    pub(crate) const WORDS: usize = 26;
}

/// Offsets from the code's first byte.
pub(crate) mod at {
    /// The read-only words.
    pub(crate) const PLAN: u64 = 0x1000;
    /// x87, SSE and AVX state, as `xrstor` has it.
    pub(crate) const XSAVE: u64 = 0x2000;
    pub(crate) const XSAVE_END: u64 = 0x1_0000;
    /// Where inputs go, and where counters are: address and length of each piece, up to one without length.
    pub(crate) const INPUT: u64 = 0x1_0000;
    pub(crate) const COUNTERS: u64 = 0x3_0000;
    pub(crate) const COUNTERS_END: u64 = 0x5_0000;
    /// Hot pages: the page and its copy in golden memory.
    pub(crate) const HOT: u64 = 0x5_0000;
    /// What the guest writes: control words (index, count, stored), and behind a page the records.
    pub(crate) const CONTROL: u64 = 0x20_0000;
    pub(crate) const RECORDS: u64 = 0x20_1000;
    pub(crate) const RECORDS_END: u64 = RECORDS + super::RECORDS as u64 * super::record::BYTES;
}

/// Records that there is room for: a power of two.
pub(crate) const RECORDS: usize = 1024;

/// A record: offsets in bytes.
pub(crate) mod record {
    /// Of its input in the ring.
    pub(crate) const OFFSET: u64 = 0;
    pub(crate) const LENGTH: u64 = 8;
    /// What the run returned.
    pub(crate) const CODE: u64 = 16;
    /// Where its counters were stored, or `u64::MAX`.
    pub(crate) const SLOT: u64 = 24;
    /// 1 when it has returned.
    pub(crate) const STATE: u64 = 32;
    pub(crate) const BYTES: u64 = 64;
}

global_asm!(
    ".pushsection .rodata.unifork_foreign_loop, \"a\", @progbits",
    ".balign 64",
    ".globl unifork_foreign_loop, unifork_foreign_loop_done, unifork_foreign_loop_end",
    ".hidden unifork_foreign_loop, unifork_foreign_loop_done, unifork_foreign_loop_end",
    "unifork_foreign_loop:",
    ".Lunifork_foreign_loop:",
    // Begin a run: RBX is its number, RBP its record.
    "2:",
    "cld",
    "mov rbx, [rip + .Lunifork_foreign_loop + {control}]",
    "and ebx, {last}",
    "mov rbp, rbx",
    "shl rbp, 6",
    "lea rax, [rip + .Lunifork_foreign_loop + {records}]",
    "add rbp, rax",
    "mov qword ptr [rbp + {state}], 0",
    "mov rsi, [rbp + {offset}]",
    "add rsi, [rip + .Lunifork_foreign_loop + {ring}]",
    "mov rdx, [rbp + {length}]",
    "lea r13, [rip + .Lunifork_foreign_loop + {input}]",
    "3:",
    "mov rdi, [r13]",
    "mov rcx, [r13 + 8]",
    "add r13, 16",
    "cmp rcx, rdx",
    "cmova rcx, rdx",
    "sub rdx, rcx",
    "test rcx, rcx",
    "jz 4f",
    "rep movsb",
    "jmp 3b",
    "4:",
    // Registers of the snapshot. RAX is the input's length.
    "mov eax, -1",
    "mov edx, -1",
    "xrstor64 [rip + .Lunifork_foreign_loop + {xsave}]",
    "mov rax, [rip + .Lunifork_foreign_loop + {fs}]",
    "wrfsbase rax",
    "mov rax, [rip + .Lunifork_foreign_loop + {gs}]",
    "wrgsbase rax",
    "lea rsp, [rip + .Lunifork_foreign_loop + {flags}]",
    "popfq",
    "mov rax, [rbp + {length}]",
    "mov rbx, [rip + .Lunifork_foreign_loop + {rbx}]",
    "mov rcx, [rip + .Lunifork_foreign_loop + {rcx}]",
    "mov rdx, [rip + .Lunifork_foreign_loop + {rdx}]",
    "mov rsi, [rip + .Lunifork_foreign_loop + {rsi}]",
    "mov rdi, [rip + .Lunifork_foreign_loop + {rdi}]",
    "mov rbp, [rip + .Lunifork_foreign_loop + {rbp}]",
    "mov rsp, [rip + .Lunifork_foreign_loop + {rsp}]",
    "mov r8, [rip + .Lunifork_foreign_loop + {r8}]",
    "mov r9, [rip + .Lunifork_foreign_loop + {r8} + 8]",
    "mov r10, [rip + .Lunifork_foreign_loop + {r8} + 16]",
    "mov r11, [rip + .Lunifork_foreign_loop + {r8} + 24]",
    "mov r12, [rip + .Lunifork_foreign_loop + {r8} + 32]",
    "mov r13, [rip + .Lunifork_foreign_loop + {r8} + 40]",
    "mov r14, [rip + .Lunifork_foreign_loop + {r8} + 48]",
    "mov r15, [rip + .Lunifork_foreign_loop + {r8} + 56]",
    "jmp qword ptr [rip + .Lunifork_foreign_loop + {rip_}]",
    // A run is over, with the code in RDI.
    ".balign 64",
    "unifork_foreign_loop_done:",
    "cld",
    "mov rbx, [rip + .Lunifork_foreign_loop + {control}]",
    "and ebx, {last}",
    "mov rbp, rbx",
    "shl rbp, 6",
    "lea rax, [rip + .Lunifork_foreign_loop + {records}]",
    "add rbp, rax",
    "mov [rbp + {code}], rdi",
    "mov qword ptr [rbp + {slot}], -1",
    "cmp qword ptr [rip + .Lunifork_foreign_loop + {slots}], 0",
    "je 30f",
    "cmp qword ptr [rip + .Lunifork_foreign_loop + {filter}], 0",
    "je 25f",
    // Is any counter above what the novelty map has? Most are zero, and zero is above nothing.
    "pxor xmm7, xmm7",
    "lea r13, [rip + .Lunifork_foreign_loop + {counters}]",
    "mov rdx, [rip + .Lunifork_foreign_loop + {novelty}]",
    "20:",
    "mov rsi, [r13]",
    "mov rcx, [r13 + 8]",
    "add r13, 16",
    "test rcx, rcx",
    "jz 30f",
    "21:",
    "cmp rcx, 64",
    "jb 23f",
    "movdqu xmm0, [rsi]",
    "movdqu xmm1, [rsi + 16]",
    "movdqu xmm2, [rsi + 32]",
    "movdqu xmm3, [rsi + 48]",
    "movdqa xmm4, xmm0",
    "por xmm4, xmm1",
    "por xmm4, xmm2",
    "por xmm4, xmm3",
    "pcmpeqb xmm4, xmm7",
    "pmovmskb eax, xmm4",
    "cmp eax, 0xffff",
    "je 22f",
    "movdqu xmm4, [rdx]",
    "psubusb xmm0, xmm4",
    "movdqu xmm4, [rdx + 16]",
    "psubusb xmm1, xmm4",
    "movdqu xmm4, [rdx + 32]",
    "psubusb xmm2, xmm4",
    "movdqu xmm4, [rdx + 48]",
    "psubusb xmm3, xmm4",
    "por xmm0, xmm1",
    "por xmm0, xmm2",
    "por xmm0, xmm3",
    "pcmpeqb xmm0, xmm7",
    "pmovmskb eax, xmm0",
    "cmp eax, 0xffff",
    "jne 25f",
    "22:",
    "add rsi, 64",
    "add rdx, 64",
    "sub rcx, 64",
    "jmp 21b",
    "23:",
    "test rcx, rcx",
    "jz 20b",
    "mov al, [rsi]",
    "cmp al, [rdx]",
    "ja 25f",
    "inc rsi",
    "inc rdx",
    "dec rcx",
    "jmp 23b",
    // Store all counters.
    "25:",
    "mov rax, [rip + .Lunifork_foreign_loop + {control} + 16]",
    "cmp rax, [rip + .Lunifork_foreign_loop + {slots}]",
    "jae 30f",
    "mov [rbp + {slot}], rax",
    "mov rdi, rax",
    "imul rdi, [rip + .Lunifork_foreign_loop + {stride}]",
    "add rdi, [rip + .Lunifork_foreign_loop + {coverage}]",
    "inc rax",
    "mov [rip + .Lunifork_foreign_loop + {control} + 16], rax",
    "lea r13, [rip + .Lunifork_foreign_loop + {counters}]",
    "26:",
    "mov rsi, [r13]",
    "mov rcx, [r13 + 8]",
    "add r13, 16",
    "test rcx, rcx",
    "jz 30f",
    "rep movsb",
    "jmp 26b",
    // The next one, if there is one.
    "30:",
    "mov qword ptr [rbp + {state}], 1",
    "mov rdi, [rbp + {code}]",
    "inc rbx",
    "cmp rbx, [rip + .Lunifork_foreign_loop + {control} + 8]",
    "jae 40f",
    "mov rdx, [rip + .Lunifork_foreign_loop + {hot_count}]",
    "lea r13, [rip + .Lunifork_foreign_loop + {hot}]",
    "31:",
    "test rdx, rdx",
    "jz 32f",
    "mov rdi, [r13]",
    "mov rsi, [r13 + 8]",
    "mov ecx, 512",
    "rep movsq",
    "add r13, 16",
    "dec rdx",
    "jmp 31b",
    "32:",
    "mov [rip + .Lunifork_foreign_loop + {control}], rbx",
    "jmp 2b",
    // To the host: what it may not do.
    "40:",
    "hlt",
    "jmp 40b",
    "unifork_foreign_loop_end:",
    ".popsection",
    control = const at::CONTROL,
    records = const at::RECORDS,
    last = const RECORDS - 1,
    input = const at::INPUT,
    counters = const at::COUNTERS,
    hot = const at::HOT,
    xsave = const at::XSAVE,
    ring = const at::PLAN as usize + 8 * plan::RING,
    novelty = const at::PLAN as usize + 8 * plan::NOVELTY,
    coverage = const at::PLAN as usize + 8 * plan::COVERAGE,
    stride = const at::PLAN as usize + 8 * plan::STRIDE,
    slots = const at::PLAN as usize + 8 * plan::SLOTS,
    filter = const at::PLAN as usize + 8 * plan::FILTER,
    hot_count = const at::PLAN as usize + 8 * plan::HOT_COUNT,
    rip_ = const at::PLAN as usize + 8 * plan::RIP,
    rsp = const at::PLAN as usize + 8 * plan::RSP,
    flags = const at::PLAN as usize + 8 * plan::RFLAGS,
    fs = const at::PLAN as usize + 8 * plan::FS_BASE,
    gs = const at::PLAN as usize + 8 * plan::GS_BASE,
    rbx = const at::PLAN as usize + 8 * plan::RBX,
    rcx = const at::PLAN as usize + 8 * plan::RCX,
    rdx = const at::PLAN as usize + 8 * plan::RDX,
    rsi = const at::PLAN as usize + 8 * plan::RSI,
    rdi = const at::PLAN as usize + 8 * plan::RDI,
    rbp = const at::PLAN as usize + 8 * plan::RBP,
    r8 = const at::PLAN as usize + 8 * plan::R8,
    state = const record::STATE,
    offset = const record::OFFSET,
    length = const record::LENGTH,
    code = const record::CODE,
    slot = const record::SLOT,
);

unsafe extern "C" {
    static unifork_foreign_loop: u8;
    static unifork_foreign_loop_done: u8;
    static unifork_foreign_loop_end: u8;
}

/// The code; it begins a run at its first byte.
pub(crate) fn code() -> &'static [u8] {
    let (from, to) = (&raw const unifork_foreign_loop, &raw const unifork_foreign_loop_end);
    // SAFETY: both are labels of the one piece of read-only data above, the second behind the first.
    unsafe { std::slice::from_raw_parts(from, to.addr() - from.addr()) }
}

/// Where in [`code`] a run ends.
pub(crate) fn done_offset() -> u64 {
    (&raw const unifork_foreign_loop_done).addr() as u64 - (&raw const unifork_foreign_loop).addr() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_before_what_it_reads_and_nothing_overlaps() {
        assert!(code().len() as u64 <= at::PLAN, "{} bytes", code().len());
        assert!(done_offset() < code().len() as u64);
        assert!(plan::WORDS as u64 * 8 <= at::XSAVE - at::PLAN);
        assert!(at::HOT + 16 * unifork_abi::HOT_MAX as u64 <= at::CONTROL);
        assert!(RECORDS.is_power_of_two() && record::BYTES == 64);
    }
}
