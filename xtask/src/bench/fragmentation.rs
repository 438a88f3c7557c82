//! `--fragmentation`: what a long mix of requests of different mobility leaves for huge pages.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::results::{self, Saved};
use super::table::{Table, layout, markdown};
use crate::flags::Flags;
use crate::proc;

const ABOUT: &str = "\
1 GiB. 70 % of what is in use is movable, most of it short-lived; 15 % is the kernel's own, long-lived, orders 0 to 3; 15 % are its
caches, which grow one by one and shrink in bursts. Files fill 98 % of the memory four times, and are given up; in between, programs
exit whenever the load is at its mark. The same random numbers for everybody.

- now: free memory that can be had as order 9, in % of all free memory
- mixed: pageblocks that hold movable frames and others, in %
- moved: what can be had as order 9 once no movable frame is in use, in % of what is free then: the most that compaction could reach
- failed: requests refused
";

const HEAD: [&str; 6] = [
    "load %",
    "allocator",
    "now %",
    "mixed %",
    "moved %",
    "failed",
];

pub(super) fn main(mut flags: Flags) -> Result<u8> {
    let is_quick = flags.flag("--quick");
    let seed = flags.number("--seed")?;
    let is_saved = flags.flag("--save");
    flags.finish()?;
    let program = super::build(
        "fragments",
        &["--no-default-features", "--features", "peers"],
    )?;
    let mut command = Command::new(program);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if is_quick {
        command.arg("--quick");
    }
    let said = proc::read(&mut command).context("the allocators did not live through it")?;
    let (notes, table) = parse(&said)?;
    println!("{ABOUT}");
    print!("{}", layout(&table));
    let path = super::out_dir().join("fragmentation.tsv");
    fs::write(&path, &said)?;
    println!("\n{}", path.display());
    if is_saved {
        results::save(&Saved {
            name: "fragmentation",
            title: "What is left for huge pages",
            command: "cargo xtask bench --fragmentation --save",
            notes,
            text: format!("{ABOUT}\n{}", markdown(&table)),
            tsv: tsv(&table),
        })?;
    }
    Ok(0)
}

/// The program's comments, and its lines below a head.
fn parse(said: &str) -> Result<(Vec<String>, Table)> {
    let mut notes = Vec::new();
    let mut table: Table = vec![HEAD.map(str::to_owned).to_vec()];
    for line in said.lines() {
        if let Some(note) = line.strip_prefix("# ") {
            notes.push(note.to_owned());
            continue;
        }
        let cells: Vec<String> = line.split('\t').map(str::to_owned).collect();
        if cells.len() != HEAD.len() {
            bail!("not understood: {line}");
        }
        table.push(cells);
    }
    Ok((notes, table))
}

fn tsv(table: &Table) -> String {
    let lines = table.iter().map(|row| row.join("\t") + "\n");
    format!("# {}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_lines_become_a_table() {
        let (notes, table) = parse("# seed 42, 9 events\n70\tkmm\t6.4\t82.4\t23.4\t0\n").unwrap();
        assert_eq!(notes, ["seed 42, 9 events"]);
        assert_eq!(table[1][1], "kmm");
        assert!(tsv(&table).starts_with("# load %\tallocator"));
        assert!(parse("70\tkmm\n").is_err());
    }
}
