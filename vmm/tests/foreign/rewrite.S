// A kernel in long mode that rewrites its own code, by single writes, by many, and by another address, and changes what
// addresses lead to, in the root at work and in another: one line for each that is as it should be.
    .intel_syntax noprefix
    .set ALIAS, 0x8000000000        // the second entry of a root
    .text
    .code64
    .globl start
start:
    lea rsp, stack_top[rip]
    cli
    // Two roots that differ in their second entry alone; below each of those one page is mapped.
    mov rsi, cr3
    lea rdi, root[rip]
    mov ecx, 512
    rep movsq
    mov rsi, cr3
    lea rdi, other_root[rip]
    mov ecx, 512
    rep movsq
    lea rax, pointers[rip]
    or rax, 3
    mov root[rip + 8], rax
    lea rax, directory[rip]
    or rax, 3
    mov pointers[rip], rax
    lea rax, pages[rip]
    or rax, 3
    mov directory[rip], rax
    lea rax, other_pointers[rip]
    or rax, 3
    mov other_root[rip + 8], rax
    lea rax, other_directory[rip]
    or rax, 3
    mov other_pointers[rip], rax
    lea rax, other_pages[rip]
    or rax, 3
    mov other_directory[rip], rax
    lea rax, code[rip]
    or rax, 3
    mov pages[rip], rax
    lea rax, one[rip]
    or rax, 3
    mov pages[rip + 8], rax
    lea rax, two[rip]
    or rax, 3
    mov other_pages[rip + 8], rax
    lea rax, root[rip]
    mov cr3, rax

    // Code runs, and is then another: it shows whether interrupts are on.
    call code
    mov dword ptr code[rip], 0x90c3589c     // pushfq; pop rax; ret
    call shows_off
    lea rsi, said_once[rip]
    call print

    // Byte by byte, and back again, many times.
    mov ebx, 40
1:  lea rdi, code[rip]
    lea rsi, nops[rip]
    mov ecx, 8
    call copy
    call code
    lea rdi, code[rip]
    lea rsi, shows[rip]
    mov ecx, 8
    call copy
    call shows_off
    dec ebx
    jnz 1b
    lea rsi, said_bytes[rip]
    call print

    // The whole page at once.
    mov ebx, 3
2:  lea rdi, code[rip]
    mov ecx, 4096
    mov al, 0xc3
    rep stosb
    call code
    lea rdi, code[rip + 64]
    lea rsi, shows[rip]
    mov ecx, 8
    rep movsb
    lea rdx, code[rip + 64]
    call shows_off_at
    dec ebx
    jnz 2b
    lea rsi, said_page[rip]
    call print

    // By its other address.
    mov rdi, ALIAS
    mov dword ptr [rdi + 128], 0xc3c3c3c3
    lea rdx, code[rip + 128]
    call rdx
    mov rdi, ALIAS
    mov dword ptr [rdi + 128], 0x90c3589c
    lea rdx, code[rip + 128]
    call shows_off_at
    mov rdx, ALIAS + 128
    call shows_off_at
    lea rsi, said_alias[rip]
    call print

    // Roots in turn, and each keeps what it leads to.
    mov ebx, 20
3:  lea rax, root[rip]
    mov cr3, rax
    mov rdi, ALIAS + 0x1000
    cmp byte ptr [rdi], 1
    jne fail
    lea rax, other_root[rip]
    mov cr3, rax
    cmp byte ptr [rdi], 2
    jne fail
    dec ebx
    jnz 3b
    lea rsi, said_roots[rip]
    call print

    // A change in the other one, which is seen when it is loaded; one here, when the address is thrown away, and
    // one when all are.
    lea rax, three[rip]
    or rax, 3
    mov pages[rip + 8], rax
    cmp byte ptr [rdi], 2
    jne fail
    lea rcx, root[rip]
    mov cr3, rcx
    cmp byte ptr [rdi], 3
    jne fail
    lea rax, two[rip]
    or rax, 3
    mov pages[rip + 8], rax
    invlpg [rdi]
    cmp byte ptr [rdi], 2
    jne fail
    lea rax, one[rip]
    or rax, 3
    mov pages[rip + 8], rax
    mov cr3, rcx
    cmp byte ptr [rdi], 1
    jne fail
    // The same by another table, and by another table of tables.
    lea rax, other_pages[rip]
    or rax, 3
    mov directory[rip], rax
    mov cr3, rcx
    cmp byte ptr [rdi], 2
    jne fail
    lea rax, other_pointers[rip]
    or rax, 3
    mov root[rip + 8], rax
    lea rax, three[rip]
    or rax, 3
    mov other_pages[rip + 8], rax
    mov cr3, rcx
    cmp byte ptr [rdi], 3
    jne fail
    lea rsi, said_changes[rip]
    call print

    // A CPU that has been there before knows it from the bit that it set; cleared, it is set again.
    and qword ptr other_pages[rip + 8], ~0x20
    mov cr3, rcx
    cmp byte ptr [rdi], 3
    jne fail
    test byte ptr other_pages[rip + 8], 0x20
    jz fail
    lea rsi, said_bits[rip]
    call print

    mov dx, 0x604
    mov ax, 0x2000
    out dx, ax
fail:
    lea rsi, said_fail[rip]
    call print
6:  cli
    hlt
    jmp 6b

// That the code at RDX shows interrupts to be off, as they are.
shows_off:
    lea rdx, code[rip]
shows_off_at:
    mov eax, 0x200
    call rdx
    test eax, 0x200
    jnz fail
    ret

// Copies ECX bytes, one by one.
copy:
    mov al, [rsi]
    mov [rdi], al
    inc rsi
    inc rdi
    dec ecx
    jnz copy
    ret

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

    // A page of code alone, which the page around it is not.
    .balign 4096
code:
    .rept 4096
    ret
    .endr

    .data
    // Here, where nobody takes it for code.
nops:  .byte 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3
shows: .byte 0x90, 0x90, 0x9c, 0x58, 0x90, 0x90, 0x90, 0xc3
said_once:    .asciz "once"
said_bytes:   .asciz "bytes"
said_page:    .asciz "page"
said_alias:   .asciz "alias"
said_roots:   .asciz "roots"
said_changes: .asciz "changes"
said_bits:    .asciz "bits"
said_fail:    .asciz "fail"
    .balign 4096
one:   .skip 4096, 1
two:   .skip 4096, 2
three: .skip 4096, 3

    .bss
    .balign 4096
root:            .skip 4096
other_root:      .skip 4096
pointers:        .skip 4096
other_pointers:  .skip 4096
directory:       .skip 4096
other_directory: .skip 4096
pages:           .skip 4096
other_pages:     .skip 4096
stack:           .skip 8192
stack_top:
