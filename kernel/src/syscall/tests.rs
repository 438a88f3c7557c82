//! Self-tests of system calls. Programs test most of them: see `process`.

use super::{Errno, dispatch, nr};
use crate::arch::TrapFrame;
use crate::ensure;
use crate::selftest::{Outcome, Test};

/// Self-tests of system calls.
pub const TESTS: &[Test] = &[Test {
    name: "syscall::every_number_has_an_answer",
    run: every_number,
}];

/// Calls that do not come back, or that wait.
const LEFT_OUT: &[u64] = &[
    nr::EXIT,
    nr::EXIT_GROUP,
    nr::PAUSE,
    nr::RT_SIGSUSPEND,
    nr::RT_SIGRETURN,
    nr::SELECT,
    nr::PSELECT6,
    nr::POLL,
    nr::PPOLL,
];
const NUMBERS: u64 = 600;
const KERNEL_POINTER: u64 = 0xffff_8880_0000_1000;

/// With kernel addresses for all arguments, no call may do anything but fail, or succeed without touching them.
fn every_number() -> Outcome {
    for number in (0..NUMBERS).filter(|number| !LEFT_OUT.contains(number)) {
        let mut frame = TrapFrame::new_user(0, 0);
        frame.error_code = number;
        frame.rax = number;
        for argument in [
            &mut frame.rdi,
            &mut frame.rsi,
            &mut frame.rdx,
            &mut frame.r10,
            &mut frame.r8,
            &mut frame.r9,
        ] {
            *argument = KERNEL_POINTER;
        }
        dispatch(&mut frame);
        let is_error = frame.rax.wrapping_neg() < 200;
        ensure!(
            is_error || frame.rax < 1 << 32,
            "call {number} returned {:#x}",
            frame.rax
        );
    }
    let mut frame = TrapFrame::new_user(0, 0);
    frame.error_code = u64::MAX;
    dispatch(&mut frame);
    ensure!(
        frame.rax == Errno::NOSYS.as_return_value(),
        "call {} returned {:#x}",
        u64::MAX,
        frame.rax
    );
    Ok(())
}
