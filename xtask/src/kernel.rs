//! Builds the kernel.

use std::path::PathBuf;

use anyhow::Result;

use crate::flags::Flags;
use crate::{proc, toolchain};

/// Which kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    /// The one that is measured.
    Plain,
    /// One in which the compiler checks every access to memory.
    Kasan,
}

impl Flavour {
    /// The one that the flags ask for.
    pub(crate) fn from_flags(flags: &mut Flags) -> Self {
        if flags.flag("--kasan") {
            Self::Kasan
        } else {
            Self::Plain
        }
    }
}

/// The ELF file, built anew where something changed.
pub(crate) fn build(flavour: Flavour) -> Result<PathBuf> {
    let (mut cargo, target_dir) = match flavour {
        Flavour::Plain => (toolchain::find()?.cargo("build"), toolchain::target_dir()),
        Flavour::Kasan => toolchain::find_with_source()?.kasan_cargo("build"),
    };
    cargo.args(["--release", "-p", "kmm-kernel"]);
    proc::loud(&mut cargo)?;
    Ok(target_dir
        .join(toolchain::TARGET)
        .join("release/kmm-kernel"))
}
