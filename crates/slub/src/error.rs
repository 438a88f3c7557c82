//! What a request may be refused for, and what a caller may have done wrong.

use core::fmt;

use kmm_host::AllocError;

use crate::debug::ObjectReport;

/// Why a request was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SlubError {
    /// The page source has no pages.
    OutOfMemory,
    /// Larger than [`KMALLOC_MAX_SIZE`](crate::KMALLOC_MAX_SIZE), or an array whose size overflows.
    TooLarge,
    /// An object of size 0, or an alignment that is no power of two or exceeds a page.
    InvalidLayout,
    /// `Gfp::ZERO` was asked of a cache whose objects are constructed.
    Constructed,
    /// Every cache slot is taken.
    NoSlot,
    /// The cache was destroyed, or belongs to another [`Slub`](crate::Slub).
    NoSuchCache,
    /// This many objects of the cache are still in use.
    Busy(usize),
    /// The page source handed out a frame that cannot be used; it was reported and given back.
    ForeignFrame,
}

impl fmt::Display for SlubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::TooLarge => f.write_str("object is too large"),
            Self::InvalidLayout => f.write_str("invalid size or alignment of an object"),
            Self::Constructed => f.write_str("constructed objects cannot be zeroed"),
            Self::NoSlot => f.write_str("no free cache slot"),
            Self::NoSuchCache => f.write_str("no such cache"),
            Self::ForeignFrame => f.write_str("page source handed out a frame that cannot be used"),
            Self::Busy(objects) => write!(f, "{objects} objects still in use"),
        }
    }
}

impl core::error::Error for SlubError {}

impl From<AllocError> for SlubError {
    fn from(_: AllocError) -> Self {
        Self::OutOfMemory
    }
}

/// A mistake of a caller that was noticed, and kept away from the allocator's books.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlubBug<'a> {
    /// What is wrong.
    pub kind: SlubBugKind,
    /// The cache, where one is known.
    pub cache: Option<&'static str>,
    /// The address in question.
    pub address: usize,
    /// The object there, if its cache is debugged: see [`SlubConfig::debug`](crate::SlubConfig::debug).
    pub object: Option<&'a ObjectReport>,
}

/// One line; of an object of a debugged cache, Linux's report of many lines.
impl fmt::Display for SlubBug<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = self.object {
            return object.print(self.kind, f);
        }
        let cache = self.cache.unwrap_or("no cache");
        write!(f, "{} ({cache}, {:#x})", self.kind, self.address)
    }
}

/// The kinds of [`SlubBug`], and what was done about each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SlubBugKind {
    /// An address outside the permanent map was freed; ignored.
    OutsideDirectMap,
    /// The page of a freed address holds neither a slab nor a large allocation; ignored.
    NotAllocated,
    /// A freed address is not the start of an object; ignored.
    Misaligned,
    /// A free object was freed; ignored.
    DoubleFree,
    /// An object was freed to another cache than its own; ignored.
    WrongCache,
    /// A free object was written to; its slab's free objects are given up.
    CorruptFreelist,
    /// A cache was to be destroyed with this many objects in use; it stays.
    Leaked(usize),
    /// An object was in use when its cache was to be destroyed: told of each one of a debugged cache, after [`Self::Leaked`].
    LeakedObject,
    /// Bytes before an object were written; restored. Of a debugged cache only, as the following.
    LeftRedzone,
    /// Bytes behind an object were written; restored.
    RightRedzone,
    /// A free object was written to; restored.
    UseAfterFree,
    /// Bytes far behind an object were written; restored.
    Padding,
    /// An object of the KFENCE pool was read or written beyond its bounds; it went on.
    OutOfBounds,
    /// An object of the KFENCE pool was read or written after it was freed; it went on.
    AccessAfterFree,
    /// A page of the KFENCE pool was read or written beside which there is no object; it went on.
    InvalidAccess,
    /// Bytes around an object of the KFENCE pool were written, on its own page; seen when it was freed.
    Canary,
    /// The page source handed out a frame without a descriptor or outside the permanent map; it was given back.
    ForeignFrame,
}

impl fmt::Display for SlubBugKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideDirectMap => f.write_str("free of an address outside the permanent map"),
            Self::NotAllocated => f.write_str("free of memory that was not allocated here"),
            Self::Misaligned => f.write_str("free of an address within an object"),
            Self::DoubleFree => f.write_str("double free"),
            Self::WrongCache => f.write_str("free to the wrong cache"),
            Self::CorruptFreelist => f.write_str("free object was written to"),
            Self::Leaked(objects) => write!(f, "cache destroyed with {objects} objects in use"),
            Self::LeakedObject => f.write_str("object in use when its cache was destroyed"),
            Self::LeftRedzone => f.write_str("bytes before an object were written"),
            Self::RightRedzone => f.write_str("bytes behind an object were written"),
            Self::UseAfterFree => f.write_str("bytes of a free object were written"),
            Self::Padding => f.write_str("bytes far behind an object were written"),
            Self::OutOfBounds => f.write_str("access beyond an object"),
            Self::AccessAfterFree => f.write_str("access to a free object"),
            Self::InvalidAccess => f.write_str("access where no object is"),
            Self::Canary => f.write_str("bytes around an object were written"),
            Self::ForeignFrame => f.write_str("page source handed out a frame that cannot be used"),
        }
    }
}
