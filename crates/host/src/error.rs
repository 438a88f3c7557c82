//! Why pages could not be had.

use core::fmt;

/// Why an allocation of pages failed. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AllocError {
    /// No block of that order is free in any zone that the request may use.
    OutOfMemory,
    /// The node asked for does not exist.
    NoSuchNode,
    /// No block is as large, or nothing was asked for.
    BadSize,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "out of memory",
            Self::NoSuchNode => "no such node",
            Self::BadSize => "no block of that size",
        })
    }
}

impl core::error::Error for AllocError {}
