//! The kernels of `examples/`: built as a stranger would build them, and booted where they can be.
//!
//! An example whose manifest has `[package.metadata.kmm] says = "…"` is an ELF file that `qemu -kernel` starts: it has to print
//! that and to end QEMU with blog_os's exit code for success.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::qemu::{Door, Machine};
use crate::tally::Tally;
use crate::toolchain::{self, Toolchain};
use crate::{proc, qemu};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// `isa-debug-exit` makes 2 n + 1 of what the guest writes, and success is 0x10.
const SUCCESS: i32 = 33;

/// Folders under `examples/` with a manifest of their own.
pub(crate) fn all() -> Vec<PathBuf> {
    let entries = fs::read_dir(proc::root().join("examples"))
        .into_iter()
        .flatten()
        .flatten();
    let mut dirs: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|dir| dir.join("Cargo.toml").is_file())
        .collect();
    dirs.sort();
    dirs
}

pub(crate) fn check(tally: &mut Tally, tools: &Toolchain) {
    for dir in all() {
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        tally.step(&format!("example {name} builds"), || build(tools, &dir));
        match says(&dir) {
            Ok(None) => {}
            Ok(Some(words)) if qemu::find().is_ok() => {
                tally.step(&format!("example {name} boots"), || boot(&name, &words))
            }
            Ok(Some(_)) => tally.skip(&format!("example {name} boots"), "no QEMU"),
            Err(error) => {
                println!("FAILED: {error:#}");
                tally.fail(format!("example {name}"));
            }
        }
    }
}

fn target_dir() -> PathBuf {
    proc::target_dir().join("examples")
}

/// With the flags that its own `.cargo/config.toml` gives, and no others.
fn build(tools: &Toolchain, dir: &Path) -> Result<()> {
    proc::loud(
        tools
            .strangers_cargo("build", &target_dir())
            .args(["--quiet", "--release"])
            .current_dir(dir),
    )
}

fn says(dir: &Path) -> Result<Option<String>> {
    let mut cargo = proc::host_cargo();
    let text = proc::read(
        cargo
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(dir),
    )
    .context("`cargo metadata` failed")?;
    let metadata: Value = serde_json::from_str(&text)?;
    Ok(metadata["packages"][0]["metadata"]["kmm"]["says"]
        .as_str()
        .map(str::to_owned))
}

fn boot(name: &str, words: &str) -> Result<()> {
    let kernel = target_dir()
        .join(toolchain::TARGET)
        .join("release")
        .join(name);
    let log = proc::work_dir("log")?.join(format!("example-{name}.log"));
    let mut command: Command = Machine::default().command(
        &Door::Pvh {
            kernel,
            initramfs: None,
            cmdline: String::new(),
        },
        &log,
    )?;
    let done = proc::quiet(&format!("booting {name}"), &mut command, BOOT_LIMIT)?;
    ensure!(
        done.log.contains(words),
        "it does not say {words:?}, but:\n{}",
        done.tail(8)
    );
    if done.code != Some(SUCCESS) {
        bail!("it ended QEMU with {:?}, not {SUCCESS}", done.code);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_swaps_a_heap_has_25_lines() {
        let file = proc::root().join("examples/blog_os_style/src/allocator.rs");
        let text = fs::read_to_string(file).unwrap();
        let is_code =
            |line: &&str| !line.is_empty() && !line.starts_with("//") && !line.starts_with("use ");
        let nr_lines = text.lines().map(str::trim_start).filter(is_code).count();
        assert_eq!(nr_lines, 25);
    }
}
