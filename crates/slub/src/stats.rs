//! What a cache tells about itself, and what an audit may find.

use core::fmt;

use kmm_frame::Pfn;

use crate::CacheFlags;

/// The figures of one cache at one moment: a line of `/proc/slabinfo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheInfo {
    /// The cache's name.
    pub name: &'static str,
    /// Objects in use.
    pub active_objs: usize,
    /// Objects in all slabs.
    pub num_objs: usize,
    /// Bytes from one object to the next: what Linux prints as `objsize`.
    pub objsize: usize,
    /// Bytes that a user of an object has.
    pub object_size: usize,
    /// What the addresses of objects are multiples of.
    pub align: usize,
    /// Objects in a slab of the usual size.
    pub objperslab: usize,
    /// Pages in a slab of the usual size.
    pub pagesperslab: usize,
    /// Slabs with objects in use.
    pub active_slabs: usize,
    /// Slabs.
    pub num_slabs: usize,
    /// Pages in all slabs.
    pub nr_pages: usize,
    /// How the cache was created.
    pub flags: CacheFlags,
    /// Slabs taken from the page source so far.
    pub slabs_taken: u64,
    /// Slabs returned to it so far.
    pub slabs_returned: u64,
}

/// How often a cache was used since it was created, and how it served. Linux: `enum stat_item`, mm/slub.c.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Objects that came out of a CPU's array at once.
    pub alloc_fastpath: u64,
    /// Objects for which the array was filled first: by so many batches.
    pub alloc_refill: u64,
    /// Of those, batches that the CPU had in stock, or the depot. Linux: `BARN_GET`.
    pub alloc_from_depot: u64,
    /// Objects that came past the arrays: while they were in use, of a checked cache, of another node.
    pub alloc_slowpath: u64,
    /// Slabs in use that objects were taken from.
    pub alloc_from_partial: u64,
    /// Slabs that came from the page source.
    pub alloc_slab: u64,
    /// Objects that went into a CPU's array at once.
    pub free_fastpath: u64,
    /// Objects for which a batch left the array first.
    pub free_flush: u64,
    /// Batches that went into a CPU's stock, and perhaps on into the depot. Linux: `BARN_PUT`.
    pub free_to_depot: u64,
    /// Objects that went past the arrays.
    pub free_slowpath: u64,
    /// Slabs that went back to the page source.
    pub free_slab: u64,
}

impl CacheStats {
    /// Objects handed out.
    #[must_use]
    pub const fn allocs(&self) -> u64 {
        self.alloc_fastpath + self.alloc_refill + self.alloc_slowpath
    }

    /// Objects taken back.
    #[must_use]
    pub const fn frees(&self) -> u64 {
        self.free_fastpath + self.free_flush + self.free_slowpath
    }
}

/// Pages that are in use for objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlabPages {
    /// In slabs of reclaimable caches. Linux: `NR_SLAB_RECLAIMABLE_B`.
    pub reclaimable: usize,
    /// In slabs of other caches. Linux: `NR_SLAB_UNRECLAIMABLE_B`.
    pub unreclaimable: usize,
    /// In allocations larger than any slab object.
    pub large: usize,
    /// With lists of nodes other than the first: one for each cache that has been used there.
    pub lists: usize,
}

impl SlabPages {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.reclaimable + self.unreclaimable + self.large + self.lists
    }
}

/// What a block of frames is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlabUse {
    /// A slab of the cache with this name.
    Slab(&'static str),
    /// One allocation larger than any slab object.
    Large,
    /// A cache's lists of other nodes than the first.
    Lists,
}

/// What an audit found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// A slab's descriptors do not say what they should.
    Descriptor(Pfn),
    /// A slab is on a list that does not fit its count.
    WrongList(Pfn),
    /// A slab's free list is spoilt or does not fit its count.
    Freelist(Pfn),
    /// The counts of the cache with this name do not fit its slabs.
    Counts(&'static str),
    /// An object in stock of the cache with this name is none of it, or is not counted.
    Stock(&'static str),
    /// The count of pages in large allocations does not fit the descriptors.
    Large,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor(pfn) => write!(f, "descriptors of slab {pfn} are spoilt"),
            Self::WrongList(pfn) => write!(f, "slab {pfn} is on the wrong list"),
            Self::Freelist(pfn) => write!(f, "free list of slab {pfn} is spoilt"),
            Self::Counts(name) => write!(f, "counts of {name} do not fit its slabs"),
            Self::Stock(name) => write!(f, "stock of {name} is spoilt"),
            Self::Large => f.write_str("count of large allocations is wrong"),
        }
    }
}

impl core::error::Error for Broken {}
