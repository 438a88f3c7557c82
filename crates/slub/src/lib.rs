#![no_std]
#![doc = include_str!("../README.md")]

mod cache;
mod error;
mod geometry;
mod heap;
mod kmalloc;
mod list;
mod slab;
mod slub;
mod stats;

pub use cache::Ctor;
pub use error::{SlubBug, SlubBugKind, SlubError};
pub use geometry::CacheFlags;
pub use heap::{EarlyHeap, NoEarlyHeap, SlubAlloc};
pub use kmalloc::{KMALLOC_MAX_CACHE_SIZE, KMALLOC_MAX_SIZE, NR_KMALLOC_CACHES, ZERO_SIZE_PTR};
pub use slub::{CacheSlot, KmemCache, Slub, SlubConfig};
pub use stats::{Broken, CacheInfo, SlabPages, SlabUse};
