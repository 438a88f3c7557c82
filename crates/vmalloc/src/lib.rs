#![no_std]
#![doc = include_str!("../README.md")]

mod area;
mod audit;
mod cache_mode;
mod error;
mod frames;
mod kvmalloc;
mod vmalloc;

pub use area::{AreaFlags, VmStruct};
pub use cache_mode::{CacheMode, PAT_MSR};
pub use error::{Broken, VmallocError};
pub use vmalloc::{Vmalloc, VmallocConfig};
