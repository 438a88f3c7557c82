//! Mutants that cannot be woven, one build each, by `cargo mutants` itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::list::Mutant;
use super::memory::{Known, Memory};
use super::race::Fate;
use super::weave::Id;
use crate::proc;

/// Exit codes of `cargo mutants` that mean that it did its work: all caught; some missed; some timed out.
const DONE: [i32; 3] = [0, 2, 3];
/// Seconds that the tests of a mutant may take.
const LIMIT_S: u32 = 240;

/// What becomes of them, or nothing where they do not compile. `slow` are tests that are not run.
pub(super) fn run(
    tree: &Path,
    mutants: &[(Id, &Mutant)],
    slow: &[String],
    memory: &Memory,
) -> Result<BTreeMap<Id, Option<Fate>>> {
    let mut fates = BTreeMap::new();
    let mut packages: Vec<&str> = mutants.iter().map(|(_, it)| &*it.package).collect();
    packages.sort_unstable();
    packages.dedup();
    for package in packages {
        let own: Vec<_> = mutants
            .iter()
            .filter(|(_, it)| it.package == package)
            .collect();
        let out = proc::work_dir(&format!("mutants/{package}"))?;
        let mut command = Command::new("cargo");
        proc::scrub(&mut command);
        command
            .args([
                "mutants",
                "--package",
                package,
                "--no-shuffle",
                "--in-place",
                // Its arguments would follow those of the tests. Which mutants there are is said below.
                "--no-config",
            ])
            .args(["--timeout", &LIMIT_S.to_string()])
            .args(["--build-timeout", &LIMIT_S.to_string(), "--output"])
            .arg(&out)
            .current_dir(tree)
            .env("RUSTC_BOOTSTRAP", "kmm_mutant")
            .env("CARGO_PROFILE_TEST_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_TEST_DEBUG", "false")
            .env("CARGO_TARGET_DIR", tree.with_file_name("build"));
        for (_, mutant) in &own {
            command.arg("--re").arg(exactly(&mutant.name));
        }
        command.args(["--", "--tests", "--", "--test-threads=1"]);
        for name in slow {
            command.args(["--skip", name]);
        }
        let status = proc::status(&mut command)?;
        ensure!(
            status.code().is_some_and(|code| DONE.contains(&code)),
            "cargo mutants ended with {status}"
        );
        let outcomes = [
            ("caught.txt", Some(Fate::Caught)),
            ("timeout.txt", Some(Fate::TimedOut)),
            ("missed.txt", Some(Fate::Missed)),
            ("unviable.txt", None),
        ];
        for (name, fate) in outcomes {
            let path = out.join("mutants.out").join(name);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            for line in text.lines() {
                let Some((id, mutant)) = own.iter().find(|(_, it)| it.name == line) else {
                    continue;
                };
                fates.insert(*id, fate.clone());
                let known = match fate {
                    Some(Fate::Caught) => Known::Caught,
                    Some(Fate::TimedOut) => Known::TimedOut,
                    None => Known::Unviable,
                    Some(Fate::Missed | Fate::Unreached) => Known::Missed,
                };
                memory.add(core::iter::once((*mutant, known)))?;
            }
        }
    }
    Ok(fates)
}

/// A regular expression for one name.
fn exactly(name: &str) -> String {
    let mut text = "^".to_owned();
    for c in name.chars() {
        if c.is_ascii_punctuation()
            && !matches!(
                c,
                '_' | '-' | ':' | '/' | '<' | '>' | '=' | ',' | '\'' | '"' | '!' | '%' | '@' | ';'
            )
        {
            text.push('\\');
        }
        text.push(c);
    }
    text + "$"
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_matches_itself_alone() {
        assert_eq!(
            super::exactly("a.rs:1:2: replace | with ^"),
            r"^a\.rs:1:2: replace \| with \^$"
        );
    }
}
