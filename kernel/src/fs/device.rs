//! Character devices.

use super::tty;
use crate::process::random;
use crate::syscall::Errno;

/// A character device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// Swallows everything, holds nothing.
    Null,
    /// Reads as zeros.
    Zero,
    /// Always full.
    Full,
    /// Reads as noise.
    Random,
    /// The serial line.
    Tty,
}

impl Device {
    /// Name in /dev, and device.
    pub const ALL: [(&'static [u8], Self); 8] = [
        (b"console", Self::Tty),
        (b"full", Self::Full),
        (b"null", Self::Null),
        (b"random", Self::Random),
        (b"tty", Self::Tty),
        (b"ttyS0", Self::Tty),
        (b"urandom", Self::Random),
        (b"zero", Self::Zero),
    ];

    /// Major and minor number as Linux has them. Linux: `st_rdev`.
    pub const fn number(self) -> u64 {
        match self {
            Self::Null => 0x103,
            Self::Zero => 0x105,
            Self::Full => 0x107,
            Self::Random => 0x109,
            Self::Tty => 0x440,
        }
    }

    /// Reads; may block where the device is a terminal.
    pub fn read(self, buf: &mut [u8], nonblocking: bool) -> Result<usize, Errno> {
        match self {
            Self::Null => return Ok(0),
            Self::Zero | Self::Full => buf.fill(0),
            Self::Random => random::fill(buf),
            Self::Tty => return tty::read(buf, nonblocking),
        }
        Ok(buf.len())
    }

    /// Writes.
    pub fn write(self, buf: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Full => return Err(Errno::NOSPC),
            Self::Tty => tty::write(buf),
            Self::Null | Self::Zero | Self::Random => {}
        }
        Ok(buf.len())
    }
}
