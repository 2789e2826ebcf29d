// A kernel in long mode that has its interrupts from the local APIC, in memory and by MSRs, and from the
// I/O APIC: one line for each that is as it should be, and then it switches its machine off.
    .intel_syntax noprefix
    .set APIC, 0xfee00000
    .set IOAPIC, 0xfec00000
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

    // Its version, its id; the 8259s are cut off.
    mov ebx, APIC
    cmp byte ptr [rbx + 0x30], 0x14
    jne fail
    cmp dword ptr [rbx + 0x20], 0
    jne fail
    mov dword ptr [rbx + 0x350], 0x10000
    mov dword ptr [rbx + 0xf0], 0x1ff

    // The timer, once.
    mov dword ptr [rbx + 0x3e0], 0xb
    mov dword ptr [rbx + 0x320], 0x40
    mov dword ptr [rbx + 0x380], 1000000
    sti
    hlt
    cli
    cmp dword ptr counts[rip + 4 * 0x40], 1
    jne fail
    cmp dword ptr [rbx + 0x390], 0
    jne fail
    lea rsi, said_once[rip]
    call print

    // The same, three times, by 2.
    mov dword ptr [rbx + 0x3e0], 0
    mov dword ptr [rbx + 0x320], 0x20041
    mov dword ptr [rbx + 0x380], 500000
3:  sti
    hlt
    cli
    cmp dword ptr counts[rip + 4 * 0x41], 3
    jb 3b
    mov dword ptr [rbx + 0x320], 0x10041
    lea rsi, said_periodic[rip]
    call print

    // Many times, while it does nothing but what a monitor has to do for it.
    mov dword ptr [rbx + 0x320], 0x20044
    mov dword ptr [rbx + 0x380], 100000
    sti
5:  pushfq
    pop rax
    pushfq
    pop rax
    pushfq
    pop rax
    pushfq
    pop rax
    cmp dword ptr counts[rip + 4 * 0x44], 500
    jb 5b
    cli
    mov dword ptr [rbx + 0x320], 0x10044
    lea rsi, said_storm[rip]
    call print

    // The interval timer, by input 2 of the I/O APIC, twice.
    mov edx, IOAPIC
    mov dword ptr [rdx], 0x15
    mov dword ptr [rdx + 16], 0
    mov dword ptr [rdx], 0x14
    mov dword ptr [rdx + 16], 0x50
    mov al, 0x34
    out 0x43, al
    mov al, 0x9c
    out 0x40, al
    mov al, 0x2e
    out 0x40, al
4:  sti
    hlt
    cli
    cmp dword ptr counts[rip + 4 * 0x50], 2
    jb 4b
    mov edx, IOAPIC
    mov dword ptr [rdx + 16], 0x10050
    lea rsi, said_io[rip]
    call print

    // By MSRs: an interrupt to itself.
    mov ecx, 0x1b
    rdmsr
    or eax, 0x400
    wrmsr
    mov dword ptr x2apic[rip], 1
    mov ecx, 0x83f
    mov eax, 0x60
    xor edx, edx
    wrmsr
    call listen
    cmp dword ptr counts[rip + 4 * 0x60], 1
    jne fail
    lea rsi, said_x2apic[rip]
    call print

    // One that CR8 holds back.
    mov eax, 6
    mov cr8, rax
    mov ecx, 0x808
    rdmsr
    cmp eax, 0x60
    jne fail
    mov ecx, 0x83f
    mov eax, 0x60
    xor edx, edx
    wrmsr
    call listen
    cmp dword ptr counts[rip + 4 * 0x60], 1
    jne fail
    xor eax, eax
    mov cr8, rax
    call listen
    cmp dword ptr counts[rip + 4 * 0x60], 2
    jne fail
    lea rsi, said_priority[rip]
    call print

    // And the timer, by MSRs.
    mov ecx, 0x832
    mov eax, 0x42
    xor edx, edx
    wrmsr
    mov ecx, 0x838
    mov eax, 100000
    wrmsr
    sti
    hlt
    cli
    cmp dword ptr counts[rip + 4 * 0x42], 1
    jne fail
    lea rsi, said_again[rip]
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

// Takes interrupts for a while. KVM's emulator does not say when CR8 is lowered: a port, and the next one it does.
listen:
    mov ecx, 10
    sti
1:  out 0x80, al
    dec ecx
    jnz 1b
    cli
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

    .balign 16
stubs:
    .set number, 0
    .rept 256
    push number
    jmp handler
    .balign 16
    .set number, number + 1
    .endr

// Counts the interrupt and says its end; exceptions, which nobody expects, end all.
handler:
    push rax
    push rcx
    push rdx
    mov rcx, [rsp + 24]
    cmp ecx, 0x20
    jb fail
    lea rax, counts[rip]
    inc dword ptr [rax + 4 * rcx]
    cmp dword ptr x2apic[rip], 0
    jne 1f
    mov eax, APIC
    mov dword ptr [rax + 0xb0], 0
    jmp 2f
1:  mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
2:  pop rdx
    pop rcx
    pop rax
    add rsp, 8
    iretq

    .data
    .balign 16
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
said_once:     .asciz "one shot"
said_periodic: .asciz "periodic"
said_storm:    .asciz "storm"
said_io:       .asciz "io apic"
said_x2apic:   .asciz "x2apic"
said_priority: .asciz "priority"
said_again:    .asciz "again"
said_fail:     .asciz "fail"

    .bss
    .balign 4096
idt:       .skip 4096
stack:     .skip 8192
stack_top:
counts:    .skip 1024
x2apic:    .skip 4
