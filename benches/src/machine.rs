//! What the figures were measured on.

use std::fs;
use std::process::Command;

use crate::rng::{FOOTPRINT_SEED, FRAMES_SEED, OBJECTS_SEED, REPLACEMENTS_SEED};

/// A few lines that belong to every table.
#[must_use]
pub fn description() -> Vec<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    vec![
        format!(
            "machine: {model}, {} CPUs, {}, load {load} at the start",
            crate::cpu::allowed().len(),
            said_by("uname", &["-sr"])
        ),
        format!(
            "build: {}, fat LTO, one codegen unit; commit {}; {}",
            said_by("rustc", &["--version"]),
            said_by("git", &["describe", "--always", "--dirty"]),
            said_by("date", &["-u", "+%Y-%m-%d"]),
        ),
        format!(
            "seeds: frames {FRAMES_SEED}, objects {OBJECTS_SEED}, replacements {REPLACEMENTS_SEED}, footprint {FOOTPRINT_SEED}"
        ),
    ]
}

fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| format!("unknown {program}"))
}
