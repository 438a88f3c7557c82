//! Why an edit was refused.

use core::fmt;

/// Why an edit of an address space was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VmaError {
    /// A length of zero, an unaligned address, contradicting flags. Linux: `EINVAL`.
    Invalid,
    /// No room, a hole where none may be, or a limit reached. Linux: `ENOMEM`.
    NoMemory,
    /// The file or area does not allow that access. Linux: `EACCES`.
    Access,
    /// `FIXED_NOREPLACE` met a mapping. Linux: `EEXIST`.
    Exists,
    /// A fixed address below `mmap_min_addr`. Linux: `EPERM`.
    NotPermitted,
    /// The file offset does not fit. Linux: `EOVERFLOW`.
    Overflow,
    /// A flag that this build does not serve. Linux: `EOPNOTSUPP`.
    NotSupported,
    /// The range named is not mapped. Linux: `EFAULT`.
    NotMapped,
    /// The lock limit would be passed. Linux: `EAGAIN`.
    LockLimit,
}

impl fmt::Display for VmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid argument",
            Self::NoMemory => "no room in the address space",
            Self::Access => "access not allowed by the mapping",
            Self::Exists => "range is mapped already",
            Self::NotPermitted => "address below the lowest allowed",
            Self::Overflow => "file offset too large",
            Self::NotSupported => "mapping flag not supported",
            Self::NotMapped => "range is not mapped",
            Self::LockLimit => "limit of locked memory reached",
        })
    }
}

impl core::error::Error for VmaError {}
