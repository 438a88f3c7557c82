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

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::flags::Flags;
use crate::proc;

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
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
    flags.finish()?;
    let bench = build("bench", &[])?;
    let mut command = Command::new(bench);
    command.current_dir(proc::root());
    if list {
        command.arg("--list");
    } else {
        command.args(args).arg("--out").arg(out_dir());
    }
    proc::loud(&mut command)?;
    Ok(0)
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
