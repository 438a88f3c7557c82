//! The place of one entry, found by one descent.

use core::fmt;

use kmm_frame::VirtAddr;
use kmm_host::{PageSource, PteIndex, PteStore};

use crate::table::Table;
use crate::{Leaf, Level, Mapper, Pte, Root};

/// The place of the entry that maps an address: looked up once, then read and written. Linux: `vmf->pte`.
///
/// Nothing is flushed here: who narrows what an entry allows, or changes its frame, flushes the page.
pub struct PteSlot<'r, 'a, S, A> {
    mapper: Mapper<'a, S, A>,
    root: &'r mut Root,
    table: Table,
    index: PteIndex,
    va: VirtAddr,
    level: Level,
}

impl<'r, 'a, S: PteStore, A: PageSource> PteSlot<'r, 'a, S, A> {
    pub(crate) fn new(
        mapper: Mapper<'a, S, A>,
        root: &'r mut Root,
        table: Table,
        level: Level,
        va: VirtAddr,
    ) -> Self {
        Self {
            mapper,
            root,
            table,
            index: level.index(va),
            va: va.align_down(level.size_bytes()),
            level,
        }
    }

    /// The level of the entry: `Pte`, or above it where a large page is mapped.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// The first address that the entry covers.
    #[must_use]
    pub const fn va(&self) -> VirtAddr {
        self.va
    }

    /// The root below which the entry stands.
    pub const fn root(&self) -> &Root {
        self.root
    }

    /// The entry as it is now.
    #[must_use]
    pub fn get(&self) -> Pte {
        self.mapper.read(self.table, self.index)
    }

    /// The entry as it is now, with its place.
    #[must_use]
    pub fn leaf(&self) -> Leaf {
        Leaf {
            va: self.va,
            level: self.level,
            pte: self.get(),
        }
    }

    /// Writes the entry; the one before, with the accessed and dirty bits that hardware set up to now.
    pub fn set(&mut self, pte: Pte) -> Pte {
        self.mapper.exchange(self.table, self.index, pte)
    }

    /// Changes the flags and keeps every accessed and dirty bit that hardware sets meanwhile; the entry before.
    pub fn update(&mut self, pte: Pte) -> Pte {
        self.mapper.update(self.table, self.index, pte)
    }
}

impl<S, A> fmt::Debug for PteSlot<'_, '_, S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PteSlot")
            .field("va", &self.va)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}
