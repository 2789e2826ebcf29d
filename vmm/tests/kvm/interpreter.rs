//! A guest that does what its input says: random programs for a machine whose code never changes.
//!
//! The input is a list of 32-byte operations, four words each: which one, and A, B and C. The guest
//! reads them from the input ring, where the host puts them, one after the other; operation 0 ends
//! the run. At [`AREA`] in the input there may be an area for `xrstor` and `fxrstor`.

use std::arch::global_asm;
use std::fmt;
use std::slice;

use unifork_abi::{DOORBELL_VA, Hypercall, INPUT_RING_VA, RECORDS_VA};

/// Where the XSAVE area lies in the input.
pub(crate) const AREA: usize = 2048;
/// Length of every input that [`Program::bytes`] makes.
const INPUT_BYTES: usize = 4096;
/// Operations in a program at most, so that they end before [`AREA`].
const OPS_MAX: usize = AREA / 32 - 2;

// R15 points to the operation at hand; RBX, RCX and RDX hold A, B and C; RAX and RSI are scratch.
global_asm!(
    r#"
    .pushsection .rodata.interpreter, "a", @progbits
    .globl unifork_test_interpreter
    .globl unifork_test_interpreter_end
unifork_test_interpreter:
    movabs r15, {ring}
    jmp .Lthis
.Lnext:
    lea r15, [r15 + 32]
.Lthis:
    mov rax, [r15]
    mov rbx, [r15 + 8]
    mov rcx, [r15 + 16]
    mov rdx, [r15 + 24]
    lea rsi, [rip + .Lops]
    movsxd rax, dword ptr [rsi + rax * 4]
    add rax, rsi
    jmp rax
.Lops:
    .irp name, done, store_byte, store_word, fill, scatter, copy, flags, registers, sse, avx, mxcsr, x87, x87_init
    .long .Lop_\name - .Lops
    .endr
    .irp name, upper_init, xrstor, xsave, fxrstor, fs_base, gs_base, store_fs, segments, stack_segment, cpuid, load, ud, int3
    .long .Lop_\name - .Lops
    .endr
    .irp name, divide, privileged, forever, jump, syscall, hypercall, store_sse, iret, icebp, x87_math, sse_math, int
    .long .Lop_\name - .Lops
    .endr

.Lop_done:                 // Done with code A
    movabs rsi, {code}
    mov [rsi], rbx
    mov eax, {done}
    movabs rcx, {door}
    mov [rcx], rax
.Lop_store_byte:           // StoreByte
    mov [rbx], cl
    jmp .Lnext
.Lop_store_word:           // StoreWord
    mov [rbx], rcx
    jmp .Lnext
.Lop_fill:                 // Fill C bytes at A with B, in the direction of DF
    mov rdi, rbx
    mov eax, ecx
    mov rcx, rdx
    rep stosb
    jmp .Lnext
.Lop_scatter:              // Scatter: C times a byte, from A on, B apart
    mov [rbx], dl
    add rbx, rcx
    dec rdx
    jnz .Lop_scatter
    jmp .Lnext
.Lop_copy:                 // Copy C bytes from A to B
    mov rsi, rbx
    mov rdi, rcx
    mov rcx, rdx
    rep movsb
    jmp .Lnext
.Lop_flags:                // Flags: popfq of A on the stack at B
    mov rsp, rcx
    push rbx
    popfq
    jmp .Lnext
.Lop_registers:            // Registers
    mov rdi, rbx
    mov rbp, rcx
    mov r8, rdx
    lea r9, [rbx + rcx]
    lea r10, [rbx + rdx]
    lea r11, [rcx + rdx]
    mov r12, rbx
    bswap r12
    mov r13, rcx
    not r13
    mov r14, rdx
    bswap r14
    mov rsp, rcx
    jmp .Lnext
.Lop_sse:                  // Sse
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu xmm\n, [r15 + 8 + \n]
    .endr
    jmp .Lnext
.Lop_avx:                  // Avx
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu ymm\n, [r15 + 8 + \n]
    .endr
    jmp .Lnext
.Lop_mxcsr:                // Mxcsr
    ldmxcsr [r15 + 8]
    jmp .Lnext
.Lop_x87:                  // X87: control word A, then B and C pushed
    fldcw [r15 + 8]
    fld qword ptr [r15 + 16]
    fild qword ptr [r15 + 24]
    jmp .Lnext
.Lop_x87_init:             // X87Init
    fninit
    jmp .Lnext
.Lop_upper_init:           // UpperInit
    vzeroupper
    jmp .Lnext
.Lop_xrstor:               // Xrstor from A, components B
    mov eax, ecx
    xor edx, edx
    xrstor64 [rbx]
    jmp .Lnext
.Lop_xsave:                // Xsave to A, components B
    mov eax, ecx
    xor edx, edx
    xsave64 [rbx]
    // Which components were found in use, and so written, is the CPU's own affair: when the host
    // schedules another thread in between, one in its initial state may be found so or not.
    mov ecx, 832 / 8
3:  mov qword ptr [rbx + rcx * 8 - 8], 0
    dec ecx
    jnz 3b
    jmp .Lnext
.Lop_fxrstor:              // Fxrstor from A
    fxrstor64 [rbx]
    jmp .Lnext
.Lop_fs_base:              // FsBase
    wrfsbase rbx
    jmp .Lnext
.Lop_gs_base:              // GsBase
    wrgsbase rbx
    jmp .Lnext
.Lop_store_fs:             // StoreFs
    mov fs:[rbx], cl
    jmp .Lnext
.Lop_segments:             // Segments
    mov ds, ebx
    mov es, ecx
    mov fs, edx
    mov gs, ebx
    jmp .Lnext
.Lop_stack_segment:        // StackSegment: the next instruction is in its shadow
    mov ss, ebx
    jmp .Lnext
.Lop_cpuid:                // Cpuid
    mov eax, ebx
    xor ecx, ecx
    cpuid
    mov r13, rax
    mov r14, rdx
    jmp .Lnext
.Lop_load:                 // Load
    mov al, [rbx]
    jmp .Lnext
.Lop_ud:                   // Ud
    ud2
.Lop_int3:                 // Int3
    int3
.Lop_divide:               // Divide by A
    xor edx, edx
    mov eax, 1
    div rbx
    jmp .Lnext
.Lop_privileged:           // Privileged
    hlt
.Lop_forever:              // Forever
    jmp .Lop_forever
.Lop_jump:                 // Jump to A
    jmp rbx
.Lop_syscall:              // Syscall: enters the snapshot hypercall again
    syscall
.Lop_hypercall:            // Hypercall A with arguments B and C
    mov rax, rbx
    mov rdi, rcx
    mov rsi, rdx
    movabs rcx, {door}
    mov [rcx], rax
    jmp .Lnext
.Lop_store_sse:            // StoreSse to the doorbell or anywhere
    movdqu xmm3, [r15 + 8]
    movdqu [rbx], xmm3
    jmp .Lnext
.Lop_iret:                 // Iret to A, flags B & C
    mov rsp, rcx
    push 0x1b
    push rcx
    push rdx
    push 0x23
    push rbx
    iretq
.Lop_icebp:                // Icebp: #DB without RFLAGS.TF
    stc
    .byte 0xf1
    jmp .Lnext
.Lop_x87_math:             // X87 arithmetic, which raises what is not masked
    fld tbyte ptr [r15 + 8]
    fsqrt
    fwait
    jmp .Lnext
.Lop_sse_math:             // SSE arithmetic, likewise
    movq xmm1, rbx
    movq xmm2, rcx
    divsd xmm1, xmm2
    sqrtsd xmm4, xmm1
    jmp .Lnext
.Lop_int:                  // Int: a few gates that CPL 3 may or may not use
    mov eax, ebx
    and eax, 3
    lea rsi, [rip + .Lgates]
    lea rsi, [rsi + rax * 4]
    jmp rsi
.Lgates:
    int 4
    nop
    nop
    int 14
    nop
    nop
    int 0x80
    nop
    nop
    int 2
    nop
    nop
unifork_test_interpreter_end:
    .popsection
    "#,
    ring = const INPUT_RING_VA,
    code = const RECORDS_VA + 16,
    done = const Hypercall::Done as u64,
    door = const DOORBELL_VA,
);

unsafe extern "C" {
    static unifork_test_interpreter: u8;
    static unifork_test_interpreter_end: u8;
}

/// The guest's machine code, which runs wherever it is put.
pub(crate) fn code() -> &'static [u8] {
    let (start, end) = (&raw const unifork_test_interpreter, &raw const unifork_test_interpreter_end);
    // SAFETY: both labels are in the same section, in this order, with nothing but the guest's code
    // between them; the section is read-only and lives as long as the program.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The operations, in the order of the guest's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Op {
    Done,
    StoreByte,
    StoreWord,
    Fill,
    Scatter,
    Copy,
    Flags,
    Registers,
    Sse,
    Avx,
    Mxcsr,
    X87,
    X87Init,
    UpperInit,
    Xrstor,
    Xsave,
    Fxrstor,
    FsBase,
    GsBase,
    StoreFs,
    Segments,
    StackSegment,
    Cpuid,
    Load,
    Ud,
    Int3,
    Divide,
    Privileged,
    Forever,
    Jump,
    Syscall,
    Hypercall,
    StoreSse,
    Iret,
    Icebp,
    X87Math,
    SseMath,
    Int,
}

/// A program for the interpreter.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) ops: Vec<(Op, [u64; 3])>,
    pub(crate) area: Vec<u8>,
}

impl Program {
    /// A program of these operations, and `Done` behind them.
    pub(crate) fn new(ops: &[(Op, [u64; 3])]) -> Self {
        Self { ops: ops.to_vec(), area: Vec::new() }
    }

    /// The input that makes the guest do this.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(INPUT_BYTES);
        for (op, args) in self.ops.iter().take(OPS_MAX) {
            bytes.extend_from_slice(&(*op as u64).to_le_bytes());
            bytes.extend(args.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes.resize(AREA, 0);
        bytes.extend_from_slice(&self.area);
        bytes.resize(INPUT_BYTES, 0);
        bytes
    }

    /// Whether it never ends by itself.
    pub(crate) fn is_endless(&self) -> bool {
        self.ops.iter().any(|(op, _)| *op == Op::Forever)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The area is a page of noise that the seed brings back.
        f.debug_list().entries(&self.ops).finish()
    }
}
