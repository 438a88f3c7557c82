//! `cargo xtask deep`: what takes long. Random tests with other seeds, fuzzing, the address sanitizer, every model of loom, and
//! mutants; by hand and at night, never in `ci`.

mod asan;
mod fuzz;
mod mutants;

use core::time::Duration;

use anyhow::{Result, ensure};

use crate::flags::Flags;
use crate::tally::Tally;
use crate::{loom, proc};

/// Random tests read their seed from the environment; so many others are tried.
const NR_SEEDS: u32 = 200;
/// So long each target is fuzzed.
const FUZZ_SECONDS: u32 = 60;
/// The first round builds everything.
const SEED_LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let run = flags.flag("--run");
    let seeds = flags.number("--seeds")?;
    let fuzz_seconds = flags.number_or("--fuzz", FUZZ_SECONDS)?;
    let fuzz_targets = flags.values("--target")?;
    let with_asan = flags.flag("--asan");
    let with_loom = flags.flag("--loom");
    let with_mutants = flags.flag("--mutants");
    let plan = mutants::Plan {
        packages: flags.values("--package")?,
        files: flags.values("--file")?,
        shard: flags.value("--shard")?,
        thorough: flags.flag("--thorough"),
        fresh: flags.flag("--fresh"),
        only_report: flags.flag("--report"),
        quick: flags.flag("--quick"),
    };
    flags.finish()?;
    if !run && fuzz_seconds.is_none() && !with_asan && !with_loom && !with_mutants {
        return describe();
    }
    let mut tally = Tally::default();
    if run {
        other_seeds(&mut tally, seeds.unwrap_or(NR_SEEDS));
    }
    if run || fuzz_seconds.is_some() {
        fuzz::run(
            &mut tally,
            fuzz_seconds.unwrap_or(FUZZ_SECONDS),
            &fuzz_targets,
        );
    }
    if run || with_asan {
        asan::run(&mut tally);
    }
    if run || with_loom {
        loom::run(&mut tally);
    }
    if run || with_mutants {
        mutants::run(&mut tally, &plan);
    }
    Ok(tally.finish())
}

fn describe() -> Result<u8> {
    let models = loom::find()?;
    let models: Vec<&str> = models.iter().map(|model| model.package.as_str()).collect();
    println!("deep runs, each also by itself:");
    println!("  --run --seeds N      the tests with {NR_SEEDS} other seeds, then all below: hours");
    println!(
        "  --fuzz [SECONDS]     each target of fuzz/ for so long ({FUZZ_SECONDS}); --target NAME for one: {}",
        fuzz::targets()?.join(", ")
    );
    println!(
        "  --asan               the host tests of {} under the address sanitizer, where there is a nightly",
        asan::PACKAGES.join(", ")
    );
    println!(
        "  --loom               loom's models of: {}",
        models.join(", ")
    );
    println!(
        "  --mutants            does a test fail for each change to the code of {}? writes {}; --package NAME, --file GLOB or --shard 1/20 for a part, \
         --quick without those that need a build each, --thorough also those explained, --fresh anew, --report what is known",
        mutants::PACKAGES.join(" and "),
        mutants::RESULTS
    );
    Ok(0)
}

fn other_seeds(tally: &mut Tally, nr_seeds: u32) {
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
}
