//! `cargo xtask deep`: what takes hours or wants tools beyond Rust; by hand and at night, never in `ci`.

use std::process::Command;

use anyhow::Result;

use crate::flags::Flags;
use crate::tally::Tally;
use crate::{proc, tidy};

/// How many cases each property test runs here; proptest reads the variable.
const CASES: &str = "20000";

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let run = flags.flag("--run");
    flags.finish()?;
    let loom = loom_crates()?;
    println!("deep runs:");
    println!("  1. every property test with {CASES} cases");
    println!(
        "  2. loom's models of: {}",
        if loom.is_empty() {
            "no crate (none has any)".to_owned()
        } else {
            loom.join(", ")
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
    for name in &loom {
        tally.step(&format!("loom: {name}"), || {
            let mut cargo = proc::host_cargo();
            cargo
                .args(["test", "--release", "-p", name])
                .env("RUSTFLAGS", "--cfg loom");
            proc::loud(cargo.env("CARGO_TARGET_DIR", proc::target_dir().join("loom")))
        });
    }
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

/// Crates whose tests have something under `cfg(loom)`.
fn loom_crates() -> Result<Vec<String>> {
    let metadata = tidy::metadata()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let uses_loom = |package: &&serde_json::Value| {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        dependencies
            .into_iter()
            .any(|dependency| dependency["name"].as_str() == Some("loom"))
    };
    Ok(packages
        .filter(uses_loom)
        .filter_map(|package| package["name"].as_str().map(str::to_owned))
        .collect())
}
