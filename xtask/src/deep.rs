//! `cargo xtask deep`: what takes hours or wants tools beyond Rust; by hand and at night, never in `ci`.

use core::time::Duration;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::flags::Flags;
use crate::tally::Tally;
use crate::{loom, proc};

/// Random tests read their seed from the environment; so many others are tried.
const NR_SEEDS: u32 = 200;

/// The first round builds everything.
const SEED_LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let run = flags.flag("--run");
    let nr_seeds = flags.number("--seeds")?.unwrap_or(NR_SEEDS);
    flags.finish()?;
    let models = loom::find()?;
    let models: Vec<&str> = models.iter().map(|model| model.package.as_str()).collect();
    println!("deep runs:");
    println!("  1. the tests with {nr_seeds} other seeds");
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
    for seed in 1..=nr_seeds {
        tally.step(&format!("tests with KMM_SEED={seed}"), || {
            let mut cargo = proc::host_cargo();
            cargo
                .args(["test", "--quiet", "--tests"])
                .env("KMM_SEED", seed.to_string());
            let done = proc::quiet(&format!("seed {seed}"), &mut cargo, SEED_LIMIT)?;
            ensure!(done.ok, "{}", done.tail(40));
            Ok(())
        });
    }
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
