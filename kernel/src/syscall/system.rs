//! Calls about the machine.

use super::Outcome;
use super::user;
use crate::arch::timer;
use crate::mm;
use crate::process::{self, random};

const FIELD_BYTES: usize = 65;
const SYSINFO_BYTES: usize = 112;

/// What the system calls itself.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// Programs ask for Linux's calls by this name.
    pub system: &'static str,
    /// The Linux release whose texts and calls it follows.
    pub release: &'static str,
    /// What it really is.
    pub version: &'static str,
}

/// What the system calls itself.
pub const VERSION: Version = Version {
    system: "Linux",
    release: "6.1.0-kmm",
    version: concat!("kmm ", env!("CARGO_PKG_VERSION")),
};

pub(super) fn uname(addr: u64) -> Outcome {
    let fields = [
        VERSION.system,
        "kmm",
        VERSION.release,
        VERSION.version,
        "x86_64",
        "(none)",
    ];
    let mut bytes = [0; 6 * FIELD_BYTES];
    for (to, field) in bytes.chunks_exact_mut(FIELD_BYTES).zip(fields) {
        to[..field.len()].copy_from_slice(field.as_bytes());
    }
    user::put_bytes(addr, &bytes)?;
    Ok(0)
}

pub(super) fn sysinfo(addr: u64) -> Outcome {
    const NS_PER_S: u64 = 1_000_000_000;
    const PROCS_AT: usize = 80;
    const UNIT_AT: usize = 104;
    let (total_bytes, free_bytes) = mm::total_and_free_bytes();
    let mut nr_tasks = 0_u16;
    process::for_each_task(|_| nr_tasks += 1);
    let words = [
        timer::now_ns() / NS_PER_S,
        0,
        0,
        0,
        total_bytes,
        free_bytes,
        0,
        0,
        0,
        0,
    ];
    let mut bytes = [0; SYSINFO_BYTES];
    for (to, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes[PROCS_AT..PROCS_AT + 2].copy_from_slice(&nr_tasks.to_le_bytes());
    bytes[UNIT_AT] = 1;
    user::put_bytes(addr, &bytes)?;
    Ok(0)
}

pub(super) fn getrandom(addr: u64, len: u64) -> Outcome {
    let len = usize::try_from(len)
        .unwrap_or(usize::MAX)
        .min(user::CHUNK_BYTES);
    let mut buf = user::buffer(len)?;
    random::fill(&mut buf);
    user::put_bytes(addr, &buf)?;
    Ok(len as u64)
}
