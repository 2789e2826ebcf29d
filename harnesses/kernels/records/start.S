/*
 * Entered by PVH: 32-bit protected mode, no paging. Maps the first 64 MiB as they are, but for page 0, and
 * goes on in 64-bit mode.
 */
	.section .note.pvh, "a", @note
	.align 4
	.long 4, 4, 18		/* name's length, value's, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.section .bss
	.align 4096
tables:	.skip 4 * 4096		/* one of each level; the last is of the first 2 MiB */
	.skip 16384
stack:

	.section .rodata
	.align 8
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_end:
gdtr:	.word gdt_end - gdt - 1
	.long gdt

	.text
	.code32
	.globl start
start:	cld
	movl $stack, %esp
	movl $tables + 0x1003, tables
	movl $tables + 0x2003, tables + 0x1000
	movl $tables + 0x3003, tables + 0x2000
	movl $1, %ecx
1:	movl %ecx, %eax		/* large pages from 2 MiB on */
	shll $21, %eax
	orl $0x83, %eax
	movl %eax, tables + 0x2000(, %ecx, 8)
	incl %ecx
	cmpl $32, %ecx
	jb 1b
	movl $1, %ecx
2:	movl %ecx, %eax		/* small ones below, without the first */
	shll $12, %eax
	orl $3, %eax
	movl %eax, tables + 0x3000(, %ecx, 8)
	incl %ecx
	cmpl $512, %ecx
	jb 2b
	movl $tables, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x20, %eax		/* PAE */
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax	/* LME */
	wrmsr
	movl %cr0, %eax
	orl $0x80010000, %eax	/* PG, WP */
	movl %eax, %cr0
	lgdt gdtr
	ljmp $8, $long_mode
	.code64
long_mode:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movq $stack, %rsp
	call kernel_main
3:	hlt
	jmp 3b

	.section .note.GNU-stack, "", @progbits
