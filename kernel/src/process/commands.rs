//! What the kernel's shell can do with processes.

use alloc::format;

use super::{for_each_task, reap_all, spawn, wait};
use crate::fs::{open_console, tty};
use crate::heap;
use crate::mm;
use crate::shell::{Command, status};
use crate::syscall::Errno;

/// What programs of the shell find in their environment.
pub(super) const ENVIRONMENT: &[&str] = &["PATH=/bin", "HOME=/", "TERM=vt100", "USER=root"];
/// A shell's statuses for a program that is not there, and one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Shell commands of processes.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "tasks",
        help: "lists the tasks",
        run: tasks,
    },
    Command {
        name: "stackdepth",
        help: "how deep kernel stacks of tasks have been, of those that started after the first call and have ended",
        run: stack_depth,
    },
    Command {
        name: "failslab",
        help: "N [SEED]: refuses one in N of the kernel's allocations for programs; 0 for none",
        run: fail_slab,
    },
];

/// Runs a program of /bin, or one by its path, on the terminal, and waits for it. Returns its status as a shell does.
pub fn run_program(words: &[&str]) -> i32 {
    let Some(&name) = words.first() else {
        return status::USAGE;
    };
    let path = if name.contains('/') {
        name.into()
    } else {
        format!("/bin/{name}")
    };
    let started = {
        let _serving = heap::ForProgram::begin();
        open_console().and_then(|console| spawn(&path, words, ENVIRONMENT, &console))
    };
    let ended = match started {
        Ok(pid) => {
            tty::set_owner(Some(pid));
            wait(pid)
        }
        Err(error) => {
            println!("{name}: {}", describe(error));
            return if error == Errno::NOENT {
                NOT_FOUND
            } else {
                NOT_EXECUTABLE
            };
        }
    };
    tty::set_owner(None);
    reap_all();
    let Some(ended) = ended else {
        return status::FAILED;
    };
    if let Some(signal) = ended.signal() {
        println!("{name}: ended by {signal}");
    }
    ended.shell_status()
}

fn describe(error: Errno) -> &'static str {
    match error {
        Errno::NOENT => "not found",
        Errno::NOEXEC => "not a program for this kernel (ENOEXEC)",
        Errno::ACCES => "may not be executed",
        Errno::NOMEM => "no memory",
        Errno::AGAIN => "too many tasks",
        _ => "cannot be run",
    }
}

/// Fails when a quarter of the stack or less was left.
fn stack_depth(_arguments: &[&str]) -> i32 {
    let deepest_bytes = mm::measure_stacks();
    println!("deepest: {deepest_bytes} of {} bytes", mm::STACK_BYTES);
    if deepest_bytes <= mm::STACK_BYTES / 4 * 3 {
        status::OK
    } else {
        status::FAILED
    }
}

fn fail_slab(arguments: &[&str]) -> i32 {
    let number = |at: usize| arguments.get(at).map(|text| text.parse());
    match (number(0), number(1).unwrap_or(Ok(1))) {
        (Some(Ok(share)), Ok(seed)) => {
            heap::refuse_one_in(share, seed);
            status::OK
        }
        _ => {
            println!("usage: failslab N [SEED]");
            status::USAGE
        }
    }
}

fn tasks(_arguments: &[&str]) -> i32 {
    println!("  PID  PPID S NAME");
    for_each_task(|task| {
        println!(
            "{:>5} {:>5} {} {}",
            task.pid,
            task.parent(),
            task.state().letter(),
            task.name()
        )
    });
    status::OK
}
