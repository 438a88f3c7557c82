#![no_std]
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod area;
mod brk;
mod count;
mod edit;
mod error;
mod flags;
mod mm;
mod mmap;
mod mprotect;
mod mremap;
mod stack;
mod vma;

pub use count::VmCounts;
pub use error::VmaError;
pub use flags::{MapFlags, Prot, VmFlags};
pub use mm::{Limits, Mm, MmLayout};
pub use mmap::{Mapped, MmapReq};
pub use mprotect::Protected;
pub use mremap::{Remap, RemapFlags, RemapReq};
pub use vma::Vma;
