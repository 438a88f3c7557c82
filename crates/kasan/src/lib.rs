#![no_std]
#![doc = include_str!("../README.md")]

mod kasan;

mod bug;
mod heap;
mod poison;
mod quarantine;
mod record;
mod report;
mod shadow;

pub use bug::{Access, AccessKind, BugKind};
pub use heap::KasanHeap;
pub use kasan::{Kasan, KasanConfig, KasanStorage, redzone_bytes};
pub use poison::Poison;
pub use record::{IsOwn, NameOf, Record, STACK_DEPTH, Track};
pub use report::Report;
pub use shadow::{GRANULE_BYTES, LinearShadow, Shadow, SliceShadow, VecShadow};
