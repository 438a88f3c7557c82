//! `cargo xtask run`: builds, boots, and lends the guest's serial line to the user, to a pipe, or to a list of commands.

use core::time::Duration;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::flags::Flags;
use crate::guest::{Guest, PROMPT, Wait, exit_code};
use crate::kernel::Flavour;
use crate::qemu::{Door, Machine};
use crate::{image, initramfs, kernel, proc};

/// The exit status when the guest went away without a word, and when it was killed for taking too long.
pub(crate) const DIED: u8 = 102;
pub(crate) const TIMED_OUT: u8 = 103;
const DEFAULT_TIMEOUT_S: u32 = 240;
/// After the end of input, a program that still reads gets an end of file when nothing was printed for so long.
const SILENCE: Duration = Duration::from_secs(3);
const END_OF_FILE: &[u8] = &[4];

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let selftest = flags.flag("--selftest");
    let commands = flags.values("--exec")?;
    let uefi = flags.flag("--uefi");
    let flavour = Flavour::from_flags(&mut flags);
    let words = flags.values("--cmdline")?;
    let timeout = Duration::from_secs(
        flags
            .number("--timeout")?
            .unwrap_or(DEFAULT_TIMEOUT_S)
            .into(),
    );
    let kernel = flags.value("--kernel")?.map(PathBuf::from);
    let mut machine = Machine::from_flags(&mut flags)?;
    machine.extra = flags.finish()?;

    let mut cmdline = words;
    if selftest {
        cmdline.push("selftest".to_owned());
    }
    if !commands.is_empty() {
        cmdline.push("exec".to_owned());
    }
    let parts = Parts::build(kernel, flavour)?;
    let door = parts.door("run", uefi, &cmdline.join(" "))?;
    let log = proc::work_dir("log")?.join("serial.log");
    let command = machine.command(&door, &log)?;
    if machine.gdb {
        eprintln!(
            "  waiting for a debugger; type: gdb {} -ex 'target remote :1234'",
            parts.kernel.display()
        );
    }
    eprintln!("  booting; the serial line is kept in {}", log.display());
    if selftest {
        watch(command, timeout)
    } else if !commands.is_empty() {
        exec(command, &commands, timeout)
    } else if std::io::stdin().is_terminal() {
        lend_terminal(command, &log)
    } else {
        lend_pipe(command)
    }
}

/// What is built before a boot.
pub(crate) struct Parts {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Parts {
    /// Builds what has to be built; `kernel` is taken as it is, if given.
    pub(crate) fn build(kernel: Option<PathBuf>, flavour: Flavour) -> Result<Self> {
        let kernel = kernel.map_or_else(|| kernel::build(flavour), Ok)?;
        let name = match flavour {
            Flavour::Plain => "initramfs",
            Flavour::Kasan => "initramfs-kasan",
        };
        let initramfs = initramfs::build(&kernel, name, None)?;
        Ok(Self { kernel, initramfs })
    }

    /// The way in for a boot called `name`, with the files that it needs.
    pub(crate) fn door(&self, name: &str, uefi: bool, cmdline: &str) -> Result<Door> {
        if uefi {
            return Ok(Door::Uefi {
                image: image::build(&self.kernel, name, cmdline)?,
            });
        }
        let initramfs = Some(self.initramfs.clone());
        Ok(Door::Pvh {
            kernel: self.kernel.clone(),
            initramfs,
            cmdline: cmdline.to_owned(),
        })
    }
}

/// Shows everything; the guest stops by itself and says how it went.
fn watch(command: Command, timeout: Duration) -> Result<u8> {
    let mut guest = Guest::start(command, true)?;
    if guest.wait_for_end(Instant::now() + timeout) == Wait::TimedOut {
        return Ok(timed_out(timeout));
    }
    Ok(guest.exit_code().unwrap_or_else(died))
}

/// Types the commands one by one; the first status that is not 0 becomes ours.
fn exec(command: Command, commands: &[String], timeout: Duration) -> Result<u8> {
    let mut guest = Guest::start(command, false)?;
    let deadline = Instant::now() + timeout;
    let wait = guest.wait_for(PROMPT, deadline);
    if wait != Wait::Found {
        print!("{}", guest.text());
        return Ok(no_answer(&guest, wait, timeout));
    }
    let mut first = 0;
    for line in commands {
        match guest.exec(line, deadline) {
            Ok((text, status)) => {
                print!("{text}");
                if first == 0 {
                    first = status;
                }
            }
            Err((wait, text)) => {
                print!("{text}");
                return Ok(no_answer(&guest, wait, timeout));
            }
        }
    }
    guest.send(b"poweroff\n");
    if guest.wait_for_end(deadline) == Wait::TimedOut && first == 0 {
        return Ok(timed_out(timeout));
    }
    Ok(first)
}

/// QEMU has the terminal to itself.
fn lend_terminal(mut command: Command, log: &std::path::Path) -> Result<u8> {
    let status = command.status().context("cannot start QEMU")?;
    let text = std::fs::read(log).unwrap_or_default();
    if let Some(code) = exit_code(&String::from_utf8_lossy(&text)) {
        return Ok(code);
    }
    // Ctrl-C, or `quit` in a monitor that the user asked for.
    Ok(if status.code().is_none_or(|code| code == 0) {
        0
    } else {
        died()
    })
}

/// Standard input goes to the guest once it listens; at its end the guest is told to power off.
fn lend_pipe(command: Command) -> Result<u8> {
    const TICK: Duration = Duration::from_millis(50);
    let mut guest = Guest::start(command, true)?;
    let (sender, input) = channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    // What is typed before the serial line is set up would be lost.
    while !guest.text().ends_with(PROMPT) && !guest.has_ended() {
        guest.receive(Instant::now() + SILENCE);
    }
    let mut open = true;
    let mut heard = Instant::now();
    while !guest.has_ended() {
        if guest.receive(Instant::now() + TICK) {
            heard = Instant::now();
        }
        if open {
            match input.try_recv() {
                Ok(bytes) => guest.send(&bytes),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => open = false,
            }
            heard = Instant::now();
        } else if guest.text().ends_with(PROMPT) {
            guest.send(b"poweroff\n");
            guest.wait_for_end(Instant::now() + Duration::from_secs(20));
            break;
        } else if heard.elapsed() >= SILENCE {
            guest.send(END_OF_FILE);
            heard = Instant::now();
        }
    }
    guest.stop();
    Ok(guest.exit_code().unwrap_or_else(died))
}

fn no_answer(guest: &Guest, wait: Wait, timeout: Duration) -> u8 {
    if wait == Wait::TimedOut {
        timed_out(timeout)
    } else {
        guest
            .exit_code()
            .filter(|&code| code != 0)
            .unwrap_or_else(died)
    }
}

fn died() -> u8 {
    eprintln!("xtask: the guest stopped without a kmm-exit line (a triple fault looks like this)");
    DIED
}

fn timed_out(timeout: Duration) -> u8 {
    eprintln!("xtask: the guest was stopped after {} s", timeout.as_secs());
    TIMED_OUT
}
