//! A guest whose serial line is in our hands: wait for what it prints, type, and see how it ended.
//!
//! The guest's side of the agreement: its shell prints [`PROMPT`] when it waits for a line; with `exec` on its command line it
//! prints `kmm-status: N` on a line of its own after each command; before it stops it prints `kmm-exit: N`.

use core::time::Duration;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use anyhow::{Context as _, Result};

pub(crate) const PROMPT: &str = "kmm> ";
const STATUS: &str = "kmm-status: ";
const EXIT: &str = "kmm-exit: ";

/// Why [`Guest::wait_for`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Found,
    Ended,
    TimedOut,
}

/// A running QEMU.
pub(crate) struct Guest {
    child: Child,
    output: Receiver<Vec<u8>>,
    text: String,
    /// Everything before here has been looked at.
    seen: usize,
    ended: bool,
    echo: bool,
}

impl Guest {
    /// Starts QEMU. With `echo`, what the guest prints is shown as it comes.
    pub(crate) fn start(mut command: Command, echo: bool) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start QEMU")?;
        let mut stdout = child.stdout.take().context("QEMU has no output")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            output,
            text: String::new(),
            seen: 0,
            ended: false,
            echo,
        })
    }

    /// Reads until `pattern` appears in what has not been looked at, and marks everything up to its end as seen.
    pub(crate) fn wait_for(&mut self, pattern: &str, deadline: Instant) -> Wait {
        loop {
            if let Some(at) = self.text[self.seen..].find(pattern) {
                self.seen += at + pattern.len();
                return Wait::Found;
            }
            if self.ended {
                return Wait::Ended;
            }
            if !self.receive(deadline) && !self.ended {
                return Wait::TimedOut;
            }
        }
    }

    /// Reads until the guest stops.
    pub(crate) fn wait_for_end(&mut self, deadline: Instant) -> Wait {
        while !self.ended {
            if !self.receive(deadline) && !self.ended {
                return Wait::TimedOut;
            }
        }
        Wait::Ended
    }

    /// Takes in one piece of output; false at the deadline and at the end.
    pub(crate) fn receive(&mut self, deadline: Instant) -> bool {
        match self
            .output
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok(bytes) => {
                let piece = String::from_utf8_lossy(&bytes);
                if self.echo {
                    print!("{piece}");
                    std::io::stdout().flush().ok();
                }
                self.text.extend(piece.chars().filter(|&c| c != '\r'));
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                false
            }
        }
    }

    /// Types on the serial line.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // A guest that has just stopped reads no more; its end is noticed by the next wait.
        if let Some(stdin) = &mut self.child.stdin {
            stdin.write_all(bytes).and_then(|()| stdin.flush()).ok();
        }
    }

    /// Types a command at the prompt and returns what it printed, with its status, or why there is none.
    pub(crate) fn exec(
        &mut self,
        command: &str,
        deadline: Instant,
    ) -> Result<(String, u8), (Wait, String)> {
        let start = self.seen;
        self.send(format!("{command}\n").as_bytes());
        let wait = self.wait_for(PROMPT, deadline);
        let text = self.text[start..self.seen.max(start)].to_owned();
        match wait {
            Wait::Found => Ok(split_reply(command, &text)),
            other => Err((other, self.text[start..].to_owned())),
        }
    }

    /// Everything that the guest printed so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The number that the guest gave on its last `kmm-exit` line.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        exit_code(&self.text)
    }

    /// Ends QEMU if it has not ended by itself within a moment.
    pub(crate) fn stop(&mut self) {
        let patience = Instant::now()
            + if self.ended {
                Duration::from_secs(5)
            } else {
                Duration::ZERO
            };
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= patience {
                self.child.kill().ok();
                self.child.wait().ok();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The number on the last `kmm-exit` line, which follows whatever stood on that line before.
pub(crate) fn exit_code(text: &str) -> Option<u8> {
    let at = text.rfind(EXIT)?;
    text[at + EXIT.len()..].lines().next()?.trim().parse().ok()
}

/// Cuts the echo of the command, the status line and the prompt away.
fn split_reply(command: &str, text: &str) -> (String, u8) {
    let body = text.strip_suffix(PROMPT).unwrap_or(text);
    let body = body
        .strip_prefix(command)
        .map_or(body, |rest| rest.strip_prefix('\n').unwrap_or(rest));
    let mut status = 0;
    let mut output = String::new();
    for line in body.split_inclusive('\n') {
        // The program's last line may have no end of its own, so the mark need not stand at the start.
        let (printed, mark) = line.find(STATUS).map_or((line, None), |at| {
            (&line[..at], Some(&line[at + STATUS.len()..]))
        });
        output.push_str(printed);
        if let Some(number) = mark.and_then(|mark| mark.trim().parse().ok()) {
            status = number;
        }
    }
    (output, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_stripped_to_what_the_command_printed() {
        let (text, status) = split_reply("ls /", "ls /\nbin\netc\nkmm-status: 3\nkmm> ");
        assert_eq!((text.as_str(), status), ("bin\netc\n", 3));
        let (text, status) = split_reply("echo -n x", "echo -n x\nxkmm-status: 0\nkmm> ");
        assert_eq!((text.as_str(), status), ("x", 0));
    }

    #[test]
    fn the_last_exit_line_counts() {
        assert_eq!(exit_code("kmm-exit: 1\nnoise\nkmm-exit: 4\n"), Some(4));
        assert_eq!(exit_code("kmm-exit: \n"), None);
        assert_eq!(exit_code("a triple fault says nothing"), None);
    }

    #[test]
    fn a_guest_is_typed_to_and_listened_to() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo boot; printf 'kmm> '; read x; echo \"$x\"; echo out; echo 'kmm-status: 7'; printf 'kmm> '; read x; echo 'kmm-exit: 9'"]);
        let mut guest = Guest::start(shell, false).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        assert_eq!(guest.wait_for(PROMPT, deadline), Wait::Found);
        assert_eq!(guest.exec("free", deadline), Ok(("out\n".to_owned(), 7)));
        guest.send(b"poweroff\n");
        assert_eq!(guest.wait_for_end(deadline), Wait::Ended);
        assert_eq!(guest.exit_code(), Some(9));
    }

    #[test]
    fn a_silent_guest_runs_into_the_deadline() {
        let mut sleeper = Command::new("sleep");
        sleeper.arg("60");
        let mut guest = Guest::start(sleeper, false).unwrap();
        assert_eq!(
            guest.wait_for(PROMPT, Instant::now() + Duration::from_millis(50)),
            Wait::TimedOut
        );
        guest.stop();
        assert_eq!(
            guest.wait_for_end(Instant::now() + Duration::from_secs(30)),
            Wait::Ended
        );
    }
}
