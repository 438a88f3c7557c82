//! `docs/mutants.md`: by file what became of the mutants, and what is left to explain.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Result, bail};

use super::list::Mutant;
use super::memory::{Known, Memory};
use crate::proc;

/// A change, without the line, which moves.
pub(super) type Change = (String, String);

/// Why mutants are the same program, by change: a reason for each place where a function has it.
pub(super) type Explained = BTreeMap<Change, Vec<String>>;

pub(super) fn explained(text: &str) -> Result<Explained> {
    let mut explained = Explained::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [file, change, why] = cells[..] else {
            bail!("not three cells: {line}");
        };
        let reasons = explained.entry((file.to_owned(), change.to_owned()));
        reasons.or_default().push(why.to_owned());
    }
    Ok(explained)
}

/// What became of all mutants of a file.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) nr_mutants: usize,
    pub(super) nr_caught: usize,
    pub(super) nr_timed_out: usize,
    pub(super) nr_unviable: usize,
    pub(super) nr_equivalent: usize,
    pub(super) nr_open: usize,
    pub(super) nr_not_run: usize,
    pub(super) commit: String,
}

/// The rows of the files that have run as they are, and what survives in them without a reason.
pub(super) fn rows<'a>(
    mutants: &'a [Mutant],
    memory: &Memory,
    explained: &Explained,
) -> (BTreeMap<String, Row>, Vec<&'a Mutant>) {
    let (mut rows, mut open): (BTreeMap<String, Row>, _) = (BTreeMap::new(), Vec::new());
    let mut reasons: BTreeMap<Change, usize> = BTreeMap::new();
    for mutant in mutants.iter().filter(|mutant| memory.has_run(&mutant.file)) {
        let row = rows.entry(mutant.file.clone()).or_default();
        row.nr_mutants += 1;
        *match memory.get(mutant) {
            Some(Known::Unviable) => &mut row.nr_unviable,
            Some(Known::Caught) => &mut row.nr_caught,
            Some(Known::TimedOut) => &mut row.nr_timed_out,
            Some(Known::Missed) => {
                let used = reasons.entry(change(mutant)).or_default();
                *used += 1;
                if explained
                    .get(&change(mutant))
                    .is_some_and(|all| all.len() >= *used)
                {
                    &mut row.nr_equivalent
                } else {
                    open.push(mutant);
                    &mut row.nr_open
                }
            }
            None => &mut row.nr_not_run,
        } += 1;
    }
    for (file, row) in &mut rows {
        row.commit = last_commit(file);
    }
    (rows, open)
}

/// How `docs/mutants.tsv` calls it.
pub(super) fn change(mutant: &Mutant) -> Change {
    (mutant.file.clone(), mutant.change().to_owned())
}

/// The commit that last changed a file, which is what was mutated unless it is changed since.
fn last_commit(file: &str) -> String {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%h", "--", file])
        .current_dir(proc::root());
    proc::read(&mut git).unwrap_or_default()
}

/// The rows of an earlier report.
pub(super) fn read(markdown: &str) -> BTreeMap<String, Row> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, cells @ .., _] = &cells[..] else {
            return None;
        };
        let number = |nr: usize| cells.get(nr)?.parse().ok();
        let row = Row {
            nr_mutants: number(0)?,
            nr_caught: number(1)?,
            nr_timed_out: number(2)?,
            nr_unviable: number(3)?,
            nr_equivalent: number(4)?,
            nr_open: number(5)?,
            nr_not_run: number(6)?,
            commit: (*cells.get(7)?).to_owned(),
        };
        Some(((*file).to_owned(), row))
    };
    let rows = markdown.lines().filter_map(row);
    rows.filter(|(file, _)| file.ends_with(".rs")).collect()
}

/// What an earlier report says is open, by name.
pub(super) fn read_open(markdown: &str) -> Vec<String> {
    let (_, open) = markdown.split_once("## Open").unwrap_or_default();
    let names = open
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`'));
    names.map(str::to_owned).collect()
}

/// The whole report.
pub(super) fn markdown(
    rows: &BTreeMap<String, Row>,
    explained: &Explained,
    open: &[String],
) -> String {
    let mut text = "# Mutants\n\n\
        Each place of the code changed a little, one change at a time: does a test fail? Written by `cargo xtask deep --mutants`\n\
        (`--package` or `--file` for a part; the other rows stay). The changes are those of `cargo mutants`; `.cargo/mutants.toml` says\n\
        which are left out and why. One that never ends is counted as timed out, one that does not compile as unviable. A survivor\n\
        is the same program for a reason given below (`docs/mutants.tsv`), or open. The commit is the last that changed the file\n\
        when its mutants ran; those not run are counted too.\n\n\
        | file | mutants | caught | timed out | unviable | equivalent | open | not run | commit |\n|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let mut sum = Row::default();
    let mut line = |file: &str, row: &Row| {
        text += &format!(
            "| {file} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            row.nr_mutants,
            row.nr_caught,
            row.nr_timed_out,
            row.nr_unviable,
            row.nr_equivalent,
            row.nr_open,
            row.nr_not_run,
            row.commit
        );
    };
    for (file, row) in rows {
        line(file, row);
        sum.nr_mutants += row.nr_mutants;
        sum.nr_caught += row.nr_caught;
        sum.nr_timed_out += row.nr_timed_out;
        sum.nr_unviable += row.nr_unviable;
        sum.nr_equivalent += row.nr_equivalent;
        sum.nr_open += row.nr_open;
        sum.nr_not_run += row.nr_not_run;
    }
    line("all", &sum);
    text += "\n## Equivalent\n\n";
    let mut file = "";
    for ((of, change), why) in explained {
        if of != file {
            text += &format!("{}`{of}`\n\n", if file.is_empty() { "" } else { "\n" });
            file = of;
        }
        let times = if why.len() > 1 {
            format!(", {} times", why.len())
        } else {
            String::new()
        };
        text += &format!("- `{change}`{times}: {}\n", why[0]);
    }
    text += "\n## Open\n\n";
    if open.is_empty() {
        text += "None.\n";
    }
    for name in open {
        text += &format!("- `{name}`\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let explained =
            explained("# head\na.rs\treplace > with >=\tboth ends are equal\n").unwrap();
        let row = Row {
            nr_mutants: 12,
            nr_caught: 8,
            nr_timed_out: 1,
            nr_unviable: 1,
            nr_equivalent: 1,
            nr_open: 1,
            nr_not_run: 0,
            commit: "abc".to_owned(),
        };
        let rows = BTreeMap::from([("a.rs".to_owned(), row)]);
        let open = ["a.rs:1:2: replace + with -".to_owned()];
        let text = markdown(&rows, &explained, &open);
        assert_eq!(read(&text), rows);
        assert_eq!(read_open(&text), open);
        assert!(text.contains("| a.rs | 12 | 8 | 1 | 1 | 1 | 1 | 0 | abc |"));
        assert!(text.contains("`a.rs`\n\n- `replace > with >=`: both ends are equal"));
        assert!(text.contains("- `a.rs:1:2: replace + with -`"));
    }
}
