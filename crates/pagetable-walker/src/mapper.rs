//! The bundle that all operations start from.
#![expect(
    unsafe_code,
    reason = "the contract of a mapper is an unsafe constructor's"
)]

use core::fmt;

use kmm_frame::{Gfp, MemMap, Pfn};
use kmm_host::{PageSource, PteStore, TlbControl, TlbTarget};

use crate::{Levels, MapError, MapGuard, MmuGather, TableCounter};

/// Walks and changes page tables: a bundle of references, made where it is needed and copied freely.
pub struct Mapper<'a, S, A> {
    pub(crate) ptes: &'a S,
    pub(crate) pages: &'a A,
    pub(crate) map: MemMap,
    pub(crate) levels: Levels,
    pub(crate) tables: &'a TableCounter,
    pub(crate) gfp: Gfp,
    guard: Option<&'a MapGuard>,
}

impl<S, A> Clone for Mapper<'_, S, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, A> Copy for Mapper<'_, S, A> {}

impl<S, A> fmt::Debug for Mapper<'_, S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapper")
            .field("levels", &self.levels)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl<'a, S: PteStore, A: PageSource> Mapper<'a, S, A> {
    /// Tables reached through `ptes`, made of frames from `pages`, whose descriptors are in `map`, counted in `tables`.
    ///
    /// # Safety
    /// 1. `ptes` reaches every frame that `pages` hands out, and `map` has its descriptor.
    /// 2. Whoever uses the mapper enters only frames that the users of that address space may reach, with rights that
    ///    they may have, and frees a frame only after its entries are gone and flushed.
    /// 3. Every root given to it has `levels` levels.
    #[must_use]
    pub const unsafe fn new(
        ptes: &'a S,
        pages: &'a A,
        map: MemMap,
        levels: Levels,
        tables: &'a TableCounter,
    ) -> Self {
        Self {
            ptes,
            pages,
            map,
            levels,
            tables,
            gfp: Gfp::KERNEL,
            guard: None,
        }
    }

    /// The same with another way to ask for the frames of tables; [`Gfp::KERNEL`] unless told.
    #[must_use]
    pub const fn with_gfp(self, gfp: Gfp) -> Self {
        Self { gfp, ..self }
    }

    /// The same under a guard: calls that map frames which `guard` says must not be mapped again are refused while it is on. None
    /// unless told.
    #[must_use]
    pub const fn with_guard(self, guard: &'a MapGuard) -> Self {
        Self {
            guard: Some(guard),
            ..self
        }
    }

    /// The same without a guard, for frames that were taken from a page source just now: nobody owns those.
    #[must_use]
    pub const fn without_guard(self) -> Self {
        Self {
            guard: None,
            ..self
        }
    }

    /// Whether the guard lets these frames be mapped. [`Mapper::map_page`], [`Mapper::map_range`] and [`Mapper::map_frames`] ask it
    /// themselves; who writes entries through a [`PteSlot`](crate::PteSlot) asks here first.
    ///
    /// # Errors
    /// [`MapError::Owned`].
    #[inline]
    pub fn may_map(&self, frames: impl IntoIterator<Item = Pfn>) -> Result<(), MapError> {
        match self.guard {
            Some(guard) if guard.is_on() => guard.check(&self.map, frames.into_iter()),
            _ => Ok(()),
        }
    }

    /// How many levels the tables have.
    #[must_use]
    pub const fn levels(&self) -> Levels {
        self.levels
    }

    /// The counter of the tables.
    #[must_use]
    pub const fn tables(&self) -> &'a TableCounter {
        self.tables
    }

    /// The descriptors.
    #[must_use]
    pub const fn mem_map(&self) -> MemMap {
        self.map
    }

    /// A place for what is about to be unmapped. `target` says whose translations are flushed.
    pub fn gather<T: TlbControl>(&self, target: TlbTarget, tlb: &'a T) -> MmuGather<'a, S, A, T> {
        MmuGather::new(*self, target, tlb)
    }

    /// The same with another counter of tables, as for the child of a `fork`.
    #[must_use]
    pub const fn with_tables(self, tables: &'a TableCounter) -> Self {
        Self { tables, ..self }
    }
}
