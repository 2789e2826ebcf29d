// A kernel that is entered in protected mode, by multiboot or by PVH: prints its command line and its
// first module, and switches its machine off.
    .intel_syntax noprefix
    .section .head, "ax"
    .balign 4
    .long 0x1badb002, 3, -(0x1badb002 + 3)

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, NOTE_BYTES, 18
    .asciz "Xen"
#if NOTE_BYTES == 8
    .long pvh, 0
#else
    .long pvh
#endif

    .text
    .code32
    .globl multiboot
multiboot:
    mov esp, offset stack_top
    cmp eax, 0x2badb002
    jne fail
    mov esi, [ebx + 16]
    call print
    cmp dword ptr [ebx + 20], 0
    je off
    mov edx, [ebx + 24]
    mov esi, [edx]
    call print
    mov esi, [edx + 8]
    call print
    jmp off

pvh:
    mov esp, offset stack_top
    cmp dword ptr [ebx], 0x336ec578
    jne fail
    mov esi, [ebx + 24]
    call print
    cmp dword ptr [ebx + 12], 0
    je off
    mov edx, [ebx + 16]
    mov esi, [edx]
    call print

off:
    mov dx, 0x604
    mov ax, 0x2000
    out dx, ax
fail:
    cli
    hlt
    jmp fail

// Prints the text at ESI, and a new line.
print:
    push edx
    mov dx, 0x3f8
1:  lodsb
    test al, al
    jz 2f
    out dx, al
    jmp 1b
2:  mov al, 10
    out dx, al
    pop edx
    ret

    .bss
    .balign 16
    .skip 4096
stack_top:
