//! Nobody asks.

use core::ops::Range;

use kmm::ImagePart;
use kmm::frame::VirtAddr;
use kmm::frame::memblock::{Memblock, MemblockError};

use crate::boot::BootInfo;
use crate::selftest::Test;

/// Nothing to test.
pub const TESTS: &[Test] = &[];
/// Stacks are as large as they are.
pub const STACK_FACTOR: usize = 1;

/// Nobody is told of pages.
pub type PageOwners = ();
/// Nobody is told of pages.
pub static OWNERS: PageOwners = ();
/// Nobody is told of anything else.
pub static SANITIZER: () = ();

/// No memory.
pub struct ShadowMemory;

impl ShadowMemory {
    /// Takes nothing.
    ///
    /// # Errors
    /// None.
    pub fn reserve(_memblock: &mut Memblock, _boot: &BootInfo) -> Result<Self, MemblockError> {
        Ok(Self)
    }

    /// Nothing to map.
    pub fn parts(&self) -> impl Iterator<Item = ImagePart> + use<> {
        core::iter::empty()
    }

    /// The whole range.
    pub fn watched_part(&self, vmalloc: Range<VirtAddr>) -> Range<VirtAddr> {
        vmalloc
    }

    /// Does nothing.
    pub fn switch_on(self) {}
}
