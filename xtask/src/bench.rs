//! `cargo xtask bench`: measurements against peers.

use anyhow::Result;

use crate::flags::Flags;
use crate::proc;

pub(crate) fn main(flags: Flags) -> Result<u8> {
    flags.finish()?;
    if proc::root().join("benches/Cargo.toml").is_file() {
        proc::loud(proc::host_cargo().args([
            "run",
            "--release",
            "--manifest-path",
            "benches/Cargo.toml",
        ]))?;
        return Ok(0);
    }
    println!(
        "there is nothing to measure yet: benches/ holds no benchmark, and no figure about speed is claimed"
    );
    Ok(0)
}
