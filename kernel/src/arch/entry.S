# Entry and exit: 256 trap stubs, the `syscall` entry, the way back to user mode, the context switch.
# A TrapFrame (trap.rs) is built on the kernel stack by each; offsets in it are FRAME_*.

.set FRAME_VECTOR, 15 * 8
.set FRAME_CS,     18 * 8
.set FRAME_RSP,    20 * 8
.set PERCPU_STACK, 8
.set PERCPU_USER_RSP, 16
.set USER_CODE, 0x2b
.set USER_DATA, 0x23
.set SYSCALL_VECTOR, 0x100
.set MSR_GS_BASE, 0xc0000101

# Where SMAP is on, these three bytes become `clac` or `stac` (features.rs).
.macro SMAP_SITE kind
880:
    .byte 0x0f, 0x1f, 0x00              # a three-byte no-op
    .pushsection .smap_sites, "a", @progbits
    .quad 880b
    .quad \kind
    .popsection
.endm
.macro CLAC
    SMAP_SITE 0xca
.endm
.macro STAC
    SMAP_SITE 0xcb
.endm

# A fault at the next instruction goes on at \fixup (usercopy.rs).
.macro CATCH fixup
881:
    .pushsection .ex_table, "a", @progbits
    .quad 881b
    .quad \fixup
    .popsection
.endm

.macro PUSH_REGS
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
.endm

.macro POP_REGS
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
.endm

.section .text.entry, "ax", @progbits

# One stub per vector, TRAP_STUB_LEN (16) bytes each. #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX push an
# error code; the others get a zero. NMI, #DF and #MC may find either GS, so they look.
.balign 16
.globl trap_stubs
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    push 0
    .endif
    push vector
    .if vector == 2 || vector == 8 || vector == 18
    jmp trap_paranoid
    .else
    jmp trap_common
    .endif
    .set vector, vector + 1
.endr
.balign 16

trap_common:
    cld
    test byte ptr [rsp + 24], 3         # CS: from user mode?
    jz 1f
    swapgs
1:  CLAC
    PUSH_REGS
    mov rdi, rsp
    test byte ptr [rsp + FRAME_CS], 3
    jz 2f
    xor ebp, ebp                        # the frame-pointer chain ends at user mode
    call trap_from_user
    jmp exit_to_user
2:  call trap_from_kernel
    POP_REGS
    add rsp, 16
    iretq

trap_paranoid:
    cld
    CLAC
    PUSH_REGS
    xor ebx, ebx
    mov ecx, MSR_GS_BASE
    rdmsr
    test edx, edx
    js 1f                               # a high-half base: GS is the kernel's already
    swapgs
    mov ebx, 1
1:  mov rdi, rsp
    test byte ptr [rsp + FRAME_CS], 3
    jz 2f
    xor ebp, ebp
2:  call trap_paranoid_rust
    test ebx, ebx
    jz 3f
    swapgs
3:  POP_REGS
    add rsp, 16
    iretq

# `syscall` in compatibility mode, which no program gets into: ENOSYS at once, without a stack.
.balign 16
.globl syscall_entry_compat
syscall_entry_compat:
    mov eax, -38
    .byte 0x0f, 0x07                    # sysret to 32-bit code

# `syscall`: RCX is the user's RIP, R11 its RFLAGS, RSP still the user's; interrupts are off (FMASK).
.balign 16
.globl syscall_entry
syscall_entry:
    swapgs
    mov gs:[PERCPU_USER_RSP], rsp
    mov rsp, gs:[PERCPU_STACK]
    push USER_DATA
    push gs:[PERCPU_USER_RSP]
    push r11
    push USER_CODE
    push rcx
    push rax                            # in the place of the error code: the call's number
    push SYSCALL_VECTOR
    PUSH_REGS
    mov rdi, rsp
    xor ebp, ebp
    call syscall_from_user
    # falls through

# RSP points to a TrapFrame of user mode. `prepare_exit_to_user` returns with interrupts off, and says whether
# `sysret` can do it: RCX and R11 of the frame are then RIP and RFLAGS.
exit_to_user:
    mov rdi, rsp
    call prepare_exit_to_user
    test al, al
    jz 1f
    POP_REGS
    mov rsp, [rsp + FRAME_RSP - FRAME_VECTOR]
    swapgs
    sysretq
1:  POP_REGS
    add rsp, 16
    swapgs
    iretq

# fn switch_stacks(prev_rsp: *mut u64, next_rsp: u64)
.balign 16
.globl switch_stacks
switch_stacks:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# First words of a kernel thread: R12 is its function, R13 the argument; RSP is 16-byte aligned.
.globl start_kernel_thread
start_kernel_thread:
    xor ebp, ebp
    call finish_first_switch
    sti
    mov rdi, r13
    call r12
    ud2

# First words of a user thread: RSP points to its TrapFrame.
.globl start_user_thread
start_user_thread:
    xor ebp, ebp
    call finish_first_switch
    jmp exit_to_user

# fn user_copy(dst, src, len_bytes) -> bytes not copied
.balign 16
.globl user_copy
user_copy:
    STAC
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
    CATCH 4f
    rep movsq
    mov ecx, edx
    CATCH 5f
    rep movsb
    CLAC
    xor eax, eax
    ret
4:  lea rax, [rdx + rcx * 8]
    CLAC
    ret
5:  mov rax, rcx
    CLAC
    ret

# fn user_clear(dst, len_bytes) -> bytes not cleared
.balign 16
.globl user_clear
user_clear:
    STAC
    xor eax, eax
    mov rcx, rsi
    shr rcx, 3
    and esi, 7
    CATCH 4f
    rep stosq
    mov ecx, esi
    CATCH 5f
    rep stosb
    CLAC
    ret
4:  lea rax, [rsi + rcx * 8]
    CLAC
    ret
5:  mov rax, rcx
    CLAC
    ret

# fn user_string(dst, src, max_bytes) -> length before the NUL, `max_bytes` if there is none, all ones at a fault
.balign 16
.globl user_string
user_string:
    STAC
    xor ecx, ecx
1:  cmp rcx, rdx
    jae 2f
    CATCH 4f
    mov al, [rsi + rcx]
    mov [rdi + rcx], al
    test al, al
    jz 2f
    inc rcx
    jmp 1b
2:  mov rax, rcx
    CLAC
    ret
4:  mov rax, -1
    CLAC
    ret

# fn probe_read(address, out: *mut u64) -> 0, or 1 at a fault
.balign 16
.globl probe_read
probe_read:
    CATCH 4f
    mov rax, [rdi]
    mov [rsi], rax
    xor eax, eax
    ret
4:  mov eax, 1
    ret

.text
