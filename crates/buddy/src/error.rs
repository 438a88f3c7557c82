//! Why frames were not taken back, or not isolated.

use core::fmt;

/// Why frames were refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FreeError {
    /// A frame lies outside the zone, or has no descriptor.
    OutsideZone,
    /// The first frame is not aligned to the order.
    NotAligned,
    /// A frame is free already: a double free.
    AlreadyFree,
    /// A frame is reserved: it was never given to the allocator.
    Reserved,
}

/// Why a range of frames was not isolated. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ContigError {
    /// There are no frames in it.
    Empty,
    /// A frame lies outside the zone, or has no descriptor.
    OutsideZone,
    /// A pageblock is isolated already, by another call.
    Busy,
}

impl fmt::Display for ContigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "range without frames",
            Self::OutsideZone => "frame outside the zone",
            Self::Busy => "pageblock is isolated already",
        })
    }
}

impl core::error::Error for ContigError {}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutsideZone => "frame outside the zone",
            Self::NotAligned => "block not aligned to its order",
            Self::AlreadyFree => "frame is free already",
            Self::Reserved => "frame is reserved",
        })
    }
}

impl core::error::Error for FreeError {}
