# What the compiler calls before each access: -Zsanitizer=kernel-address with every check as a call.
# Assembly, because what is written in Rust is itself checked. Accesses that are fine end here; all others
# go to kasan_bad_access(address, size, is_write, instruction pointer).

.set DIRECT_MAP,    0xffff888000000000
.set VMALLOC_START, 0xffffc90000000000
.set SHADOW_OFFSET, 0xdffffc0000000000

.section .bss.kasan, "aw", @nobits
.balign 8
# Bytes from DIRECT_MAP and from VMALLOC_START on that have a shadow. Both are 0 until there is one.
.globl kasan_direct_bytes
kasan_direct_bytes: .skip 8
.globl kasan_vmalloc_bytes
kasan_vmalloc_bytes: .skip 8

.text

# Leaves for `yes` if the address in rdi has a shadow. What has none may be touched in the upper half (the image),
# and goes to `bad` in the lower. Changes rax, rcx.
.macro has_shadow yes, bad
    movabsq $DIRECT_MAP, %rcx
    movq %rdi, %rax
    subq %rcx, %rax
    cmpq kasan_direct_bytes(%rip), %rax
    jb \yes
    movabsq $VMALLOC_START, %rcx
    movq %rdi, %rax
    subq %rcx, %rax
    cmpq kasan_vmalloc_bytes(%rip), %rax
    jb \yes
    testq %rdi, %rdi
    jns \bad
    ret
.endm

.macro check name, size, is_write
.globl \name
.type \name, @function
\name:
    cmpq $0, kasan_direct_bytes(%rip)
    je 9f
    has_shadow 2f, 8f
2:  movabsq $SHADOW_OFFSET, %rcx
    movq %rdi, %rax
    shrq $3, %rax
.if \size == 16
    cmpw $0, (%rax, %rcx)
    jne 8f
.else
    movzbl (%rax, %rcx), %eax
    testb %al, %al
    je 9f
    # Part of the eight bytes may be touched, if any: poison is negative.
    movl %edi, %edx
    andl $7, %edx
    addl $(\size - 1), %edx
    cmpb %al, %dl
    jge 8f
.endif
9:  ret
8:  movl $\size, %esi
    movl $\is_write, %edx
    movq (%rsp), %rcx
    jmp kasan_bad_access
.size \name, . - \name
.endm

check __asan_load1, 1, 0
check __asan_load2, 2, 0
check __asan_load4, 4, 0
check __asan_load8, 8, 0
check __asan_load16, 16, 0
check __asan_store1, 1, 1
check __asan_store2, 2, 1
check __asan_store4, 4, 1
check __asan_store8, 8, 1
check __asan_store16, 16, 1

# rdi: address, rsi: size, edx: is_write, r8: instruction pointer.
check_range:
    cmpq $0, kasan_direct_bytes(%rip)
    je 9f
    testq %rsi, %rsi
    je 9f
    has_shadow 2f, 8f
2:  movq %rdi, %r9
    leaq -1(%rdi, %rsi), %r10
    movabsq $SHADOW_OFFSET, %r11
    movq %r10, %rcx
    shrq $3, %rcx                       # granule of the last byte
    movq %rdi, %rax
    shrq $3, %rax                       # granule of the first
    cmpq %rax, %rcx
    jb 8f                               # wraps around
    leaq (%rax, %r11), %rdi
    subq %rax, %rcx
    addq %rcx, %r11
    addq %rax, %r11                     # shadow of the last byte
    xorl %eax, %eax
    # All granules but the last must be whole: scan while they are 0.
    cmpq %rax, %rax
    repe scasb
    movq %r9, %rdi
    jne 8f
    movzbl (%r11), %eax
    testb %al, %al
    je 9f
    andl $7, %r10d
    cmpb %al, %r10b
    jge 8f
9:  ret
8:  movq %r8, %rcx
    jmp kasan_bad_access

.globl __asan_loadN
__asan_loadN:
    xorl %edx, %edx
    movq (%rsp), %r8
    jmp check_range

.globl __asan_storeN
__asan_storeN:
    movl $1, %edx
    movq (%rsp), %r8
    jmp check_range

# Whole pages are cleared and copied before their new owner is known, by those who own all pages: they are not checked.
# Linux: clear_page and copy_page are assembly.
.macro skip_pages to
    movq %rdi, %rax
    orq %rdx, %rax
    testl $0xfff, %eax
    je \to
.endm

# A frame, so that stack traces lead through here; room for three arguments.
.macro enter
    pushq %rbp
    movq %rsp, %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    subq $8, %rsp
.endm

.macro leave_to function
    addq $8, %rsp
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    jmp \function
.endm

.globl __asan_memset
__asan_memset:
    skip_pages memset
    enter
    movq %rdx, %rsi
    movl $1, %edx
    movq 8(%rbp), %r8
    call check_range
    leave_to memset

.macro copy name, to
.globl \name
\name:
    skip_pages \to
    enter
    movq %rdx, %rsi
    movl $1, %edx
    movq 8(%rbp), %r8
    call check_range
    movq -16(%rbp), %rdi
    movq -24(%rbp), %rsi
    xorl %edx, %edx
    movq 8(%rbp), %r8
    call check_range
    leave_to \to
.endm

copy __asan_memcpy, memcpy
copy __asan_memmove, memmove

# No variables on stacks are watched.
.globl __asan_handle_no_return
__asan_handle_no_return:
    ret
