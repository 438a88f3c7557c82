//! The disk under `ci`: what is free, how much the run takes at most, and what a stage that is over leaves behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::proc;

/// What a run from a clean checkout takes at most, in MiB, and some air: about 140 test programs of 8 MiB, and the kernel.
const NEEDED_MIB: u64 = 3000;
/// Incremental state and what is known of variables and types are four fifths of a target directory. Names and lines of
/// functions stay: a test reads them in a trace.
const LEAN: &[(&str, &str)] = &[
    ("CARGO_INCREMENTAL", "0"),
    ("CARGO_PROFILE_DEV_DEBUG", "limited"),
];

/// Lets cargo build without what only serves a person who edits or debugs.
pub(crate) fn lean(command: &mut Command) {
    command.envs(LEAN.iter().copied());
}

/// Is this process one that [`lean`] started?
pub(crate) fn is_lean() -> bool {
    LEAN.iter()
        .all(|(name, value)| std::env::var(name).is_ok_and(|is| is == *value))
}

/// How much the target directory held at most, looked at when a stage ends.
pub(crate) struct Disk {
    most_mib: u64,
}

impl Disk {
    /// Says what is free, and whether that is enough.
    pub(crate) fn begin() -> Self {
        let most_mib = used_mib(&proc::target_dir());
        match free_mib(&proc::root()) {
            None => println!("disk: `df` does not say how much is free"),
            Some(free) => {
                println!(
                    "disk: {free} MiB free, {most_mib} MiB in use by the target directory; a run takes up to {NEEDED_MIB} MiB"
                );
                if free + most_mib < NEEDED_MIB {
                    println!(
                        "disk: TOO LITTLE: {} MiB are missing, and what fails from here on may fail for want of them",
                        NEEDED_MIB - free - most_mib
                    );
                }
            }
        }
        Self { most_mib }
    }

    /// A stage is over: what only it wanted, folders below the target directory, goes.
    pub(crate) fn stage_is_over(&mut self, folders: &[&str]) {
        let target = proc::target_dir();
        self.most_mib = self.most_mib.max(used_mib(&target));
        for folder in folders {
            // One that is not there need not go.
            fs::remove_dir_all(target.join(folder)).ok();
        }
    }

    /// Says how much it was at most, and how much is left.
    pub(crate) fn finish(mut self) {
        self.stage_is_over(&[]);
        let left = used_mib(&proc::target_dir());
        println!(
            "disk: at most {} MiB in use by the target directory, {left} MiB now, {} MiB free",
            self.most_mib,
            free_mib(&proc::root()).map_or_else(|| "?".to_owned(), |free| free.to_string())
        );
    }
}

fn used_mib(dir: &Path) -> u64 {
    let text = proc::read(Command::new("du").arg("-sk").arg(dir));
    text.and_then(|text| kib(&text, 0)).unwrap_or(0) / 1024
}

fn free_mib(dir: &Path) -> Option<u64> {
    let text = proc::read(Command::new("df").arg("-Pk").arg(dir))?;
    Some(kib(text.lines().nth(1)?, 3)? / 1024)
}

/// The number in column `nr`.
fn kib(line: &str, nr: usize) -> Option<u64> {
    line.split_whitespace().nth(nr)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_takes_room_and_the_disk_has_some() {
        let dir = proc::work_dir("disk-test").unwrap();
        fs::write(dir.join("four-mib"), vec![1; 4 << 20]).unwrap();
        assert!(used_mib(&dir) >= 4);
        assert!(free_mib(&dir).is_some());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(used_mib(&dir), 0);
    }

    #[test]
    fn what_was_started_lean_knows_it() {
        let mut command = Command::new("env");
        lean(&mut command);
        let env = proc::read(&mut command).unwrap();
        for (name, value) in LEAN {
            assert!(env.lines().any(|line| line == format!("{name}={value}")));
        }
    }
}
