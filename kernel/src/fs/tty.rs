//! The serial line as a terminal: lines, echo, control characters, and who is in the foreground.
//!
//! What was typed waits raw in the serial driver's ring, then in ours, and is made into lines only when somebody reads. So
//! whatever a program leaves unread is there for the kernel's shell, which reads here too ([`take_byte`]). Only the
//! characters that raise signals are looked for early, by [`pump`], and only while a program has the terminal.
//!
//! Linux: drivers/tty/n_tty.c; termios(3).

use core::cmp;

use crate::arch::serial;
use crate::process::{self, Channel, Pid, Signal};
use crate::sync::IrqSpinLock;
use crate::syscall::Errno;

/// Bytes of [`Termios`] as the ioctls copy it.
pub const TERMIOS_BYTES: usize = 36;
/// Lines, columns and two pixel counts of 16 bits each.
pub const WINSIZE_BYTES: usize = 8;

const INPUT_LEN: usize = 1024;
const LINE_LEN: usize = 1024;
const NR_CONTROL_CHARS: usize = 19;

const ICRNL: u32 = 0o400;
const IGNCR: u32 = 0o200;
const INLCR: u32 = 0o100;
const IXON: u32 = 0o2000;
const OPOST: u32 = 0o1;
const ONLCR: u32 = 0o4;
const ISIG: u32 = 0o1;
const ICANON: u32 = 0o2;
const ECHO: u32 = 0o10;
const ECHOE: u32 = 0o20;
const ECHOK: u32 = 0o40;
const ECHOCTL: u32 = 0o1000;
const ECHOKE: u32 = 0o4000;
const IEXTEN: u32 = 0o10_0000;
/// 38400 baud, 8 bits, receiver on, hang up on close.
const CFLAG: u32 = 0o2277;

const VINTR: usize = 0;
const VQUIT: usize = 1;
const VERASE: usize = 2;
const VKILL: usize = 3;
const VEOF: usize = 4;
const VMIN: usize = 6;
const VSUSP: usize = 10;

static TTY: IrqSpinLock<Tty> = IrqSpinLock::new(Tty {
    termios: Termios::DEFAULT,
    winsize: [24, 0, 80, 0, 0, 0, 0, 0],
    foreground: None,
    input: Ring {
        bytes: [0; INPUT_LEN],
        start: 0,
        len: 0,
    },
    line: Line {
        bytes: [0; LINE_LEN],
        start: 0,
        len: 0,
        complete: false,
    },
});

/// The settings. Linux: `struct termios` of the ioctls.
#[derive(Clone, Copy, Debug)]
struct Termios {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    discipline: u8,
    chars: [u8; NR_CONTROL_CHARS],
}

#[derive(Debug)]
struct Tty {
    termios: Termios,
    winsize: [u8; WINSIZE_BYTES],
    /// The process group that reads and gets the signals; `None` while the kernel's shell has the terminal.
    foreground: Option<Pid>,
    input: Ring,
    line: Line,
}

#[derive(Debug)]
struct Ring {
    bytes: [u8; INPUT_LEN],
    start: usize,
    len: usize,
}

/// The line being typed, then read.
#[derive(Debug)]
struct Line {
    bytes: [u8; LINE_LEN],
    start: usize,
    len: usize,
    complete: bool,
}

impl Termios {
    const DEFAULT: Self = Self {
        input: ICRNL | IXON,
        output: OPOST | ONLCR,
        control: CFLAG,
        local: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
        discipline: 0,
        chars: [
            3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0xf, 0x17, 0x16, 0, 0, 0,
        ],
    };

    fn is_canonical(&self) -> bool {
        self.local & ICANON != 0
    }

    /// What a received byte is to the reader.
    fn translate(&self, byte: u8) -> Option<u8> {
        match byte {
            b'\r' if self.input & IGNCR != 0 => None,
            b'\r' if self.input & ICRNL != 0 => Some(b'\n'),
            b'\n' if self.input & INLCR != 0 => Some(b'\r'),
            byte => Some(byte),
        }
    }

    fn signal(&self, byte: u8) -> Option<Signal> {
        if self.local & ISIG == 0 || byte == 0 {
            None
        } else if byte == self.chars[VINTR] {
            Some(Signal::INT)
        } else if byte == self.chars[VQUIT] {
            Some(Signal::QUIT)
        } else {
            None
        }
    }
}

impl Ring {
    fn push(&mut self, byte: u8) {
        self.bytes[(self.start + self.len) % INPUT_LEN] = byte;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<u8> {
        self.len = self.len.checked_sub(1)?;
        let byte = self.bytes[self.start];
        self.start = (self.start + 1) % INPUT_LEN;
        Some(byte)
    }
}

impl Line {
    fn push(&mut self, byte: u8) {
        if self.len < LINE_LEN {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    fn take(&mut self, buf: &mut [u8]) -> usize {
        let len = cmp::min(buf.len(), self.len - self.start);
        buf[..len].copy_from_slice(&self.bytes[self.start..self.start + len]);
        self.start += len;
        if self.start == self.len {
            (self.start, self.len, self.complete) = (0, 0, false);
        }
        len
    }
}

impl Tty {
    /// Takes bytes from the serial driver while there is room for them; the signal that was typed last.
    fn fill(&mut self) -> Option<Signal> {
        let mut typed = None;
        while self.input.len < INPUT_LEN {
            let Some(byte) = serial::read_byte() else {
                break;
            };
            match self.termios.signal(byte) {
                Some(signal) if self.foreground.is_some() => {
                    self.echo(byte);
                    self.input.len = 0;
                    (self.line.start, self.line.len, self.line.complete) = (0, 0, false);
                    typed = Some(signal);
                }
                _ => self.input.push(byte),
            }
        }
        typed
    }

    /// Makes input into a line, until one is complete.
    fn cook(&mut self) {
        while !self.line.complete {
            let Some(byte) = self.input.pop() else { return };
            let Some(byte) = self.termios.translate(byte) else {
                continue;
            };
            let chars = &self.termios.chars;
            // What a reader in raw mode has taken of the line cannot be erased any more.
            if byte == chars[VERASE] || byte == b'\x08' {
                if self.line.len > self.line.start {
                    self.line.len -= 1;
                    self.put_echo(b"\x08 \x08");
                }
            } else if byte == chars[VKILL] {
                while self.line.len > self.line.start {
                    self.line.len -= 1;
                    self.put_echo(b"\x08 \x08");
                }
            } else if byte == chars[VEOF] {
                self.line.complete = true;
            } else if byte != chars[VSUSP] {
                self.line.push(byte);
                self.line.complete = byte == b'\n';
                self.echo(byte);
            }
        }
    }

    fn echo(&self, byte: u8) {
        match byte {
            b'\n' => self.put_echo(b"\r\n"),
            b'\t' => self.put_echo(b"\t"),
            0..0x20 => self.put_echo(&[b'^', byte + b'@']),
            byte => self.put_echo(&[byte]),
        }
    }

    fn put_echo(&self, bytes: &[u8]) {
        if self.termios.local & ECHO != 0 {
            serial::write_bytes(bytes);
        }
    }

    /// Reads what is there; `None` if the reader has to wait.
    fn try_read(&mut self, buf: &mut [u8]) -> Option<usize> {
        if self.termios.is_canonical() {
            self.cook();
            return self.line.complete.then(|| self.line.take(buf));
        }
        // What was typed as a line before the settings changed comes first.
        let mut len = self.line.take(buf);
        while len < buf.len() {
            let Some(byte) = self.input.pop() else { break };
            if let Some(byte) = self.termios.translate(byte) {
                self.echo(byte);
                buf[len] = byte;
                len += 1;
            }
        }
        (len > 0 || self.termios.chars[VMIN] == 0).then_some(len)
    }

    fn is_readable(&mut self) -> bool {
        if self.termios.is_canonical() {
            self.cook();
            self.line.complete
        } else {
            self.line.len > self.line.start || self.input.len > 0
        }
    }
}

/// Looks for typed signals, and wakes readers. Called by the tick, from interrupt.
pub fn pump() {
    let (typed, group, waiting) = {
        let mut tty = TTY.lock();
        match tty.foreground {
            // What the kernel's shell reads stays with the driver; it looks there at each tick.
            None => (None, None, true),
            group => (tty.fill(), group, tty.input.len > 0),
        }
    };
    if let (Some(signal), Some(group)) = (typed, group) {
        process::signal_group(group, signal);
    }
    if waiting {
        process::wake(Channel::TTY);
    }
}

/// Reads a line, or in raw mode what is there.
pub fn read(buf: &mut [u8], nonblocking: bool) -> Result<usize, Errno> {
    if buf.is_empty() {
        return Ok(0);
    }
    pump();
    let first = TTY.lock().try_read(buf);
    match first {
        Some(len) => Ok(len),
        None if nonblocking => Err(Errno::AGAIN),
        None => process::wait_until(Channel::TTY, || TTY.lock().try_read(buf)),
    }
}

/// Writes, a line feed as carriage return and line feed unless a program wants it otherwise.
pub fn write(buf: &[u8]) {
    let termios = TTY.lock().termios;
    if termios.output & OPOST == 0 || termios.output & ONLCR == 0 {
        return serial::write_bytes(buf);
    }
    for line in buf.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                serial::write_bytes(text);
                serial::write_bytes(b"\r\n");
            }
            None => serial::write_bytes(line),
        }
    }
}

/// Would reading not block?
pub fn is_readable() -> bool {
    pump();
    TTY.lock().is_readable()
}

/// The next byte that was typed, unprocessed: for the kernel's shell.
pub fn take_byte() -> Option<u8> {
    let mut tty = TTY.lock();
    let mut byte = [0];
    if tty.line.take(&mut byte) == 1 {
        return Some(byte[0]);
    }
    tty.input.pop().or_else(serial::read_byte)
}

/// Gives the terminal to a process group, or back to the kernel's shell, then with its first settings.
pub fn set_owner(group: Option<Pid>) {
    let mut tty = TTY.lock();
    tty.foreground = group;
    if group.is_none() {
        tty.termios = Termios::DEFAULT;
    }
}

/// The process group in the foreground. Linux: `tcgetpgrp`.
pub fn foreground() -> Option<Pid> {
    TTY.lock().foreground
}

/// Puts a process group in the foreground. Linux: `tcsetpgrp`.
pub fn set_foreground(group: Pid) {
    TTY.lock().foreground = Some(group);
}

/// The settings as a program sees them.
pub fn termios() -> [u8; TERMIOS_BYTES] {
    let termios = TTY.lock().termios;
    let mut bytes = [0; TERMIOS_BYTES];
    for (at, word) in [
        termios.input,
        termios.output,
        termios.control,
        termios.local,
    ]
    .into_iter()
    .enumerate()
    {
        bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes[16] = termios.discipline;
    bytes[17..].copy_from_slice(&termios.chars);
    bytes
}

/// Changes the settings; `discard_input` forgets what was typed. Linux: `TCSETS`, `TCSETSF`.
pub fn set_termios(bytes: &[u8; TERMIOS_BYTES], discard_input: bool) {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut chars = [0; NR_CONTROL_CHARS];
    chars.copy_from_slice(&bytes[17..]);
    let mut tty = TTY.lock();
    tty.termios = Termios {
        input: word(0),
        output: word(4),
        control: word(8),
        local: word(12),
        discipline: bytes[16],
        chars,
    };
    if discard_input {
        tty.input.len = 0;
    }
}

/// The size of the window. Linux: `TIOCGWINSZ`.
pub fn winsize() -> [u8; WINSIZE_BYTES] {
    TTY.lock().winsize
}

/// Sets the size of the window. Linux: `TIOCSWINSZ`.
pub fn set_winsize(bytes: [u8; WINSIZE_BYTES]) {
    TTY.lock().winsize = bytes;
}
