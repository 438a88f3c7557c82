//! Builds the kernel.

use std::path::PathBuf;

use anyhow::Result;

use crate::{proc, toolchain};

/// The ELF file, built anew where something changed.
pub(crate) fn build() -> Result<PathBuf> {
    let tools = toolchain::find()?;
    let mut cargo = tools.cargo("build");
    cargo.args(["--release", "-p", "kmm-kernel"]);
    proc::loud(&mut cargo)?;
    Ok(toolchain::target_dir()
        .join(toolchain::TARGET)
        .join("release/kmm-kernel"))
}
