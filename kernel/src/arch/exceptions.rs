//! What each exception means: a signal for a user program; a resolved fault, a fixup or an oops for the kernel.

use core::fmt;

use x86_64::registers::control::Cr2;
use x86_64::structures::idt::PageFaultErrorCode;

use super::trap::TrapFrame;
use super::{KERNEL_STACK_BYTES, USER_END, backtrace, exit, interrupts, percpu, usercopy};
use crate::boot::image;
use crate::process::{self, SignalInfo};
use crate::{mm, panic, smp};

const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const PAGE_BYTES: u64 = 4096;

/// Linux's signal numbers and `si_code`s for exceptions.
pub mod signal {
    pub const SIGILL: i32 = 4;
    pub const SIGTRAP: i32 = 5;
    pub const SIGBUS: i32 = 7;
    pub const SIGFPE: i32 = 8;
    pub const SIGSEGV: i32 = 11;
    pub const SI_KERNEL: i32 = 0x80;
    pub const ILL_ILLOPN: i32 = 2;
    pub const TRAP_TRACE: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_FLTINV: i32 = 7;
    pub const SEGV_MAPERR: i32 = 1;
}

/// The name of an exception, as the SDM has it.
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        NMI => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        DOUBLE_FAULT => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack-segment fault",
        GENERAL_PROTECTION => "general protection fault",
        PAGE_FAULT => "page fault",
        16 => "x87 floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point error",
        _ => "unexpected exception",
    }
}

/// An exception in user mode, interrupts off.
pub(super) fn from_user(frame: &mut TrapFrame) {
    let cr2 = Cr2::read_raw();
    interrupts::enable();
    let error = PageFaultErrorCode::from_bits_truncate(frame.error_code);
    // Else the CPU itself read for an instruction of the program, like a descriptor: mapping a page would not help.
    let is_users = error.contains(PageFaultErrorCode::USER_MODE);
    if frame.vector == PAGE_FAULT && is_users {
        if let Err(info) = mm::page_fault(frame, cr2, error) {
            process::on_user_exception(frame, info);
        }
        return;
    }
    let (signo, code, addr) = match frame.vector {
        0 => (signal::SIGFPE, signal::FPE_INTDIV, frame.rip),
        1 => (signal::SIGTRAP, signal::TRAP_TRACE, frame.rip),
        3 => (signal::SIGTRAP, signal::SI_KERNEL, 0),
        6 => (signal::SIGILL, signal::ILL_ILLOPN, frame.rip),
        7 | 16 | 19 => (signal::SIGFPE, signal::FPE_FLTINV, frame.rip),
        11 | 12 => (signal::SIGBUS, signal::SI_KERNEL, 0),
        17 => (signal::SIGBUS, signal::BUS_ADRALN, 0),
        _ => (signal::SIGSEGV, signal::SI_KERNEL, 0),
    };
    process::on_user_exception(frame, SignalInfo { signo, code, addr });
}

/// User mode was told to continue where it cannot: as if the jump had faulted there.
pub(super) fn bad_user_rip(frame: &mut TrapFrame) {
    process::on_user_exception(
        frame,
        SignalInfo {
            signo: signal::SIGSEGV,
            code: signal::SEGV_MAPERR,
            addr: frame.rip,
        },
    );
}

/// An exception in kernel mode, interrupts off. Returns if the interrupted code can go on.
pub(super) fn from_kernel(frame: &mut TrapFrame) {
    let cr2 = Cr2::read_raw();
    if frame.vector == PAGE_FAULT && cr2 >= USER_END {
        let error = PageFaultErrorCode::from_bits_truncate(frame.error_code);
        if backtrace::with_interrupted(frame, || mm::kfence_fault(cr2, error)) {
            return;
        }
    }
    let fixup = usercopy::fixup(frame.rip);
    match (frame.vector, fixup) {
        (PAGE_FAULT, Some(fixup)) => {
            let error = PageFaultErrorCode::from_bits_truncate(frame.error_code);
            if cr2 < USER_END && percpu::cpu() != 0 {
                // Programs run on the boot CPU: what another one finds unmapped stays so.
            } else if cr2 < USER_END && frame.interrupts_were_on() {
                interrupts::enable();
                let resolved = mm::page_fault(frame, cr2, error);
                interrupts::disable();
                if resolved.is_ok() {
                    return;
                }
            } else if cr2 < USER_END {
                println!(
                    "kmm: bug: user memory at {cr2:#x} touched with interrupts off, so it cannot be brought in"
                );
            }
            frame.rip = fixup;
        }
        (GENERAL_PROTECTION, Some(fixup)) => frame.rip = fixup,
        (PAGE_FAULT, None) => fatal(
            frame,
            cr2,
            format_args!(
                "{}",
                PageFault {
                    address: cr2,
                    error_code: frame.error_code
                }
            ),
        ),
        _ => fatal(
            frame,
            cr2,
            format_args!("{}, error code {:#x}", name(frame.vector), frame.error_code),
        ),
    }
}

/// NMI, #DF or #MC, on a stack of its own. The kernel ends here; this CPU does, when another one has said so.
pub(super) fn paranoid(frame: &mut TrapFrame) {
    if frame.vector == NMI {
        smp::stop_if_told();
    }
    fatal(
        frame,
        Cr2::read_raw(),
        format_args!("{}", name(frame.vector)),
    );
}

struct PageFault {
    address: u64,
    error_code: u64,
}

impl fmt::Display for PageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = PageFaultErrorCode::from_bits_truncate(self.error_code);
        let verb = if error.contains(PageFaultErrorCode::INSTRUCTION_FETCH) {
            "execution"
        } else if error.contains(PageFaultErrorCode::CAUSED_BY_WRITE) {
            "write"
        } else {
            "read"
        };
        let why = if error.contains(PageFaultErrorCode::MALFORMED_TABLE) {
            "reserved bit set"
        } else if error.contains(PageFaultErrorCode::PROTECTION_VIOLATION) {
            "protection"
        } else {
            "not mapped"
        };
        write!(
            f,
            "page fault: {verb} at {:#x} ({why}, error code {:#x})",
            self.address, self.error_code
        )
    }
}

/// The stack that `rsp` has run off, if the faulting address says so.
fn overflowed_stack(rsp: u64, cr2: u64) -> Option<core::ops::Range<u64>> {
    let task_top = percpu::kernel_stack_top();
    let task_stack = task_top.wrapping_sub(KERNEL_STACK_BYTES as u64)..task_top;
    [task_stack, image::boot_stack()].into_iter().find(|stack| {
        let guard = stack.start.wrapping_sub(PAGE_BYTES)..stack.start;
        guard.contains(&cr2) && (guard.contains(&rsp) || stack.contains(&rsp) || rsp == stack.end)
    })
}

/// Reports and ends the kernel.
fn fatal(frame: &TrapFrame, cr2: u64, what: fmt::Arguments<'_>) -> ! {
    panic::begin();
    let overflowed = if matches!(frame.vector, PAGE_FAULT | DOUBLE_FAULT) {
        overflowed_stack(frame.rsp, cr2)
    } else {
        None
    };
    match overflowed {
        Some(stack) => println!(
            "kmm: oops: kernel stack overflow: rsp {:#x} has left the stack {:#x}-{:#x}, guard page hit at {cr2:#x}",
            frame.rsp,
            stack.start,
            stack.end - 1
        ),
        None => println!("kmm: oops: {what}"),
    }
    println!(
        "  CPU {}, task {}, cr2 {cr2:016x}, cr3 {:016x}",
        percpu::cpu(),
        smp::current_name(),
        super::cpu::read_cr3()
    );
    println!("{frame}");
    backtrace::print_interrupted(frame);
    exit::exit(exit::PANIC)
}
