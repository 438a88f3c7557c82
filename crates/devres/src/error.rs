//! Why a resource could not be had.

use core::fmt;

use kmm_host::AllocError;

/// Why a device did not get, or does not have, a resource. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DevresError {
    /// There is no memory for the resource, or for the note of it.
    OutOfMemory,
    /// More than can be had in one piece, or an array whose size overflows.
    TooLarge,
    /// The device has no such resource.
    NotManaged,
}

impl fmt::Display for DevresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => "out of memory",
            Self::TooLarge => "resource is too large",
            Self::NotManaged => "the device has no such resource",
        })
    }
}

impl core::error::Error for DevresError {}

impl From<AllocError> for DevresError {
    fn from(error: AllocError) -> Self {
        match error {
            AllocError::BadSize => Self::TooLarge,
            _ => Self::OutOfMemory,
        }
    }
}

/// What a device could not take, given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused<T> {
    /// Why.
    pub error: DevresError,
    /// What it was.
    pub value: T,
}
