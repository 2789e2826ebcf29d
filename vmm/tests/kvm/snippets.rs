//! A guest of many short pieces of code, of which the first word of the input picks one.
//!
//! Each piece starts with RBX = the doorbell, RSI = the input ring, RDI = the arena, RBP = the golden
//! memory, RSP = the top of the stack, and runs into `Done` if nothing stops it.

use std::arch::global_asm;
use std::slice;

use unifork_abi::{ARENA_VA, DOORBELL_VA, GOLDEN_VA, Hypercall, INPUT_RING_VA, STACK_TOP_VA};

macro_rules! snippets {
    ($($name:literal: $code:literal),* $(,)?) => {
        global_asm!(
            r#"
    .pushsection .rodata.snippets, "a", @progbits
    .globl unifork_test_snippets
    .globl unifork_test_snippets_end
unifork_test_snippets:
    movabs rsi, {ring}
    movabs rbx, {door}
    movabs rdi, {arena}
    movabs rbp, {golden}
    movabs rsp, {stack}
    mov ecx, [rsi]
    shl ecx, 6
    lea rax, [rip + 7f]
    add rax, rcx
    xor ecx, ecx
    xor edx, edx
    jmp rax
    .balign 64
7:
"#,
            $(concat!("77:", $code, "\njmp .Lsnippets_done\n.skip 64 - (. - 77b), 0xcc\n"),)*
            r#"
.Lsnippets_done:
    mov eax, {done}
    movabs rcx, {door}
    mov [rcx], rax
unifork_test_snippets_end:
    .popsection
"#,
            ring = const INPUT_RING_VA,
            door = const DOORBELL_VA,
            arena = const ARENA_VA,
            golden = const GOLDEN_VA,
            stack = const STACK_TOP_VA,
            done = const Hypercall::Done as u64,
        );

        /// What the pieces are called, in their order.
        pub(crate) const NAMES: &[&str] = &[$($name),*];
    };
}

snippets! {
    // What the others are compared with.
    "reference": "add rdi, 64; fld1; fstp qword ptr [rdi]; movdqu [rdi + 16], xmm5; stmxcsr [rdi + 32]; pushfq; rdfsbase rax; push rax",
    // The doorbell, touched in every other way.
    "store 1": "mov eax, 99; mov [rbx], al",
    "store 2": "mov eax, 99; mov [rbx], ax",
    "store 4": "mov eax, 99; mov [rbx], eax",
    "store 16": "mov eax, 99; movups [rbx], xmm0",
    "store 32": "mov eax, 99; vmovups [rbx], ymm0",
    "store misaligned": "mov eax, 99; mov [rbx + 3], rax",
    "store elsewhere in its page": "mov eax, 99; mov [rbx + 64], rax",
    "store across its end": "mov eax, 99; mov [rbx + 4092], rax",
    "store across its start": "mov eax, 99; mov [rbx - 4], rax",
    "rep movs to it": "mov rdi, rbx; mov ecx, 64; rep movsb",
    "rep stos to it": "mov rdi, rbx; mov ecx, 64; rep stosq",
    "rep stos through it": "lea rdi, [rbx + 4064]; mov ecx, 64; rep stosb",
    "load": "mov rax, [rbx]",
    "load 1": "mov al, [rbx + 5]",
    "load 16": "movups xmm5, [rbx]",
    "load 32": "vmovups ymm5, [rbx]",
    "load across its end": "mov rax, [rbx + 4092]",
    "add": "add [rbx], rax",
    "lock xadd": "lock xadd [rbx], rax",
    "xchg": "xchg [rbx], rax",
    "lock cmpxchg": "lock cmpxchg [rbx], rdx",
    "lock cmpxchg16b": "lock cmpxchg16b [rbx]",
    "push": "lea rsp, [rbx + 8]; push rax",
    "pop from it": "mov rsp, rbx; pop rax",
    "pop to it": "pop qword ptr [rbx]",
    "call through it": "call [rbx]",
    "call with the stack there": "lea rsp, [rbx + 8]; call rax",
    "jump to it": "jmp rbx",
    "lods": "mov rsi, rbx; mov ecx, 8; rep lodsb",
    "lods, often": "mov rsi, rbx; mov ecx, 2048; rep lodsb",
    "movs from it, often": "mov rsi, rbx; mov ecx, 2048; rep movsb",
    "movs to it, often": "mov rdi, rbx; mov ecx, 2048; rep movsb",
    "cmps": "mov rdi, rbx; mov ecx, 8; repe cmpsb",
    "scas": "mov rdi, rbx; mov ecx, 8; repe scasb",
    "movs from it": "mov rsi, rbx; mov ecx, 8; rep movsb",
    "movs from it to it": "mov rsi, rbx; mov rdi, rbx; mov ecx, 8; rep movsb",
    "xsave": "mov eax, 7; xsave64 [rbx]",
    "xrstor": "mov eax, 7; xrstor64 [rbx]",
    "fxsave": "fxsave64 [rbx]",
    "fnsave": "fnsave [rbx]",
    "fnstenv": "fnstenv [rbx]",
    "fld": "fld tbyte ptr [rbx]",
    "fstp": "fld1; fstp tbyte ptr [rbx]",
    "movnti": "movnti [rbx], rax",
    "movntdq": "movntdq [rbx], xmm0",
    "maskmovdqu": "mov rdi, rbx; maskmovdqu xmm0, xmm1",
    "clflush": "clflush [rbx]",
    "enter": "lea rsp, [rbx + 64]; enter 16, 3",
    "xlat": "xlatb",
    // The golden memory and what is behind its end.
    "golden load": "mov rax, [rbp + 0x2000]",
    "golden store": "mov [rbp + 0x2000], rax",
    "golden end": "mov rax, [rbp + 0x400000 - 8]",
    "golden far end": "mov rax, [rbp + 0x400000]",
    "golden rep movs": "mov rsi, rbp; mov ecx, 8192; rep movsb",
    // Flags.
    "trap flag": "push 0x102; popfq; nop; nop",
    "trap flag and doorbell": "mov eax, 3; push 0x102; popfq; mov [rbx], rax",
    "trap flag and syscall": "push 0x102; popfq; syscall",
    "trap flag and fault": "push 0x102; popfq; mov [rdx], al",
    "trap flag and load": "push 0x102; popfq; mov rax, [rbx]",
    "trap flag and cpuid": "push 0x102; popfq; cpuid",
    "trap flag and mov ss": "mov ecx, ss; push 0x102; popfq; mov ss, ecx; nop; nop",
    "alignment check": "push 0x40002; popfq; mov rax, [rdi + 1]",
    "nested task": "push 0x4002; popfq; iretq",
    "resume flag": "push 0x10002; popfq",
    "iopl": "push 0x3002; popfq; cli",
    "virtual 8086": "push 0x20002; popfq",
    "every flag": "push -1; popfq",
    "direction": "std; mov ecx, 64; rep stosb",
    // Segments.
    "null segments": "xor eax, eax; mov ds, eax; mov es, eax; mov fs, eax; mov gs, eax",
    "mov ss, 0": "xor eax, eax; mov ss, eax",
    "shadow and doorbell": "mov ecx, ss; mov eax, 3; mov ss, ecx; mov [rbx], rax",
    "shadow and ud2": "mov ecx, ss; mov ss, ecx; ud2",
    "shadow and load": "mov ecx, ss; mov ss, ecx; mov rax, [rbx]",
    "kernel segment": "mov eax, 0x10; mov ds, eax",
    "far return": "push 0x0b; push rdi; retfq",
    "lsl and lar": "mov eax, 0x23; lsl ecx, eax; lar edx, eax; verr ax; verw ax",
    "wrfsbase": "mov rax, rbx; wrfsbase rax; wrgsbase rax",
    "wrfsbase, not canonical": "mov rax, 1; shl rax, 47; wrfsbase rax",
    "swapgs": "swapgs",
    // What CPL 3 may not do, or not in this machine.
    "hlt": "hlt",
    "cli": "cli",
    "sti": "sti",
    "in": "in al, 0xf5",
    "out": "out 0xf5, al",
    "outs": "mov edx, 0xf5; mov ecx, 8; rep outsb",
    "ins": "mov edx, 0xf5; mov ecx, 8; rep insb",
    "vmcall": "vmcall",
    "vmmcall": "vmmcall",
    "vmcall with numbers": "mov eax, 9; mov ebx, 1; vmcall; vmmcall",
    "rdpmc": "rdpmc",
    "rdmsr": "rdmsr",
    "wrmsr": "wrmsr",
    "xsetbv": "mov eax, 3; xsetbv",
    "xgetbv": "xgetbv; mov [rdi], rax",
    "mov cr": "mov rax, cr3",
    "mov to cr": "mov cr3, rax",
    "mov dr": "mov dr7, rax",
    "lgdt": "lgdt [rdi]",
    "lidt": "lidt [rdi]",
    "ltr": "ltr ax",
    "sgdt": "sgdt [rdi]; sidt [rdi + 16]; str eax; sldt eax; smsw eax",
    "invlpg": "invlpg [rdi]",
    "wbinvd": "wbinvd",
    "sysret": "sysretq",
    "sysexit": "sysexitq",
    "sysenter": "sysenter",
    "syscall": "syscall",
    "iretq": "iretq",
    "iretq to itself": "mov rax, rsp; lea rcx, [rip + 66f]; push 0x1b; push rax; push 0x10102; push 0x23; push rcx; iretq; 66: nop; nop",
    "int 0x80": "int 0x80",
    "int 2": "int 2",
    "int 8": "int 8",
    "int 14": "int 14",
    "int3": "int3",
    "int1": ".byte 0xf1",
    "monitor": "monitor",
    "mwait": "mwait",
    "rsm": "rsm",
    "getsec": "getsec",
    "vmlaunch": "vmlaunch",
    "invd": "invd",
    "clts": "clts",
    "lmsw": "lmsw ax",
    "pushes without a stack": "xor esp, esp; push rax",
    "stack not canonical": "mov rsp, 1; shl rsp, 47; push rax",
    "load not canonical": "mov rax, 1; shl rax, 47; mov rax, [rax]",
    "jump not canonical": "mov rax, 1; shl rax, 47; jmp rax",
    "ud0": ".byte 0x0f, 0xff, 0xc0",
    "ud1": ".byte 0x0f, 0xb9, 0xc0",
    "too long": ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90",
    "lock nop": ".byte 0xf0, 0x90",
    "rdtsc": "rdtsc; rdtscp",
    "rdrand": "rdrand rax; rdseed rax; rdpid rax",
    "cpuid": "mov eax, 7; cpuid; mov eax, 0x40000000; cpuid",
    "pause": "pause; mfence; lfence; sfence",
    "tpause": "mov ecx, 1; mov eax, -1; mov edx, eax; tpause ecx",
    "umwait": "umonitor rdi; mov eax, -1; mov edx, eax; umwait ecx",
    "xbegin": "xbegin 66f; xend; 66: nop",
    "serialize": "serialize",
    "senduipi": "clui; stui; testui; senduipi rax",
    "shadow stack": "incsspq rax; saveprevssp",
    "x87 fault": "mov dword ptr [rdi], 0; fldcw [rdi]; fldz; fldz; fdivp st(1), st; fwait",
    "x87 fault pending": "mov dword ptr [rdi], 0; fldcw [rdi]; fldz; fldz; fdivp st(1), st",
    "sse fault": "mov dword ptr [rdi], 0; ldmxcsr [rdi]; pxor xmm0, xmm0; divss xmm0, xmm0",
    "mxcsr reserved": "mov dword ptr [rdi], -1; ldmxcsr [rdi]",
    "movaps misaligned": "movaps xmm0, [rdi + 8]",
    "divide": "div ecx",
    "divide overflow": "mov edx, 5; mov ecx, 2; div ecx",
    // State that the model does not have but the CPU may.
    "wrpkru": "mov eax, 0x55555554; wrpkru",
    "avx-512": "mov eax, 0x5a5a; vpbroadcastd zmm31, eax; vpbroadcastd zmm0, eax; kmovw k5, eax",
    "amx": "mov byte ptr [rdi], 1; mov byte ptr [rdi + 16], 64; mov byte ptr [rdi + 48], 16; ldtilecfg [rdi]; tileloadd tmm0, [rsi + rdx]",
    "avx": "vpcmpeqd ymm5, ymm5, ymm5; vpcmpeqd ymm15, ymm15, ymm15",
    // And whether any of it can be seen in a later run.
    "see pkru": "rdpkru; mov [rdi], eax",
    "see avx-512": "vmovdqu64 [rdi], zmm31; kmovw ecx, k5; mov [rdi + 64], ecx; vmovdqu64 [rdi + 128], zmm0",
    "see avx": "vmovdqu [rdi], ymm5; vmovdqu [rdi + 32], ymm15",
    "see amx": "sttilecfg [rdi]",
    "see xinuse": "mov ecx, 1; xgetbv; mov [rdi], rax",
    "see everything": "mov eax, -1; mov edx, -1; xsave64 [rdi]",
    "see segments": "mov eax, ds; mov [rdi], eax; mov eax, gs; mov [rdi + 8], eax; rdgsbase rax; mov [rdi + 16], rax",
}

unsafe extern "C" {
    static unifork_test_snippets: u8;
    static unifork_test_snippets_end: u8;
}

/// The guest's machine code.
pub(crate) fn code() -> &'static [u8] {
    let (start, end) = (&raw const unifork_test_snippets, &raw const unifork_test_snippets_end);
    // SAFETY: both labels are in the same section, in this order, with nothing but the guest's code
    // between them; the section is read-only and lives as long as the program.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The input that picks a piece.
pub(crate) fn input(index: usize) -> [u8; 8] {
    (index as u64).to_le_bytes()
}
