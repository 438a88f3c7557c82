//! `cargo xtask ci`: what has to hold before a change lands, cheapest first; `.ci/run` and the GitHub workflow only call it.
//!
//! A tool that is not part of Rust itself is optional: where it is absent its step prints `skipped` and counts as nothing.

use core::time::Duration;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::disk::{self, Disk};
use crate::flags::Flags;
use crate::tally::Tally;
use crate::toolchain::Toolchain;
use crate::{apt, examples, loom, probe, proc, scenarios, test, tidy, toolchain};

/// For fetching a component; after this the step is skipped.
const ATTEMPT: Duration = Duration::from_secs(60);
/// The workspace's `rust-version`.
const MSRV: &str = "1.85";
/// The Rust whose cargo can package crates that depend on each other before any is published.
const PACKAGES_TOGETHER: &str = "cargo package of several crates wants cargo 1.90";

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let quick = flags.flag("--quick");
    flags.finish()?;
    if !disk::is_lean() {
        return run_lean(quick);
    }
    let mut disk = Disk::begin();
    let mut tally = Tally::default();
    let tools = toolchain::find();
    if let Ok(tools) = &tools {
        println!("kernel toolchain: {}", tools.name);
    }
    let crates = crates()?;
    let stand_alone = stand_alone_workspaces();

    formatting(&mut tally, &stand_alone);
    tally.step("tidy", tidy::run);
    optional_tools(&mut tally);
    host_clippy(&mut tally);
    documentation(&mut tally);
    match tools {
        Ok(tools) => {
            kernel_clippy(&mut tally, &tools);
            for name in &crates {
                tally.step(&format!("{name} alone for {}", toolchain::TARGET), || {
                    builds_alone(&tools, name)
                });
            }
            disk.stage_is_over(&[]);
            examples::check(&mut tally, &tools);
            disk.stage_is_over(&["examples"]);
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            tally.fail(format!("a toolchain for {}", toolchain::TARGET));
        }
    }
    if cfg!(target_arch = "x86_64") {
        tally.step("probe", probe::run);
    }
    packages(&mut tally, &crates);
    msrv(&mut tally);
    disk.stage_is_over(&["probe", "package", "msrv"]);
    if !quick {
        loom::run(&mut tally);
        disk.stage_is_over(&["loom"]);
        test::crates(&mut tally);
        disk.stage_is_over(&[]);
        test::fuzz_corpus(&mut tally);
        disk.stage_is_over(&["fuzz"]);
        test::programs_on_linux(&mut tally);
        scenarios::run_all(&mut tally, &[]);
    }
    disk.finish();
    Ok(tally.finish())
}

/// Begins again with an environment that makes every cargo inside build what a check needs, and no more.
fn run_lean(quick: bool) -> Result<u8> {
    let mut again = Command::new(std::env::current_exe()?);
    again.arg("ci").args(quick.then_some("--quick"));
    disk::lean(&mut again);
    let status = proc::status(&mut again)?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(2))
}

/// The library crates that a stranger can take: those with a floor that is a number.
fn crates() -> Result<Vec<String>> {
    let metadata = tidy::metadata()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut crates: Vec<(u64, String)> = packages.filter_map(floor_and_name).collect();
    crates.sort();
    Ok(crates.into_iter().map(|(_, name)| name).collect())
}

fn floor_and_name(package: &Value) -> Option<(u64, String)> {
    Some((
        package["metadata"]["kmm"]["floor"].as_u64()?,
        package["name"].as_str()?.to_owned(),
    ))
}

fn stand_alone_workspaces() -> Vec<PathBuf> {
    let mut dirs = examples::all();
    dirs.extend(
        ["kernel/image", "xtask/probe", "fuzz", "benches"]
            .map(|dir| proc::root().join(dir))
            .into_iter()
            .filter(|dir| dir.join("Cargo.toml").is_file()),
    );
    dirs
}

fn formatting(tally: &mut Tally, stand_alone: &[PathBuf]) {
    if !component("rustfmt", "cargo-fmt") {
        return tally.skip(
            "fmt",
            "rustfmt is missing; please type: rustup component add rustfmt",
        );
    }
    tally.step("fmt", || {
        proc::loud(proc::host_cargo().args(["fmt", "--all", "--check"]))?;
        for dir in stand_alone {
            proc::loud(proc::host_cargo().args(["fmt", "--check"]).current_dir(dir))?;
        }
        let programs = ["user", "user/rt"].map(|dir| proc::root().join(dir));
        let files = programs
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let sources: Vec<PathBuf> = files
            .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
            .collect();
        proc::loud(
            Command::new("rustfmt")
                .args(["--edition", "2024", "--check"])
                .args(sources),
        )
    });
}

fn host_clippy(tally: &mut Tally) {
    if !component("clippy", "cargo-clippy") {
        return tally.skip(
            "clippy",
            "clippy is missing; please type: rustup component add clippy",
        );
    }
    tally.step("clippy on the host", || {
        proc::loud(proc::host_cargo().args([
            "clippy",
            "--quiet",
            "--all-targets",
            "--",
            "-Dwarnings",
        ]))
    });
}

fn kernel_clippy(tally: &mut Tally, tools: &Toolchain) {
    const NAME: &str = "clippy on the kernel";
    if tools.clippy().is_none() && tools.is_distro() {
        // A failed installation is told by the skipped step.
        apt::install(&["rust-web-clippy"])
            .or_else(|_| apt::install(&["rust-clippy"]))
            .ok();
    }
    match tools.clippy() {
        None => tally.skip(NAME, "this toolchain has no clippy"),
        Some(mut clippy) => tally.step(NAME, || {
            proc::loud(clippy.args(["--quiet", "-p", "kmm-kernel", "--", "-Dwarnings"]))
        }),
    }
}

fn documentation(tally: &mut Tally) {
    tally.step("documentation", || {
        proc::loud(
            proc::host_cargo()
                .args(["doc", "--quiet", "--no-deps"])
                .env("RUSTDOCFLAGS", "-Dwarnings"),
        )
    });
}

fn builds_alone(tools: &Toolchain, name: &str) -> Result<()> {
    proc::loud(
        tools
            .cargo("build")
            .args(["--quiet", "--release", "-p", name]),
    )
}

/// The oldest Rust that the workspace promises, where rustup has it.
fn msrv(tally: &mut Tally) {
    let installed =
        proc::read(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    if !installed.lines().any(|line| line.starts_with(MSRV)) {
        return tally.skip(
            "msrv",
            &format!("Rust {MSRV} is not installed; please type: rustup toolchain install {MSRV}"),
        );
    }
    tally.step("msrv", || {
        let mut cargo = Command::new("cargo");
        proc::scrub(&mut cargo);
        cargo
            .arg(format!("+{MSRV}"))
            .args(["check", "--quiet"])
            .current_dir(proc::root());
        proc::loud(
            cargo
                .env_remove("RUSTUP_TOOLCHAIN")
                .env("CARGO_TARGET_DIR", proc::target_dir().join("msrv")),
        )
    });
}

fn packages(tally: &mut Tally, crates: &[String]) {
    for name in crates {
        tally.step(&format!("package {name} lists its files"), || {
            lists_its_files(name)
        });
    }
    if cargo_minor().is_none_or(|minor| minor < 90) {
        return tally.skip("package", PACKAGES_TOGETHER);
    }
    tally.step("package", || {
        let mut cargo = proc::host_cargo();
        cargo.args(["package", "--quiet", "--no-verify", "--allow-dirty"]);
        for name in crates {
            cargo.args(["-p", name]);
        }
        proc::loud(&mut cargo)
    });
}

fn lists_its_files(name: &str) -> Result<()> {
    let mut cargo = proc::host_cargo();
    let files = proc::read(cargo.args(["package", "--list", "--allow-dirty", "-p", name]))
        .context("`cargo package --list` failed")?;
    for wanted in ["README.md", "src/lib.rs"] {
        if !files.lines().any(|file| file == wanted) {
            bail!("the package has no {wanted}");
        }
    }
    Ok(())
}

/// Checks by tools that not everybody has.
fn optional_tools(tally: &mut Tally) {
    let tools: &[(&str, &str, &[&str])] = &[
        ("typos", "typos", &[]),
        ("taplo", "taplo", &["fmt", "--check"]),
        (
            "cargo-deny",
            "cargo-deny",
            &[
                "--offline",
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ],
        ),
        (
            "cargo-machete",
            "cargo-machete",
            &["crates", "kernel", "tests", "xtask"],
        ),
    ];
    for (name, program, args) in tools {
        match proc::which(program) {
            None => tally.skip(name, "not installed"),
            Some(path) => tally.step(name, || {
                proc::loud(Command::new(path).args(*args).current_dir(proc::root()))
            }),
        }
    }
}

/// Is a component of the host's Rust there, perhaps after fetching it?
fn component(name: &str, program: &str) -> bool {
    let works = || proc::read(Command::new(program).arg("--version")).is_some();
    if !works() && proc::which("rustup").is_some() {
        proc::quiet(
            &format!("rustup component add {name}"),
            Command::new("rustup").args(["component", "add", name]),
            ATTEMPT,
        )
        .ok();
    }
    works()
}

fn cargo_minor() -> Option<u32> {
    proc::read(proc::host_cargo().arg("--version"))?
        .strip_prefix("cargo 1.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}
