// A kernel that is entered in long mode by Linux's protocol and uses x87 and SSE while CR0.TS is set and while it is
// not, and instructions that its CPU has not. For each use it writes `.`, or `N` if #NM came and `U` if #UD came; `L`
// when #NM came and the use was then allowed.
    .intel_syntax noprefix
    .text
    .code64
    .globl start
start:
    lea rbx, idt[rip]
    lea rax, unavailable[rip]
    lea rdi, [rbx + 7 * 16]
    call gate
    lea rax, undefined[rip]
    lea rdi, [rbx + 6 * 16]
    call gate
    lea rax, idtr[rip]
    mov [rax + 2], rbx
    lidt [rax]

    mov rax, cr4
    or rax, 0x600
    mov cr4, rax
    call sse

    mov edi, 8          // TS
    call set
    call sse
    call x87
    call wait_x87       // is refused only with MP
    mov edi, 8 | 2
    call set
    call wait_x87
    clts
    call sse
    // As kernels switch lazily: the handler allows it, and the instruction is made again.
    mov edi, 8
    call set
    mov byte ptr lazy[rip], 1
    movups xmmword ptr area[rip], xmm3
    mov byte ptr lazy[rip], 0
    mov al, '.'
    call say

    lea r15, 1f[rip]    // they would show on which of the host's CPUs this runs
    rdtscp
    mov al, '.'
    call say
1:  lea r15, 1f[rip]
    .byte 0xf3, 0x0f, 0xc7, 0xf8 // rdpid rax
    mov al, '.'
    call say
1:  mov al, '\n'
    call say
    mov al, 0xfe
    out 0x64, al
    hlt

// Makes the low bits of CR0 `edi`: MP, EM, TS.
set:
    mov rax, cr0
    and rax, ~14
    or rax, rdi
    mov cr0, rax
    ret

sse:
    lea r15, 1f[rip]
    movups xmmword ptr area[rip], xmm1
    mov al, '.'
    call say
1:  ret

x87:
    lea r15, 1f[rip]
    fninit
    mov al, '.'
    call say
1:  ret

wait_x87:
    lea r15, 1f[rip]
    fwait
    mov al, '.'
    call say
1:  ret

undefined:
    mov al, 'U'
    jmp over
unavailable:
    mov al, 'N'
    cmp byte ptr lazy[rip], 0
    je over
    clts
    mov al, 'L'
    call say
    iretq
over:
    call say
    mov [rsp], r15
    iretq

say:
    mov dx, 0x3f8
    out dx, al
    ret

// Makes the gate at `rdi` lead to `rax`.
gate:
    mov [rdi], ax
    mov cx, cs
    mov [rdi + 2], cx
    mov word ptr [rdi + 4], 0x8e00
    shr rax, 16
    mov [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], rax
    ret

    .data
    .balign 16
idtr: .short 8 * 16 - 1
    .quad 0
lazy: .byte 0
    .bss
    .balign 16
idt: .skip 256
area: .skip 16
