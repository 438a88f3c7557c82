//! `cargo xtask test`: the tests on the host (the simulated machine's among them), then the kernel in QEMU.

use core::time::Duration;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::flags::Flags;
use crate::tally::Tally;
use crate::{initramfs, proc, scenarios};

/// Programs that are harmless wherever they run.
const ON_LINUX: &[&str] = &[
    "badptr", "brk", "exec", "files", "forkcow", "hello", "mmap", "pipes", "segv", "signals",
];
/// A program takes a second; only one that hangs takes so long.
const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let host = flags.flag("--host");
    let qemu = flags.flag("--qemu");
    let names = flags.values("--scenario")?;
    flags.finish()?;
    let mut tally = Tally::default();
    if !qemu && names.is_empty() {
        crates(&mut tally);
        fuzz_corpus(&mut tally);
        programs_on_linux(&mut tally);
    }
    if !host {
        scenarios::run_all(&mut tally, &names);
    }
    Ok(tally.finish())
}

/// The tests of every crate that runs on the host.
pub(crate) fn crates(tally: &mut Tally) {
    println!("== host tests: cargo test");
    let mut cargo = proc::host_cargo();
    cargo.args(["test", "--no-fail-fast"]);
    count("cargo test", cargo, tally);
}

/// What any compiler can do with `fuzz/`: every committed input, and some random ones.
pub(crate) fn fuzz_corpus(tally: &mut Tally) {
    println!("== fuzz targets over their committed inputs");
    let mut cargo = proc::host_cargo();
    cargo
        .args(["test", "--no-fail-fast", "--manifest-path"])
        .arg("fuzz/Cargo.toml")
        .env("CARGO_TARGET_DIR", proc::target_dir().join("fuzz"));
    count("fuzz corpus", cargo, tally);
}

/// The programs of `user/` check themselves; what they check has to hold on Linux too, or it is not what Linux does.
///
/// Only those of [`ON_LINUX`]: one that tries what it may, or takes what there is, has no business on somebody's machine.
pub(crate) fn programs_on_linux(tally: &mut Tally) {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return tally.skip("our programs on Linux", "this is not x86-64 Linux");
    }
    println!("== our programs on this machine's Linux");
    match initramfs::programs() {
        Ok(programs) => {
            for (name, path) in programs
                .into_iter()
                .filter(|(name, _)| ON_LINUX.contains(&name.as_str()))
            {
                let label = format!("{name} on Linux");
                match proc::quiet(&label, &mut Command::new(path), PROGRAM_LIMIT) {
                    Ok(done) if done.ok => tally.pass(1),
                    Ok(done) => {
                        println!("FAILED: {label}:\n{}", done.tail(20));
                        tally.fail(label);
                    }
                    Err(error) => {
                        println!("FAILED: {label}: {error:#}");
                        tally.fail(label);
                    }
                }
            }
        }
        Err(error) => tally.skip("our programs on Linux", &format!("{error:#}")),
    }
}

/// Runs a test command and counts its tests.
pub(crate) fn count(name: &str, cargo: Command, tally: &mut Tally) {
    if let Err(error) = count_tests(name, cargo, tally) {
        println!("FAILED: {error:#}");
        tally.fail(name);
    }
}

/// Runs a test command, shows its output without the lines of tests that passed, and counts them.
fn count_tests(name: &str, mut command: Command, tally: &mut Tally) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        let line = line?;
        if counts.take(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    counts.give_to(name, status.success(), tally);
    Ok(())
}

/// What the lines of `cargo test` said so far.
#[derive(Debug, Default)]
struct Counts {
    passed: usize,
    failed: Vec<String>,
    /// As the summaries count them; a failing test that has no line of its own is still here.
    nr_failed: usize,
}

impl Counts {
    /// Reads one line; is it worth showing?
    fn take(&mut self, line: &str) -> bool {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += number_before(rest, " passed");
            self.nr_failed += number_before(rest, " failed");
            return true;
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failed.push(name.to_owned());
            return true;
        }
        let dull = line.is_empty()
            || line.starts_with("running ")
            || (line.starts_with("test ") && line.ends_with(" ... ok"));
        !dull
    }

    fn give_to(self, name: &str, success: bool, tally: &mut Tally) {
        tally.pass(self.passed);
        let nameless = self.nr_failed.saturating_sub(self.failed.len());
        for failed in self
            .failed
            .iter()
            .cloned()
            .chain((0..nameless).map(|_| "a test".to_owned()))
        {
            tally.fail(failed);
        }
        if !success && self.nr_failed == 0 {
            // It did not compile, or a test process died without a summary.
            tally.fail(name);
        }
    }
}

/// The number in front of `word`: `ok. 3 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> usize {
    let number = text
        .split(word)
        .next()
        .and_then(|before| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str, success: bool) -> String {
        let mut counts = Counts::default();
        for line in output.lines() {
            counts.take(line);
        }
        let mut tally = Tally::default();
        counts.give_to("cargo test", success, &mut tally);
        format!("{tally:?}")
    }

    #[test]
    fn summaries_are_added_up() {
        let output = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n    b\n
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n
            test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        let output: String = output
            .lines()
            .map(|line| format!("{}\n", line.trim()))
            .collect();
        assert_eq!(
            tally(&output, false),
            "Tally { passed: 41, failed: [\"b\"], skipped: [] }"
        );
    }

    #[test]
    fn a_build_that_fails_and_a_process_that_dies_count() {
        assert_eq!(
            tally("", false),
            "Tally { passed: 0, failed: [\"cargo test\"], skipped: [] }"
        );
        let output = "test result: ok. 4 passed; 0 failed; 0 ignored";
        assert_eq!(
            tally(output, false),
            "Tally { passed: 4, failed: [\"cargo test\"], skipped: [] }"
        );
        assert_eq!(
            tally("test result: FAILED. 4 passed; 1 failed;", false),
            "Tally { passed: 4, failed: [\"a test\"], skipped: [] }"
        );
    }

    #[test]
    fn only_lines_worth_reading_are_shown() {
        let mut counts = Counts::default();
        assert!(!counts.take("test a ... ok"));
        assert!(!counts.take("running 3 tests"));
        assert!(counts.take("test b ... FAILED"));
        assert!(counts.take("thread 'b' panicked at"));
    }
}
