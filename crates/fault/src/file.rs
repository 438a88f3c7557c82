//! What the fault path asks of a file.
#![expect(
    unsafe_code,
    reason = "an unsafe trait: a reference that was not taken would free a page in use"
)]

use core::fmt;

use kmm_frame::Pfn;

/// Why a file could not give a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FileError {
    /// The page lies behind the end of the file.
    BeyondEnd,
    /// No memory for the page.
    OutOfMemory,
    /// The device failed.
    Io,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeyondEnd => "beyond the end of the file",
            Self::OutOfMemory => "out of memory",
            Self::Io => "input/output error",
        })
    }
}

impl core::error::Error for FileError {}

/// A page of a file, with a reference taken for the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilePage {
    /// The frame. Its descriptor counts one reference more for the caller.
    pub pfn: Pfn,
    /// Whether it had to be read from a device: a major fault.
    pub major: bool,
}

/// A file as the fault path sees it. Linux: `vm_ops->fault`, `filemap_fault`.
///
/// A handle: cheap to clone, equal when it is the same file. Shared anonymous memory is a file without a name.
///
/// # Safety
/// Implementors guarantee that a page that [`FileSource::page`] returns is RAM whose descriptor is in the `MemMap` of
/// the fault, that programs may read it and, where the file may be written, write it, and that its reference count was
/// raised by one for the caller, who will give that reference back with [`crate::put_page`].
pub unsafe trait FileSource: Clone + PartialEq {
    /// The page at `pgoff` (in pages), zero-filled behind the end of the file within the last page.
    ///
    /// # Errors
    /// [`FileError`]; no reference is taken then.
    fn page(&self, pgoff: u64) -> Result<FilePage, FileError>;
}

/// For address spaces that map no files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoFile {}

// SAFETY: there is no value, so no page is ever returned.
unsafe impl FileSource for NoFile {
    fn page(&self, _pgoff: u64) -> Result<FilePage, FileError> {
        match *self {}
    }
}
