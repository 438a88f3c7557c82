//! Linux's system calls.

use crate::arch::TrapFrame;
use crate::selftest::Test;

/// Self-tests of system calls.
pub const TESTS: &[Test] = &[];

const ENOSYS: u64 = 38;

/// Serves one system call, interrupts on: its number and arguments are in `frame`, its result goes to `frame.rax`.
pub fn dispatch(frame: &mut TrapFrame) {
    frame.rax = ENOSYS.wrapping_neg();
}
