//! `cargo xtask probe`: highmem is nothing on a 64-bit machine, and neither is a record of owners that nobody keeps; shown
//! in machine code.
//!
//! `xtask/probe` has pairs of functions: one goes through `PhysMap` and `kmm-highmem`, or through `PageOwner` with `()` for
//! records; the other is what one would write by hand. Their instructions have to be the same, in whatever
//! order the compiler schedules them: this is about what it costs. One pair differs on purpose, so that a comparison that sees nothing fails.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};

use crate::flags::Flags;
use crate::proc;

const DIFFERS: &str = "differs";

pub(crate) fn main(flags: Flags) -> Result<u8> {
    flags.finish()?;
    run()?;
    Ok(0)
}

pub(crate) fn run() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the pairs are compared on x86-64 only");
    }
    let functions = functions(&assembly()?);
    let names: Vec<&str> = functions
        .keys()
        .filter_map(|name| name.strip_prefix("ours_"))
        .collect();
    ensure!(
        names.contains(&DIFFERS) && names.len() > 1,
        "the probe's functions are not in its assembly"
    );
    for name in names {
        let (ours, plain) = (
            code(&functions, &format!("ours_{name}"))?,
            code(&functions, &format!("plain_{name}"))?,
        );
        let same = sorted(ours) == sorted(plain);
        if name == DIFFERS {
            ensure!(
                !same,
                "the pair that differs on purpose looks the same: the comparison sees nothing"
            );
            continue;
        }
        ensure!(
            same,
            "{name}: through the crates\n  {}\nby hand\n  {}",
            ours.join("\n  "),
            plain.join("\n  ")
        );
        println!(
            "probe: {name}: the same {} instructions as by hand: {}",
            ours.len(),
            ours.join("; ")
        );
    }
    Ok(())
}

/// Builds the pairs with optimisation, and reads what the compiler wrote.
fn assembly() -> Result<String> {
    let target = proc::target_dir().join("probe");
    let mut cargo = proc::host_cargo();
    cargo
        .args(["rustc", "--quiet", "--release", "--lib", "--target-dir"])
        .arg(&target)
        .args(["--", "--emit=asm", "-Cllvm-args=-x86-asm-syntax=intel"]);
    proc::loud(cargo.current_dir(proc::root().join("xtask/probe")))?;
    let files = fs::read_dir(target.join("release/deps"))?
        .flatten()
        .map(|file| file.path());
    let newest = files
        .filter(|path| path.extension().is_some_and(|ext| ext == "s"))
        .max_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).ok());
    Ok(fs::read_to_string(
        newest.context("the compiler wrote no assembly")?,
    )?)
}

/// The instructions of each function, without labels and directives. Two functions with one body are two names for it.
fn functions(assembly: &str) -> BTreeMap<String, Vec<String>> {
    let mut functions = BTreeMap::new();
    let mut current: Option<(String, Vec<String>)> = None;
    let mut aliases = Vec::new();
    for line in assembly.lines() {
        let code = line.split('#').next().unwrap_or_default().trim();
        let alias = match code.strip_prefix(".set ") {
            Some(rest) => rest.split_once(", "),
            None => code.split_once(" = ").filter(|_| !code.starts_with('.')),
        };
        if let Some((name, other)) = alias {
            aliases.push((name.to_owned(), other.to_owned()));
        } else if let Some(name) = code.strip_suffix(':').filter(|name| !name.starts_with('.')) {
            functions.extend(current.replace((name.to_owned(), Vec::new())));
        } else if !code.is_empty() && !code.starts_with('.') {
            if let Some((_, instructions)) = &mut current {
                let words: Vec<String> = code.split_whitespace().map(label_free).collect();
                instructions.push(words.join(" "));
            }
        }
    }
    functions.extend(current);
    for (name, other) in aliases {
        if let Some(body) = functions.get(&other).cloned() {
            functions.insert(name, body);
        }
    }
    functions
}

/// A local label without the number of its function: `.LBB7_1` is `.LBB_1`.
fn label_free(word: &str) -> String {
    match word
        .strip_prefix(".LBB")
        .and_then(|rest| rest.split_once('_'))
    {
        Some((_, nr)) => format!(".LBB_{nr}"),
        None => word.to_owned(),
    }
}

fn code<'a>(functions: &'a BTreeMap<String, Vec<String>>, name: &str) -> Result<&'a [String]> {
    let code = functions
        .get(name)
        .with_context(|| format!("there is no {name}"))?;
    ensure!(!code.is_empty(), "{name} has no instructions");
    Ok(code)
}

fn sorted(code: &[String]) -> Vec<&String> {
    let mut code: Vec<&String> = code.iter().collect();
    code.sort();
    code
}

#[cfg(test)]
mod tests {
    use super::functions;

    #[test]
    fn instructions_are_taken_apart_from_labels_and_directives() {
        let text = "\t.globl\tf\nf:\n\t.cfi_startproc\n.LBB0_1:\n\tshl\trsi, 12 # x\n\tret\n.Lfunc_end0:\n\ng:\n\tret\n\t.set h, f\ni = f\n";
        let functions = functions(text);
        assert_eq!(functions["f"], ["shl rsi, 12", "ret"]);
        assert_eq!(functions["g"], ["ret"]);
        assert_eq!(functions["h"], functions["f"]);
        assert_eq!(functions["i"], functions["f"]);
    }

    #[test]
    fn jumps_within_a_function_look_the_same_in_its_twin() {
        let functions = functions("f:\n\tje .LBB1_2\n\tret\ng:\n\tje .LBB7_2\n\tret\n");
        assert_eq!(functions["f"], ["je .LBB_2", "ret"]);
        assert_eq!(functions["f"], functions["g"]);
    }
}
