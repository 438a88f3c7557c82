//! What was unmapped, kept until no CPU remembers it.
//!
//! A frame may be freed only after every CPU forgot the translations that led to it, or a program writes into memory
//! that has become somebody else's. So what an operation takes out of the tables comes here first; then one flush for
//! all of it; then the frames and tables are freed. Linux: `struct mmu_gather`, mm/mmu_gather.c.
#![expect(unsafe_code, reason = "frees tables after their flush")]

use core::fmt;
use core::ops::Range;

use kmm_frame::{Pfn, VirtAddr};
use kmm_host::{PageBlock, PageSource, PteStore, TlbControl, TlbTarget};

use crate::table::Table;
use crate::{Leaf, Mapper};

/// Blocks kept before a flush is forced.
const BATCH: usize = 64;

/// Collects the range to flush, the tables and the frames to free afterwards.
///
/// [`MmuGather::finish`] flushes and frees. So does dropping it, so that an early return or a panic leaves no frame
/// freed but remembered.
#[must_use = "finish() flushes and frees what was gathered"]
pub struct MmuGather<'a, S: PteStore, A: PageSource, T: TlbControl> {
    mapper: Mapper<'a, S, A>,
    tlb: &'a T,
    target: TlbTarget,
    /// First and last address to flush.
    dirty: Option<(VirtAddr, VirtAddr)>,
    /// Everything of the target is to be flushed.
    is_all_dirty: bool,
    tables: Option<Pfn>,
    blocks: [Option<PageBlock>; BATCH],
    nr_blocks: usize,
}

impl<'a, S: PteStore, A: PageSource, T: TlbControl> MmuGather<'a, S, A, T> {
    /// Nothing yet. `target` says whose translations the changes concern.
    pub fn new(mapper: Mapper<'a, S, A>, target: TlbTarget, tlb: &'a T) -> Self {
        Self {
            mapper,
            tlb,
            target,
            dirty: None,
            is_all_dirty: false,
            tables: None,
            blocks: [const { None }; BATCH],
            nr_blocks: 0,
        }
    }

    /// Frames that no table maps any more: to be freed after the flush. Linux: `tlb_remove_page`.
    ///
    /// A full batch is flushed and freed at once, so call it after the entry is cleared.
    pub fn push(&mut self, block: PageBlock) {
        if self.nr_blocks == BATCH {
            self.flush();
        }
        self.blocks[self.nr_blocks] = Some(block);
        self.nr_blocks += 1;
    }

    /// The addresses of an entry that changed: to be flushed. Linux: `tlb_flush_pte_range`.
    pub fn track(&mut self, leaf: Leaf) {
        self.track_range(leaf.range());
    }

    /// Addresses to be flushed.
    pub fn track_range(&mut self, range: Range<VirtAddr>) {
        let last = VirtAddr::new(range.end.as_u64().wrapping_sub(1));
        self.dirty = Some(match self.dirty {
            None => (range.start, last),
            Some((first, end)) => (first.min(range.start), end.max(last)),
        });
    }

    /// A table that was taken out of the table above, where its entry covered addresses from `first`. Linux: `pte_free_tlb`.
    pub(crate) fn push_table(&mut self, table: Table, first: VirtAddr) {
        self.mapper.chain(&mut self.tables, table);
        self.track_range(first..first + kmm_frame::PAGE_SIZE as u64);
    }

    /// A top table that no CPU runs on any more, though some may remember it.
    pub(crate) fn push_root(&mut self, table: Table) {
        self.push_table(table, VirtAddr::ZERO);
        self.is_all_dirty = true;
    }

    /// Whether nothing waits for a flush.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.dirty.is_none() && self.nr_blocks == 0 && self.tables.is_none()
    }

    /// Flushes what was gathered, then frees it. Linux: `tlb_finish_mmu`.
    pub fn finish(mut self) {
        self.flush();
    }

    /// As [`MmuGather::finish`], and the gather can be used further. Linux: `tlb_flush_mmu`.
    pub fn flush(&mut self) {
        if let Some((first, last)) = self.dirty.take() {
            match last.checked_add(1) {
                Some(end) if !self.is_all_dirty => self.tlb.flush_range(self.target, first..end),
                _ => self.tlb.flush_all(self.target),
            }
            self.is_all_dirty = false;
        }
        while let Some(table) = self.mapper.unchain(&mut self.tables) {
            // SAFETY: `push_table` came after the entry above was cleared, and the flush after both.
            unsafe { self.mapper.free_table(table) };
        }
        self.mapper
            .pages
            .free_bulk(&mut self.blocks[..self.nr_blocks]);
        self.nr_blocks = 0;
    }
}

impl<S: PteStore, A: PageSource, T: TlbControl> Drop for MmuGather<'_, S, A, T> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<S: PteStore, A: PageSource, T: TlbControl> fmt::Debug for MmuGather<'_, S, A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmuGather")
            .field("target", &self.target)
            .field("dirty", &self.dirty)
            .field("nr_blocks", &self.nr_blocks)
            .finish_non_exhaustive()
    }
}
