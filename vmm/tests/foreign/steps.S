// A kernel that makes steps: for each it loads all registers, jumps to a few bytes of code in its initial
// RAM disk, and writes down what came of it: registers, flags, control registers, MSRs, and the
// exception, if there was one. Two CPUs that are alike write down the same.
    .intel_syntax noprefix
    .set LOG, 0x400000
    .set SCRATCH, 0x300000
    .set TABLES, 0x301000
    .set STEP, 0x3ff000             // address of the step at work
    .set STACK_TOP, 0x390000

    .section .head, "ax"
    .code64
    jmp done                        // 0x100000: where every step ends

    .text
    .globl start
start:
    mov esp, STACK_TOP
    mov ebx, [rsi + 0x218]
    mov rax, [rbx]
    mov count[rip], rax
    mov rax, [rbx + 8]
    add rax, rbx
    mov code_of[rip], rax
    add rbx, 64
    mov step[rip], rbx
    mov qword ptr record[rip], LOG
    lgdt gdt_pointer[rip]
    lea rax, 1f[rip]
    push 0x08
    push rax
    retfq
1:  lea rax, task[rip]
    mov word ptr gdt_task[rip + 2], ax
    shr rax, 16
    mov byte ptr gdt_task[rip + 4], al
    mov byte ptr gdt_task[rip + 7], ah
    mov qword ptr task[rip + 4], STACK_TOP
    mov eax, 0x28
    ltr ax
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
    cmp ecx, 224                    // the last 32 vectors have no handler
    jne 2b
    // Copies of the table pointers, for steps to load.
    mov rax, qword ptr gdt_pointer[rip]
    mov [TABLES], rax
    mov rax, qword ptr gdt_pointer[rip + 2]
    mov [TABLES + 2], rax
    mov rax, qword ptr idt_pointer[rip]
    mov [TABLES + 16], rax
    mov rax, qword ptr idt_pointer[rip + 2]
    mov [TABLES + 18], rax
    mov rax, cr0
    mov first_cr0[rip], rax
    mov rax, cr4
    mov first_cr4[rip], rax
    mov ecx, 0xc0000080
    rdmsr
    mov first_efer[rip], eax

next:
    // As at the start, whatever the step before did.
    mov esp, STACK_TOP
    lgdt gdt_pointer[rip]
    lidt idt_pointer[rip]
    mov rax, first_cr4[rip]
    mov cr4, rax
    mov rax, first_cr0[rip]
    mov cr0, rax
    xor eax, eax
    mov cr2, rax
    mov cr8, rax
    mov fs, eax
    mov gs, eax
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ecx, 0xc0000080
    mov eax, first_efer[rip]
    xor edx, edx
    wrmsr
    xor eax, eax
    mov ecx, 0xc0000100
    wrmsr
    inc ecx
    wrmsr
    inc ecx
    wrmsr
    mov qword ptr vector[rip], -1
    xor eax, eax
    mov code[rip], rax
    mov rip_of[rip], rax
    mov cs_of[rip], rax
    mov flags_of[rip], rax
    mov rsp_of[rip], rax
    mov [SCRATCH], rax
    mov [SCRATCH + 8], rax
    mov [SCRATCH + 16], rax
    mov [SCRATCH + 24], rax
    dec qword ptr count[rip]
    js off
    mov rax, step[rip]
    mov rbx, code_of[rip]
    mov [STEP], rbx
    push qword ptr [rax + 128]
    popfq
    mov rbx, [rax + 8]
    mov rcx, [rax + 16]
    mov rdx, [rax + 24]
    mov rsi, [rax + 32]
    mov rdi, [rax + 40]
    mov rbp, [rax + 48]
    mov r8, [rax + 56]
    mov r9, [rax + 64]
    mov r10, [rax + 72]
    mov r11, [rax + 80]
    mov r12, [rax + 88]
    mov r13, [rax + 96]
    mov r14, [rax + 104]
    mov r15, [rax + 112]
    mov rax, [rax]
    jmp qword ptr ds:[STEP]

done:
    mov kept[rip], rsp
    mov esp, STACK_TOP
    push rax
    mov rax, record[rip]
    mov [rax + 8], rbx
    pop rbx
    mov [rax], rbx
    pushfq
    pop rbx
    mov [rax + 128], rbx
    push 2
    popfq
    mov [rax + 16], rcx
    mov [rax + 24], rdx
    mov [rax + 32], rsi
    mov [rax + 40], rdi
    mov [rax + 48], rbp
    mov [rax + 56], r8
    mov [rax + 64], r9
    mov [rax + 72], r10
    mov [rax + 80], r11
    mov [rax + 88], r12
    mov [rax + 96], r13
    mov [rax + 104], r14
    mov [rax + 112], r15
    mov rbx, kept[rip]
    mov [rax + 120], rbx
    mov rbp, rax
    mov rax, cr0
    mov [rbp + 136], rax
    mov rax, cr2
    mov [rbp + 144], rax
    mov rax, cr4
    mov [rbp + 152], rax
    mov rax, cr8
    mov [rbp + 160], rax
    lea rdi, [rbp + 168]
    lea rsi, msrs[rip]
    mov ebx, 4
1:  mov ecx, [rsi]
    rdmsr
    mov [rdi], eax
    mov [rdi + 4], edx
    add rsi, 4
    add rdi, 8
    dec ebx
    jnz 1b
    // The exception, then the scratch memory.
    cld
    lea rsi, vector[rip]
    mov ecx, 6
    rep movsq
    mov esi, SCRATCH
    mov ecx, 4
    rep movsq
    add qword ptr record[rip], 512
    add qword ptr step[rip], 256
    add qword ptr code_of[rip], 64
    jmp next
off:
    mov dx, 0x604
    mov ax, 0x2000
    out dx, ax

    .balign 16
stubs:
    .set number, 0
    .rept 224
    .if number != 8 && (number < 10 || number > 14) && number != 17
    push 0
    .endif
    push number
    jmp handler
    .balign 16
    .set number, number + 1
    .endr

handler:
    pop qword ptr vector[rip]
    pop qword ptr code[rip]
    pop qword ptr rip_of[rip]
    pop qword ptr cs_of[rip]
    pop qword ptr flags_of[rip]
    pop qword ptr rsp_of[rip]
    pop qword ptr ss_of[rip]
    mov rsp, rsp_of[rip]
    jmp done

    .data
    .balign 16
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff
gdt_task:
    .quad 0x0000890000000067, 0
    .quad 0x00cf13000000ffff        // 0x38: not present
    .quad 0x00cf91000000ffff        // 0x40: data, read-only
    .quad 0x00af99000000ffff        // 0x48: code, execute-only
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 224 * 16 - 1
    .quad idt
msrs: .long 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000080

    .bss
    .balign 4096
idt:    .skip 4096
task:   .skip 104
count:  .skip 8
step:   .skip 8
code_of: .skip 8
record: .skip 8
kept:   .skip 8
first_cr0:  .skip 8
first_cr4:  .skip 8
first_efer: .skip 8
vector:   .skip 8
code:     .skip 8
rip_of:   .skip 8
cs_of:    .skip 8
flags_of: .skip 8
rsp_of:   .skip 8
ss_of:    .skip 8
