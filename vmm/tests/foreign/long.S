// A kernel that is entered in long mode by Linux's protocol: prints its command line, goes through
// what a kernel does at its start, one line for each thing that is as it should be, and resets its
// machine. CPUs differ in nothing of it.
    .intel_syntax noprefix
    .text
    .code64
    .globl start
start:
    lea rsp, stack_top[rip]
    mov esi, [rsi + 0x228]
    call print

    // Tables of its own.
    lgdt gdt_pointer[rip]
    lea rax, 1f[rip]
    push 0x08
    push rax
    retfq
1:  mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    lea rax, task[rip]
    mov word ptr gdt_task[rip + 2], ax
    shr rax, 16
    mov byte ptr gdt_task[rip + 4], al
    mov byte ptr gdt_task[rip + 7], ah
    mov eax, 0x28
    ltr ax
    lea rax, stack_top[rip]
    mov task[rip + 4], rax
    lea rdi, idt[rip]
    xor ecx, ecx
2:  lea rax, stubs[rip]
    mov rdx, rcx
    shl rdx, 4
    add rax, rdx
    mov [rdi], ax
    mov word ptr [rdi + 2], 0x08
    mov word ptr [rdi + 4], 0x8e00
    cmp ecx, 0x80
    jne 3f
    mov word ptr [rdi + 4], 0xee00
3:  shr rax, 16
    mov [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], rax
    add rdi, 16
    inc ecx
    cmp ecx, 256
    jne 2b
    lidt idt_pointer[rip]
    lea rsi, said_tables[rip]
    call print

    // Exceptions: what is expected, where to go on, and that it came.
    lea rax, 1f[rip]
    mov continue[rip], rax
    ud2
1:  cmp dword ptr vector[rip], 6
    jne fail
    lea rax, 1f[rip]
    mov continue[rip], rax
    xor edx, edx
    xor ecx, ecx
    div ecx
1:  cmp dword ptr vector[rip], 0
    jne fail
    lea rax, 1f[rip]
    mov continue[rip], rax
    movabs rbx, 0x123456789000
    mov byte ptr [rbx], 1
1:  cmp dword ptr vector[rip], 14
    jne fail
    cmp dword ptr code[rip], 2
    jne fail
    mov rax, cr2
    cmp rax, rbx
    jne fail
    lea rax, 1f[rip]
    mov continue[rip], rax
    mov eax, 0x1234
    mov fs, eax
1:  cmp dword ptr vector[rip], 13
    jne fail
    cmp dword ptr code[rip], 0x1234
    jne fail
    lea rax, 1f[rip]
    mov continue[rip], rax
    int3
1:  cmp dword ptr vector[rip], 3
    jne fail
    lea rsi, said_exceptions[rip]
    call print

    // The interrupt flag, as instructions that do not trap by themselves show and set it.
    cli
    pushfq
    pop rax
    test eax, 0x200
    jnz fail
    or eax, 0x200
    push rax
    popfq
    pushfq
    pop rax
    test eax, 0x200
    jz fail
    cli
    // The same, in a copy of code that has run: to the same place in another page.
    call shows_flags
    test eax, 0x200
    jnz fail
    lea rsi, shows_flags[rip - 64]
    lea rdi, copied[rip]
    mov ecx, 128
    rep movsb
    sti
    lea rax, copied[rip + 64]
    call rax
    test eax, 0x200
    jz fail
    cli
    lea rsi, said_flags[rip]
    call print

    // SSE, which is the kernel's to switch on.
    mov rax, cr0
    and eax, ~4
    or eax, 2
    mov cr0, rax
    mov rax, cr4
    or eax, 0x600
    mov cr4, rax
    pxor xmm0, xmm0
    mov eax, 7
    movd xmm1, eax
    paddd xmm0, xmm1
    movd eax, xmm0
    cmp eax, 7
    jne fail
    lea rsi, said_sse[rip]
    call print

    // AVX state, all of which is asked for: what the CPU says that it has is saved, nothing behind it, and it comes back.
    mov eax, 1
    cpuid
    test ecx, 1 << 26
    jz 3f
    mov rax, cr4
    or eax, 0x40000
    mov cr4, rax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    lea rdi, state[rip]
    mov ecx, 832 + 12288
    mov al, 0xaa
    rep stosb
    lea rdi, state[rip + 512]
    mov ecx, 64
    xor eax, eax
    rep stosb
    vpcmpeqd ymm5, ymm5, ymm5
    lea rdi, state[rip]
    mov eax, -1
    mov edx, eax
    xsave [rdi]
    lea rdi, state[rip + 832]
    mov ecx, 12288
    mov al, 0xaa
    repe scasb
    jne fail
    test byte ptr state[rip + 512], 4
    jz fail
    vpxor ymm5, ymm5, ymm5
    lea rdi, state[rip]
    mov eax, -1
    mov edx, eax
    xrstor [rdi]
    vextracti128 xmm6, ymm5, 1
    vmovd eax, xmm6
    cmp eax, -1
    jne fail
    // The same, of x87 and SSE alone, which the CPU may do by itself from then on.
    mov ebx, 3
2:  pxor xmm7, xmm7
    mov eax, 3
    xor edx, edx
    xrstor [rdi]
    mov byte ptr [rdi + 512], 7
    mov eax, 3
    xor edx, edx
    xsave [rdi]
    dec ebx
    jnz 2b
    lea rax, 1f[rip]
    mov continue[rip], rax
    mov eax, 3
    xor edx, edx
    xsave [rdi + 8]
1:  cmp dword ptr vector[rip], 13
    jne fail
3:  lea rsi, said_avx[rip]
    call print

    // Page tables: a page of its own at a linear address, then another one there.
    mov rax, cr3
    lea rbx, pointers[rip]
    lea rcx, directory[rip]
    or rcx, 3
    mov [rbx], rcx
    lea rcx, pages[rip]
    or rcx, 3
    mov directory[rip], rcx
    or rbx, 3
    mov [rax + 8 * 300], rbx
    movabs rdx, 0xffff960000000000
    lea rcx, one[rip]
    or rcx, 3
    mov pages[rip], rcx
    cmp dword ptr [rdx], 1111
    jne fail
    lea rcx, two[rip]
    or rcx, 1
    mov pages[rip], rcx
    invlpg [rdx]
    cmp dword ptr [rdx], 2222
    jne fail
    mov rax, cr0
    or eax, 0x10000
    mov cr0, rax
    lea rax, 1f[rip]
    mov continue[rip], rax
    mov dword ptr [rdx], 3
1:  cmp dword ptr vector[rip], 14
    jne fail
    cmp dword ptr code[rip], 3
    jne fail
    mov qword ptr pages[rip], 0
    mov rax, cr3
    mov cr3, rax
    lea rax, 1f[rip]
    mov continue[rip], rax
    mov eax, [rdx]
1:  cmp dword ptr code[rip], 0
    jne fail
    lea rsi, said_paging[rip]
    call print

    // CPL 3 and back. The first 2 MiB are for everybody now.
    mov rax, cr3
    or qword ptr [rax], 4
    mov rbx, [rax]
    and rbx, ~0xfff
    or qword ptr [rbx], 4
    mov rbx, [rbx]
    and rbx, ~0xfff
    or qword ptr [rbx], 4
    mov cr3, rax
    lea rax, 4f[rip]
    mov continue[rip], rax
    push 0x23
    lea rax, user_stack_top[rip]
    push rax
    push 2
    push 0x1b
    lea rax, user[rip]
    push rax
    iretq
user:
    mov eax, 77
    int 0x80
4:  cmp dword ptr vector[rip], 0x80
    jne fail
    cmp word ptr selector[rip], 0x1b
    jne fail
    cmp eax, 77
    jne fail
    lea rsp, stack_top[rip]
    lea rsi, said_user[rip]
    call print

    // System calls: none without EFER.SCE, then from CPL 0, then from CPL 3 and back there.
    lea rbx, 1f[rip]
    lea rax, 2f[rip]
    mov continue[rip], rax
    mov dword ptr vector[rip], 0
1:  syscall
2:  cmp dword ptr vector[rip], 6
    jne fail
    cmp interrupted[rip], rbx
    jne fail
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, 0x00100008
    wrmsr
    mov ecx, 0xc0000082
    lea rax, system_call[rip]
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x600
    wrmsr
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1
    wrmsr
    cld
    sti
    mov edi, 5
    lea rbx, 1f[rip]
    syscall
1:  cli
    cmp edi, 6
    jne fail
    lea rax, 3f[rip]
    mov continue[rip], rax
    push 0x23
    lea rax, user_stack_top[rip]
    push rax
    push 0x602
    push 0x1b
    lea rax, user_calls[rip]
    push rax
    iretq
user_calls:
    mov edi, 7
    lea rbx, 1f[rip]
    syscall
1:  int 0x80
3:  cld
    lea rsp, stack_top[rip]
    cmp edi, 8
    jne fail
    cmp word ptr selector[rip], 0x23
    jne fail
    lea rsi, said_calls[rip]
    call print

    // The interval timer, three times.
    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xfe
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov al, 0x9c
    out 0x40, al
    mov al, 0x2e
    out 0x40, al
    mov dword ptr ticks[rip], 0
5:  sti
    hlt
    cli
    cmp dword ptr ticks[rip], 3
    jb 5b
    mov al, 0xff
    out 0x21, al
    lea rsi, said_timer[rip]
    call print

    mov al, 0xfe
    out 0x64, al
fail:
    lea rsi, said_fail[rip]
    call print
6:  cli
    hlt
    jmp 6b

    .balign 4096
    .skip 64, 0x90
shows_flags:
    pushfq
    pop rax
    ret
    .skip 32, 0x90
    .balign 4096

// The system call: one more than in EDI. RBX says where it should come from; it comes with interrupts and
// direction masked, and returns to CPL 3 if it came from there.
system_call:
    pushfq
    pop rax
    test eax, 0x600
    jnz fail
    cmp rcx, rbx
    jne fail
    test r11d, 0x200
    jz fail
    inc edi
    cmp edi, 8
    je 1f
    push r11
    popfq
    jmp rcx
1:  test r11d, 0x400
    jz fail
    sysretq

// Prints the text at RSI, and a new line.
print:
    mov dx, 0x3f8
1:  lodsb
    test al, al
    jz 2f
    out dx, al
    jmp 1b
2:  mov al, 10
    out dx, al
    ret

    .balign 16
stubs:
    .set number, 0
    .rept 256
    .if number != 8 && (number < 10 || number > 14) && number != 17
    push 0
    .endif
    push number
    jmp handler
    .balign 16
    .set number, number + 1
    .endr

handler:
    cmp dword ptr [rsp], 0x20
    je timer
    pop qword ptr vector[rip]
    pop qword ptr code[rip]
    pop qword ptr interrupted[rip]
    pop qword ptr selector[rip]
    add rsp, 8
    pop rsp
    jmp continue[rip]
timer:
    add rsp, 16
    push rax
    inc dword ptr ticks[rip]
    mov al, 0x20
    out 0x20, al
    pop rax
    iretq

    .data
    .balign 16
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff
gdt_task:
    .quad 0x0000890000000067, 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
said_tables:     .asciz "tables"
said_exceptions: .asciz "exceptions"
said_flags:      .asciz "flags"
said_sse:        .asciz "sse"
said_avx:        .asciz "avx"
said_paging:     .asciz "paging"
said_user:       .asciz "user"
said_calls:      .asciz "system calls"
said_timer:      .asciz "timer"
said_fail:       .asciz "fail"
    .balign 4096
one: .long 1111
    .balign 4096
two: .long 2222

    .bss
    .balign 4096
copied:    .skip 4096
idt:       .skip 4096
pointers:  .skip 4096
directory: .skip 4096
pages:     .skip 4096
state:     .skip 832 + 12288
    .balign 64
stack:     .skip 8192
stack_top:
user_stack: .skip 4096
user_stack_top:
task:      .skip 104
vector:    .skip 8
code:      .skip 8
interrupted: .skip 8
selector:  .skip 8
continue:  .skip 8
ticks:     .skip 8
