#![no_std]
#![doc = include_str!("../README.md")]

mod batch;
mod block;
mod cache;
mod check;
mod classes;
#[cfg(feature = "allocator-api2")]
mod collections;
mod config;
mod debug;
mod depot;
mod error;
mod front;
mod geometry;
mod heap;
mod kfence;
mod kmem;
mod node;
mod nodes;
mod objects;
mod slab;
mod slob;
mod stats;
mod typed;

pub use cache::{CacheSlot, Ctor, KmemCache};
pub use classes::{KMALLOC_MAX_CACHE_SIZE, NR_KMALLOC_CACHES};
#[cfg(feature = "allocator-api2")]
pub use collections::GfpHeap;
pub use config::SlubConfig;
pub use debug::{Callers, DebugFlags, GuardedObject, ObjectReport, Track, WrongBytes};
pub use error::{SlubBug, SlubBugKind, SlubError};
pub use front::{CpuSlot, MAX_CACHES, ObjectCaches, SlubStorage};
pub use geometry::{CacheArgs, CacheFlags};
pub use heap::{EarlyHeap, KmemAlloc, NoEarlyHeap};
pub use kfence::{Kfence, KfenceSlot, Sampled};
pub use kmem::{KMALLOC_MAX_SIZE, Kmem, ZERO_SIZE_PTR};
pub use slab::{InObject, IndexArray, SlabKind};
pub use slob::{Slob, SlobSlot};
pub use stats::{Broken, CacheInfo, CacheStats, SlabPages, SlabUse};
pub use typed::{CacheBox, NoRoom, TypedCache};

/// Linux's default: the free list in the free objects, all other state in one word of a descriptor.
pub type Slub<A, P, L, C> = ObjectCaches<InObject, A, P, L, C>;

/// Bonwick's: an array of indices beside the objects, on the slab or off it, and slabs of different colours. Nothing is written
/// into free objects. Linux: mm/slab.c, until 6.7.
pub type Slab<A, P, L, C> = ObjectCaches<IndexArray, A, P, L, C>;
