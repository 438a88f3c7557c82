//! `cargo mutants` on the crates whose logic matters most: is there a test that fails for each change to the code?
//!
//! `.cargo/mutants.toml` says what is changed and how it is tested. A mutant that no test notices must be explained in
//! `docs/mutants.tsv` (file, mutant, why it is the same program); else this fails. What was found goes to `docs/mutants.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::proc;
use crate::tally::Tally;

/// Mutated unless others are named.
pub(super) const PACKAGES: [&str; 2] = ["kmm-buddy", "kmm-zone"];
/// Written by this.
pub(super) const RESULTS: &str = "docs/mutants.md";
/// Written by people.
const EXPLAINED: &str = "docs/mutants.tsv";
/// Exit codes of cargo-mutants that mean that it did its work: all caught; some missed; some timed out.
const DONE: [i32; 3] = [0, 2, 3];

/// Mutates `packages`, or all; `shard` is a part of the changes, as `3/20`.
pub(super) fn run(tally: &mut Tally, packages: &[String], shard: Option<&str>) {
    if proc::which("cargo-mutants").is_none() {
        return tally.skip(
            "mutants",
            "cargo-mutants is missing: cargo install cargo-mutants",
        );
    }
    let chosen: Vec<&str> = if packages.is_empty() {
        PACKAGES.to_vec()
    } else {
        packages.iter().map(String::as_str).collect()
    };
    let mut found = Vec::new();
    for package in &chosen {
        tally.step(&format!("mutants: {package}"), || {
            found.push(mutate(package, shard)?);
            Ok(())
        });
    }
    let is_kept = packages.is_empty();
    tally.step("mutants: those missed are explained", || {
        report(&found, shard, is_kept)
    });
}

/// What became of the mutants of a package.
#[derive(Debug, Default)]
struct Found {
    package: String,
    nr_caught: usize,
    nr_timed_out: usize,
    missed: Vec<Mutant>,
}

/// A change: where and what, without the line, which moves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Mutant {
    file: String,
    change: String,
}

fn mutate(package: &str, shard: Option<&str>) -> Result<Found> {
    let out = proc::work_dir(&format!("mutants/{package}"))?;
    let mut command = Command::new("cargo");
    proc::scrub(&mut command);
    command
        .args(["mutants", "--package", package, "--no-shuffle", "--output"])
        .arg(&out)
        .current_dir(proc::root())
        // It builds copies of the tree; each has a target directory of its own.
        .env_remove("CARGO_TARGET_DIR");
    if let Some(shard) = shard {
        command.args(["--sharding", "round-robin", "--shard", shard]);
    }
    let status = proc::status(&mut command)?;
    ensure!(
        status.code().is_some_and(|code| DONE.contains(&code)),
        "cargo mutants ended with {status}"
    );
    read(package, &out.join("mutants.out"))
}

fn read(package: &str, out: &Path) -> Result<Found> {
    let lines = |name: &str| -> Result<Vec<String>> {
        let path = out.join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let missed = lines("missed.txt")?;
    let mut missed: Vec<Mutant> = missed
        .iter()
        .map(|line| mutant(line))
        .collect::<Result<_>>()?;
    missed.sort();
    Ok(Found {
        package: package.to_owned(),
        nr_caught: lines("caught.txt")?.len(),
        nr_timed_out: lines("timeout.txt")?.len(),
        missed,
    })
}

/// `crates/buddy/src/buddy.rs:12:5: replace a with b in f`.
fn mutant(line: &str) -> Result<Mutant> {
    let mut parts = line.splitn(4, ':');
    let (Some(file), Some(_), Some(_), Some(change)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("no mutant: {line}");
    };
    Ok(Mutant {
        file: file.to_owned(),
        change: change.trim().to_owned(),
    })
}

/// Why a mutant is the same program, by mutant.
fn explained(text: &str) -> Result<BTreeMap<Mutant, String>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [file, change, why] = cells[..] else {
                bail!("{EXPLAINED}: not three cells: {line}");
            };
            let (file, change) = (file.to_owned(), change.to_owned());
            Ok((Mutant { file, change }, why.to_owned()))
        })
        .collect()
}

fn report(found: &[Found], shard: Option<&str>, is_kept: bool) -> Result<()> {
    let path = proc::root().join(EXPLAINED);
    let explained = explained(&fs::read_to_string(&path).unwrap_or_default())?;
    let unexplained: Vec<&Mutant> = found
        .iter()
        .flat_map(|found| &found.missed)
        .filter(|mutant| !explained.contains_key(mutant))
        .collect();
    if is_kept && found.len() == PACKAGES.len() {
        fs::write(
            proc::root().join(RESULTS),
            markdown(found, &explained, shard),
        )?;
        println!("{RESULTS}");
    }
    let list: String = unexplained
        .iter()
        .map(|mutant| format!("\n  {}\t{}", mutant.file, mutant.change))
        .collect();
    ensure!(
        unexplained.is_empty(),
        "{} mutants survive; write a test, or explain in {EXPLAINED} why they are the same program:{list}",
        unexplained.len()
    );
    Ok(())
}

fn markdown(found: &[Found], explained: &BTreeMap<Mutant, String>, shard: Option<&str>) -> String {
    let part = shard.map_or_else(String::new, |shard| {
        format!("A part of all changes, evenly spread: {shard}.\n\n")
    });
    let mut text = "# Mutants\n\n\
        Each line of code changed a little, one change at a time: does a test fail? Written by `cargo xtask deep --mutants`; the\n\
        explanations are those of `docs/mutants.tsv`. Changes that do not compile are not counted; one that never ends is caught.\n\n"
        .to_owned()
        + &part
        + "| crate | changes | caught | survive |\n|---|---|---|---|\n";
    for Found {
        package,
        nr_caught,
        nr_timed_out,
        missed,
    } in found
    {
        let caught = nr_caught + nr_timed_out;
        text += &format!(
            "| {package} | {} | {caught} | {} |\n",
            caught + missed.len(),
            missed.len()
        );
    }
    text += "\n## Survivors\n\n";
    let missed: Vec<&Mutant> = found.iter().flat_map(|found| &found.missed).collect();
    if missed.is_empty() {
        text += "None.\n";
    }
    for mutant in missed {
        let why = explained
            .get(mutant)
            .map_or("NOT EXPLAINED", String::as_str);
        text += &format!("- `{}`: {}: {why}\n", mutant.file, mutant.change);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_known_without_its_line() {
        let mutant = mutant("crates/a/src/b.rs:12:5: replace x::y -> usize with 0").unwrap();
        assert_eq!(mutant.file, "crates/a/src/b.rs");
        assert_eq!(mutant.change, "replace x::y -> usize with 0");
        assert!(super::mutant("nothing").is_err());
    }

    #[test]
    fn survivors_are_listed_with_their_reasons() {
        let explained =
            explained("# head\na.rs\treplace > with >=\tboth ends are equal\n").unwrap();
        let survivor = |change: &str| Mutant {
            file: "a.rs".to_owned(),
            change: change.to_owned(),
        };
        let found = Found {
            package: "kmm-a".to_owned(),
            nr_caught: 8,
            nr_timed_out: 1,
            missed: vec![survivor("replace > with >="), survivor("replace + with -")],
        };
        let text = markdown(&[found], &explained, Some("1/20"));
        assert!(text.contains("evenly spread: 1/20."));
        assert!(text.contains("| kmm-a | 11 | 9 | 2 |"));
        assert!(text.contains("`a.rs`: replace > with >=: both ends are equal"));
        assert!(text.contains("replace + with -: NOT EXPLAINED"));
    }
}
