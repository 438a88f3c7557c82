//! `ioctl`, which is about the terminal alone here.

use super::user;
use super::{Call, Errno, Outcome};
use crate::fs::tty::{self, TERMIOS_BYTES, WINSIZE_BYTES};
use crate::process::{self, Pid};

const TCGETS: u64 = 0x5401;
const TCSETS: u64 = 0x5402;
const TCSETSW: u64 = 0x5403;
const TCSETSF: u64 = 0x5404;
const TIOCSCTTY: u64 = 0x540e;
const TIOCGPGRP: u64 = 0x540f;
const TIOCSPGRP: u64 = 0x5410;
const TIOCGWINSZ: u64 = 0x5413;
const TIOCSWINSZ: u64 = 0x5414;
const TIOCNOTTY: u64 = 0x5422;
const TIOCGSID: u64 = 0x5429;

pub(super) fn ioctl(call: &Call<'_>, fd: u64, request: u64, argument: u64) -> Outcome {
    if !user::file(&call.task.files, fd)?.is_tty() {
        return Err(Errno::NOTTY);
    }
    match request & u64::from(u32::MAX) {
        TCGETS => user::put_bytes(argument, &tty::termios())?,
        TCSETS | TCSETSW => tty::set_termios(&user::get::<[u8; TERMIOS_BYTES]>(argument)?, false),
        TCSETSF => tty::set_termios(&user::get::<[u8; TERMIOS_BYTES]>(argument)?, true),
        TIOCGWINSZ => user::put_bytes(argument, &tty::winsize())?,
        TIOCSWINSZ => tty::set_winsize(user::get::<[u8; WINSIZE_BYTES]>(argument)?),
        TIOCGPGRP => user::put(
            argument,
            tty::foreground().unwrap_or_else(|| call.task.group()).get(),
        )?,
        TIOCGSID => user::put(argument, call.task.session().get())?,
        TIOCSPGRP => {
            let group = Pid::new(user::get::<u32>(argument)?);
            let mut exists = false;
            process::for_each_task(|task| {
                exists |= task.group() == group && task.session() == call.task.session()
            });
            if !exists {
                return Err(Errno::PERM);
            }
            tty::set_foreground(group);
        }
        TIOCSCTTY | TIOCNOTTY => {}
        _ => return Err(Errno::NOTTY),
    }
    Ok(0)
}
