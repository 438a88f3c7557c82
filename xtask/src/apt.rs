//! Debian packages: installed where there is apt and the right to use it, else the command to type is in the error.

use core::time::Duration;
use std::process::Command;

use anyhow::{Result, bail};

use crate::proc;

/// A download of some 200 MB and its unpacking on a slow machine; apt itself gives up on a dead connection sooner.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);
const UPDATE_LIMIT: Duration = Duration::from_secs(120);

/// Makes sure that `packages` are installed.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if proc::which("apt-get").is_none() {
        bail!("this machine has no apt; please install what Debian calls {names}");
    }
    let Some(prefix) = privileged() else {
        bail!("no right to install packages; please type: sudo apt-get install {names}");
    };
    let label = format!("apt-get install {names}");
    let mut done = proc::quiet(
        &label,
        &mut apt(prefix, &install_args(&missing)),
        INSTALL_LIMIT,
    )?;
    if !done.ok {
        // A fresh container has no package lists, an old one has stale lists.
        proc::quiet(
            "apt-get update",
            &mut apt(prefix, &["update"]),
            UPDATE_LIMIT,
        )?;
        done = proc::quiet(
            &label,
            &mut apt(prefix, &install_args(&missing)),
            INSTALL_LIMIT,
        )?;
    }
    if !done.ok {
        bail!("`sudo apt-get install {names}` failed:\n{}", done.tail(4));
    }
    Ok(())
}

/// The version of `package` that would be installed, if the package lists know one.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = proc::read(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", package]),
    )?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Refreshes the package lists, where that is allowed.
pub(crate) fn update() -> Result<bool> {
    let Some(prefix) = privileged() else {
        return Ok(false);
    };
    Ok(proc::quiet(
        "apt-get update",
        &mut apt(prefix, &["update"]),
        UPDATE_LIMIT,
    )?
    .ok)
}

fn is_installed(package: &str) -> bool {
    let status =
        proc::read(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]));
    status.as_deref() == Some("installed")
}

/// What has to stand before `apt-get`: nothing for root, `sudo -n` where it does not ask for a password.
fn privileged() -> Option<&'static [&'static str]> {
    if proc::read(Command::new("id").arg("-u")).as_deref() == Some("0") {
        return Some(&[]);
    }
    proc::read(Command::new("sudo").args(["-n", "true"])).map(|_| &["sudo", "-n"] as &[&str])
}

fn install_args<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages);
    args
}

fn apt(prefix: &[&str], args: &[&str]) -> Command {
    let mut words = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend([
        "-o",
        "DPkg::Lock::Timeout=120",
        "-o",
        "Acquire::http::Timeout=30",
        "-o",
        "Acquire::Retries=1",
        // What is unpacked need not lie there as an archive too.
        "-o",
        "APT::Keep-Downloaded-Packages=false",
    ]);
    words.extend(args);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}
