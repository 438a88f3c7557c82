//! The shell on the serial line: one command a line, from tables that each part of the kernel offers.

use alloc::string::String;
use alloc::vec::Vec;

use spin::Once;

use crate::arch::{exit, serial, timer};
use crate::boot::BootInfo;
use crate::{process, selftest, smp};

const PROMPT: &str = "kmm> ";
const MAX_LINE: usize = 512;
const END_OF_TRANSMISSION: u8 = 4;
const INTERRUPT: u8 = 3;
const KILL_LINE: u8 = 0x15;
const BACKSPACE: u8 = 8;
const DELETE: u8 = 0x7f;

/// Statuses of commands, as a shell has them.
pub mod status {
    /// It did what it was told.
    pub const OK: i32 = 0;
    /// It could not.
    pub const FAILED: i32 = 1;
    /// It was told wrongly.
    pub const USAGE: i32 = 2;
}

/// A command that is part of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// The word that calls it.
    pub name: &'static str,
    /// One line for `help`: arguments and what it does.
    pub help: &'static str,
    /// Runs it with the words after its name, and returns its status.
    pub run: fn(&[&str]) -> i32,
}

const OWN: &[Command] = &[
    Command {
        name: "help",
        help: "shows this list",
        run: help,
    },
    Command {
        name: "run",
        help: "PROGRAM [ARGS]: runs a program of the initramfs",
        run: run_program,
    },
    Command {
        name: "selftest",
        help: "[PART OF A NAME]: runs the kernel's tests",
        run: run_selftest,
    },
    Command {
        name: "crash",
        help: "panic|null|stack|opcode|deadlock [CPU]: ends the kernel with a report, to see one",
        run: crash,
    },
    Command {
        name: "uptime",
        help: "time since the kernel was entered",
        run: uptime,
    },
    Command {
        name: "poweroff",
        help: "[CODE]: ends the kernel",
        run: poweroff,
    },
];

/// All tables.
const GROUPS: &[&[Command]] = &[
    OWN,
    crate::mm::COMMANDS,
    crate::process::COMMANDS,
    crate::bench::COMMANDS,
];

static BOOT: Once<&'static BootInfo> = Once::new();

/// Tells the shell what the command line asks for.
pub fn init(boot: &'static BootInfo) {
    BOOT.call_once(|| boot);
}

/// The kernel thread: self-tests if the command line says so, else prompt, read, run, for ever.
pub fn main() {
    let boot = BOOT.get();
    if boot.is_some_and(|boot| boot.has_word("selftest")) {
        let nr_failed = selftest::run(boot.and_then(|boot| boot.value("filter")).unwrap_or(""));
        exit::exit(if nr_failed == 0 {
            exit::SUCCESS
        } else {
            exit::SELFTEST_FAILED
        });
    }
    let tells_status = boot.is_some_and(|boot| boot.has_word("exec"));
    println!("Type `help` for a list of commands.");
    let mut line = String::new();
    loop {
        print!("{PROMPT}");
        if !read_line(&mut line) {
            println!();
            exit::exit(exit::SUCCESS);
        }
        if line.trim().is_empty() {
            continue;
        }
        let status = execute(&line);
        if tells_status {
            println!("kmm-status: {status}");
        }
    }
}

/// Runs one line; returns the command's status.
pub fn execute(line: &str) -> i32 {
    let words = split(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((&name, arguments)) = words.split_first() else {
        return status::OK;
    };
    match GROUPS
        .iter()
        .copied()
        .flatten()
        .find(|command| command.name == name)
    {
        Some(command) => (command.run)(arguments),
        None => process::run_program(&words),
    }
}

/// Words by white space; single and double quotes keep what is between them together.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// Reads a line, with echo and erasing. `false` at the end of input (Ctrl-D on an empty line).
fn read_line(line: &mut String) -> bool {
    let mut bytes = Vec::new();
    loop {
        match process::wait_for_serial_byte() {
            b'\r' | b'\n' => {
                println!();
                break;
            }
            BACKSPACE | DELETE => {
                if bytes.pop().is_some() {
                    print!("\u{8} \u{8}");
                }
            }
            KILL_LINE => {
                while bytes.pop().is_some() {
                    print!("\u{8} \u{8}");
                }
            }
            INTERRUPT => {
                println!("^C");
                bytes.clear();
                break;
            }
            END_OF_TRANSMISSION if bytes.is_empty() => return false,
            byte if byte >= b' ' && bytes.len() < MAX_LINE => {
                bytes.push(byte);
                serial::write_bytes(&[byte]);
            }
            _ => {}
        }
    }
    line.clear();
    line.push_str(&String::from_utf8_lossy(&bytes));
    true
}

fn help(_arguments: &[&str]) -> i32 {
    for command in GROUPS.iter().copied().flatten() {
        println!("{:<12} {}", command.name, command.help);
    }
    println!("Any other word is a program of /bin.");
    status::OK
}

fn run_program(arguments: &[&str]) -> i32 {
    if arguments.is_empty() {
        println!("usage: run PROGRAM [ARGS]");
        return status::USAGE;
    }
    process::run_program(arguments)
}

fn run_selftest(arguments: &[&str]) -> i32 {
    if selftest::run(arguments.first().copied().unwrap_or("")) == 0 {
        status::OK
    } else {
        status::FAILED
    }
}

fn uptime(_arguments: &[&str]) -> i32 {
    println!(
        "{} ms, {} ticks",
        timer::now_ns() / 1_000_000,
        timer::ticks()
    );
    status::OK
}

fn poweroff(arguments: &[&str]) -> i32 {
    match arguments
        .first()
        .map_or(Ok(exit::SUCCESS), |code| code.parse())
    {
        Ok(code) => exit::exit(code),
        Err(_) => {
            println!("usage: poweroff [CODE]");
            status::USAGE
        }
    }
}

fn crash(arguments: &[&str]) -> i32 {
    const USAGE: &str = "usage: crash panic|null|stack|opcode|deadlock [CPU]";
    let way: fn() = match arguments.first() {
        Some(&"panic") => || panic!("as asked"),
        Some(&"null") => || crate::arch::crash::read_null(),
        Some(&"stack") => || crate::arch::crash::overflow_stack(),
        Some(&"opcode") => || crate::arch::crash::undefined_opcode(),
        Some(&"deadlock") => || crate::arch::crash::deadlock(),
        _ => {
            println!("{USAGE}");
            return status::USAGE;
        }
    };
    let Ok(cpu) = arguments.get(1).map_or(Ok(0), |text| text.parse()) else {
        println!("{USAGE}");
        return status::USAGE;
    };
    if smp::run_on(cpu, way).is_none() {
        println!("crash: CPU {cpu} is not up");
    }
    status::FAILED
}
