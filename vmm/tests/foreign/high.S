// A kernel that is entered in long mode by Linux's protocol, maps its memory a second time at the lowest address of
// the upper half, goes on there, says so and resets its machine.
    .intel_syntax noprefix
    .text
    .code64
    .globl start
start:
    mov rax, cr3
    mov rbx, [rax]
    mov [rax + 8 * 256], rbx
    mov cr3, rax
    movabs rax, 0xffff800000000000
    lea rbx, there[rip]
    add rax, rbx
    jmp rax
there:
    lea rsi, said[rip]
    mov dx, 0x3f8
    mov ecx, 5
    rep outsb
    mov al, 0xfe
    out 0x64, al
    hlt

    .data
said: .ascii "high\n"
