// A kernel for Solo5's hvt: prints its command line, waits for 50 ms, and ends with 7 if all was as it should be.
    .intel_syntax noprefix
    .section .note.abi, "a", @note
    .balign 4
    .long 6, 16, 0x31494241
    .asciz "Solo5"
    .balign 4
    .long 1, 2, 0, 0
    // A manifest that names no devices.
    .long 6, 4 + 8 + 104, 0x3154464d
    .asciz "Solo5"
    .balign 4
    .long 0, 1, 1
    .fill 68, 1, 0
    .long 1 << 30
    .fill 32, 1, 0

    .text
    .code64
    .globl start
start:
    // Memory, the end of the image, how fast the counter runs; and that the stack is there.
    cmp qword ptr [rdi], 128 << 20
    jne fail
    lea rax, image_end[rip]
    cmp [rdi + 8], rax
    jb fail
    cmp qword ptr [rdi + 16], 0
    je fail
    push rdi
    pop rdi

    mov rsi, [rdi + 24]
    mov text[rip], rsi
    xor ecx, ecx
1:  cmp byte ptr [rsi + rcx], 0
    je 2f
    inc ecx
    jmp 1b
2:  mov text[rip + 8], rcx
    lea eax, text[rip]
    mov edx, 0x502
    out dx, eax
    lea rax, newline[rip]
    mov text[rip], rax
    mov qword ptr text[rip + 8], 1
    lea eax, text[rip]
    out dx, eax

    lea eax, clock[rip]
    mov edx, 0x501
    out dx, eax
    cmp qword ptr clock[rip], 0
    je fail
    lea eax, poll[rip]
    mov edx, 0x503
    out dx, eax
    cmp qword ptr poll[rip + 8], 0
    jne fail
    // No disk is there.
    lea eax, block[rip]
    mov edx, 0x505
    out dx, eax
    cmp dword ptr block[rip + 32], 0
    je fail
    mov dword ptr halt[rip + 8], 7
fail:
    lea eax, halt[rip]
    mov edx, 0x508
    out dx, eax
3:  jmp 3b

    .data
    .balign 8
text:    .quad 0, 0
clock:   .quad 0
poll:    .quad 50000000, -1, -1
block:   .quad 0, 0, 0, 0, 0
halt:    .quad 0, 1
newline: .ascii "\n"
    .balign 8
image_end:
