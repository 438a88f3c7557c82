//! `--growth`: what an operation costs on 64 MiB and on 1 TiB, in instructions by callgrind, and what boot costs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::instructions::{bytes, counted};
use super::results::{self, Saved};
use super::table::{Table, layout, markdown};
use crate::flags::Flags;
use crate::proc;

const SIZES: [&str; 5] = ["64M", "1G", "16G", "256G", "1T"];
/// On more memory an operation may cost so much more than on the least.
const GROWTH_PERCENT: f64 = 20.0;
const BOOT: &str = "boot";
const KIB: f64 = 1024.0;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

const ABOUT: &str = "\
Instructions per operation: batches of blocks out, and back in random order, while half of the memory is in use as blocks of order 10
anywhere. No memory is behind the frames, and descriptors cost none until they are written. The last column is the dearest against
the first; single pages get cheaper where pagesets get larger.
";

pub(super) fn main(mut flags: Flags) -> Result<u8> {
    let wanted = flags.values("--figure")?;
    let sizes = flags.values("--size")?;
    let is_saved = flags.flag("--save");
    flags.finish()?;
    let sizes: Vec<&str> = if sizes.is_empty() {
        SIZES.to_vec()
    } else {
        sizes.iter().map(String::as_str).collect()
    };
    let Some(valgrind) = proc::which("valgrind") else {
        println!("skipped: instructions are counted by valgrind: apt-get install valgrind");
        return Ok(0);
    };
    let program = super::build("growth", &["--no-default-features"])?;
    let names = proc::read(Command::new(&program).arg("--list")).context("no list of figures")?;
    let meter = Meter { valgrind, program };
    let is_wanted =
        |name: &&str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word));
    let (mut table, mut grows) = (vec![head("operation", &sizes, "growth")], Vec::new());
    for name in names.lines().filter(|name| *name != BOOT).filter(is_wanted) {
        let costs = sizes.iter().map(|size| meter.cost(name, size));
        let costs: Vec<f64> = costs.collect::<Result<_>>()?;
        let percent = growth_percent(&costs);
        if percent > GROWTH_PERCENT {
            grows.push(name.to_owned());
        }
        let cells = costs.iter().map(|cost| format!("{cost:.1}"));
        let growth = format!("{percent:+.1} %");
        table.push(
            [name.to_owned()]
                .into_iter()
                .chain(cells)
                .chain([growth])
                .collect(),
        );
    }
    let boot = meter.boot(&sizes)?;
    println!("{ABOUT}");
    print!("{}", layout(&table));
    println!("\nboot: descriptors and zones of all that memory, per GiB");
    print!("{}", layout(&boot));
    if grows.is_empty() {
        println!("\nno operation costs {GROWTH_PERCENT} % more on more memory");
    } else {
        println!(
            "\nmore than {GROWTH_PERCENT} % dearer on more memory: {}",
            grows.join(", ")
        );
    }
    if is_saved {
        results::save(&Saved {
            name: "growth",
            title: "What the size of the memory costs",
            command: "cargo xtask bench --growth --save",
            notes: vec!["counted by callgrind; the same in every run; seed 42".to_owned()],
            text: format!(
                "{ABOUT}\n{}\nBoot: descriptors and zones of all that memory, per GiB.\n\n{}",
                markdown(&table),
                markdown(&boot)
            ),
            tsv: tsv(&table) + &tsv(&boot),
        })?;
    }
    Ok(u8::from(!grows.is_empty()))
}

struct Meter {
    valgrind: PathBuf,
    program: PathBuf,
}

impl Meter {
    fn cost(&self, figure: &str, size: &str) -> Result<f64> {
        counted(&self.valgrind, &self.program, figure, bytes(size)?)
    }

    /// Instructions and bytes touched, per GiB.
    fn boot(&self, sizes: &[&str]) -> Result<Table> {
        let mut instructions = vec!["instructions".to_owned()];
        let mut touched = vec!["KiB touched".to_owned()];
        for size in sizes {
            let nr_gib = bytes(size)? as f64 / GIB;
            instructions.push(format!("{:.0}", self.cost(BOOT, size)? / nr_gib));
            let resident = touched_bytes(&self.program, bytes(size)?)?;
            touched.push(format!("{:.1}", resident / KIB / nr_gib));
        }
        let mut head = head("boot", sizes, "");
        head.pop();
        Ok(vec![head, instructions, touched])
    }
}

fn touched_bytes(program: &Path, size: u64) -> Result<f64> {
    let mut command = Command::new(program);
    let size = size.to_string();
    command.args(["--figure", BOOT, "--size", &size, "--resident"]);
    let text = proc::read(&mut command).context("boot failed")?;
    Ok(text.parse()?)
}

fn head(first: &str, sizes: &[&str], last: &str) -> Vec<String> {
    let all = [first]
        .into_iter()
        .chain(sizes.iter().copied())
        .chain([last]);
    all.map(str::to_owned).collect()
}

/// How far the dearest is above the first.
fn growth_percent(costs: &[f64]) -> f64 {
    let rest = costs.iter().copied().skip(1);
    let most = rest.reduce(f64::max).unwrap_or(costs[0]);
    100.0 * (most / costs[0] - 1.0)
}

fn tsv(table: &Table) -> String {
    let lines = table.iter().map(|row| row.join("\t") + "\n");
    format!("# {}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_dearest_against_the_first() {
        assert!((growth_percent(&[100.0, 120.0, 110.0]) - 20.0).abs() < 1e-9);
        assert!((growth_percent(&[100.0, 50.0, 90.0]) + 10.0).abs() < 1e-9);
        assert!(growth_percent(&[100.0]).abs() < 1e-9);
    }

    #[test]
    fn heads_name_every_size() {
        assert_eq!(
            head("operation", &["64M", "1T"], "growth"),
            ["operation", "64M", "1T", "growth"]
        );
    }
}
