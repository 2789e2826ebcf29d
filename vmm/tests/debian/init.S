// The first and only program of a Linux: says so; switches the machine off, if its argument says `off`; else says what it
// hears, line by line, and ends when that begins with `exit`, which Linux panics about.
    .intel_syntax noprefix
    .globl _start
_start:
    cmp qword ptr [rsp], 2
    jb 1f
    mov rax, [rsp + 16]
    cmp dword ptr [rax], 0x66666f   // "off\0"
    jne 1f
    lea rsi, bye[rip]
    mov edx, 10
    call say
    mov eax, 169                    // reboot
    mov edi, 0xfee1dead
    mov esi, 672274793
    mov edx, 0x4321fedc
    syscall
1:  lea rsi, hello[rip]
    mov edx, 17
    call say
2:  xor eax, eax                    // read
    xor edi, edi
    lea rsi, line[rip]
    mov edx, 200
    syscall
    cmp rax, 4
    jl 3f
    cmp dword ptr line[rip], 0x74697865
    je 3f
    mov rbx, rax
    lea rsi, heard[rip]
    mov edx, 12
    call say
    lea rsi, line[rip]
    mov rdx, rbx
    call say
    jmp 2b
3:  mov eax, 60                     // exit
    mov edi, 3
    syscall

say:
    mov eax, 1                      // write
    mov edi, 1
    syscall
    ret

    .section .rodata
hello: .ascii "init: user space\n"
bye:   .ascii "init: off\n"
heard: .ascii "init: heard "
    .bss
line:  .skip 200
