//! Host tests of crates with much `unsafe` under the address sanitizer, by a nightly compiler: who touches what he should not, in
//! memory of the test's own, is stopped.

use core::time::Duration;
use std::process::Command;

use anyhow::{Result, ensure};

use super::fuzz::{HOST, has_nightly};
use crate::proc;
use crate::tally::Tally;

/// Whose tests are run so.
pub(super) const PACKAGES: [&str; 1] = ["kmm-slub"];
const LIMIT: Duration = Duration::from_secs(1800);

pub(super) fn run(tally: &mut Tally) {
    if !has_nightly() {
        return tally.skip(
            "address sanitizer",
            "no nightly compiler; rustup toolchain install nightly",
        );
    }
    for package in PACKAGES {
        tally.step(&format!("address sanitizer: {package}"), || test(package));
    }
}

fn test(package: &str) -> Result<()> {
    let mut cargo = Command::new("rustup");
    proc::scrub(&mut cargo);
    cargo
        .args(["run", "nightly", "cargo", "test", "--quiet", "--tests"])
        .args(["--target", HOST, "-p", package])
        .current_dir(proc::root())
        .env("CARGO_TARGET_DIR", proc::target_dir().join("asan"))
        .env("RUSTFLAGS", "-Zsanitizer=address")
        // Machines of tests live until the end.
        .env("ASAN_OPTIONS", "detect_leaks=0");
    let done = proc::quiet(&format!("asan {package}"), &mut cargo, LIMIT)?;
    ensure!(done.ok, "{}", done.tail(60));
    Ok(())
}
