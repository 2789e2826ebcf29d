/* Frames that compilers rarely make: rules by expression and by register, an end, a kernel that lies on
   top of its application, and one that only a scan gets out of. */
    .intel_syntax noprefix
    .text

    .globl main
    .type main, @function
main:
    .cfi_startproc
    .cfi_undefined rip              /* nothing called this */
    push rbx
    .cfi_adjust_cfa_offset 8
    cmp edi, 1
    je  1f
    mov rsi, [rsi + 8]
    cmp byte ptr [rsi], 's'
    je  2f
    cmp byte ptr [rsi], 'v'
    je  3f
1:  call by_expression
2:  call as_system_call
3:  call variable
    pop rbx
    ret
    .cfi_endproc
    .size main, . - main

/* Its frame begins 16 bytes above what [rsp+8] holds, and r12 is saved 16 bytes below that. */
    .type by_expression, @function
by_expression:
    .cfi_startproc
    push r12
    .cfi_adjust_cfa_offset 8
    .cfi_offset r12, -16
    mov r12, rsp
    and rsp, -256
    sub rsp, 512
    mov [rsp + 8], r12
    .cfi_escape 0x0f, 5, 0x77, 8, 0x06, 0x23, 16 /* def_cfa_expression: breg7 8; deref; plus_uconst 16 */
    .cfi_escape 0x10, 12, 2, 0x40, 0x1c          /* expression of r12: lit16; minus */
    xor r12d, r12d
    call by_register
    ud2
    .cfi_endproc
    .size by_expression, . - by_expression

/* Its return address is in r13, and its stack pointer that of its caller. */
    .type by_register, @function
by_register:
    .cfi_startproc
    pop r13
    .cfi_def_cfa_offset 0
    .cfi_register rip, r13
    xor eax, eax
    mov dword ptr [rax], 1
    ud2
    .cfi_endproc
    .size by_register, . - by_register

/* Enters `kernel` as a trap stub does: by a return address that is behind no call. */
    .type as_system_call, @function
as_system_call:
    .cfi_startproc
    lea rcx, [rip + 1f]
    push rcx
    jmp kernel
    syscall
1:  ret
    .cfi_endproc
    .size as_system_call, . - as_system_call

/* Without any call-frame information. */
    .type kernel, @function
kernel:
    sub rsp, 0x88
    xor eax, eax
    mov dword ptr [rax], 1
    ud2
    .size kernel, . - kernel

/* Moves the stack pointer by what is in a register, has no call-frame information, and keeps a stale
   return address in its frame. */
    .type variable, @function
variable:
    xor ebp, ebp
    lea rcx, [rip + stale]
    mov eax, 64
    sub rsp, rax
    mov [rsp + 8], rcx
    xor eax, eax
    mov dword ptr [rax], 1
    ud2
    .size variable, . - variable

    .type decoy, @function
decoy:
    call kernel
stale:
    ret
    .size decoy, . - decoy

    .section .note.GNU-stack, "", @progbits
