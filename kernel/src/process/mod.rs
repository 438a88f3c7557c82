//! Tasks and the scheduler.

use crate::arch::{TrapFrame, interrupts, serial};
use crate::selftest::Test;
use crate::shell::{Command, status};

/// Self-tests of processes.
pub const TESTS: &[Test] = &[];

/// Shell commands about processes.
pub const COMMANDS: &[Command] = &[];

/// A signal that the CPU causes. Linux: `kernel_siginfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    /// Which.
    pub signo: i32,
    /// Why.
    pub code: i32,
    /// The address at fault.
    pub addr: u64,
}

/// Builds the first task.
pub fn init() {}

/// A user program did what it may not: `frame` has its registers. Interrupts on; may not return to the program.
pub fn on_user_exception(frame: &mut TrapFrame, info: SignalInfo) {
    panic!("signal {info:?} at {:#x}", frame.rip);
}

/// The tick, interrupts off, on whatever was interrupted. May switch tasks if `frame` is from user mode.
pub fn on_tick(_frame: &mut TrapFrame) {}

/// Before each return to user mode, interrupts on: pending signals end the task here.
pub fn on_return_to_user(_frame: &mut TrapFrame) {}

/// The first words of a new task: releases what the scheduler holds across the switch.
pub fn finish_first_switch() {}

/// Name of the running task, for reports.
pub fn current_name() -> &'static str {
    "boot"
}

/// A new kernel thread.
pub fn spawn_kernel_thread(_name: &'static str, function: fn()) {
    interrupts::enable();
    function();
}

/// The idle loop of this CPU.
pub fn run_scheduler() -> ! {
    crate::arch::cpu::halt_forever()
}

/// Waits, letting others run, until a byte arrives on the serial line.
pub fn wait_for_serial_byte() -> u8 {
    loop {
        if let Some(byte) = serial::read_byte() {
            return byte;
        }
        interrupts::enable_and_wait();
    }
}

/// Runs a program in the foreground and returns its status.
pub fn run_program(words: &[&str]) -> i32 {
    println!("{}: not found", words[0]);
    status::FAILED
}

/// Frees what ended tasks have left.
pub fn reap_all() {}
