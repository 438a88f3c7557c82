//! `cargo xtask image`: the disk image that UEFI firmware starts, for real machines and for `run --uefi`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::flags::Flags;
use crate::kernel::Flavour;
use crate::{initramfs, kernel, proc, toolchain};

pub(crate) fn main(mut flags: Flags) -> Result<u8> {
    let words = flags.values("--cmdline")?;
    flags.finish()?;
    let image = build(
        &kernel::build(Flavour::Plain)?,
        "kmm-uefi",
        &words.join(" "),
    )?;
    println!("{}", image.display());
    println!(
        "write it to a USB stick with: dd if={} of=/dev/sdX bs=1M conv=fsync",
        image.display()
    );
    Ok(0)
}

/// Writes the image `name` and returns its path. The words of `cmdline` go into the initramfs, as this door has no command line.
pub(crate) fn build(kernel: &Path, name: &str, cmdline: &str) -> Result<PathBuf> {
    let writer = writer()?;
    let dir = proc::work_dir("image")?;
    let image = dir.join(format!("{name}.img"));
    let initramfs = initramfs::build(kernel, name, Some(cmdline))?;
    proc::loud(
        Command::new(writer)
            .arg(without_debug_info(kernel, &dir)?)
            .arg(initramfs)
            .arg(&image),
    )?;
    Ok(image)
}

/// Builds `kernel/image`, a workspace of its own with the bootloader in it; most of a minute, once.
fn writer() -> Result<PathBuf> {
    let dir = proc::target_dir().join("image");
    let mut cargo = toolchain::find_with_source()?.bare_cargo("build");
    cargo
        .args(["--release", "--locked", "--target-dir"])
        .arg(&dir)
        .current_dir(proc::root().join("kernel/image"));
    proc::loud(&mut cargo)?;
    Ok(dir.join("release/kmm-image"))
}

/// The kernel without its DWARF, which the firmware would read slowly and the bootloader not at all; symbols stay.
fn without_debug_info(kernel: &Path, dir: &Path) -> Result<PathBuf> {
    let Some(objcopy) = toolchain::objcopy() else {
        return Ok(kernel.to_path_buf());
    };
    let stripped = dir.join("kmm-kernel");
    let done = Command::new(objcopy)
        .arg("--strip-debug")
        .arg(kernel)
        .arg(&stripped)
        .status();
    if done.is_ok_and(|status| status.success()) {
        return Ok(stripped);
    }
    fs::copy(kernel, &stripped)?;
    Ok(stripped)
}
