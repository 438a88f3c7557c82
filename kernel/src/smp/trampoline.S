# Where a CPU starts: copied to a page of the first megabyte, whose number is in the startup interrupt. From real mode (CS:0 is the
# page) by way of 32-bit mode to `ap_start` in the kernel's text. Tables: bringup.rs makes them and fills in `trampoline_*`.

.section .rodata.trampoline, "a", @progbits
.balign 16
.globl trampoline_start
trampoline_start:
.code16
    cli
    cld
    xorl %ebx, %ebx
    movw %cs, %bx
    movw %bx, %ds
    shll $4, %ebx                       # where the page is
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl %cr0, %eax
    orl $1, %eax                        # PE
    movl %eax, %cr0
    ljmpl *(trampoline_to_32 - trampoline_start)

.code32
trampoline_32:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl $(1 << 5), %eax                # PAE, and nothing else
    movl %eax, %cr4
    movl (trampoline_cr3 - trampoline_start)(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              # EFER
    rdmsr
    orl $(1 << 8 | 1 << 11), %eax       # LME, NXE
    wrmsr
    movl $0x80000011, %eax              # PG, ET, PE; caches on
    movl %eax, %cr0
    ljmpl *(trampoline_to_64 - trampoline_start)(%ebx)

.code64
trampoline_64:
    movabsq $ap_start, %rax
    jmpq *%rax

.balign 8
trampoline_gdt:                         # all of them accessed: nobody writes here
    .quad 0
    .quad 0x00cf9b000000ffff            # 32-bit code
    .quad 0x00cf93000000ffff            # data
    .quad 0x00af9b000000ffff            # 64-bit code
trampoline_gdt_pointer:
    .word 31
.globl trampoline_gdt_base
trampoline_gdt_base:
    .long trampoline_gdt - trampoline_start
.globl trampoline_to_32
trampoline_to_32:
    .long trampoline_32 - trampoline_start
    .word 8
.globl trampoline_to_64
trampoline_to_64:
    .long trampoline_64 - trampoline_start
    .word 24
.balign 4
.globl trampoline_cr3
trampoline_cr3:
    .long 0
.globl trampoline_end
trampoline_end:

# At its linked address, on the trampoline's tables: who takes the stack goes on. A CPU that was given up and comes late finds none.
.section .text.ap_start, "ax", @progbits
.globl ap_start
ap_start:
    xorl %eax, %eax
    xchgq %rax, ap_stack_top(%rip)
    testq %rax, %rax
    jz 1f
    movq %rax, %rsp
    movq %rax, %rdi
    xorl %ebp, %ebp
    call ap_entry
    ud2
1:  cli
    hlt
    jmp 1b

.text
