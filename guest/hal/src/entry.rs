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

use unifork_abi::{
    ABI_VERSION, DOORBELL_VA, Hypercall, KERNEL_MAGIC, KERNEL_STACK_TOP_VA, LOOP_STACK_TOP_VA, SyscallFrame,
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
    mov rdi, rsp
    cld
    // The application's x87 and SSE state: the libOS is compiled with SSE.
    sub rsp, 528
    and rsp, -16
    fxsave64 [rsp]
    mov rbx, rsp
    mov r12, rdi
    xor ebp, ebp
    call unifork_serve
    fxrstor64 [rbx]
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
    pop rcx
    popfq
    mov rsp, [rsp]
    jmp rcx

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

    .section .bss, "aw", @nobits
    .balign 64
unifork_scratch:
    .skip 64
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
);

unsafe extern "Rust" {
    // Defined by `handlers!` in the kernel's binary.
    safe fn unifork_kernel_main() -> (u64, u64);
    safe fn unifork_kernel_syscall(frame: &mut SyscallFrame);
}

unsafe extern "C" {
    fn unifork_enter_application(entry: u64, stack: u64) -> !;
}

/// Connects the libOS to its entry points: `main` prepares it and returns the application's entry
/// and stack pointer; `syscall` serves one system call.
#[macro_export]
macro_rules! handlers {
    ($main:path, $syscall:path) => {
        #[unsafe(no_mangle)]
        fn unifork_kernel_main() -> (u64, u64) {
            $main()
        }
        #[unsafe(no_mangle)]
        fn unifork_kernel_syscall(frame: &mut $crate::SyscallFrame) {
            $syscall(frame)
        }
    };
}

#[unsafe(no_mangle)]
extern "C" fn unifork_main() -> ! {
    let (entry, stack) = unifork_kernel_main();
    // SAFETY: the VMM loaded the application and built its stack; the libOS's own stack is not
    // needed any more, and every later entry begins at its top again.
    unsafe { unifork_enter_application(entry, stack) }
}

/// # Safety
///
/// `frame` points to the frame that the entry code has just pushed, and nothing else refers to it.
#[unsafe(no_mangle)]
unsafe extern "C" fn unifork_serve(frame: *mut SyscallFrame) {
    // SAFETY: the caller's promise.
    unifork_kernel_syscall(unsafe { &mut *frame });
}
