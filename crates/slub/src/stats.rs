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

/// Pages that are in use for objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlabPages {
    /// In slabs of reclaimable caches. Linux: `NR_SLAB_RECLAIMABLE_B`.
    pub reclaimable: usize,
    /// In slabs of other caches. Linux: `NR_SLAB_UNRECLAIMABLE_B`.
    pub unreclaimable: usize,
    /// In allocations larger than any slab object.
    pub large: usize,
}

impl SlabPages {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.reclaimable + self.unreclaimable + self.large
    }
}

/// What a block of frames is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlabUse {
    /// A slab of the cache with this name.
    Slab(&'static str),
    /// One allocation larger than any slab object.
    Large,
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
            Self::Large => f.write_str("count of large allocations is wrong"),
        }
    }
}

impl core::error::Error for Broken {}
