use core::fmt;

use crate::AllocError;

/// Why a [`RangeTree`](crate::RangeTree) refused an edit. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeError {
    /// `start >= end`: there is no such range.
    Empty,
    /// The range meets an entry that is already there, or would have to pass one.
    Overlap,
    /// No entry starts at the address given.
    NotFound,
    /// The tree had to grow and the host's allocator had no memory.
    OutOfMemory,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "range is empty",
            Self::Overlap => "range overlaps a neighbour",
            Self::NotFound => "no entry starts at this address",
            Self::OutOfMemory => "out of memory",
        })
    }
}

impl core::error::Error for RangeError {}

impl From<AllocError> for RangeError {
    fn from(_: AllocError) -> Self {
        Self::OutOfMemory
    }
}

/// A refused [`insert`](crate::RangeTree::insert), with the value that it did not take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InsertError<V> {
    /// Why.
    pub error: RangeError,
    /// The caller's value, unchanged.
    pub value: V,
}

impl<V> fmt::Debug for InsertError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InsertError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<V> fmt::Display for InsertError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<V> core::error::Error for InsertError<V> {}
