//! `cargo xtask bench`: figures against peers, instructions of ours on the host, and what the kernel counts in its guest.
//!
//! `benches/` is a workspace of its own; here it is built and run, and its tables are saved.

mod fragmentation;
mod growth;
mod guest;
mod instructions;
mod results;
mod rows;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::flags::Flags;
use crate::proc;
use results::Saved;

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    if flags.is_only("--save") {
        return everything();
    }
    if flags.flag("--instructions") {
        return instructions::main(flags);
    }
    if flags.flag("--guest") {
        return guest::main(flags);
    }
    if flags.flag("--growth") {
        return growth::main(flags);
    }
    if flags.flag("--fragmentation") {
        return fragmentation::main(flags);
    }
    host(flags)
}

/// Measures all that is kept in `benches/results/`, and keeps it.
fn everything() -> Result<u8> {
    let flags = || Flags::new(["--save".to_owned()].into_iter());
    let parts = [guest::main, growth::main, fragmentation::main, host];
    let codes: Vec<u8> = parts
        .iter()
        .map(|part| part(flags()))
        .collect::<Result<_>>()?;
    Ok(codes.into_iter().max().unwrap_or(0))
}

/// Ours against the peers, on this machine.
fn host(mut flags: Flags) -> Result<u8> {
    let mut args = Vec::new();
    if flags.flag("--quick") {
        args.push("--quick".to_owned());
    }
    for name in ["--figure", "--area", "--only"] {
        for value in flags.values(name)? {
            args.extend([name.to_owned(), value]);
        }
    }
    let list = flags.flag("--list");
    let is_saved = flags.flag("--save");
    flags.finish()?;
    let bench = build("bench", &[])?;
    let mut command = Command::new(bench);
    command.current_dir(proc::root());
    if list {
        command.arg("--list");
    } else {
        command.args(&args).arg("--out").arg(out_dir());
    }
    proc::loud(&mut command)?;
    if is_saved && !list {
        save_host(&args)?;
    }
    Ok(0)
}

/// Keeps the tables of the areas that were measured.
fn save_host(args: &[String]) -> Result<()> {
    let figures = fs::read_to_string(out_dir().join("figures.tsv"))?;
    let (notes, lines): (Vec<&str>, Vec<&str>) =
        figures.lines().partition(|line| line.starts_with('#'));
    let words = args.iter().map(|arg| format!("{arg} ")).collect::<String>();
    for (area, title) in [("frames", "Page frames"), ("objects", "Objects")] {
        let is_of = |line: &&&str| line.starts_with(&format!("{area}\t"));
        let lines: Vec<&str> = lines.iter().filter(is_of).copied().collect();
        if lines.is_empty() {
            continue;
        }
        let tables = fs::read_to_string(out_dir().join(area).with_extension("txt"))?;
        // The last comment is the head of the columns.
        let (columns, notes) = notes.split_last().context("figures without a head")?;
        results::save(&Saved {
            name: area,
            title: &format!("{title}: ours and the peers, in one run"),
            command: &format!("cargo xtask bench {words}--save"),
            notes: notes
                .iter()
                .map(|note| note.trim_start_matches(['#', ' ']).to_owned())
                .collect(),
            text: format!("```text\n{}```\n", tables.trim_start()),
            tsv: format!("{columns}\n{}\n", lines.join("\n")),
        })?;
    }
    Ok(())
}

/// Where the rows file goes.
fn out_dir() -> PathBuf {
    proc::target_dir().join("bench")
}

/// Builds one of the programs of `benches/`; where it is.
fn build(name: &str, features: &[&str]) -> Result<PathBuf> {
    let target = out_dir().join("build");
    let mut cargo = proc::host_cargo();
    cargo
        .args(["build", "--quiet", "--release", "--bin", name])
        .args(["--manifest-path", "benches/Cargo.toml"])
        .args(features)
        .env("CARGO_TARGET_DIR", &target);
    proc::loud(&mut cargo)?;
    Ok(target.join("release").join(name))
}
