// From `qemu -kernel` (PVH) to 64-bit mode. The CPU arrives in 32-bit mode without paging, ebx points at hvm_start_info.

.section .note.Xen, "a", @note
.balign 4
.long 4, 8, 18              // lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.quad pvh_start

.section .bss.boot, "aw", @nobits
.balign 4096
boot_pml4:  .skip 4096
boot_pdpt:  .skip 4096
boot_pd:    .skip 4096
boot_stack: .skip 65536
boot_stack_top:

.section .data.boot, "aw"
.balign 8
boot_gdt:   .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
boot_gdtr:  .word 23
            .quad boot_gdt

.section .text.boot, "ax"
.code32
pvh_start:
    mov edi, offset boot_pd // 512 pages of 2 MiB: present, writable, large
    mov eax, 0x83
    mov ecx, 512
2:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 2b
    mov eax, offset boot_pd + 3
    mov [boot_pdpt], eax
    mov eax, offset boot_pdpt + 3
    mov [boot_pml4], eax            // one to one
    mov [boot_pml4 + 273 * 8], eax  // PHYS_OFFSET
    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 1 << 5                  // PAE
    mov cr4, eax
    mov ecx, 0xc0000080             // EFER
    rdmsr
    or eax, 1 << 8                  // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80000001              // PG, PE
    mov cr0, eax
    lgdt [boot_gdtr]
    push 8
    mov eax, offset pvh_start_64
    push eax
    retf
.code64
pvh_start_64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rsp, offset boot_stack_top
    mov edi, ebx
    call pvh_main
    ud2
.text
