//! Frames that no second mapping may reach: whoever owns them would be surprised.
//!
//! The direct map (and for the image, its own addresses) is the one mapping that slabs, page tables and the kernel image have.
//! A second one, for a program or by `vmap`, is a bug or an attack, and the descriptor tells it: `SLAB`, `TABLE`, `IMAGE`.
//! A guard looks there in each call that maps frames which the caller names. Frames that a call has just taken from a page source
//! cannot be anybody's, and are not looked at: so the fault of anonymous memory and `vmalloc` do not know of guards, on or off.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kmm_frame::{MemMap, PageFlags, Pfn};

use crate::MapError;

/// Whose a frame is that must not be mapped again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameOwner {
    /// Objects lie in it.
    Slab,
    /// It is a page table.
    PageTable,
    /// It is part of the kernel image.
    KernelImage,
}

impl FrameOwner {
    /// Who owns the frame, if it is one of these; nobody owns a frame without descriptor.
    ///
    /// A later page of a large allocation is known by its head, if the page source counts references as `kmm-zone` does: one
    /// for the first page of a block, none for the others.
    #[must_use]
    pub fn of(map: &MemMap, pfn: Pfn) -> Option<Self> {
        let page = map.get(pfn)?;
        let owners = [
            (PageFlags::SLAB, Self::Slab),
            (PageFlags::TABLE, Self::PageTable),
            (PageFlags::IMAGE, Self::KernelImage),
        ];
        let flags = page.flags() | map.page(map.compound_head(pfn)).flags();
        let found = owners.iter().find(|(flag, _)| flags.contains(*flag));
        found.map(|(_, owner)| *owner)
    }
}

impl fmt::Display for FrameOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slab => "a slab",
            Self::PageTable => "a page table",
            Self::KernelImage => "the kernel image",
        })
    }
}

/// Refuses second mappings, while it is on. A value that a [`Mapper`](crate::Mapper) is given
/// ([`Mapper::with_guard`](crate::Mapper::with_guard)); several may share one.
#[derive(Debug)]
pub struct MapGuard {
    is_on: AtomicBool,
    nr_refused: AtomicUsize,
}

impl MapGuard {
    /// One that is on.
    #[must_use]
    pub const fn on() -> Self {
        Self {
            is_on: AtomicBool::new(true),
            nr_refused: AtomicUsize::new(0),
        }
    }

    /// One that is off, until it is turned on.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            nr_refused: AtomicUsize::new(0),
        }
    }

    /// From now on, second mappings are refused; those that there are stay.
    pub fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// From now on, none is refused.
    pub fn turn_off(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }

    /// Whether it refuses second mappings.
    #[must_use]
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// How many calls it has refused.
    #[must_use]
    pub fn nr_refused(&self) -> usize {
        self.nr_refused.load(Ordering::Relaxed)
    }

    /// Whether all of `frames` may be mapped.
    ///
    /// # Errors
    /// [`MapError::Owned`] by the owner of the first that may not.
    pub(crate) fn check(
        &self,
        map: &MemMap,
        mut frames: impl Iterator<Item = Pfn>,
    ) -> Result<(), MapError> {
        match frames.find_map(|pfn| FrameOwner::of(map, pfn)) {
            None => Ok(()),
            Some(owner) => {
                self.nr_refused.fetch_add(1, Ordering::Relaxed);
                Err(MapError::Owned(owner))
            }
        }
    }
}
