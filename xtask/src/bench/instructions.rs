//! `--instructions`: what ours costs on the host, counted by valgrind.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::flags::Flags;
use crate::proc;

/// Instructions per operation of ours, by callgrind: they repeat, whatever else the machine does.
pub(super) fn main(mut flags: Flags) -> Result<u8> {
    let wanted = flags.values("--figure")?;
    let mut sizes = flags.values("--size")?;
    flags.finish()?;
    if sizes.is_empty() {
        sizes.push("64M".to_owned());
    }
    let Some(valgrind) = proc::which("valgrind") else {
        println!(
            "instructions are counted by valgrind, which is missing: apt-get install valgrind"
        );
        return Ok(0);
    };
    // Without the peers: built in seconds.
    let count = super::build("count", &["--no-default-features"])?;
    let names = proc::read(Command::new(&count).arg("--list")).context("no list of figures")?;
    println!("instructions per operation, loop of the harness included (2 or 3)");
    println!("{:<22}{}", "", columns(&sizes));
    for figure in names.lines() {
        if !wanted.is_empty() && !wanted.iter().any(|name| figure.contains(name.as_str())) {
            continue;
        }
        let of_size = |size: &String| {
            let per_operation = counted(&valgrind, &count, figure, bytes(size)?)?;
            Ok(format!("{per_operation:.1}"))
        };
        // The RAM of a heap is not what its figures depend on.
        let nr_sizes = if is_of_frames(figure) { sizes.len() } else { 1 };
        let cells: Vec<String> = sizes[..nr_sizes]
            .iter()
            .map(of_size)
            .collect::<Result<_>>()?;
        println!("{figure:<22}{}", columns(&cells));
    }
    Ok(0)
}

fn is_of_frames(figure: &str) -> bool {
    ["page-", "order", "buddy-"]
        .iter()
        .any(|prefix| figure.starts_with(prefix))
}

fn columns(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("{cell:>10}")).collect()
}

/// Runs one figure under callgrind, which counts only what runs below `kmm_measured`.
pub(super) fn counted(valgrind: &Path, count: &Path, figure: &str, size: u64) -> Result<f64> {
    let output = Command::new(valgrind)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=kmm_measured")
        .arg(count)
        .args(["--figure", figure, "--size", &size.to_string()])
        .stdin(Stdio::null())
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    let operations: f64 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .with_context(|| format!("{figure} failed: {log}"))?;
    let collected = collected(&log).with_context(|| format!("no count of {figure}: {log}"))?;
    Ok(collected / operations)
}

/// The number behind `Collected :` in callgrind's log.
fn collected(log: &str) -> Option<f64> {
    let line = log
        .lines()
        .find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

/// `64M`, `1G`, `2T`: bytes.
pub(super) fn bytes(size: &str) -> Result<u64> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let unit = units
        .iter()
        .find_map(|(unit, shift)| Some((size.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.unwrap_or((size, &0));
    match digits.parse::<u64>() {
        Ok(number) => Ok(number << shift),
        Err(_) => bail!("--size wants something like 64M, not {size:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("64M").unwrap(), 64 << 20);
        assert_eq!(bytes("1T").unwrap(), 1 << 40);
        assert_eq!(bytes("4096").unwrap(), 4096);
        assert!(bytes("M").is_err());
    }

    #[test]
    fn callgrinds_count_is_read() {
        let log = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(log), Some(123_456.0));
        assert_eq!(collected("==7== Events"), None);
    }
}
