//! `cargo xtask deep`: what takes hours or wants tools beyond Rust; by hand and at night, never in `ci`.

use std::process::Command;

use anyhow::Result;

use crate::flags::Flags;
use crate::tally::Tally;
use crate::{loom, proc};

/// How many cases each property test runs here; proptest reads the variable.
const CASES: &str = "20000";

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let run = flags.flag("--run");
    flags.finish()?;
    let models = loom::find()?;
    let models: Vec<&str> = models.iter().map(|model| model.package.as_str()).collect();
    println!("deep runs:");
    println!("  1. every property test with {CASES} cases");
    println!(
        "  2. loom's models of: {}",
        if models.is_empty() {
            "no crate".to_owned()
        } else {
            models.join(", ")
        }
    );
    println!(
        "  3. cargo mutants, if it is installed: does a test fail for each change to the code?"
    );
    if !run {
        println!("this takes hours; start it with: cargo xtask deep --run");
        return Ok(0);
    }
    let mut tally = Tally::default();
    tally.step("property tests", || {
        proc::loud(
            proc::host_cargo()
                .args(["test", "--release"])
                .env("PROPTEST_CASES", CASES),
        )
    });
    loom::run(&mut tally);
    match proc::which("cargo-mutants") {
        None => tally.skip("cargo mutants", "not installed"),
        Some(path) => tally.step("cargo mutants", || {
            let out = proc::work_dir("mutants")?;
            proc::loud(
                Command::new(path)
                    .args(["mutants", "--output"])
                    .arg(out)
                    .current_dir(proc::root()),
            )
        }),
    }
    Ok(tally.finish())
}
