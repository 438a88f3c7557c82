//! Reads a cpio archive in the "newc" format: what an initramfs is.
//!
//! Pure: bytes in, entries out, so that hostile archives are tried on a laptop. Every number is eight hexadecimal
//! digits; names and contents are padded to four bytes; an entry named `TRAILER!!!` ends the archive.
//!
//! Linux: init/initramfs.c; the format: Documentation/driver-api/early-userspace/buffer-format.rst.

use core::fmt;

const MAGIC: &[u8] = b"070701";
/// The same with a checksum, which nobody checks.
const MAGIC_CRC: &[u8] = b"070702";
const HEADER_BYTES: usize = 110;
const FIELD_BYTES: usize = 8;
const TRAILER: &[u8] = b"TRAILER!!!";
/// Longest name, with its end. Linux: `PATH_MAX`.
const NAME_BYTES_MAX: usize = 4096;

/// What is wrong with an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CpioError {
    /// It ends in the middle of an entry, or without the closing one.
    Truncated,
    /// An entry does not start with `070701` or `070702`.
    BadMagic,
    /// A number has a digit that is not hexadecimal.
    BadNumber,
    /// A name is empty, too long, not ended by a zero byte, or has one inside.
    BadName,
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "archive is cut short",
            Self::BadMagic => "no newc header",
            Self::BadNumber => "not a hexadecimal number",
            Self::BadName => "bad file name",
        })
    }
}

impl core::error::Error for CpioError {}

/// One file of the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its path, as the archive has it.
    pub name: &'a [u8],
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Number of the file: entries that share it and have `nr_links` above 1 are one file.
    pub inode: u32,
    /// How many names it has.
    pub nr_links: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime_s: u32,
    /// Major and minor number, for a device file.
    pub device: (u32, u32),
    /// The contents; the target of a symbolic link.
    pub contents: &'a [u8],
}

/// The entries of an archive, in order. After an error there are no more.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    archive: &'a [u8],
    at: usize,
    ended: bool,
}

impl<'a> Entries<'a> {
    /// The entries of `archive`.
    #[must_use]
    pub const fn new(archive: &'a [u8]) -> Self {
        Self {
            archive,
            at: 0,
            ended: false,
        }
    }

    /// How many bytes were understood: where the faulty entry starts, after an error.
    #[must_use]
    pub const fn offset_bytes(&self) -> usize {
        self.at
    }

    fn parse(&mut self) -> Result<Option<Entry<'a>>, CpioError> {
        let header = slice(self.archive, self.at, HEADER_BYTES)?;
        if !header.starts_with(MAGIC) && !header.starts_with(MAGIC_CRC) {
            return Err(CpioError::BadMagic);
        }
        let mut fields = [0_u32; 13];
        for (field, digits) in fields
            .iter_mut()
            .zip(header[MAGIC.len()..].chunks_exact(FIELD_BYTES))
        {
            *field = number(digits)?;
        }
        let [
            inode,
            mode,
            _uid,
            _gid,
            nr_links,
            mtime_s,
            size,
            _dev_major,
            _dev_minor,
            major,
            minor,
            name_size,
            _check,
        ] = fields;
        let name_bytes = usize::try_from(name_size).map_err(|_| CpioError::BadName)?;
        if !(2..=NAME_BYTES_MAX).contains(&name_bytes) {
            return Err(CpioError::BadName);
        }
        let name_at = self.at + HEADER_BYTES;
        let name = match slice(self.archive, name_at, name_bytes)?.split_last() {
            Some((0, name)) if !name.contains(&0) => name,
            _ => return Err(CpioError::BadName),
        };
        let contents_at = padded(name_at + name_bytes).ok_or(CpioError::Truncated)?;
        let contents_bytes = usize::try_from(size).map_err(|_| CpioError::Truncated)?;
        let contents = slice(self.archive, contents_at, contents_bytes)?;
        if name == TRAILER {
            return Ok(None);
        }
        let end = padded(contents_at + contents_bytes).ok_or(CpioError::Truncated)?;
        self.at = end.min(self.archive.len());
        Ok(Some(Entry {
            name,
            mode,
            inode,
            nr_links,
            mtime_s,
            device: (major, minor),
            contents,
        }))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, CpioError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.parse().transpose();
        self.ended = !matches!(entry, Some(Ok(_)));
        entry
    }
}

fn slice(bytes: &[u8], at: usize, size_bytes: usize) -> Result<&[u8], CpioError> {
    let end = at.checked_add(size_bytes).ok_or(CpioError::Truncated)?;
    bytes.get(at..end).ok_or(CpioError::Truncated)
}

fn padded(at: usize) -> Option<usize> {
    at.checked_next_multiple_of(4)
}

fn number(digits: &[u8]) -> Result<u32, CpioError> {
    digits.iter().try_fold(0_u32, |value, &digit| {
        let digit = char::from(digit).to_digit(16).ok_or(CpioError::BadNumber)?;
        Ok(value << 4 | digit)
    })
}
