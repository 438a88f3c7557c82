//! Why frames were not taken back.

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
