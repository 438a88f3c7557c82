//! `--save`: the committed copies in `benches/results/`, never written by hand.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::proc;

const MACHINE: &str = "machine: ";

/// What is saved under one name.
pub(super) struct Saved<'a> {
    /// The files are called so.
    pub(super) name: &'a str,
    pub(super) title: &'a str,
    /// What makes it again.
    pub(super) command: &'a str,
    /// More lines about how it was measured: seeds, versions.
    pub(super) notes: Vec<String>,
    /// Markdown.
    pub(super) text: String,
    /// The same for tools.
    pub(super) tsv: String,
}

/// Writes `NAME.md` and `NAME.tsv`.
pub(super) fn save(saved: &Saved<'_>) -> Result<()> {
    let dir = dir()?;
    // A machine that the notes know better is not told twice.
    let is_known = saved.notes.iter().any(|note| note.starts_with(MACHINE));
    let mut notes = about(saved.command);
    notes.retain(|note| !is_known || !note.starts_with(MACHINE));
    notes.extend(saved.notes.iter().cloned());
    let list: String = notes.iter().map(|note| format!("- {note}\n")).collect();
    let text = format!("# {}\n\n{list}\n{}", saved.title, saved.text);
    let comments: String = notes.iter().map(|note| format!("# {note}\n")).collect();
    for (suffix, contents) in [("md", text), ("tsv", comments + &saved.tsv)] {
        let path = dir.join(format!("{}.{suffix}", saved.name));
        fs::write(&path, contents).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

/// `benches/results/`, made if need be.
pub(super) fn dir() -> Result<PathBuf> {
    let dir = proc::root().join("benches/results");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// The machine, the day and the commit.
fn about(command: &str) -> Vec<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let said = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        proc::read(command.args(args).current_dir(proc::root())).unwrap_or_default()
    };
    vec![
        format!("{MACHINE}{model}"),
        format!("date: {}", said("date", &["-u", "+%Y-%m-%d"])),
        format!(
            "commit: {}",
            said(
                "git",
                &["describe", "--always", "--dirty", "--exclude", "*"]
            )
        ),
        format!("command: `{command}`"),
    ]
}
