//! `print!` and `println!` on the serial line, visible in every module.

use core::fmt;

use crate::arch::serial;

/// Writes formatted text to the serial line.
///
/// # Context
/// Any, interrupts included; the serial lock is IRQ-off.
pub fn print(args: fmt::Arguments<'_>) {
    serial::write_fmt(args);
}

macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

macro_rules! println {
    () => { $crate::console::print(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}
