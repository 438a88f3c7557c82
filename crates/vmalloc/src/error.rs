//! Why a request was refused, and what an audit may find.

use core::fmt;

use kmm_frame::VirtAddr;
use kmm_host::AllocError;
use kmm_pagetable_walker::{FrameOwner, MapError};

/// Why a request was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VmallocError {
    /// Size 0, more than there is memory, or addresses that wrap.
    InvalidSize,
    /// No gap between the areas is large enough.
    NoSpace,
    /// No memory for pages, tables or the list of areas.
    OutOfMemory,
    /// No area starts there, or it is of another kind.
    NoSuchArea,
    /// The physical range holds RAM, which must be mapped with one memory type only.
    IsRam,
    /// The addresses wanted are taken or lie outside the range.
    Occupied,
    /// Both writable and executable, or open to user mode.
    InvalidFlags,
    /// The guard of the tables does not let a frame of this owner be mapped a second time.
    Owned(FrameOwner),
    /// The tables disagree with the list of areas.
    Tables(MapError),
}

impl fmt::Display for VmallocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidSize => "invalid size",
            Self::NoSpace => "no gap is large enough",
            Self::OutOfMemory => "out of memory",
            Self::NoSuchArea => "no such area",
            Self::IsRam => "physical range holds RAM",
            Self::Occupied => "addresses are taken",
            Self::InvalidFlags => "writable and executable, or open to user mode",
            Self::Owned(owner) => return write!(f, "frame belongs to {owner}"),
            Self::Tables(error) => return fmt::Display::fmt(error, f),
        })
    }
}

impl core::error::Error for VmallocError {}

impl From<AllocError> for VmallocError {
    fn from(_: AllocError) -> Self {
        Self::OutOfMemory
    }
}

impl From<MapError> for VmallocError {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Alloc(_) => Self::OutOfMemory,
            MapError::Owned(owner) => Self::Owned(owner),
            other => Self::Tables(other),
        }
    }
}

/// What an audit found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// An entry maps this address, which no area covers, or which is a guard page.
    Stray(VirtAddr),
    /// This address of an area is not mapped.
    Missing(VirtAddr),
    /// The frame mapped at this address is not marked, or wrong for the area.
    Frame(VirtAddr),
    /// The entry at this address lacks `NX` or `G`, or is open to user mode.
    Flags(VirtAddr),
    /// The count of pages is wrong.
    Count,
    /// The tables could not be walked.
    Tables(MapError),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stray(va) => write!(f, "{va} is mapped outside of any area"),
            Self::Missing(va) => write!(f, "{va} of an area is not mapped"),
            Self::Frame(va) => write!(f, "wrong frame at {va}"),
            Self::Flags(va) => write!(f, "wrong flags at {va}"),
            Self::Count => f.write_str("count of pages is wrong"),
            Self::Tables(error) => write!(f, "tables cannot be walked: {error}"),
        }
    }
}

impl core::error::Error for Broken {}
