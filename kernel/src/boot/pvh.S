# The PVH door, in 32-bit mode with paging off: EBX is the physical address of hvm_start_info.
# The provisional tables map the low 4 GiB twice, one to one and at DIRECT_MAP, and the low 1 GiB at
# KERNEL_BASE, all with 2 MiB pages. Every address here is physical: the symbol less KERNEL_BASE.

.set KERNEL_BASE, 0xffffffff80000000

.section .note.Xen, "a", @note
.balign 4
    .long 4                             # length of the name
    .long 8                             # length of the value
    .long 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start - KERNEL_BASE

.section .bss.boot_tables, "aw", @nobits
.balign 4096
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pds:       .skip 4 * 4096
boot_pd_high:   .skip 4096

.section .text.head, "ax", @progbits
.code32
pvh_start:
    cli
    cld
    movl $(__boot_stack_top - KERNEL_BASE), %esp

    # Long mode is in CPUID leaf 0x80000001, if there is such a leaf.
    movl %ebx, %esi
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    testl $(1 << 29), %edx
    jz no_long_mode
    movl %esi, %ebx

    # 2048 pages of 2 MiB: present, writable, large.
    movl $(boot_pds - KERNEL_BASE), %edi
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $21, %eax
    orl $0x83, %eax
    movl %eax, (%edi, %ecx, 8)
    movl $0, 4(%edi, %ecx, 8)
    incl %ecx
    cmpl $2048, %ecx
    jb 1b

    movl $(boot_pdpt_low - KERNEL_BASE), %edi
    movl $(boot_pds - KERNEL_BASE + 0x0003), (%edi)
    movl $(boot_pds - KERNEL_BASE + 0x1003), 8(%edi)
    movl $(boot_pds - KERNEL_BASE + 0x2003), 16(%edi)
    movl $(boot_pds - KERNEL_BASE + 0x3003), 24(%edi)

    # The image has a directory of its own, so that a page of it can go without going elsewhere.
    movl $(boot_pds - KERNEL_BASE), %esi
    movl $(boot_pd_high - KERNEL_BASE), %edi
    movl $1024, %ecx
    rep movsl
    movl $(boot_pd_high - KERNEL_BASE + 3), boot_pdpt_high - KERNEL_BASE + 510 * 8

    movl $(boot_pml4 - KERNEL_BASE), %edi
    movl $(boot_pdpt_low - KERNEL_BASE + 3), (%edi)            # one to one
    movl $(boot_pdpt_low - KERNEL_BASE + 3), 273 * 8(%edi)     # DIRECT_MAP
    movl $(boot_pdpt_high - KERNEL_BASE + 3), 511 * 8(%edi)    # KERNEL_BASE
    movl %edi, %cr3

    movl %cr4, %eax
    orl $(1 << 5), %eax                 # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx              # EFER
    rdmsr
    orl $(1 << 8), %eax                 # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax               # PG, PE
    movl %eax, %cr0

    lgdt boot_gdt_pointer - KERNEL_BASE
    ljmpl $8, $(pvh_start_64_low - KERNEL_BASE)

# No 64-bit mode: say so on COM1, tell QEMU, and stop.
no_long_mode:
    movl $(no_long_mode_text - KERNEL_BASE), %esi
1:  movw $0x3fd, %dx
2:  inb %dx, %al
    testb $0x20, %al
    jz 2b
    movb (%esi), %al
    testb %al, %al
    jz 3f
    movw $0x3f8, %dx
    outb %al, %dx
    incl %esi
    jmp 1b
3:  movl $3, %eax
    movw $0xf4, %dx
    outl %eax, %dx
4:  hlt
    jmp 4b

no_long_mode_text:
    .asciz "kmm: cannot boot: this CPU has no 64-bit mode\r\nkmm-exit: 3\r\n"

.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff            # 64-bit code
    .quad 0x00cf92000000ffff            # data
boot_gdt_pointer:
    .word 23
    .quad boot_gdt - KERNEL_BASE

.code64
pvh_start_64_low:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movabsq $pvh_start_64_high, %rax
    jmpq *%rax

pvh_start_64_high:
    movq $__boot_stack_top, %rsp
    movl %ebx, %edi
    xorl %ebp, %ebp
    call pvh_entry
    ud2

.text
