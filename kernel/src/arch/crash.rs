//! Ways for the kernel to die, for the tests of its reports.
#![expect(unsafe_code, reason = "breaks things on purpose")]

use core::arch::asm;
use core::hint::black_box;

/// Reads address 8.
pub fn read_null() -> ! {
    // SAFETY: it is not safe, and is meant not to be; the page is never mapped in kernel mode, so it faults.
    unsafe { asm!("mov {out}, [{address}]", address = in(reg) 8_u64, out = out(reg) _) };
    unreachable!("address 8 is mapped")
}

/// Recurses until the stack is used up.
pub fn overflow_stack() -> ! {
    fn recurse(depth: u64) -> u64 {
        let padding = black_box([depth; 16]);
        if depth == u64::MAX {
            0
        } else {
            recurse(depth + 1) + padding[3]
        }
    }
    let depth = black_box(recurse(0));
    unreachable!("the stack is {depth} deep")
}

/// Executes `ud2`.
pub fn undefined_opcode() -> ! {
    // SAFETY: raises #UD, which ends the kernel.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// Takes a lock twice.
pub fn deadlock() -> ! {
    let lock = crate::sync::IrqSpinLock::new(());
    let _first = lock.lock();
    let _second = lock.lock();
    unreachable!("a lock was taken twice")
}
