//! What the tests share: a machine, files, and processes whose accesses fault until they succeed.
#![allow(
    dead_code,
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "test support; each test binary uses a part of it"
)]

mod file;
mod process;
mod world;

use kmm_fault::{FaultError, FaultKind, SegvCode};
use kmm_frame::VirtAddr;
use kmm_vma::Prot;

pub use file::File;
pub use process::Process;
pub use world::World;

pub const PAGE: u64 = 4096;
pub const RW: Prot = Prot::READ.union(Prot::WRITE);
pub const MAPERR: FaultError = FaultError::Segv(SegvCode::MapErr);
pub const ACCERR: FaultError = FaultError::Segv(SegvCode::AccErr);
pub const MINOR: [FaultKind; 1] = [FaultKind::Minor];

/// A page of the address space. Small numbers are below the lowest address.
pub const fn va(page: u64) -> VirtAddr {
    VirtAddr::new(page * PAGE)
}
