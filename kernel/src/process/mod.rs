//! Processes: what a program has, how it starts, forks, waits, is signalled and ends, and who runs when.
//!
//! All on the boot CPU; the others run no tasks ([`crate::smp`]). Kernel code is never preempted: it gives the CPU away only where it waits ([`wait_until`]) or on its way back to
//! user mode ([`on_return_to_user`]), where the tick may have asked for it. So data that interrupts do not touch needs locks
//! only to be shared, never to be waited for; nobody holds one across a wait, nor while touching user memory (a fault takes
//! the lock of the address space, and may read a file).
//!
//! A task never leaves a kernel stack for good while it owns something there: whoever ends a task only notes the wish
//! ([`Task::request_exit`]), and the last step before user mode carries it out.
//!
//! Reading order: [`Task`], `scheduler`, `exec`, `fork`, `wait`, `signal`.

mod commands;
pub mod elf;
mod exec;
mod fault;
mod files;
mod fork;
mod nth_tests;
mod page_wait;
pub mod random;
mod scheduler;
mod signal;
mod signal_frame;
mod space;
mod stack_image;
mod task;
mod tests;
mod wait;

use alloc::sync::Arc;
use core::fmt;

use crate::arch::TrapFrame;
use crate::fs::{Inode, tty};

pub use commands::{COMMANDS, run_program};
pub use exec::{check_executable, exec, spawn};
pub use fault::{on_user_exception, page_fault};
pub use files::{FILES_MAX, Fd, FdTable};
pub use fork::{Clone, fork};
pub use page_wait::PAGE_WAITS;
#[cfg(kasan)]
pub use scheduler::pid_at_hand;
pub use scheduler::{
    Channel, current, find_task, finish_switch as finish_first_switch, for_each_task, idle_ticks,
    init, nr_switches, run_scheduler, wait_until, wait_until_deadline, wake, yield_now,
};
pub use signal::{Action, AltStack, Signal, SignalSet, post as post_signal, signal_group};
pub use signal_frame::sigreturn;
pub use space::{
    MapFile, Mm, errno as mm_errno, map_request, unmap_file, with_mm as with_memory_of,
};
pub use task::{NAME_BYTES, Pid, State, Task};
pub use tests::TESTS;
pub use wait::{ExitStatus, Patience, WaitFor, reap_all, wait, wait_for};

/// What an exception says to a program. Linux: the first fields of `siginfo_t`.
#[derive(Clone, Copy, Debug)]
pub struct SignalInfo {
    /// Number of the signal.
    pub signo: i32,
    /// What caused it, in Linux's numbers.
    pub code: i32,
    /// The address that it is about.
    pub addr: u64,
}

/// Is this file the program of a task? Then it must not be changed. Linux: `deny_write_access`.
pub fn is_running(inode: &Arc<Inode>) -> bool {
    let mut is_running = false;
    for_each_task(|task| is_running |= task.mm().is_some_and(|mm| mm.runs(inode)));
    is_running
}

/// A thread that runs `main` in the kernel.
///
/// # Panics
/// When there is no memory for it: it is called at boot.
pub fn spawn_kernel_thread(name: &str, main: fn()) -> Pid {
    match task::spawn_kernel_thread(name, main) {
        Ok(pid) => pid,
        Err(error) => panic!("no kernel thread {name}: {error}"),
    }
}

/// The tick, from interrupt.
pub fn on_tick(frame: &TrapFrame) {
    scheduler::on_tick(frame.is_from_user());
    tty::pump();
}

/// The last step before user mode: gives the CPU away if the tick asked for it, delivers signals, ends the task if it has to.
pub fn on_return_to_user(frame: &mut TrapFrame) {
    scheduler::reschedule_if_asked();
    let task = current();
    signal_frame::deliver(&task, frame);
    if let Some(status) = task.exit_requested() {
        drop(task);
        wait::exit_current(status);
    }
}

/// Waits until something is typed.
pub fn wait_for_serial_byte() -> u8 {
    loop {
        // A kernel thread gets no signals, so the wait is never interrupted.
        if let Ok(byte) = wait_until(Channel::TTY, tty::take_byte) {
            return byte;
        }
    }
}

/// Between two parts of a long call: lets others run if it is time. `false` if a signal waits, so that the call should end.
pub fn may_go_on() -> bool {
    scheduler::reschedule_if_asked();
    let task = current();
    task.exit_requested().is_none() && !task.signals.is_any_deliverable()
}

/// The running task, to print; also when the kernel has panicked.
pub fn current_name() -> impl fmt::Display {
    scheduler::CurrentName
}
