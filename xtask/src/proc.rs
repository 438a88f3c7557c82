//! Child processes: the workspace's paths, quiet commands with a time limit and a heartbeat, loud ones that show their output.

use core::time::Duration;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Silence up to here needs no word; then the label is printed, and again every ten seconds.
const QUIET: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where everything built or fetched goes.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A folder of xtask's own below the target directory, created.
pub(crate) fn work_dir(name: &str) -> Result<PathBuf> {
    let dir = target_dir().join("xtask").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// `cargo` for the host, as this process was started by it, in the root.
pub(crate) fn host_cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    scrub(&mut command);
    command
}

/// Takes out of the environment what the `cargo run` around xtask put there, so that it does not steer the cargo inside.
pub(crate) fn scrub(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO"
        {
            command.env_remove(name.as_ref());
        }
    }
}

/// The first file called `name` on PATH.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// What a short command that is expected to succeed prints, trimmed.
pub(crate) fn read(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// How a quiet command ended.
pub(crate) struct Done {
    pub(crate) ok: bool,
    /// The exit status, unless a signal or the limit ended it.
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

impl Done {
    /// The last lines of the log, for a message.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Runs a command with its output kept in a file, saying `label` when it takes longer than two seconds and killing it, with its
/// children, after `limit`.
pub(crate) fn quiet(label: &str, command: &mut Command, limit: Duration) -> Result<Done> {
    let name: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let path = work_dir("log")?.join(format!("{name}.log"));
    let log = File::create(&path)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    own_group(command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let start = Instant::now();
    let mut next = QUIET;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let passed = start.elapsed();
        if passed >= limit {
            kill_group(child.id());
            child.kill().ok();
            child.wait()?;
            eprintln!("  {label}: given up after {} s", limit.as_secs());
            break None;
        }
        if passed >= next {
            if next == QUIET {
                eprintln!("  {label} ...");
            } else {
                eprintln!("  {label} ... {} s", passed.as_secs());
            }
            next = if next == QUIET {
                HEARTBEAT
            } else {
                next + HEARTBEAT
            };
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let ok = status.is_some_and(|status| status.success());
    Ok(Done {
        ok,
        code: status.and_then(|status| status.code()),
        log,
    })
}

/// Runs a command that shows its own output, and fails if it does.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed", line(command));
    }
    Ok(())
}

/// Runs a command that shows its own output.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

/// A command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| {
        let arg = arg.to_string_lossy();
        if arg.contains(' ') {
            format!("'{arg}'")
        } else {
            arg.into_owned()
        }
    }));
    words.join(" ")
}

#[cfg(unix)]
fn own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

#[cfg(not(unix))]
fn own_group(_: &mut Command) {}

/// Ends a group of processes that [`own_group`] made; the leader's id is the group's.
fn kill_group(leader: u32) {
    Command::new("kill")
        .args(["-KILL", "--", &format!("-{leader}")])
        .stderr(Stdio::null())
        .status()
        .ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_given_up() {
        let start = Instant::now();
        let done = quiet(
            "sleep",
            Command::new("sh").args(["-c", "echo before; sleep 60 & sleep 60"]),
            Duration::from_millis(300),
        )
        .unwrap();
        assert!(!done.ok);
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(done.log, "before\n");
    }

    #[test]
    fn a_failing_command_keeps_its_output() {
        let done = quiet(
            "false",
            Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]),
            Duration::from_secs(30),
        )
        .unwrap();
        assert!(!done.ok);
        assert_eq!(done.code, Some(3));
        assert_eq!(done.tail(1), "b");
    }
}
