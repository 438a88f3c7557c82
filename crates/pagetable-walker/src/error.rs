//! Why tables could not be changed.

use core::fmt;

use kmm_host::AllocError;

use crate::FrameOwner;

/// Why an operation was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapError {
    /// An address, a length or a frame is not a multiple of the page size it was asked for.
    NotAligned,
    /// The range ends before it starts, is not canonical, or reaches from one half into the other.
    BadRange,
    /// No entry of that level can map a page.
    BadLevel,
    /// Something is mapped there already.
    Occupied,
    /// A user root was asked to change the kernel half, which all roots share.
    WrongHalf,
    /// The entry of the kernel's top table was not preallocated, so other roots would not see it.
    NotPreallocated,
    /// The frames do not lie in a row, or their flags differ.
    NotUniform,
    /// The guard does not let a frame of this owner be mapped a second time.
    Owned(FrameOwner),
    /// No memory for tables.
    Alloc(AllocError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAligned => "not aligned to the page size",
            Self::BadRange => "no range of canonical addresses of one half",
            Self::BadLevel => "no page of that size",
            Self::Occupied => "something is mapped there",
            Self::WrongHalf => "a user root cannot change the kernel half",
            Self::NotPreallocated => "entry of the kernel's top table was not preallocated",
            Self::NotUniform => "pages cannot be joined",
            Self::Owned(owner) => return write!(f, "frame belongs to {owner}"),
            Self::Alloc(error) => return fmt::Display::fmt(error, f),
        })
    }
}

impl core::error::Error for MapError {}

impl From<AllocError> for MapError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}
