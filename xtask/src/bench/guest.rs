//! `--guest`: the kernel's own `bench` command under QEMU's instruction counter, against what was recorded of Linux there.
//!
//! The machine has one CPU, and one nanosecond passes for each instruction: the time-stamp counter counts them, and the
//! figures are the same in every run. So the kernel is booted twice, and has to say the same both times.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::results::{self, Saved};
use super::rows::{self, Row};
use super::table::{Table, layout, markdown};
use crate::flags::Flags;
use crate::guest::{Guest, PROMPT, Wait};
use crate::kernel::Flavour;
use crate::qemu::{Door, Machine};
use crate::{kernel, proc, qemu};

const TIMEOUT: Duration = Duration::from_secs(120);
/// Without the string instructions that QEMU charges one instruction for each byte of.
const CPU: &str = "max,-erms,-fsrm";
const ICOUNT: [&str; 2] = ["-icount", "shift=0,sleep=off"];
/// What the kernel's lines begin with.
const MARK: &str = "bench: ";
const UNIT: &str = "instructions";

pub(super) fn main(mut flags: Flags) -> Result<u8> {
    let words = flags.values("--figure")?;
    let elf = flags.value("--kernel")?.map(PathBuf::from);
    let is_saved = flags.flag("--save");
    flags.finish()?;
    let figures = figures()?;
    let elf = elf.map_or_else(|| kernel::build(Flavour::Plain), Ok)?;
    let said = boot(&elf, &words)?;
    let again = boot(&elf, &words)?;
    ensure!(
        said == again,
        "two runs differ:\n{}",
        differences(&said, &again)
    );
    let measured = readings(&said)?;
    println!(
        "the kernel's own paths, in guest instructions, against Linux in the same QEMU (recorded)"
    );
    if let Some(costs) = said.lines().find(|line| line.contains("taken off")) {
        println!(
            "{}; the least of 9 samples; two runs agree to the digit",
            costs.trim_start_matches(MARK)
        );
    }
    print!("{}", layout(&table(&figures, &measured)));
    let missing = missing(&figures, &measured);
    if words.is_empty() && !missing.is_empty() {
        println!("not in the kernel yet: {}", missing.join(", "));
    }
    fs::create_dir_all(super::out_dir())?;
    let rows_path = super::out_dir().join("rows.tsv");
    rows::merge_into(&rows_path, &rows_of(&figures, &measured))?;
    let path = super::out_dir().join("guest.tsv");
    fs::write(&path, tsv(&measured))?;
    println!("\n{}\n{}", rows_path.display(), path.display());
    if is_saved {
        save(&figures, &measured, &missing)?;
    }
    Ok(0)
}

fn save(figures: &[Figure], measured: &[Reading], missing: &[String]) -> Result<()> {
    let mut text = "Guest instructions, the least of nine samples of many repetitions each, less what measuring costs; two boots \
        agree to the digit. Linux: the cheapest of several kernels, recorded in the same QEMU. A ratio below 1 means that ours \
        is better.\n\n"
        .to_owned();
    text += &markdown(&table(figures, measured));
    if !missing.is_empty() {
        text += &format!("\nNot in the kernel yet: {}.\n", missing.join("; "));
    }
    results::save(&Saved {
        name: "guest",
        title: "The kernel's own paths",
        command: "cargo xtask bench --guest --save",
        notes: vec![format!(
            "guest: {}, -cpu {CPU} {} {}",
            proc::read(Command::new(qemu::find()?).arg("--version"))
                .and_then(|text| Some(text.lines().next()?.to_owned()))
                .unwrap_or_default(),
            ICOUNT[0],
            ICOUNT[1]
        )],
        text,
        tsv: tsv(measured),
    })
}

/// A line of `benches/data/guest.tsv`, with what Linux needs for it.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    id: String,
    title: String,
    goal: Option<f64>,
    linux: f64,
    /// Which Linux.
    by: String,
}

/// What the kernel said of a figure.
#[derive(Clone, Debug, PartialEq)]
struct Reading {
    id: String,
    least: f64,
    median: f64,
}

/// The figures in the order of the table.
fn figures() -> Result<Vec<Figure>> {
    let dir = proc::root().join("benches/data");
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    parse(&read("guest.tsv")?, &read("linux.tsv")?)
}

fn parse(guest: &str, linux: &str) -> Result<Vec<Figure>> {
    let linux = linux_figures(linux)?;
    let lines = guest.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [id, title, goal, theirs] = cells[..] else {
                bail!("not four cells: {line}")
            };
            let (best, by) = linux
                .get(theirs)
                .with_context(|| format!("no figure {theirs} of Linux"))?;
            Ok(Figure {
                id: id.to_owned(),
                title: title.to_owned(),
                goal: goal.parse().ok(),
                linux: *best,
                by: format!("{by} (recorded)"),
            })
        })
        .collect()
}

/// The cheapest Linux for each figure of `benches/data/linux.tsv`, and which it is.
fn linux_figures(text: &str) -> Result<BTreeMap<&str, (f64, &'static str)>> {
    const NAMES: [&str; 3] = ["Debian 6.1", "minimal 6.1", "minimal 6.12"];
    let mut figures = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("kernel\t")) {
        let cells: Vec<&str> = line.split('\t').collect();
        let [_, id, several @ .., best] = &cells[..] else {
            bail!("no figure: {line}")
        };
        let value = best.parse().with_context(|| format!("no number: {line}"))?;
        let which = several.iter().position(|cell| cell == best);
        let name = which.and_then(|at| NAMES.get(at).copied());
        figures.insert(*id, (value, name.unwrap_or("Debian 6.12")));
    }
    Ok(figures)
}

/// Boots the kernel, types `bench`, and returns what it says.
fn boot(elf: &Path, words: &[String]) -> Result<String> {
    let machine = Machine {
        cpu: CPU.to_owned(),
        extra: ICOUNT.map(str::to_owned).to_vec(),
        ..Machine::default()
    };
    let door = Door::Pvh {
        kernel: elf.to_owned(),
        initramfs: None,
        cmdline: "exec".to_owned(),
    };
    let log = proc::work_dir("log")?.join("bench.log");
    let mut guest = Guest::start(machine.command(&door, &log)?, false)?;
    let deadline = Instant::now() + TIMEOUT;
    if guest.wait_for(PROMPT, deadline) != Wait::Found {
        bail!("the kernel did not get to its prompt:\n{}", guest.text());
    }
    let line = ["bench".to_owned()]
        .into_iter()
        .chain(words.iter().cloned());
    match guest.exec(&line.collect::<Vec<_>>().join(" "), deadline) {
        Ok((text, 0)) => Ok(text),
        Ok((text, status)) => bail!("bench ended with {status}: {text}"),
        Err((_, text)) => bail!("bench did not end: {text}"),
    }
}

fn readings(said: &str) -> Result<Vec<Reading>> {
    let lines = said.lines().filter_map(|line| line.strip_prefix(MARK));
    lines
        .filter(|line| !line.starts_with("taken off"))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [id, least, median] = words[..] else {
                bail!("not understood: {line}")
            };
            Ok(Reading {
                id: id.to_owned(),
                least: least.parse()?,
                median: median.parse()?,
            })
        })
        .collect()
}

fn differences(one: &str, other: &str) -> String {
    let pairs = one.lines().zip(other.lines()).filter(|(a, b)| a != b);
    pairs.map(|(a, b)| format!("  {a} | {b}\n")).collect()
}

fn table(figures: &[Figure], measured: &[Reading]) -> Table {
    let head = ["figure", "", "ours", "goal", "", "Linux", "", "ratio"];
    let mut table: Table = vec![head.map(str::to_owned).to_vec()];
    for reading in measured {
        let figure = figures.iter().find(|figure| figure.id == reading.id);
        let reached = figure
            .and_then(|figure| figure.goal)
            .map(|goal| reading.least <= goal);
        table.push(vec![
            reading.id.clone(),
            figure.map_or_else(String::new, |figure| figure.title.clone()),
            number(reading.least),
            figure
                .and_then(|figure| figure.goal)
                .map_or_else(String::new, number),
            reached
                .map_or("", |reached| if reached { "reached" } else { "missed" })
                .to_owned(),
            figure.map_or_else(String::new, |figure| number(figure.linux)),
            figure.map_or_else(String::new, |figure| figure.by.clone()),
            figure.map_or_else(String::new, |figure| {
                format!("{:.2}", reading.least / figure.linux)
            }),
        ]);
    }
    table
}

/// Figures with a goal that the kernel cannot measure yet.
fn missing(figures: &[Figure], measured: &[Reading]) -> Vec<String> {
    let is_measured = |figure: &&Figure| measured.iter().any(|reading| reading.id == figure.id);
    let missing = figures.iter().filter(|figure| !is_measured(figure));
    missing.map(|figure| figure.title.clone()).collect()
}

fn rows_of(figures: &[Figure], measured: &[Reading]) -> Vec<Row> {
    let with_rival = measured.iter().filter_map(|reading| {
        let figure = figures.iter().find(|figure| figure.id == reading.id)?;
        Some(Row {
            area: "guest",
            figure: reading.id.clone(),
            ours: reading.least,
            rival: figure.linux,
            rival_name: format!("Linux, {}", figure.by),
            unit: UNIT,
        })
    });
    with_rival.collect()
}

fn tsv(measured: &[Reading]) -> String {
    let mut text = "# figure\tleast\tmedian\n".to_owned();
    for Reading { id, least, median } in measured {
        text += &format!("{id}\t{least:.2}\t{median:.2}\n");
    }
    text
}

fn number(value: f64) -> String {
    if value < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: &str = "where\tfigure\ta\tb\tc\tbest\nkernel\tpair\t690\t417\t496\t417\nkernel\twalk\t9\t8\t7\t5\n";

    #[test]
    fn every_figure_has_a_rival() {
        let figures = figures().unwrap();
        assert!(figures.iter().all(|figure| figure.linux > 0.0));
        assert!(figures.iter().any(|figure| figure.goal == Some(30.0)));
    }

    #[test]
    fn the_cheapest_linux_is_named() {
        let figures = parse("p\tpair\t30\tpair\nw\twalk\t-\twalk\n", LINUX).unwrap();
        assert_eq!((figures[0].linux, figures[0].goal), (417.0, Some(30.0)));
        assert_eq!(figures[0].by, "minimal 6.1 (recorded)");
        assert_eq!(
            (figures[1].by.as_str(), figures[1].goal),
            ("Debian 6.12 (recorded)", None)
        );
        assert!(parse("p\tpair\t30\tnone\n", LINUX).is_err());
    }

    #[test]
    fn what_the_kernel_says_becomes_rows() {
        let said = "bench: taken off: clock 4, loop 3.00 each\nbench: p 20.25 21.00\nnoise\n";
        let measured = readings(said).unwrap();
        assert_eq!(measured.len(), 1);
        let figures = parse("p\tpair\t30\tpair\nw\twalk\t-\twalk\n", LINUX).unwrap();
        let rows = rows_of(&figures, &measured);
        assert!((rows[0].ratio() - 20.25 / 417.0).abs() < 1e-9);
        assert_eq!(missing(&figures, &measured), ["walk"]);
        assert!(table(&figures, &measured)[1].contains(&"reached".to_owned()));
        assert!(readings("bench: p 20.25\n").is_err());
    }
}
