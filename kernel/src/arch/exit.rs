//! The end: a line that says the exit code, then QEMU's `isa-debug-exit`, then ACPI soft-off as QEMU has it, then a halt.
#![expect(unsafe_code, reason = "port I/O")]

use x86_64::instructions::port::Port;

use super::{cpu, serial};
use crate::smp;

/// All went well.
pub const SUCCESS: u8 = 0;
/// A self-test failed.
pub const SELFTEST_FAILED: u8 = 1;
/// The machine cannot be booted: too little memory, no memory map, no 64-bit mode.
pub const CANNOT_BOOT: u8 = 3;
/// The kernel panicked. Seven bits, as `isa-debug-exit` carries no more.
pub const PANIC: u8 = 101;

const ISA_DEBUG_EXIT_PORT: u16 = 0xf4;
const QEMU_PM1A_CONTROL_PORT: u16 = 0x604;
const SLEEP_ENABLE_S5: u16 = 0x2000;

/// Stops the other CPUs, prints `kmm-exit: code` and ends the machine. `isa-debug-exit` turns the code `n` into `2n + 1`, so the line is what to read.
pub fn exit(code: u8) -> ! {
    smp::stop_others();
    serial::force_unlock();
    println!("kmm-exit: {code}");
    // SAFETY: the port belongs to `isa-debug-exit`, or to nothing.
    unsafe { Port::<u32>::new(ISA_DEBUG_EXIT_PORT).write(u32::from(code)) };
    // SAFETY: QEMU's PM1a control register; with S5 it switches the machine off.
    unsafe { Port::<u16>::new(QEMU_PM1A_CONTROL_PORT).write(SLEEP_ENABLE_S5) };
    println!("kmm: halted; the machine can be switched off");
    cpu::halt_forever()
}
