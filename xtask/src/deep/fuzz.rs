//! The targets of `fuzz/` under libFuzzer with the address sanitizer, each for a bounded time, by a nightly compiler.
//!
//! `fuzz/` is laid out as `cargo fuzz` wants it, but that program is not needed: it only adds flags, and these are they. What is
//! found beyond the committed corpus stays in the target directory; an input that fails is kept there too, and named.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::tally::Tally;
use crate::{proc, test};

pub(super) const HOST: &str = "x86_64-unknown-linux-gnu";
/// Edges counted, comparisons traced, addresses checked.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1";
const BUILD_LIMIT: Duration = Duration::from_secs(1800);
/// Above the time that a target is given: it ends with its last input.
const GRACE: Duration = Duration::from_secs(60);
const LONGEST_INPUT: u32 = 1024;
const MEMORY_MIB: u32 = 2048;
/// An input that runs for so many seconds has failed.
const INPUT_LIMIT_S: u32 = 20;

/// The names of all targets.
pub(super) fn targets() -> Result<Vec<String>> {
    let dir = proc::root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut names: Vec<String> = files
        .flatten()
        .filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Runs them all, or those that are named, for `seconds` each.
pub(super) fn run(tally: &mut Tally, seconds: u32, wanted: &[String]) {
    test::fuzz_corpus(tally);
    if !has_nightly() {
        return tally.skip(
            "fuzz",
            "no nightly compiler; rustup toolchain install nightly",
        );
    }
    let mut built = None;
    tally.step("fuzz: build with the engine", || {
        built = Some(build()?);
        Ok(())
    });
    let Some(programs) = built else { return };
    let names = targets().unwrap_or_default();
    for name in names {
        if wanted.is_empty() || wanted.contains(&name) {
            tally.step(&format!("fuzz: {name} for {seconds} s"), || {
                fuzz(&programs, &name, seconds)
            });
        }
    }
}

fn target_dir() -> PathBuf {
    proc::target_dir().join("fuzz")
}

pub(super) fn has_nightly() -> bool {
    let mut rustup = Command::new("rustup");
    proc::read(rustup.args(["run", "nightly", "rustc", "--version"])).is_some()
}

/// Builds all targets; where they are.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new("rustup");
    proc::scrub(&mut cargo);
    cargo
        .args(["run", "nightly", "cargo", "build", "--quiet", "--release"])
        .args(["--bins", "--features", "engine", "--target", HOST])
        .current_dir(proc::root().join("fuzz"))
        .env("CARGO_TARGET_DIR", target_dir())
        .env("RUSTFLAGS", FLAGS);
    let done = proc::quiet("fuzz build", &mut cargo, BUILD_LIMIT)?;
    ensure!(done.ok, "{}", done.tail(30));
    Ok(target_dir().join(HOST).join("release"))
}

fn fuzz(programs: &Path, name: &str, seconds: u32) -> Result<()> {
    let found = proc::work_dir(&format!("fuzz/{name}"))?;
    let failures = proc::work_dir(&format!("fuzz-failures/{name}"))?;
    let mut engine = Command::new(programs.join(name));
    engine
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST_INPUT}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-timeout={INPUT_LIMIT_S}"))
        .arg(format!("-artifact_prefix={}/", failures.display()))
        // Long inputs from the start: what is interesting takes many operations.
        .args(["-len_control=0", "-print_final_stats=1"])
        .arg(found)
        .arg(proc::root().join("fuzz/corpus").join(name));
    let limit = Duration::from_secs(seconds.into()) + GRACE;
    let done = proc::quiet(&format!("fuzz {name}"), &mut engine, limit)?;
    ensure!(done.ok, "{}", done.tail(40));
    println!("{}", summary(&done.log));
    Ok(())
}

/// How many inputs ran, and how many edges they reached.
fn summary(log: &str) -> String {
    let after = |text: &str| {
        let (_, rest) = log.rsplit_once(text)?;
        rest.split_whitespace().next().map(str::to_owned)
    };
    let inputs = after("stat::number_of_executed_units:");
    let edges = after(" cov: ");
    format!(
        "  {} inputs, {} edges",
        inputs.as_deref().unwrap_or("?"),
        edges.as_deref().unwrap_or("?")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_log_is_read() {
        let log = "#2 INITED cov: 9 ft: 9\n#99 DONE   cov: 12 ft: 20 corp: 3/4b\nstat::number_of_executed_units: 99\n";
        assert_eq!(summary(log), "  99 inputs, 12 edges");
        assert_eq!(summary(""), "  ? inputs, ? edges");
    }

    #[test]
    fn every_target_has_a_corpus() {
        for name in targets().unwrap() {
            let corpus = proc::root().join("fuzz/corpus").join(&name);
            assert!(
                corpus
                    .read_dir()
                    .is_ok_and(|mut files| files.next().is_some()),
                "{name}"
            );
        }
    }
}
