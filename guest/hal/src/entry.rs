//! Where the guest enters the libOS: boot, `syscall`, and the application's direct calls.
//!
//! `syscall` enters with RCX = return address and R11 = flags, at CPL 3 under software KVM and at
//! CPL 0 on VT-x and AMD-V. The stub tells by CS, and gets to CPL 3 by `sysretq` in the second case,
//! so that everything behind it is the same. It must not push on the application's stack: there is
//! a red zone below the stack pointer.
//!
//! The snapshot is taken inside `unifork_input`: all registers that a fork must begin with are in
//! `unifork_resume_state` by then, and each fork, be it entered by the host or by the run loop,
//! begins at `unifork_resume`, which loads them from there.

use core::arch::global_asm;
use core::mem::offset_of;

use unifork_abi::{
    ABI_VERSION, CONTROL_VA, Control, DOORBELL_VA, Hypercall, KERNEL_MAGIC, KERNEL_STACK_TOP_VA,
    LOOP_STACK_TOP_VA, SyscallFrame,
};

global_asm!(
    r#"
    .section .unifork.kernel, "a", @progbits
    .globl unifork_header
unifork_header:
    .quad {magic}
    .long {version}
    .long 0
    .quad _start
    .quad unifork_syscall_entry
    .quad unifork_vector
    .quad unifork_resume
    .quad unifork_direct
    .quad unifork_fault_entry
    .quad unifork_fault_signals
    .quad unifork_copy
    .quad unifork_copy_end
    .quad unifork_copy_fault

    .section .rodata, "a", @progbits
    .balign 8
unifork_vector:
    .quad {version}
    .quad unifork_input
    .quad unifork_done
    .quad unifork_call

    .section .text, "ax", @progbits
    .globl _start
_start:
    xor ebp, ebp
    call unifork_main
    ud2

    // Jumps to the application with RDI = entry and RSI = stack pointer, registers as Linux leaves
    // them at exec.
    .globl unifork_enter_application
unifork_enter_application:
    mov rsp, rsi
    mov rcx, rdi
    xor eax, eax
    xor ebx, ebx
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor ebp, ebp
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    jmp rcx

    .balign 16
    .globl unifork_syscall_entry
unifork_syscall_entry:
    mov [unifork_scratch], rax
    mov [unifork_scratch + 8], rcx
    mov [unifork_scratch + 16], r11
    mov eax, cs
    test al, 3
    jnz 2f
    lea rcx, [rip + 2f]
    sysretq
2:  mov [unifork_scratch + 24], rsp
    mov rsp, {kernel_stack}
4:  push qword ptr [unifork_scratch + 24]
    push qword ptr [unifork_scratch + 16]
    push qword ptr [unifork_scratch + 8]
    push rdi
    push rsi
    push rdx
    push qword ptr [unifork_scratch + 8]
    push qword ptr [unifork_scratch]
    push r8
    push r9
    push r10
    push qword ptr [unifork_scratch + 16]
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    xor esi, esi
    // AC: the libOS's accesses need not be aligned. Rare, and POPFQ is not for nothing.
    test byte ptr [unifork_scratch + 18], 4
    jnz 6f
5:  mov rdi, rsp
    cld
    // The application's XMM registers, for the libOS is compiled with SSE; x87 and MXCSR it leaves alone,
    // and the upper halves, too. FXSAVE and FXRSTOR would take most of a call's time. The place is
    // fixed, and so is that of the registers above it: see ENTRY_XMM in fpu.rs.
    sub rsp, 256
    movaps [rsp + 0], xmm0
    movaps [rsp + 16], xmm1
    movaps [rsp + 32], xmm2
    movaps [rsp + 48], xmm3
    movaps [rsp + 64], xmm4
    movaps [rsp + 80], xmm5
    movaps [rsp + 96], xmm6
    movaps [rsp + 112], xmm7
    movaps [rsp + 128], xmm8
    movaps [rsp + 144], xmm9
    movaps [rsp + 160], xmm10
    movaps [rsp + 176], xmm11
    movaps [rsp + 192], xmm12
    movaps [rsp + 208], xmm13
    movaps [rsp + 224], xmm14
    movaps [rsp + 240], xmm15
    mov rbx, rsp
    mov r12, rdi
    xor ebp, ebp
    call unifork_serve
    movaps xmm0, [rbx + 0]
    movaps xmm1, [rbx + 16]
    movaps xmm2, [rbx + 32]
    movaps xmm3, [rbx + 48]
    movaps xmm4, [rbx + 64]
    movaps xmm5, [rbx + 80]
    movaps xmm6, [rbx + 96]
    movaps xmm7, [rbx + 112]
    movaps xmm8, [rbx + 128]
    movaps xmm9, [rbx + 144]
    movaps xmm10, [rbx + 160]
    movaps xmm11, [rbx + 176]
    movaps xmm12, [rbx + 192]
    movaps xmm13, [rbx + 208]
    movaps xmm14, [rbx + 224]
    movaps xmm15, [rbx + 240]
    mov rsp, r12
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    // Through memory, so that every register is the application's: a thread may go on where a signal
    // or another thread has interrupted it.
    pop qword ptr [unifork_scratch + 32]
    popfq
    mov rsp, [rsp]
    jmp qword ptr [unifork_scratch + 32]

6:  push 2
    popfq
    jmp 5b

    // The application took an exception, and its signal has a handler. All registers are the
    // application's but RIP and RFLAGS, which are in the control page.
    .balign 16
unifork_fault_entry:
    mov [unifork_scratch], rax
    mov [unifork_scratch + 24], rsp
    mov rsp, {kernel_stack}
    push qword ptr [unifork_scratch + 24]
    movabs rax, [{fault_rflags}]
    push rax
    movabs rax, [{fault_rip}]
    push rax
    push rdi
    push rsi
    push rdx
    push rcx
    push qword ptr [unifork_scratch]
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov esi, 1
    jmp 5b

    // u64 copy(to, from, bytes): bytes that could not be copied because a page fault came between.
    .balign 16
    .globl unifork_copy
unifork_copy:
    mov rcx, rdx
    rep movsb
    xor eax, eax
    ret
unifork_copy_end:
unifork_copy_fault:
    mov rax, rcx
    ret

    // A rewritten `syscall`: RCX is the return address, nothing else has changed.
    .balign 16
unifork_direct:
    mov [unifork_scratch], rax
    mov [unifork_scratch + 8], rcx
    mov [unifork_scratch + 24], rsp
    mov rsp, {kernel_stack}
    pushfq
    pop qword ptr [unifork_scratch + 16]
    jmp 4b

    // int64_t call(nr, a0, a1, a2, a3, a4, a5): a system call as a C function. The seventh argument
    // is on the stack.
    .balign 16
unifork_call:
    mov rax, rdi
    mov rdi, rsi
    mov rsi, rdx
    mov rdx, rcx
    mov r10, r8
    mov r8, r9
    mov r9, [rsp + 8]
    pushfq
    pop r11
    lea rcx, [rip + 3f]
    mov [unifork_scratch], rax
    mov [unifork_scratch + 8], rcx
    mov [unifork_scratch + 16], r11
    jmp 2b
3:  ret

    // struct uf_input input(void)
    .balign 16
unifork_input:
    mov [unifork_resume_state], rbx
    mov [unifork_resume_state + 8], rbp
    mov [unifork_resume_state + 16], rsp
    mov [unifork_resume_state + 24], r12
    mov [unifork_resume_state + 32], r13
    mov [unifork_resume_state + 40], r14
    mov [unifork_resume_state + 48], r15
    rdfsbase rax
    mov [unifork_resume_state + 56], rax
    rdgsbase rax
    mov [unifork_resume_state + 64], rax
    mov eax, -1
    mov edx, -1
    xsave64 [unifork_resume_xsave]
    mov eax, {snapshot}
    mov rcx, {door}
    mov [rcx], rax
    .globl unifork_resume
unifork_resume:
    mov rsp, {loop_stack}
    call unifork_begin_run
    mov rsi, rax
    mov rdi, rdx
    // Selectors that the last run loaded: software KVM does not let the host put them back.
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov rax, [unifork_resume_state + 56]
    wrfsbase rax
    mov rax, [unifork_resume_state + 64]
    wrgsbase rax
    mov eax, -1
    mov edx, -1
    xrstor64 [unifork_resume_xsave]
    push 2
    popfq
    mov rax, rsi
    mov rdx, rdi
    mov rbx, [unifork_resume_state]
    mov rbp, [unifork_resume_state + 8]
    mov rsp, [unifork_resume_state + 16]
    mov r12, [unifork_resume_state + 24]
    mov r13, [unifork_resume_state + 32]
    mov r14, [unifork_resume_state + 40]
    mov r15, [unifork_resume_state + 48]
    mov ecx, 0
    mov esi, 0
    mov edi, 0
    mov r8d, 0
    mov r9d, 0
    mov r10d, 0
    mov r11d, 0
    ret

    // _Noreturn void done(int64_t code)
    .balign 16
unifork_done:
    mov rsp, {loop_stack}
    cld
    call unifork_end_run
    jmp unifork_resume

    .section .data.unifork_scratch, "aw", @progbits
    .balign 64
unifork_scratch:
    .skip 56
    .globl unifork_fault_signals
unifork_fault_signals:
    .skip 8

    .section .bss, "aw", @nobits
    .balign 4096
unifork_resume_xsave:
    .skip 16384
unifork_resume_state:
    .skip 128
    .balign 4096
    "#,
    magic = const u64::from_le_bytes(KERNEL_MAGIC),
    version = const ABI_VERSION,
    kernel_stack = const KERNEL_STACK_TOP_VA,
    loop_stack = const LOOP_STACK_TOP_VA,
    snapshot = const Hypercall::Snapshot as u64,
    door = const DOORBELL_VA,
    fault_rip = const CONTROL_VA + offset_of!(Control, fault_rip) as u64,
    fault_rflags = const CONTROL_VA + offset_of!(Control, fault_rflags) as u64,
);

unsafe extern "Rust" {
    // Defined by `handlers!` in the kernel's binary.
    safe fn unifork_kernel_main() -> (u64, u64);
    safe fn unifork_kernel_serve(entry: Entry, frame: &mut SyscallFrame);
    pub(crate) safe fn unifork_kernel_allows(start: u64, bytes: u64, write: bool) -> bool;
}

unsafe extern "C" {
    fn unifork_enter_application(entry: u64, stack: u64) -> !;
}

/// Why the libOS was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A system call: its number and arguments are in the registers.
    Syscall,
    /// An exception, handed over by the host because its signal has a handler.
    Exception(Exception),
}

/// An exception as the host describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its vector.
    pub vector: u64,
    /// Its error code, 0 for vectors without one.
    pub error_code: u64,
    /// CR2: what a page fault touched.
    pub address: u64,
}

/// Connects the libOS to its entry points: `main` prepares it and returns the application's entry
/// and stack pointer; `serve` serves one system call or exception; `allows` says whether the
/// application may use a range of the arena.
#[macro_export]
macro_rules! handlers {
    ($main:path, $serve:path, $allows:path) => {
        #[unsafe(no_mangle)]
        fn unifork_kernel_main() -> (u64, u64) {
            $main()
        }
        #[unsafe(no_mangle)]
        fn unifork_kernel_serve(entry: $crate::Entry, frame: &mut $crate::SyscallFrame) {
            $serve(entry, frame)
        }
        #[unsafe(no_mangle)]
        fn unifork_kernel_allows(start: u64, bytes: u64, write: bool) -> bool {
            $allows(start, bytes, write)
        }
    };
}

#[unsafe(no_mangle)]
extern "C" fn unifork_main() -> ! {
    crate::heap::open();
    let (entry, stack) = unifork_kernel_main();
    // SAFETY: the VMM loaded the application and built its stack; the libOS's own stack is not
    // needed any more, and every later entry begins at its top again.
    unsafe { unifork_enter_application(entry, stack) }
}

/// # Safety
///
/// `frame` points to the frame that the entry code has just pushed, and nothing else refers to it.
#[unsafe(no_mangle)]
unsafe extern "C" fn unifork_serve(frame: *mut SyscallFrame, exception: u32) {
    let entry = if exception == 0 {
        Entry::Syscall
    } else {
        let control = crate::run_loop::control();
        Entry::Exception(Exception {
            vector: control.fault_vector,
            error_code: control.fault_error,
            address: control.fault_address,
        })
    };
    // SAFETY: the caller's promise.
    unifork_kernel_serve(entry, unsafe { &mut *frame });
}

/// Says which signals, when an exception raises them, the host is to hand over: bit N-1 for signal N.
pub fn publish_fault_signals(signals: u64) {
    unsafe extern "C" {
        static mut unifork_fault_signals: u64;
    }
    // SAFETY: a word of the entry code's own; only this function and the host touch it.
    unsafe { unifork_fault_signals = signals };
}
