// A kernel with programs of its own at CPL 3, entered in long mode by Linux's protocol: system calls, faults that
// it repairs and others that it expects, interrupts, and page tables that it changes under its program. One line
// for each thing that is as it should be; then it resets its machine. CPUs differ in nothing of it.
    .intel_syntax noprefix

    // Where the program is, and what it has.
    .set USER_CODE, 0x40000000
    .set USER_STACK_TOP, 0x40002000
    .set USER_DATA, 0x40002000
    .set USER_LATER, 0x40003000
    .set USER_FORBIDDEN, 0x40004000
    .set USER_CONSTANT, 0x40005000
    .set USER_NO_CODE, 0x40006000

    // System calls, in EAX.
    .set CALL_ANSWER, 1
    .set CALL_SAY, 2
    .set CALL_REMAP, 3
    .set CALL_OTHER_SPACE, 4
    .set CALL_EXPECT, 5
    .set CALL_TAKE_AWAY, 6
    .set CALL_END, 7

    .text
    .code64
    .globl start
start:
    lea rsp, stack_top[rip]
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
    lea rax, trap_stack_top[rip]
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
    shr rax, 16
    mov [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], rax
    add rdi, 16
    inc ecx
    cmp ecx, 256
    jne 2b
    lidt idt_pointer[rip]

    // NXE, and system calls.
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x801
    wrmsr
    mov rax, cr0
    or eax, 0x10000
    mov cr0, rax

    // Two spaces that differ in what is at USER_DATA.
    lea rdi, space_a[rip]
    lea rsi, one[rip]
    call make_space
    lea rdi, space_b[rip]
    lea rsi, two[rip]
    call make_space
    lea rax, space_a[rip]
    mov cr3, rax

    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, 0x00100008
    wrmsr
    mov ecx, 0xc0000082
    lea rax, system_call[rip]
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x40700
    wrmsr
    mov ecx, 0xc0000101
    lea rax, percpu[rip]
    wrmsr
    mov ecx, 0xc0000102
    mov eax, USER_DATA
    wrmsr
    lea rax, stack_top[rip]
    mov percpu[rip + 8], rax

    // The interval timer.
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

    mov ecx, USER_CODE
    mov r11d, 0x202
    mov esp, USER_STACK_TOP
    swapgs
    sysretq

// Page tables at RDI, for a program whose data is at RSI.
make_space:
    lea rax, [rdi + 0x1000]
    or eax, 7
    mov [rdi], rax
    lea rax, [rdi + 0x2000]
    or eax, 3
    mov [rdi + 0x1000], rax
    lea rax, [rdi + 0x3000]
    or eax, 7
    mov [rdi + 0x1008], rax
    mov qword ptr [rdi + 0x2000], 0x83
    mov qword ptr [rdi + 0x2008], 0x200083
    lea rax, [rdi + 0x4000]
    or eax, 7
    mov [rdi + 0x3000], rax
    lea rax, user[rip]
    or eax, 5
    mov [rdi + 0x4000], rax
    mov rcx, 1
    shl rcx, 63
    lea rax, user_stack[rip]
    or rax, rcx
    or rax, 7
    mov [rdi + 0x4008], rax
    mov rax, rsi
    or rax, rcx
    or rax, 7
    mov [rdi + 0x4010], rax
    lea rax, one[rip]
    or rax, rcx
    or rax, 3
    mov [rdi + 0x4020], rax
    and rax, ~3
    or rax, 5
    mov [rdi + 0x4028], rax
    lea rax, user[rip]
    or rax, rcx
    or rax, 5
    mov [rdi + 0x4030], rax
    ret

system_call:
    swapgs
    mov gs:[0], rsp
    mov rsp, gs:[8]
    push rcx
    push r11
    // Interrupts are masked, and it is told what they were.
    pushfq
    pop rcx
    test ecx, 0x200
    jnz fail
    test r11d, 0x200
    jz fail
    cmp eax, CALL_ANSWER
    je answer
    cmp eax, CALL_SAY
    je say
    cmp eax, CALL_REMAP
    je remap
    cmp eax, CALL_OTHER_SPACE
    je other_space
    cmp eax, CALL_EXPECT
    je expect
    cmp eax, CALL_TAKE_AWAY
    je take_away
    cmp eax, CALL_END
    je end
    jmp fail
answer:
    mov eax, 42
    jmp back
say:
    mov rsi, texts[rip + rdi * 8]
    call print
    jmp back
remap:
    lea rax, two[rip]
    or eax, 7
    mov space_a[rip + 0x4010], rax
    mov ebx, USER_DATA
    invlpg [rbx]
    // The kernel sees the same.
    cmp dword ptr [rbx], 2222
    jne fail
    jmp back
take_away:
    mov qword ptr space_b[rip + 0x4010], 0
    mov ebx, USER_DATA
    invlpg [rbx]
    jmp back
other_space:
    lea rax, space_b[rip]
    mov cr3, rax
    jmp back
expect:
    mov expected[rip], rdi
    mov resume[rip], rsi
    jmp back
end:
    mov al, 0xfe
    out 0x64, al
    jmp fail
back:
    pop r11
    pop rcx
    mov rsp, gs:[0]
    swapgs
    sysretq

// Of a frame on its stack: RAX, vector, error code, RIP, CS, RFLAGS, RSP, SS.
handler:
    push rax
    mov rax, [rsp + 32]
    and eax, 3
    cmp eax, 3
    jne fail
    // All of it is the program's.
    cmp qword ptr [rsp + 32], 0x23
    jne fail
    cmp qword ptr [rsp + 56], 0x1b
    jne fail
    swapgs
    cmp qword ptr gs:[16], 7777
    jne fail
    cmp qword ptr [rsp + 8], 0x20
    je timer
    mov rax, [rsp + 16]
    shl rax, 8
    or rax, [rsp + 8]
    cmp rax, expected[rip]
    je was_expected
    // A page that is given when it is touched.
    cmp eax, 0x060e
    jne fail
    mov rax, cr2
    cmp eax, USER_LATER + 8
    jne fail
    lea rax, later[rip]
    or eax, 7
    mov space_a[rip + 0x4018], rax
    jmp return
was_expected:
    mov qword ptr expected[rip], 0
    mov rax, resume[rip]
    mov [rsp + 24], rax
    jmp return
timer:
    inc dword ptr one[rip + 16]
    mov al, 0x20
    out 0x20, al
return:
    swapgs
    pop rax
    add rsp, 16
    iretq

fail:
    lea rsi, said_fail[rip]
    call print
1:  cli
    hlt
    jmp 1b

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

    .macro CALL number, first = 0
    mov eax, \number
    mov edi, \first
    syscall
    .endm
    // What comes next raises `vector` with `code`, and is not done.
    .macro RAISES vector, code, instruction:vararg
    lea rsi, 9f[rip]
    CALL CALL_EXPECT, \code << 8 | \vector
    \instruction
    CALL 99
9:
    .endm

// The program, at CPL 3.
    .balign 4096
user:
    // A call: what it answers, and what it leaves alone.
    movabs r12, 0x1122334455667788
    mov rbp, rsp
    stc
    CALL CALL_ANSWER
    jnc bad
    cmp eax, 42
    jne bad
    cmp rbp, rsp
    jne bad
    movabs rax, 0x1122334455667788
    cmp rax, r12
    jne bad
    cmp dword ptr gs:[0], 1111
    jne bad
    CALL CALL_SAY, 0

    // What it may not do.
    RAISES 13, 0, cli
    RAISES 13, 0, hlt
    RAISES 13, 0, in al, 0x20
    RAISES 13, 0, mov rax, cr3
    RAISES 13, 0, swapgs
    RAISES 13, 0, rdmsr
    RAISES 13, 0, sysretq
    RAISES 13, 0x182, int 0x30
    RAISES 6, 0, ud2
    RAISES 0, 0, div r13d
    CALL CALL_SAY, 1
    pushfq
    mov rax, [rsp]
    test eax, 0x200
    jz bad
    and dword ptr [rsp], ~0x200
    popfq
    pushfq
    pop rax
    test eax, 0x200
    jz bad
    CALL CALL_SAY, 2

    // Memory that is not its own, and memory that is not there yet.
    mov ebx, 0x100000
    RAISES 14, 5, mov eax, [rbx]
    mov ebx, USER_FORBIDDEN
    RAISES 14, 5, mov eax, [rbx]
    mov ebx, USER_CONSTANT
    cmp dword ptr [rbx], 1111
    jne bad
    RAISES 14, 7, mov [rbx], eax
    mov ebx, USER_NO_CODE
    RAISES 14, 0x15, jmp rbx
    mov ebx, USER_LATER
    mov dword ptr [rbx + 8], 5
    cmp dword ptr [rbx + 8], 5
    jne bad
    CALL CALL_SAY, 3

    // Interrupts.
    mov ebx, USER_DATA
    mov eax, [rbx + 16]
    add eax, 3
1:  pause
    cmp [rbx + 16], eax
    jb 1b
    CALL CALL_SAY, 4

    // Page tables that change under it.
    mov ebp, USER_DATA
    cmp dword ptr [rbp], 1111
    jne bad
    CALL CALL_REMAP
    cmp dword ptr [rbp], 2222
    jne bad
    mov dword ptr [rbp], 3333
    CALL CALL_SAY, 5
    CALL CALL_OTHER_SPACE
    cmp dword ptr [rbp], 3333
    jne bad
    mov ebx, USER_LATER
    RAISES 14, 4, mov eax, [rbx]
    CALL CALL_TAKE_AWAY
    RAISES 14, 4, mov eax, [rbp]
    RAISES 14, 6, mov [rbp], eax
    CALL CALL_SAY, 6
    CALL CALL_END
bad:
    CALL 98
    .balign 4096

    .data
    .balign 16
gdt:
    // SYSRET wants data before code.
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
gdt_task:
    .quad 0x0000890000000067, 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
percpu:
    .quad 0, 0, 7777
texts:
    .quad 1f, 2f, 3f, 4f, 5f, 6f, 7f
1:  .asciz "call"
2:  .asciz "privilege"
3:  .asciz "flags"
4:  .asciz "memory"
5:  .asciz "interrupts"
6:  .asciz "mapping"
7:  .asciz "spaces"
said_fail: .asciz "fail"
    .balign 4096
one: .long 1111
    .balign 4096
two: .long 2222
    .balign 4096

    .bss
    .balign 4096
later:      .skip 4096
idt:        .skip 4096
space_a:    .skip 0x5000
space_b:    .skip 0x5000
user_stack: .skip 4096
stack:      .skip 4096
stack_top:
trap_stack: .skip 4096
trap_stack_top:
task:       .skip 104
expected:   .skip 8
resume:     .skip 8
