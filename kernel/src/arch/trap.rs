//! The state of an interrupted program, and the ways into and out of user mode.
//!
//! A trap pushes a [`TrapFrame`] on the kernel stack of the running task: it came from user mode when `cs` says so. From there
//! `trap_from_user` runs with GS swapped, and every way back to user mode goes through `prepare_exit_to_user`.
#![expect(unsafe_code, reason = "called from and calls assembly")]

use core::arch::global_asm;
use core::fmt;
use core::mem::{offset_of, size_of};

use super::{USER_END, exceptions, gdt, interrupts, irq};
use crate::process;

global_asm!(include_str!("entry.S"));

/// The vector of a frame that `syscall` made.
pub const SYSCALL_VECTOR: u64 = 0x100;

/// RFLAGS that a user program may have set: arithmetic, TF, IF, DF, AC, ID; bit 1 is always set.
const USER_FLAGS: u64 = 0x0024_0fd5;
const FLAGS_FIXED: u64 = 1 << 1;
const FLAGS_TRAP: u64 = 1 << 8;
const FLAGS_INTERRUPT: u64 = 1 << 9;
const FLAGS_RESUME: u64 = 1 << 16;

/// Registers of an interrupted program, as `entry.S` pushes them. Linux: `pt_regs`.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The vector, or [`SYSCALL_VECTOR`].
    pub vector: u64,
    /// The CPU's error code, or 0; for a system call its number. Linux: `orig_ax`.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(
    size_of::<TrapFrame>() == 22 * 8
        && offset_of!(TrapFrame, vector) == 15 * 8
        && offset_of!(TrapFrame, rsp) == 20 * 8
);

impl TrapFrame {
    /// A program about to start: all registers zero but `rip` and `rsp`, interrupts on.
    pub fn new_user(rip: u64, rsp: u64) -> Self {
        Self {
            rip,
            rsp,
            cs: u64::from(gdt::USER_CODE),
            ss: u64::from(gdt::USER_DATA),
            rflags: FLAGS_FIXED | FLAGS_INTERRUPT,
            ..Self::default()
        }
    }

    /// Did it come from user mode?
    pub fn is_from_user(&self) -> bool {
        self.cs & 3 != 0
    }

    /// Did `syscall` make it?
    pub fn is_syscall(&self) -> bool {
        self.vector == SYSCALL_VECTOR
    }

    /// Number of the system call. Linux: `orig_ax`.
    pub fn syscall_nr(&self) -> u64 {
        self.error_code
    }

    /// Arguments of the system call, in order.
    pub fn syscall_args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// Were interrupts on?
    pub fn interrupts_were_on(&self) -> bool {
        self.rflags & FLAGS_INTERRUPT != 0
    }

    /// `sysret` takes RIP from RCX and RFLAGS from R11, and must not see what it would turn into a fault in kernel mode.
    fn can_sysret(&self) -> bool {
        self.is_syscall()
            && self.rcx == self.rip
            && self.r11 == self.rflags
            && self.cs == u64::from(gdt::USER_CODE)
            && self.ss == u64::from(gdt::USER_DATA)
            && self.rflags & (FLAGS_TRAP | FLAGS_RESUME) == 0
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  rip {:016x} cs {:02x} rflags {:08x} rsp {:016x} ss {:02x}",
            self.rip, self.cs, self.rflags, self.rsp, self.ss
        )?;
        writeln!(
            f,
            "  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}",
            self.rax, self.rbx, self.rcx, self.rdx
        )?;
        writeln!(
            f,
            "  rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}",
            self.rsi, self.rdi, self.rbp, self.r8
        )?;
        writeln!(
            f,
            "  r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}",
            self.r9, self.r10, self.r11, self.r12
        )?;
        write!(
            f,
            "  r13 {:016x} r14 {:016x} r15 {:016x}",
            self.r13, self.r14, self.r15
        )
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_from_user(frame: &mut TrapFrame) {
    if frame.vector < 32 {
        exceptions::from_user(frame);
    } else {
        irq::handle(frame);
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_from_kernel(frame: &mut TrapFrame) {
    if frame.vector < 32 {
        exceptions::from_kernel(frame);
    } else {
        irq::handle(frame);
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_paranoid_rust(frame: &mut TrapFrame) {
    exceptions::paranoid(frame);
}

/// Last stop before user mode. Returns with interrupts off; `true` if `sysret` can do it.
#[unsafe(no_mangle)]
extern "C" fn prepare_exit_to_user(frame: &mut TrapFrame) -> bool {
    interrupts::enable();
    process::on_return_to_user(frame);
    while frame.rip >= USER_END {
        // The exit instruction itself would fault, in kernel mode.
        exceptions::bad_user_rip(frame);
        process::on_return_to_user(frame);
    }
    interrupts::disable();
    frame.cs = u64::from(gdt::USER_CODE);
    frame.ss = u64::from(gdt::USER_DATA);
    frame.rflags = (frame.rflags & (USER_FLAGS | FLAGS_RESUME)) | FLAGS_FIXED | FLAGS_INTERRUPT;
    frame.can_sysret()
}
