//! Linux's error numbers.

use core::fmt;

/// Why a system call failed, in Linux's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl Errno {
            $(#[doc = concat!("Linux: `E", stringify!($name), "`.")] pub const $name: Self = Self($number);)*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str(concat!("E", stringify!($name))),)*
                    number => write!(f, "error {number}"),
                }
            }
        }
    };
}

errnos! {
    PERM = 1, NOENT = 2, SRCH = 3, INTR = 4, TOOBIG = 7, NOEXEC = 8, BADF = 9, CHILD = 10, AGAIN = 11, NOMEM = 12, ACCES = 13,
    FAULT = 14, BUSY = 16, EXIST = 17, NODEV = 19, NOTDIR = 20, ISDIR = 21, INVAL = 22, MFILE = 24, NOTTY = 25, TXTBSY = 26, FBIG = 27,
    NOSPC = 28, SPIPE = 29, PIPE = 32, RANGE = 34, NAMETOOLONG = 36, NOSYS = 38, NOTEMPTY = 39, LOOP = 40,
}

impl Errno {
    /// The error with this number, which is one of Linux's.
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// What a system call returns for it.
    pub const fn as_return_value(self) -> u64 {
        (-(self.0 as i64)) as u64
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

impl From<alloc::collections::TryReserveError> for Errno {
    fn from(_: alloc::collections::TryReserveError) -> Self {
        Self::NOMEM
    }
}
