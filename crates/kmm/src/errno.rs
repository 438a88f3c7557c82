//! Linux's error numbers, which exist at this floor only.

use core::fmt;

use kmm_host::AllocError;
use kmm_vma::VmaError;

/// An error number as a Linux system call returns it (negated). Linux: include/uapi/asm-generic/errno-base.h.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }

        impl fmt::Display for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str($text),)*
                    other => write!(f, "error {other}"),
                }
            }
        }
    };
}

errnos! {
    /// Not permitted.
    EPERM = 1, "operation not permitted";
    /// Try again.
    EAGAIN = 11, "resource temporarily unavailable";
    /// No memory, or no room.
    ENOMEM = 12, "cannot allocate memory";
    /// Not allowed by the file or mapping.
    EACCES = 13, "permission denied";
    /// A bad address.
    EFAULT = 14, "bad address";
    /// There already.
    EEXIST = 17, "file exists";
    /// Nonsense.
    EINVAL = 22, "invalid argument";
    /// Too large for the type.
    EOVERFLOW = 75, "value too large for defined data type";
    /// Not served.
    EOPNOTSUPP = 95, "operation not supported";
}

impl Errno {
    /// The number, positive.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// Why an operation on an address space failed. It is as it was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MmError {
    /// The edit of the areas was refused.
    Vma(VmaError),
    /// A page or page table could not be had.
    Alloc(AllocError),
    /// The kernel's own page tables are not as this crate left them.
    Corrupt,
}

impl MmError {
    /// The number that Linux returns for it, positive.
    #[must_use]
    pub const fn errno(self) -> i32 {
        self.to_errno().get()
    }

    /// The number that Linux returns for it.
    #[must_use]
    pub const fn to_errno(self) -> Errno {
        match self {
            Self::Vma(VmaError::Invalid) => Errno::EINVAL,
            Self::Vma(VmaError::Access) => Errno::EACCES,
            Self::Vma(VmaError::Exists) => Errno::EEXIST,
            Self::Vma(VmaError::NotPermitted) => Errno::EPERM,
            Self::Vma(VmaError::Overflow) => Errno::EOVERFLOW,
            Self::Vma(VmaError::NotSupported) => Errno::EOPNOTSUPP,
            Self::Vma(VmaError::NotMapped) | Self::Corrupt => Errno::EFAULT,
            Self::Vma(VmaError::LockLimit) => Errno::EAGAIN,
            Self::Vma(_) | Self::Alloc(_) => Errno::ENOMEM,
        }
    }
}

impl From<VmaError> for MmError {
    fn from(error: VmaError) -> Self {
        Self::Vma(error)
    }
}

impl From<AllocError> for MmError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl fmt::Display for MmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vma(error) => error.fmt(f),
            Self::Alloc(error) => error.fmt(f),
            Self::Corrupt => f.write_str("corrupt page tables"),
        }
    }
}

impl core::error::Error for MmError {}
